"""The benchmarks of vla-eval that evalkit has suites for: what a configuration is about, and where an episode belongs.

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

Key = tuple[str, str]  # (split, task)


class File(BaseModel):
    """A mapping in a result file. What is not named here is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Metrics(File):
    """An episode's measures."""

    success: StrictBool
    completed_subtasks: int | None = None


class Episode(File):
    """An episode; ``failure_reason`` says that it crashed."""

    episode_id: int = Field(ge=0)
    metrics: Metrics
    steps: int | None = Field(None, ge=0)
    failure_reason: str | None = None
    failure_detail: str | None = None
    task_id: int | None = None


class Task(File):
    """A task's episodes, and figures made of them."""

    task: str
    episodes: list[Episode]
    num_episodes: int
    mean_success: float | None = None


class Config(File):
    """What was evaluated."""

    benchmark: str
    episodes_per_task: int = Field(1, gt=0)
    max_tasks: int | None = None
    tasks: list[str] | None = None
    params: dict[str, Any] = {}


@dataclass(frozen=True)
class Kind:
    """A benchmark class of vla-eval.

    Attributes:
        suite: evalkit's suite.
        expected: the tasks that a configuration is about, given the suite and what was asked for.
        place: an episode's (split, task, index among the task's episodes).
        differs: in what its protocol is not the published one.
        lacks: what its results do not say, beyond what none of vla-eval's say.
    """

    suite: str
    expected: Callable[[Suite, Config, ImportOptions, Path], Mapping[Key, int]]
    place: Callable[[Suite, Config, Task, Episode, ImportOptions, Path], tuple[str, str, int]]
    differs: str
    missing_fields: tuple[str, ...] = ()


def _libero_tasks(suite: Suite, config: Config, asked: ImportOptions, path: Path) -> dict[Key, int]:
    split = _libero_split(suite, config, path)
    whole = config.max_tasks is None and not config.tasks
    return {(split, task): config.episodes_per_task for task in suite.splits[split].tasks} if whole else {}


def _libero_split(suite: Suite, config: Config, path: Path) -> str:
    upstream = str(config.params.get("suite", "libero_spatial"))
    splits = {str(getattr(section, "upstream", name)): name for name, section in suite.splits.items()}
    if upstream not in splits:
        raise UsageError(f"{path}: config.params.suite: {unknown('suite', upstream, splits)}")
    return splits[upstream]


def _libero_place(
    suite: Suite, config: Config, task: Task, episode: Episode, asked: ImportOptions, path: Path
) -> tuple[str, str, int]:
    """By the task's number where the file has it, else by its instruction, which some tasks of LIBERO-90 share."""
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


def _calvin_split(suite: Suite, asked: ImportOptions, path: Path) -> tuple[str, str]:
    if asked.split is None:
        raise UsageError(f"{path}: does not say which split it is of: pass --split {' or '.join(suite.splits)}")
    if asked.split not in suite.splits:
        raise unknown("split", asked.split, suite.splits)
    return asked.split, next(iter(suite.splits[asked.split].tasks))


def _calvin_tasks(suite: Suite, config: Config, asked: ImportOptions, path: Path) -> dict[Key, int]:
    if config.episodes_per_task != 1:
        raise UsageError(f"{path}: config.episodes_per_task: must be 1 for CALVIN, where each sequence is a task")
    sequences = int(config.params.get("num_sequences", suite.scenes))
    count = min(sequences, config.max_tasks or sequences)
    return {_calvin_split(suite, asked, path): len(config.tasks) if config.tasks else count}


def _calvin_place(
    suite: Suite, config: Config, task: Task, episode: Episode, asked: ImportOptions, path: Path
) -> tuple[str, str, int]:
    sequence = re.fullmatch(r"seq_(\d+)", task.task)
    if not sequence or episode.episode_id:
        raise UsageError(
            f"{path}: task {task.task!r}, episode {episode.episode_id}: must be seq_N and its only episode"
        )
    return (*_calvin_split(suite, asked, path), int(sequence.group(1)))


SIMPLER: Final[Mapping[str, Key]] = {  # simpler_env's names (params.task_name)
    "widowx_stack_cube": ("widowx", "stack_green_cube_on_yellow_cube"),
    "widowx_carrot_on_plate": ("widowx", "put_carrot_on_plate"),
    "widowx_spoon_on_towel": ("widowx", "put_spoon_on_table_cloth"),
    "widowx_put_eggplant_in_basket": ("widowx", "put_eggplant_in_basket"),
    "google_robot_pick_coke_can": ("google_vm", "pick_coke_can"),
    "google_robot_move_near": ("google_vm", "move_near"),
    "google_robot_open_drawer": ("google_vm", "open_drawer"),
    "google_robot_close_drawer": ("google_vm", "close_drawer"),
}


def _simpler_task(config: Config, path: Path) -> Key:
    name = str(config.params.get("task_name", "widowx_stack_cube"))
    if config.params.get("env_name"):
        raise UsageError(f"{path}: config.params.env_name: one variant of variant aggregation is no task of evalkit's")
    if name not in SIMPLER:
        raise UsageError(f"{path}: config.params.task_name: evalkit's simpler has no task for {name!r}: leave it out")
    return SIMPLER[name]


def _simpler_tasks(suite: Suite, config: Config, asked: ImportOptions, path: Path) -> dict[Key, int]:
    return {_simpler_task(config, path): config.episodes_per_task}


def _simpler_place(
    suite: Suite, config: Config, task: Task, episode: Episode, asked: ImportOptions, path: Path
) -> tuple[str, str, int]:
    return (*_simpler_task(config, path), episode.episode_id)


KINDS: Final[Mapping[str, Kind]] = {
    "LIBEROBenchmark": Kind(
        "libero",
        _libero_tasks,
        _libero_place,
        "vla-eval seeds an environment once, so where an episode's fixtures stand depends on the episodes before it",
    ),
    "CALVINBenchmark": Kind(
        "calvin",
        _calvin_tasks,
        _calvin_place,
        "vla-eval (as of 0.8.0) begins its chains in other initial states than the official evaluation",
        ("sub-tasks",),
    ),
    "SimplerEnvBenchmark": Kind(
        "simpler",
        _simpler_tasks,
        _simpler_place,
        "vla-eval plays other scenes than the published grids, and judges by the last step unless told otherwise",
    ),
}
