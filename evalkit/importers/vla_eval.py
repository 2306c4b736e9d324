"""Result files of vla-eval (https://github.com/allenai/vla-evaluation-harness).

A file is what ``vla-eval merge`` writes per benchmark (``<name>_aggregate.json``, ``src/vla_eval/results/merge.py``) or
what a run returns (``src/vla_eval/results/collector.py``: BenchmarkResult): the configuration, and for each task its
episodes with ``episode_id``, ``metrics``, ``steps`` and, where one crashed, ``failure_reason``. vla-eval counts a crash
as a failure; here it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from evalkit.documents import parse
from evalkit.errors import UsageError
from evalkit.importers.result import (
    WHOLE,
    Imported,
    ImportOptions,
    Outcome,
    Source,
    TaskOutcomes,
    add_outcome,
    files_of,
    format_ranges,
    grid_outcomes,
    synchronous,
)
from evalkit.importers.vla_eval_benchmarks import KINDS, Config, Episode, File, Key, Kind, Task
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

MISSING: Final = ("scenes", "protocol", "simulator versions", "weights", "horizon", "inferences", "digests")


class _Server(File):
    model_server: str | None = None


class _Result(File):
    mode: str
    harness_version: str
    tasks: list[Task]
    config: Config
    server_info: _Server = _Server()


def read(path: Path, asked: ImportOptions) -> Imported:
    """The run whose results are the file ``path``, or those in the folder.

    Raises:
        UsageError: there are none, or they are damaged, of several suites or evaluations, contradict themselves or each
            other, or are not whole (without ``asked.partial``).
    """
    results = [(source, parse(_Result, content, source.path)) for source, content in _files(path)]
    first = results[0][1]
    kinds = {source.path: _kind(source.path, result.config) for source, result in results}
    for source, result in results:
        if kinds[source.path] != kinds[results[0][0].path]:
            one = kinds[results[0][0].path].suite
            raise UsageError(
                f"{source.path}: is of {kinds[source.path].suite}, and others of {one}: import one at a time"
            )
        for field in ("mode", "harness_version", "server_info"):
            if getattr(result, field) != getattr(first, field):
                raise UsageError(
                    f"{source.path}: {field} is another than in {results[0][0].path}: import one at a time"
                )
    kind = kinds[results[0][0].path]
    suite = load_suite(kind.suite)
    checkpoint = asked.checkpoint or first.server_info.model_server
    if checkpoint is None:
        raise UsageError(f"{path}: says nothing of the policy: name it with --checkpoint ID")
    return Imported(
        suite=suite,
        checkpoint=checkpoint,
        execution=synchronous(None) if first.mode == "sync" else {"name": first.mode, "horizon": None},
        tasks=_tasks(suite, kind, results, asked, path),
        origin=Origin(
            format="vla-eval",
            source=f"results of vla-eval {first.harness_version}",
            files=files_of([source for source, _ in results], path),
            missing_fields=[*MISSING, *kind.missing_fields, *(["delay"] if first.mode != "sync" else [])],
        ),
        protocol=f"unknown: vla-eval {first.harness_version}'s own",
        incomparable=[kind.differs],
    )


def _files(path: Path) -> list[tuple[Source, Any]]:
    """The files with results, and their content."""
    found = []
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        source = Source.read(file)
        try:
            content = json.loads(source.text)
        except ValueError as error:
            raise UsageError(f"{file}: is no JSON ({error}): is it cut off?") from error
        if not path.is_dir() or (isinstance(content, dict) and {"tasks", "config"} <= set(content)):
            found.append((source, content))
    if not found:
        raise UsageError(f"{path}: there is no result of vla-eval in it (a .json with tasks and config)")
    return found


def _kind(path: Path, config: Config) -> Kind:
    name = config.benchmark.rpartition(":")[2]
    if name not in KINDS:
        raise UsageError(f"{path}: config.benchmark: evalkit has a suite for {', '.join(KINDS)}, not for {name!r}")
    return KINDS[name]


def _tasks(
    suite: Suite, kind: Kind, results: Iterable[tuple[Source, _Result]], asked: ImportOptions, path: Path
) -> list[TaskOutcomes]:
    kept: dict[tuple[str, str, int], tuple[Outcome, Path]] = {}
    sizes: dict[Key, int] = {}
    for source, result in results:
        for key, size in kind.expected(suite, result.config, asked, source.path).items():
            if sizes.setdefault(key, size) != size:
                raise UsageError(f"{source.path}: config.episodes_per_task: another than in the other files")
        for task in result.tasks:
            _check_counts(task, source.path)
            for episode in task.episodes:
                place = kind.place(suite, result.config, task, episode, asked, source.path)
                what = f"task {task.task!r}, episode {episode.episode_id}"
                add_outcome(kept, place, _outcome(suite, episode, f"{source.path}: {what}"), source.path, what)
                sizes.setdefault(place[:2], result.config.episodes_per_task)
    tasks = []
    for split, section in suite.splits.items():
        for name in (n for n in section.tasks if (split, n) in sizes):
            size = sizes[split, name]
            outcomes = {index: outcome for (s, t, index), (outcome, _) in kept.items() if (s, t) == (split, name)}
            missing = [index for index in range(size) if index not in outcomes]
            if missing and not asked.allow_partial:
                raise UsageError(
                    f"{path}: {split}/{name}: episodes {format_ranges(missing)} of {size} are missing: {WHOLE}"
                )
            if outcomes and max(outcomes) >= size:
                raise UsageError(f"{path}: {split}/{name}: episode {max(outcomes)}, and config has {size} a task")
            tasks.append(grid_outcomes(suite, split, name, size, outcomes, path))
    return tasks


def _check_counts(task: Task, path: Path) -> None:
    """Raises UsageError where a task's own figures are not those of its episodes."""
    if task.num_episodes != len(task.episodes):
        raise UsageError(
            f"{path}: task {task.task!r}: num_episodes is {task.num_episodes}, and there are {len(task.episodes)}"
        )
    if task.episodes and task.mean_success is not None:
        rates = [
            sum(e.metrics.success for e in counted) / len(counted)
            for counted in (
                task.episodes,
                [e for e in task.episodes if not e.failure_reason],
            )  # early versions: the latter
            if counted
        ]
        if all(abs(rate - task.mean_success) > 1e-4 for rate in rates):  # four decimals
            said = f"mean_success is {task.mean_success}, its episodes make {rates[0]:g}"
            raise UsageError(f"{path}: task {task.task!r}: {said}")


def _outcome(suite: Suite, episode: Episode, where: str) -> Outcome:
    if episode.failure_reason:
        message = f"{episode.failure_reason}: {(episode.failure_detail or '').strip().rpartition(chr(10))[2]}"
        return Outcome(False, error={"kind": "crash", "message": message.rstrip(": ")})
    solved = episode.metrics.completed_subtasks
    if suite.chain and (solved is None or not 0 <= solved <= suite.chain):
        raise UsageError(f"{where}: metrics.completed_subtasks must be 0 to {suite.chain}, not {solved}")
    if suite.chain and (solved == suite.chain) != episode.metrics.success:
        raise UsageError(f"{where}: metrics.success is {episode.metrics.success} with {solved} sub-tasks completed")
    return Outcome(episode.metrics.success, solved if suite.chain else None, episode.steps)
