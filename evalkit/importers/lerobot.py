"""``eval_info.json``, written by ``lerobot-eval`` (https://github.com/huggingface/lerobot).

The content is the return value of ``eval_policy_all`` in ``src/lerobot/scripts/lerobot_eval.py``: ``per_task`` has each
task's group and number and its episodes' ``successes`` in order, ``per_group`` and ``overall`` have their means. The
file names neither the policy nor the initial state of an episode (which depends on the ends of earlier episodes in its
batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from evalkit.documents import parse
from evalkit.errors import UsageError
from evalkit.files import parse_json
from evalkit.importers.result import (
    ImportedOutcome,
    ImportedRun,
    ImportOptions,
    SourceFile,
    TaskOutcomes,
    add_outcome,
    file_digests,
    grid_outcomes,
    sync_execution,
)
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

FILE = "eval_info.json"
SUITES: Final = ("libero", "metaworld")
MISSING: Final = (
    "scenes", "protocol", "simulator versions", "weights", "horizon", "steps", "inferences", "digests",
)  # fmt: skip


class _ResultSection(BaseModel):
    """A mapping in the file. Fields without a name here are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Metrics(_ResultSection):
    successes: list[StrictBool] = Field(min_length=1)


class _Task(_ResultSection):
    task_group: str
    task_id: int = Field(ge=0)
    metrics: _Metrics


class _Mean(_ResultSection):
    pc_success: float
    n_episodes: int


class _Info(_ResultSection):
    per_task: list[_Task] = Field(min_length=1)
    per_group: dict[str, _Mean]
    overall: _Mean


def read(path: Path, options: ImportOptions) -> ImportedRun:
    """Read the results in the file ``path``, or in ``eval_info.json`` in that folder.

    Raises:
        UsageError: there are none, they are damaged, contradictory or of tasks that no suite has, or no checkpoint was
            named.
    """
    source = SourceFile.read(path / FILE if path.is_dir() else path)
    info = parse(_Info, _content(source), source.path)
    if options.checkpoint is None:
        raise UsageError(f"{source.path}: does not name the evaluated policy: name it with --checkpoint ID")
    _check_means(info, source.path)
    suite = _suite(info, source.path)
    outcomes_by_episode: dict[tuple[str, str, int], tuple[ImportedOutcome, Path]] = {}
    counts: dict[tuple[str, str], int] = {}
    for task in info.per_task:
        split, name = _locate(suite, task, source.path)
        successes = task.metrics.successes
        if counts.setdefault((split, name), len(successes)) != len(successes):
            raise UsageError(f"{source.path}: per_task: {task.task_group} {task.task_id} occurs twice; remove one")
        for number, success in enumerate(successes):
            what = f"{task.task_group} {task.task_id}, episode {number}"
            add_outcome(outcomes_by_episode, (split, name, number), ImportedOutcome(success), source.path, what)
    tasks: list[TaskOutcomes] = []
    for split, section in suite.splits.items():
        for name in (n for n in section.tasks if (split, n) in counts):
            outcomes = {
                n: outcome for (s, t, n), (outcome, _) in outcomes_by_episode.items() if (s, t) == (split, name)
            }
            tasks.append(grid_outcomes(suite, split, name, len(outcomes), outcomes, source.path))
    return ImportedRun(
        suite=suite,
        checkpoint=options.checkpoint,
        execution=sync_execution(None),
        tasks=tasks,
        origin=Origin(
            format="lerobot",
            source="eval_info.json of lerobot-eval",
            files=file_digests([source], path),
            missing_fields=list(MISSING),
        ),
        protocol="unknown: lerobot's own",
        incomparable=["lerobot's file does not state its protocol"],
    )


def _content(source: SourceFile) -> Mapping[str, Any]:
    try:
        content = parse_json(source.text, strict=False)
    except ValueError as error:
        raise UsageError(f"{source.path}: {error}: is it truncated?") from error
    if isinstance(content, dict) and "per_episode" in content and "per_task" not in content:
        raise UsageError(f"{source.path}: per_task: is missing: an older lerobot wrote the file, without the tasks")
    return content  # type: ignore[no-any-return]  # the caller validates it


def _check_means(info: _Info, path: Path) -> None:
    """Raise UsageError if ``per_group`` and ``overall`` are not the means of ``per_task``."""
    groups: dict[str, list[bool]] = {}
    for task in info.per_task:
        groups.setdefault(task.task_group, []).extend(task.metrics.successes)
    if set(groups) != set(info.per_group):
        raise UsageError(f"{path}: per_group: has {', '.join(info.per_group)}, but per_task has {', '.join(groups)}")
    everything = [success for successes in groups.values() for success in successes]
    for field, mean, successes in (
        *((f"per_group.{name}", info.per_group[name], successes) for name, successes in groups.items()),
        ("overall", info.overall, everything),
    ):
        computed = 100 * sum(successes) / len(successes)
        if mean.n_episodes != len(successes) or not abs(mean.pc_success - computed) < 1e-4:
            raise UsageError(
                f"{path}: {field}: {mean.pc_success:g} % of {mean.n_episodes} there, but {computed:g} % of "
                f"{len(successes)} in per_task: the file was changed"
            )


def _suite(info: _Info, path: Path) -> Suite:
    """Return the suite that has every group."""
    groups = dict.fromkeys(task.task_group for task in info.per_task)
    suites = [load_suite(name) for name in SUITES]
    for suite in suites:
        if all(_split(suite, group) for group in groups):
            return suite
    found = [group for group in groups if any(_split(suite, group) for suite in suites)]
    if len(found) == len(groups):
        raise UsageError(f"{path}: per_task: {', '.join(groups)} belong to several suites: import one at a time")
    unknown_group = next(group for group in groups if group not in found)
    raise UsageError(
        f"{path}: per_task: group {unknown_group!r} is none of {', '.join(SUITES)}: evalkit has no suite for it"
    )


def _split(suite: Suite, group: str) -> tuple[str, list[str]] | None:
    """Return the split of a group, and its tasks in lerobot's order, which is the suite's; a task may be a group."""
    upstream = suite.upstream_splits()
    if group in upstream:
        return upstream[group], list(suite.splits[upstream[group]].tasks)
    for name, section in suite.splits.items():
        if group.removeprefix("metaworld-") in section.tasks:
            return name, [group.removeprefix("metaworld-")]
    return None


def _locate(suite: Suite, task: _Task, path: Path) -> tuple[str, str]:
    found = _split(suite, task.task_group)
    assert found is not None  # _suite returns a suite that has every group
    split, names = found
    if task.task_id >= len(names):
        raise UsageError(f"{path}: per_task: {task.task_group} has tasks 0 to {len(names) - 1}, not {task.task_id}")
    return split, names[task.task_id]
