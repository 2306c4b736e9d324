"""``eval_info.json``, which ``lerobot-eval`` writes (https://github.com/huggingface/lerobot).

As ``eval_policy_all`` in ``src/lerobot/scripts/lerobot_eval.py`` returns it: ``per_task`` has each task's group and
number and its episodes' ``successes`` in order, ``per_group`` and ``overall`` their means. The file says neither which
policy was evaluated, nor which initial state an episode met (it depended on when earlier episodes of its batch ended).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from evalkit.documents import parse
from evalkit.errors import UsageError
from evalkit.importers.result import (
    Imported,
    ImportOptions,
    Outcome,
    Source,
    TaskOutcomes,
    add_outcome,
    files_of,
    grid_outcomes,
    synchronous,
)
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

FILE = "eval_info.json"
SUITES: Final = ("libero", "metaworld")
MISSING: Final = (
    "scenes", "protocol", "simulator versions", "weights", "horizon", "steps", "inferences", "digests",
)  # fmt: skip


class _File(BaseModel):
    """A mapping in the file. What is not named here is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Metrics(_File):
    successes: list[StrictBool] = Field(min_length=1)


class _Task(_File):
    task_group: str
    task_id: int = Field(ge=0)
    metrics: _Metrics


class _Mean(_File):
    pc_success: float
    n_episodes: int


class _Info(_File):
    per_task: list[_Task] = Field(min_length=1)
    per_group: dict[str, _Mean]
    overall: _Mean


def read(path: Path, asked: ImportOptions) -> Imported:
    """The run whose results are the file ``path``, or ``eval_info.json`` in the folder.

    Raises:
        UsageError: there is none, or it is damaged, contradicts itself, is not about tasks of evalkit's suites, or no
            checkpoint was named.
    """
    source = Source.read(path / FILE if path.is_dir() else path)
    info = parse(_Info, _content(source), source.path)
    if asked.checkpoint is None:
        raise UsageError(f"{source.path}: does not say which policy was evaluated: name it with --checkpoint ID")
    _check_means(info, source.path)
    suite = _suite(info, source.path)
    kept: dict[tuple[str, str, int], tuple[Outcome, Path]] = {}
    counts: dict[tuple[str, str], int] = {}
    for task in info.per_task:
        split, name = _place(suite, task, source.path)
        successes = task.metrics.successes
        if counts.setdefault((split, name), len(successes)) != len(successes):
            raise UsageError(
                f"{source.path}: per_task: {task.task_group} {task.task_id} stands there twice; remove one"
            )
        for number, success in enumerate(successes):
            what = f"{task.task_group} {task.task_id}, episode {number}"
            add_outcome(kept, (split, name, number), Outcome(success), source.path, what)
    tasks: list[TaskOutcomes] = []
    for split, section in suite.splits.items():
        for name in (n for n in section.tasks if (split, n) in counts):
            outcomes = {n: outcome for (s, t, n), (outcome, _) in kept.items() if (s, t) == (split, name)}
            tasks.append(grid_outcomes(suite, split, name, len(outcomes), outcomes, source.path))
    return Imported(
        suite=suite,
        checkpoint=asked.checkpoint,
        execution=synchronous(None),
        tasks=tasks,
        origin=Origin(
            format="lerobot",
            source="eval_info.json of lerobot-eval",
            files=files_of([source], path),
            missing_fields=list(MISSING),
        ),
        protocol="unknown: lerobot's own",
        incomparable=["lerobot's file does not say under which protocol it was made"],
    )


def _content(source: Source) -> Mapping[str, Any]:
    try:
        content = json.loads(source.text)
    except ValueError as error:
        raise UsageError(f"{source.path}: is no JSON ({error}): is it cut off?") from error
    if isinstance(content, dict) and "per_episode" in content and "per_task" not in content:
        raise UsageError(
            f"{source.path}: per_task: is missing: an older lerobot wrote it, without saying of which task"
        )
    return content  # type: ignore[no-any-return]  # whatever it is, it is validated next


def _check_means(info: _Info, path: Path) -> None:
    """Raises UsageError where ``per_group`` and ``overall`` are not the means of ``per_task``."""
    groups: dict[str, list[bool]] = {}
    for task in info.per_task:
        groups.setdefault(task.task_group, []).extend(task.metrics.successes)
    if set(groups) != set(info.per_group):
        raise UsageError(f"{path}: per_group: has {', '.join(info.per_group)}, and per_task {', '.join(groups)}")
    everything = [success for successes in groups.values() for success in successes]
    for field, mean, successes in (
        *((f"per_group.{name}", info.per_group[name], successes) for name, successes in groups.items()),
        ("overall", info.overall, everything),
    ):
        made = 100 * sum(successes) / len(successes)
        if mean.n_episodes != len(successes) or not abs(mean.pc_success - made) < 1e-4:
            raise UsageError(
                f"{path}: {field}: {mean.pc_success:g} % of {mean.n_episodes} there, and per_task makes {made:g} % of "
                f"{len(successes)}: the file was changed"
            )


def _suite(info: _Info, path: Path) -> Suite:
    """The suite that knows every group."""
    groups = dict.fromkeys(task.task_group for task in info.per_task)
    suites = [load_suite(name) for name in SUITES]
    for suite in suites:
        if all(_split(suite, group) for group in groups):
            return suite
    found = [group for group in groups if any(_split(suite, group) for suite in suites)]
    if len(found) == len(groups):
        raise UsageError(f"{path}: per_task: {', '.join(groups)} are of several suites: import one at a time")
    stranger = next(group for group in groups if group not in found)
    raise UsageError(
        f"{path}: per_task: group {stranger!r} is none of {', '.join(SUITES)}: evalkit has no suite for it"
    )


def _split(suite: Suite, group: str) -> tuple[str, list[str]] | None:
    """The split of a group, and its tasks in lerobot's order, which is the suite's. A task can be its own group."""
    for name, section in suite.splits.items():
        if group == str(getattr(section, "upstream", name)):
            return name, list(section.tasks)
        if group.removeprefix("metaworld-") in section.tasks:
            return name, [group.removeprefix("metaworld-")]
    return None


def _place(suite: Suite, task: _Task, path: Path) -> tuple[str, str]:
    found = _split(suite, task.task_group)
    assert found is not None  # the suite was chosen so
    split, names = found
    if task.task_id >= len(names):
        raise UsageError(f"{path}: per_task: {task.task_group} has tasks 0 to {len(names) - 1}, not {task.task_id}")
    return split, names[task.task_id]
