"""The benchmarks of vla-eval with a suite in evalkit: the tasks of a configuration, and the key of an episode.

Source: https://github.com/allenai/vla-evaluation-harness, ``src/vla_eval/config.py`` (EvalConfig) and
``src/vla_eval/benchmarks/{libero,calvin,simpler}/benchmark.py`` (get_tasks, reset).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from evalkit.errors import UsageError, unknown
from evalkit.importers.result import ImportOptions
from evalkit.suite import Suite

TaskKey = tuple[str, str]  # (split, task)


class ResultSection(BaseModel):
    """A mapping in a result file. Fields without a name here are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EpisodeMetrics(ResultSection):
    """An episode's metrics."""

    success: StrictBool
    completed_subtasks: int | None = None


class EpisodeResult(ResultSection):
    """An episode; ``failure_reason`` marks a crash."""

    episode_id: int = Field(ge=0)
    metrics: EpisodeMetrics
    steps: int | None = Field(None, ge=0)
    failure_reason: str | None = None
    failure_detail: str | None = None
    task_id: int | None = None


class TaskResult(ResultSection):
    """A task's episodes, and figures computed from them."""

    task: str
    episodes: list[EpisodeResult]
    num_episodes: int
    mean_success: float | None = None


class EvalConfig(ResultSection):
    """The configuration of an evaluation."""

    benchmark: str
    episodes_per_task: int = Field(1, gt=0)
    max_tasks: int | None = None
    tasks: list[str] | None = None
    params: dict[str, Any] = {}


@dataclass(frozen=True)
class EvaluatedBenchmark:
    """A benchmark class of vla-eval.

    Attributes:
        suite: evalkit's suite.
        expected: returns the tasks of a configuration, with their numbers of episodes.
        locate: returns an episode's (split, task, index among the task's episodes).
        protocol_difference: its departure from the published protocol.
        missing_fields: facts missing in its results, beyond those that all of vla-eval's results lack.
    """

    suite: str
    expected: Callable[[Suite, EvalConfig, ImportOptions, Path], Mapping[TaskKey, int]]
    locate: Callable[[Suite, EvalConfig, TaskResult, EpisodeResult, ImportOptions, Path], tuple[str, str, int]]
    protocol_difference: str
    missing_fields: tuple[str, ...] = ()


def _libero_tasks(suite: Suite, config: EvalConfig, options: ImportOptions, path: Path) -> dict[TaskKey, int]:
    split = _libero_split(suite, config, path)
    whole = config.max_tasks is None and not config.tasks
    return {(split, task): config.episodes_per_task for task in suite.splits[split].tasks} if whole else {}


def _libero_split(suite: Suite, config: EvalConfig, path: Path) -> str:
    upstream = str(config.params.get("suite", "libero_spatial"))
    splits = suite.upstream_splits()
    if upstream not in splits:
        raise UsageError(f"{path}: config.params.suite: {unknown('suite', upstream, splits)}")
    return splits[upstream]


def _locate_libero(
    suite: Suite, config: EvalConfig, task: TaskResult, episode: EpisodeResult, options: ImportOptions, path: Path
) -> tuple[str, str, int]:
    """Locate by the task's number in the file, or else by its instruction, which some tasks of LIBERO-90 share."""
    split = _libero_split(suite, config, path)
    instructions = suite.splits[split].tasks
    named = [name for name, instruction in instructions.items() if instruction == task.task]
    if episode.task_id is not None:
        numbered = list(instructions)[episode.task_id : episode.task_id + 1] if episode.task_id >= 0 else []
        named = [name for name in numbered if name in named]
    if len(named) != 1:
        many = f"{len(named)} tasks have this instruction, and the file has no task_id" if named else "no such task"
        raise UsageError(f"{path}: task {task.task!r}: {many} in {split}")
    return split, named[0], episode.episode_id


def _calvin_split(suite: Suite, options: ImportOptions, path: Path) -> tuple[str, str]:
    if options.split is None:
        raise UsageError(f"{path}: does not name its split: pass --split {' or '.join(suite.splits)}")
    if options.split not in suite.splits:
        raise unknown("split", options.split, suite.splits)
    return options.split, next(iter(suite.splits[options.split].tasks))


def _calvin_tasks(suite: Suite, config: EvalConfig, options: ImportOptions, path: Path) -> dict[TaskKey, int]:
    if config.episodes_per_task != 1:
        raise UsageError(f"{path}: config.episodes_per_task: must be 1 for CALVIN: each sequence is a task")
    sequences = int(config.params.get("num_sequences", suite.scenes))
    count = min(sequences, config.max_tasks or sequences)
    return {_calvin_split(suite, options, path): len(config.tasks) if config.tasks else count}


def _locate_calvin(
    suite: Suite, config: EvalConfig, task: TaskResult, episode: EpisodeResult, options: ImportOptions, path: Path
) -> tuple[str, str, int]:
    sequence = re.fullmatch(r"seq_(\d+)", task.task)
    if not sequence or episode.episode_id:
        raise UsageError(
            f"{path}: task {task.task!r}, episode {episode.episode_id}: must be seq_N and its only episode"
        )
    return (*_calvin_split(suite, options, path), int(sequence.group(1)))


SIMPLER: Final[Mapping[str, TaskKey]] = {  # simpler_env's names (params.task_name)
    "widowx_stack_cube": ("widowx", "stack_green_cube_on_yellow_cube"),
    "widowx_carrot_on_plate": ("widowx", "put_carrot_on_plate"),
    "widowx_spoon_on_towel": ("widowx", "put_spoon_on_table_cloth"),
    "widowx_put_eggplant_in_basket": ("widowx", "put_eggplant_in_basket"),
    "google_robot_pick_coke_can": ("google_vm", "pick_coke_can"),
    "google_robot_move_near": ("google_vm", "move_near"),
    "google_robot_open_drawer": ("google_vm", "open_drawer"),
    "google_robot_close_drawer": ("google_vm", "close_drawer"),
}


def _simpler_task(config: EvalConfig, path: Path) -> TaskKey:
    name = str(config.params.get("task_name", "widowx_stack_cube"))
    if config.params.get("env_name"):
        raise UsageError(
            f"{path}: config.params.env_name: a single variant of variant aggregation is not a task of evalkit's suite"
        )
    if name not in SIMPLER:
        raise UsageError(
            f"{path}: config.params.task_name: evalkit's simpler has no task for {name!r}: remove the file"
        )
    return SIMPLER[name]


def _simpler_tasks(suite: Suite, config: EvalConfig, options: ImportOptions, path: Path) -> dict[TaskKey, int]:
    return {_simpler_task(config, path): config.episodes_per_task}


def _locate_simpler(
    suite: Suite, config: EvalConfig, task: TaskResult, episode: EpisodeResult, options: ImportOptions, path: Path
) -> tuple[str, str, int]:
    return (*_simpler_task(config, path), episode.episode_id)


BENCHMARKS: Final[Mapping[str, EvaluatedBenchmark]] = {
    "LIBEROBenchmark": EvaluatedBenchmark(
        "libero",
        _libero_tasks,
        _locate_libero,
        "vla-eval seeds an environment once, so the fixtures of an episode depend on the episodes before it",
    ),
    "CALVINBenchmark": EvaluatedBenchmark(
        "calvin",
        _calvin_tasks,
        _locate_calvin,
        "vla-eval (as of 0.8.0) starts its chains from other initial states than the official evaluation",
        ("sub-tasks",),
    ),
    "SimplerEnvBenchmark": EvaluatedBenchmark(
        "simpler",
        _simpler_tasks,
        _locate_simpler,
        "vla-eval plays other scenes than the published grids, and by default judges success by the last step",
    ),
}
