"""The logs of Xiaomi-Robotics-0's evaluation scripts: LIBERO, CALVIN and SimplerEnv.

Source: https://github.com/XiaomiRobotics/Xiaomi-Robotics-0, ``eval_libero``, ``eval_calvin`` and ``eval_simplerenv``.
Each ``main.py`` writes the logs; each ``eval_logs`` has those of the released checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalkit.errors import UsageError
from evalkit.importers.result import (
    ImportedRun,
    ImportOptions,
    SourceFile,
    TaskOutcomes,
    file_digests,
    released_checkpoint,
    sync_execution,
)
from evalkit.importers.xiaomi_calvin import read_calvin
from evalkit.importers.xiaomi_libero import read_libero
from evalkit.importers.xiaomi_simpler import read_simpler
from evalkit.records.manifest import Origin
from evalkit.suite import Suite, load_suite

ORGANISATION = "XiaomiRobotics"
SOURCE = "logs of Xiaomi-Robotics-0's evaluation scripts"
MISSING = ("simulator versions", "weights", "steps", "inferences", "digests")

SuiteLogs = tuple[Sequence[TaskOutcomes], Sequence[SourceFile]]  # the outcomes, and the summaries beside the logs


@dataclass(frozen=True)
class LogFormat:
    """One suite's logs.

    Attributes:
        suite: evalkit's suite.
        header: a text near the beginning of every log of this format.
        levels: number of folders from a log up to the folder of one evaluation.
        read: reads the outcomes and the summaries from (suite, logs, options).
        missing_fields: facts missing in these logs, beyond those that all of the scripts' logs lack.
    """

    suite: str
    header: str
    levels: int
    read: Callable[[Suite, Sequence[SourceFile], ImportOptions], SuiteLogs]
    missing_fields: tuple[str, ...]


LOG_FORMATS: Final = (
    LogFormat("libero", "INFO:root:Task suite: ", 2, read_libero, ("scenes",)),
    LogFormat("calvin", "Starting evaluation with rank=", 1, read_calvin, ("scenes", "sub-tasks")),
    LogFormat("simpler", "Running dataset: ", 1, read_simpler, ()),
)


def read(path: Path, options: ImportOptions) -> ImportedRun:
    """Read the run from the logs in the folder ``path``.

    Raises:
        UsageError: there are no logs or those of several runs, or they are damaged, contradict themselves, each other
            or the summary beside them, or are incomplete (without ``options.allow_partial``).
    """
    log_format, logs = _of_one_run(path)
    suite = load_suite(log_format.suite)
    tasks, summaries = log_format.read(suite, logs, options)
    known, chunk = released_checkpoint(ORGANISATION, suite.name, {task.split for task in tasks})
    checkpoint = options.checkpoint or known
    if checkpoint is None:
        raise UsageError(f"{path}: no released checkpoint is known for these splits: name it with --checkpoint ID")
    origin = Origin(
        format="xiaomi-logs",
        source=SOURCE,
        files=file_digests([*logs, *summaries], path),
        missing_fields=[*log_format.missing_fields, *MISSING],
    )
    return ImportedRun(suite, checkpoint, sync_execution(chunk), tasks, origin)


def _of_one_run(path: Path) -> tuple[LogFormat, list[SourceFile]]:
    """Read the logs under a folder, which must all be of one evaluation."""
    if not path.is_dir():
        raise UsageError(f"{path}: must be the folder with an evaluation's logs, not a single log")
    logs = [SourceFile.read(p) for p in sorted(path.rglob("*.log")) if p.is_file()]
    if not logs:
        raise UsageError(f"{path}: contains no *.log")
    formats = {log.path: _log_format(log) for log in logs}
    folders: dict[Path, Path] = {}
    for log in logs:
        first = folders.setdefault(log.path.parent, log.path)
        if formats[first] != formats[log.path]:
            one, other = formats[first].suite, formats[log.path].suite
            raise UsageError(
                f"{log.path}: a log of {other} among those of {one}: keep each suite's in a folder of its own"
            )
    runs = _runs(formats)
    if len(runs) > 1:
        raise UsageError(f"{path}: holds the logs of {len(runs)} runs: point at one of {_named(runs, path)}")
    return formats[logs[0].path], logs


def _log_format(log: SourceFile) -> LogFormat:
    found = [log_format for log_format in LOG_FORMATS if log_format.header in log.text]
    if not found:
        raise UsageError(
            f"{log.path}: is not a log of {', '.join(k.suite for k in LOG_FORMATS)}, or its beginning is missing"
        )
    if len(found) > 1:
        raise UsageError(
            f"{log.path}: holds logs of {' and '.join(k.suite for k in found)}: keep each in a file of its own"
        )
    return found[0]


def _runs(formats: Mapping[Path, LogFormat]) -> set[Path]:
    return {path.parents[log_format.levels - 1] for path, log_format in formats.items()}


def _named(runs: Iterable[Path], path: Path) -> str:
    return ", ".join(sorted(str(path / os.path.relpath(run, path)) for run in runs))
