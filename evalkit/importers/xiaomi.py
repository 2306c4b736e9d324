"""The logs that Xiaomi-Robotics-0's evaluation scripts write: LIBERO, CALVIN and SimplerEnv.

Source: https://github.com/XiaomiRobotics/Xiaomi-Robotics-0, ``eval_libero``, ``eval_calvin`` and ``eval_simplerenv``,
whose ``main.py`` writes the logs and whose ``eval_logs`` are those of the released checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalkit.errors import UsageError
from evalkit.importers.result import Imported, ImportOptions, Source, TaskOutcomes, files_of, released, synchronous
from evalkit.importers.xiaomi_calvin import read_calvin
from evalkit.importers.xiaomi_libero import read_libero
from evalkit.importers.xiaomi_simpler import read_simpler
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

ORGANISATION = "XiaomiRobotics"
SOURCE = "logs of Xiaomi-Robotics-0's evaluation scripts"
MISSING = ("simulator versions", "weights", "steps", "inferences", "digests")

Found = tuple[
    Sequence[TaskOutcomes], Sequence[Source]
]  # the outcomes, and the summaries that were read beside the logs


@dataclass(frozen=True)
class Kind:
    """One suite's logs.

    Attributes:
        suite: evalkit's suite.
        header: what every log of the kind has near its beginning.
        levels: how many folders up from a log lies the folder of one evaluation.
        read: from (suite, logs, what was asked) to the outcomes and the summaries.
        lacks: what these logs do not say, beyond what none of the scripts' logs say.
    """

    suite: str
    header: str
    levels: int
    read: Callable[[Suite, Sequence[Source], ImportOptions], Found]
    missing_fields: tuple[str, ...]


KINDS: Final = (
    Kind("libero", "INFO:root:Task suite: ", 2, read_libero, ("scenes",)),
    Kind("calvin", "Starting evaluation with rank=", 1, read_calvin, ("scenes", "sub-tasks")),
    Kind("simpler", "Running dataset: ", 1, read_simpler, ()),
)


def read(path: Path, asked: ImportOptions) -> Imported:
    """The run whose logs lie in the folder ``path``.

    Raises:
        UsageError: there are none or those of several runs, or they are damaged, contradict themselves, each other or
            the summary beside them, or are not whole (without ``asked.partial``).
    """
    kind, logs = _of_one_run(path)
    suite = load_suite(kind.suite)
    tasks, summaries = kind.read(suite, logs, asked)
    known, chunk = released(ORGANISATION, suite.name, {task.split for task in tasks})
    checkpoint = asked.checkpoint or known
    if checkpoint is None:
        raise UsageError(f"{path}: no checkpoint is known that was released for this: name it with --checkpoint ID")
    origin = Origin(
        format="xiaomi-logs",
        source=SOURCE,
        files=files_of([*logs, *summaries], path),
        missing_fields=[*kind.missing_fields, *MISSING],
    )
    return Imported(suite, checkpoint, synchronous(chunk), tasks, origin)


def _of_one_run(path: Path) -> tuple[Kind, list[Source]]:
    """The logs under a folder, which must all be of one evaluation."""
    if not path.is_dir():
        raise UsageError(f"{path}: must be the folder with an evaluation's logs, not one of them")
    logs = [Source.read(p) for p in sorted(path.rglob("*.log")) if p.is_file()]
    if not logs:
        raise UsageError(f"{path}: there is no *.log in it")
    kinds = {log.path: _kind(log) for log in logs}
    folders: dict[Path, Path] = {}
    for log in logs:
        first = folders.setdefault(log.path.parent, log.path)
        if kinds[first] != kinds[log.path]:
            one, other = kinds[first].suite, kinds[log.path].suite
            raise UsageError(
                f"{log.path}: a log of {other} among those of {one}: keep each suite's in a folder of its own"
            )
    runs = _runs(kinds)
    if len(runs) > 1:
        raise UsageError(f"{path}: holds the logs of {len(runs)} runs: point at one of {_named(runs, path)}")
    return kinds[logs[0].path], logs


def _kind(log: Source) -> Kind:
    found = [kind for kind in KINDS if kind.header in log.text]
    if not found:
        raise UsageError(
            f"{log.path}: is no log of {', '.join(k.suite for k in KINDS)}, or is cut off at the beginning"
        )
    if len(found) > 1:
        raise UsageError(
            f"{log.path}: holds logs of {' and '.join(k.suite for k in found)}: keep each in a file of its own"
        )
    return found[0]


def _runs(kinds: Mapping[Path, Kind]) -> set[Path]:
    return {path.parents[kind.levels - 1] for path, kind in kinds.items()}


def _named(runs: Iterable[Path], path: Path) -> str:
    return ", ".join(sorted(str(path / os.path.relpath(run, path)) for run in runs))
