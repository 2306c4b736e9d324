"""SimplerEnv's logs, written by ``eval_simplerenv/main.py``.

Each worker plays every n-th entry of a list of episodes (``env_options/fractal.json``, ``bridge.json``), and a line has
the entry and its outcome, so the scene of every outcome is known. Within a task the list has the scenes in evalkit's
order, the 24 of a WidowX task six times over.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalkit.errors import UsageError, unknown
from evalkit.importers.result import (
    HOW_TO_COMPLETE,
    ImportedOutcome,
    ImportOptions,
    SourceFile,
    TaskOutcomes,
    add_outcome,
    format_ranges,
)
from evalkit.suite import Suite

SUMMARY = "all_results.csv"
_DATASET: Final = re.compile(r"Running dataset: (\w+) with (\d+) workers\nWorker ID: (\d+)\n")
_LINE: Final = re.compile(r"\[Worker (\d+) / (\d+)\] (\w+)/(\w+) - (\d+)/(\d+), success: (True|False), ")

_VM, _VA, _WIDOWX = "visual_matching", "variant_aggregation", "bridge"
_PLACES: Final = ("stack_green_cube_on_yellow_cube", "put_carrot_on_plate", "put_spoon_on_table_cloth")


def _drawers(setting: str, *counts: int) -> list[tuple[str, str, int]]:
    return [(setting, task, n) for n in counts for task in ("open_drawer", "close_drawer")]


# The tasks of each list in order, as (setting, task, entries in a row).
LISTS: Final[Mapping[str, Sequence[tuple[str, str, int]]]] = {
    "fractal": [
        (_VM, "pick_coke_can", 300),
        (_VM, "move_near", 240),
        *_drawers(_VM, 27, 27, 27, 27),
        (_VM, "put_in_drawer", 108),
        (_VA, "pick_coke_can", 825),
        (_VA, "move_near", 600),
        *_drawers(_VA, 27, 27, 27, 54, 54),
        (_VA, "put_in_drawer", 189),
    ],
    "bridge": [*((_WIDOWX, task, 24) for _ in range(6) for task in _PLACES), (_WIDOWX, "put_eggplant_in_basket", 144)],
}
SPLITS: Final = {_VM: "google_vm", _VA: "google_va", _WIDOWX: "widowx"}


@dataclass(frozen=True)
class _Entry:
    """An entry of a list: the task as the logs name it, and the entry's place among the task's entries, from 0."""

    task: tuple[str, str]
    place: int


def read_simpler(
    suite: Suite, logs: Sequence[SourceFile], options: ImportOptions
) -> tuple[list[TaskOutcomes], list[SourceFile]]:
    """Read every task's outcomes, and the summary beside the logs.

    Raises:
        UsageError: the logs are contradictory or incomplete, or do not match the summary.
    """
    folder = logs[0].path.parent
    dataset = _dataset(logs)
    entries = _entries(dataset)
    outcomes_by_entry: dict[int, tuple[ImportedOutcome, Path]] = {}
    totals: set[int] = set()
    for log in logs:
        _read(log, entries, outcomes_by_entry, totals)
    if len(totals) > 1:
        raise UsageError(
            f"{folder}: the logs have totals of {' and '.join(map(str, sorted(totals)))} entries: they are of two runs"
        )
    total = totals.pop() if totals else len(entries)
    rounds = total // len(entries)
    missing = [index for index in range(total) if index not in outcomes_by_entry]
    if missing and not options.allow_partial:
        raise UsageError(f"{folder}: entries {format_ranges(missing)} of {total} are missing: {HOW_TO_COMPLETE}")
    summaries = [SourceFile.read(folder / SUMMARY)] if (folder / SUMMARY).is_file() else []
    if summaries and not missing:
        _check_summary(summaries[0], {i: o for i, (o, _) in outcomes_by_entry.items()}, entries, rounds)
    sizes = Counter(entry.task for entry in entries)
    tasks = []
    for setting, task in sizes:
        split = SPLITS[setting]
        scenes = suite.scenes_of(split, task)
        outcomes = {}
        for index, (outcome, _) in outcomes_by_entry.items():
            entry = entries[index // rounds]
            if entry.task == (setting, task):
                outcomes[entry.place % scenes, entry.place // scenes * rounds + index % rounds] = outcome
        tasks.append(TaskOutcomes(split, task, scenes, sizes[setting, task] // scenes * rounds, outcomes))
    return tasks, summaries


def _dataset(logs: Sequence[SourceFile]) -> str:
    """Return the name of the list, which must be the same in all logs."""
    names: dict[str, Path] = {}
    for log in logs:
        found = {name for name, _, _ in _DATASET.findall(log.text)}
        if len(found) != 1:
            raise UsageError(f"{log.path}: 'Running dataset' and 'Worker ID' must occur once: is it truncated?")
        names.setdefault(found.pop(), log.path)
    if len(names) > 1:
        (one, _), (other, path) = list(names.items())[:2]
        raise UsageError(f"{path}: a log of {other} among those of {one}: keep each in its own folder")
    name = next(iter(names))
    if name not in LISTS:
        raise unknown("dataset", name, LISTS)
    return name


def _entries(dataset: str) -> list[_Entry]:
    counted: Counter[tuple[str, str]] = Counter()
    entries = []
    for setting, task, count in LISTS[dataset]:
        for _ in range(count):
            entries.append(_Entry((setting, task), counted[setting, task]))
            counted[setting, task] += 1
    return entries


def _read(
    log: SourceFile,
    entries: Sequence[_Entry],
    outcomes_by_entry: dict[int, tuple[ImportedOutcome, Path]],
    totals: set[int],
) -> None:
    """Add a worker's outcomes; each must be of the task that the list has there."""
    workers = {(int(number), int(of)) for _, of, number in _DATASET.findall(log.text)}
    for worker, of, setting, task, index, total, success in _LINE.findall(log.text):
        number, size = int(index), int(total)
        where = f"{log.path}: entry {index} of {total}"
        totals.add(size)
        if size == 0 or size % len(entries) or number >= size:
            raise UsageError(f"{where}: the list has {len(entries)} entries: the log is of another list")
        if (int(worker), int(of)) not in workers or number % int(of) != int(worker):
            raise UsageError(f"{where}: worker {worker} of {of} does not play it: does the log hold two runs?")
        expected = entries[number // (size // len(entries))].task
        if (setting, task) != expected:
            raise UsageError(f"{where}: is {setting}/{task}, but the list has {'/'.join(expected)}")
        add_outcome(outcomes_by_entry, number, ImportedOutcome(success == "True"), log.path, f"entry {index}")


def _check_summary(
    summary: SourceFile, outcomes: Mapping[int, ImportedOutcome], entries: Sequence[_Entry], rounds: int
) -> None:
    """Raise UsageError if ``all_results.csv`` has other counts than the logs."""
    computed: dict[str, list[int]] = {}
    for index, outcome in outcomes.items():
        counts = computed.setdefault("/".join(entries[index // rounds].task), [0, 0])
        counts[0] += outcome.success
        counts[1] += 1
    stated: dict[str, list[int]] = {}
    try:
        for row in csv.DictReader(summary.text.splitlines()):
            task, counts = row["task_suite_name"], [int(row["success_episodes"]), int(row["total_episodes"])]
            if stated.setdefault(task, counts) != counts or not abs(float(row["success_rate"]) - _rate(counts)) <= 1e-6:
                raise UsageError(f"{summary.path}: {task}: two rows, or the counts and the rate of one, disagree")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{summary.path}: is damaged ({error!r}): get it again, or remove it") from error
    for task in sorted({*computed, *stated}):
        if computed.get(task) != stated.get(task):
            there, here = (" of ".join(map(str, c[task])) if task in c else "nothing" for c in (stated, computed))
            raise UsageError(f"{summary.path}: {task}: {there} there and {here} in the logs: not from one evaluation")


def _rate(counts: Sequence[int]) -> float:
    return counts[0] / counts[1] if counts[1] else float("nan")
