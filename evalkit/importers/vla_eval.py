"""Result files of vla-eval (https://github.com/allenai/vla-evaluation-harness).

A file is the output of ``vla-eval merge`` for one benchmark (``<name>_aggregate.json``,
``src/vla_eval/results/merge.py``) or the result of a run (``src/vla_eval/results/collector.py``: BenchmarkResult). It
has the configuration, and for each task its episodes with ``episode_id``, ``metrics``, ``steps`` and, after a crash,
``failure_reason``. vla-eval counts a crash as a failure; here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from evalkit.documents import parse
from evalkit.errors import UsageError
from evalkit.files import parse_json
from evalkit.importers.result import (
    HOW_TO_COMPLETE,
    ImportedOutcome,
    ImportedRun,
    ImportOptions,
    SourceFile,
    TaskOutcomes,
    add_outcome,
    file_digests,
    format_ranges,
    grid_outcomes,
    sync_execution,
)
from evalkit.importers.vla_eval_benchmarks import (
    BENCHMARKS,
    EpisodeResult,
    EvalConfig,
    EvaluatedBenchmark,
    ResultSection,
    TaskKey,
    TaskResult,
)
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

MISSING: Final = ("scenes", "protocol", "simulator versions", "weights", "horizon", "inferences", "digests")


class _Server(ResultSection):
    model_server: str | None = None


class _Result(ResultSection):
    mode: str
    harness_version: str
    tasks: list[TaskResult]
    config: EvalConfig
    server_info: _Server = _Server()


def read(path: Path, options: ImportOptions) -> ImportedRun:
    """Read the results in the file ``path``, or in that folder.

    Raises:
        UsageError: there are none, or they are damaged, contradictory, of several suites or evaluations, or incomplete
            (without ``options.allow_partial``).
    """
    results = [(source, parse(_Result, content, source.path)) for source, content in _files(path)]
    first = results[0][1]
    benchmarks = {source.path: _benchmark(source.path, result.config) for source, result in results}
    for source, result in results:
        if benchmarks[source.path] != benchmarks[results[0][0].path]:
            one = benchmarks[results[0][0].path].suite
            raise UsageError(
                f"{source.path}: is of {benchmarks[source.path].suite}, others of {one}: import one at a time"
            )
        for field in ("mode", "harness_version", "server_info"):
            if getattr(result, field) != getattr(first, field):
                raise UsageError(f"{source.path}: {field} differs from {results[0][0].path}: import one at a time")
    benchmark = benchmarks[results[0][0].path]
    suite = load_suite(benchmark.suite)
    checkpoint = options.checkpoint or first.server_info.model_server
    if checkpoint is None:
        raise UsageError(f"{path}: does not name the policy: name it with --checkpoint ID")
    return ImportedRun(
        suite=suite,
        checkpoint=checkpoint,
        execution=sync_execution(None) if first.mode == "sync" else {"name": first.mode, "horizon": None},
        tasks=_tasks(suite, benchmark, results, options, path),
        origin=Origin(
            format="vla-eval",
            source=f"results of vla-eval {first.harness_version}",
            files=file_digests([source for source, _ in results], path),
            missing_fields=[*MISSING, *benchmark.missing_fields, *(["delay"] if first.mode != "sync" else [])],
        ),
        protocol=f"unknown: vla-eval {first.harness_version}'s own",
        incomparable=[benchmark.protocol_difference],
    )


def _files(path: Path) -> list[tuple[SourceFile, Any]]:
    """Return the files with results, and their content."""
    found = []
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        source = SourceFile.read(file)
        try:
            content = parse_json(source.text, strict=False)
        except ValueError as error:
            raise UsageError(f"{file}: {error}: is it truncated?") from error
        if not path.is_dir() or (isinstance(content, dict) and {"tasks", "config"} <= set(content)):
            found.append((source, content))
    if not found:
        raise UsageError(f"{path}: contains no result of vla-eval (a .json with tasks and config)")
    return found


def _benchmark(path: Path, config: EvalConfig) -> EvaluatedBenchmark:
    name = config.benchmark.rpartition(":")[2]
    if name not in BENCHMARKS:
        raise UsageError(f"{path}: config.benchmark: evalkit has a suite for {', '.join(BENCHMARKS)}, not for {name!r}")
    return BENCHMARKS[name]


def _tasks(
    suite: Suite,
    benchmark: EvaluatedBenchmark,
    results: Iterable[tuple[SourceFile, _Result]],
    options: ImportOptions,
    path: Path,
) -> list[TaskOutcomes]:
    outcomes_by_episode: dict[tuple[str, str, int], tuple[ImportedOutcome, Path]] = {}
    sizes: dict[TaskKey, int] = {}
    for source, result in results:
        for key, size in benchmark.expected(suite, result.config, options, source.path).items():
            if sizes.setdefault(key, size) != size:
                raise UsageError(f"{source.path}: config.episodes_per_task: differs from the other files")
        for task in result.tasks:
            _check_counts(task, source.path)
            for episode in task.episodes:
                episode_key = benchmark.locate(suite, result.config, task, episode, options, source.path)
                what = f"task {task.task!r}, episode {episode.episode_id}"
                add_outcome(
                    outcomes_by_episode,
                    episode_key,
                    _outcome(suite, episode, f"{source.path}: {what}"),
                    source.path,
                    what,
                )
                sizes.setdefault(episode_key[:2], result.config.episodes_per_task)
    tasks = []
    for split, section in suite.splits.items():
        for name in (n for n in section.tasks if (split, n) in sizes):
            size = sizes[split, name]
            outcomes = {
                index: outcome for (s, t, index), (outcome, _) in outcomes_by_episode.items() if (s, t) == (split, name)
            }
            missing = [index for index in range(size) if index not in outcomes]
            if missing and not options.allow_partial:
                raise UsageError(
                    f"{path}: {split}/{name}: episodes {format_ranges(missing)} of {size} are missing: "
                    f"{HOW_TO_COMPLETE}"
                )
            if outcomes and max(outcomes) >= size:
                raise UsageError(f"{path}: {split}/{name}: episode {max(outcomes)}, but config has {size} a task")
            tasks.append(grid_outcomes(suite, split, name, size, outcomes, path))
    return tasks


def _check_counts(task: TaskResult, path: Path) -> None:
    """Raise UsageError if a task's own figures are not those of its episodes."""
    if task.num_episodes != len(task.episodes):
        raise UsageError(
            f"{path}: task {task.task!r}: num_episodes is {task.num_episodes}, but there are {len(task.episodes)}"
        )
    if task.episodes and task.mean_success is not None:
        rates = [
            sum(e.metrics.success for e in counted) / len(counted)
            for counted in (
                task.episodes,
                [e for e in task.episodes if not e.failure_reason],
            )  # early versions exclude crashes
            if counted
        ]
        if not any(abs(rate - task.mean_success) <= 1e-4 for rate in rates):  # four decimals
            message = f"mean_success is {task.mean_success}, but its episodes give {rates[0]:g}"
            raise UsageError(f"{path}: task {task.task!r}: {message}")


def _outcome(suite: Suite, episode: EpisodeResult, where: str) -> ImportedOutcome:
    if episode.failure_reason:
        message = f"{episode.failure_reason}: {(episode.failure_detail or '').strip().rpartition(chr(10))[2]}"
        return ImportedOutcome(False, error={"kind": "crash", "message": message.rstrip(": ")})
    solved = episode.metrics.completed_subtasks
    if suite.chain and (solved is None or not 0 <= solved <= suite.chain):
        raise UsageError(f"{where}: metrics.completed_subtasks must be 0 to {suite.chain}, not {solved}")
    if suite.chain and (solved == suite.chain) != episode.metrics.success:
        raise UsageError(f"{where}: metrics.success is {episode.metrics.success} with {solved} sub-tasks completed")
    return ImportedOutcome(episode.metrics.success, solved if suite.chain else None, episode.steps)
