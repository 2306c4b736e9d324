"""LIBERO's logs, written by ``eval_libero/main.py``.

A task's 50 trials are played by ten processes, and "Episode k" is the k-th trial to *finish*: its initial state is not
in the log. A trial that raised an exception counts as a failure in ``merged_results.json`` and has an error line
instead of an outcome; here it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evalkit.errors import UsageError
from evalkit.files import parse_json
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

SUMMARY = "merged_results.json"
_SUITE: Final = re.compile(r"INFO:root:Task suite: (\w+)\n")
_LINE: Final = re.compile(
    r"INFO:root:Task_id (?P<task>\d+): Episode (?P<number>\d+): (?P<verdict>Success|Failure) \| "
    r"Current Success Rate: [\d.]+% \((?P<successes>\d+)/(?P<episodes>\d+)\)"
    r"|ERROR:root:Error in trial (?P<trial>\d+): (?P<why>.*)\n"
    r"|INFO:root:Task (?P<ended>\d+) Success Rate: (?P<rate>[\d.]+)%"
)


@dataclass(frozen=True)
class _Task:
    """A task in one log: outcomes in the order they finished, then errors; ``ended`` if its last line is there."""

    number: int
    outcomes: list[ImportedOutcome]
    ended: bool


def read_libero(
    suite: Suite, logs: Sequence[SourceFile], options: ImportOptions
) -> tuple[list[TaskOutcomes], list[SourceFile]]:
    """Read every task's outcomes by split, and the summaries beside the logs.

    Raises:
        UsageError: the logs are contradictory or incomplete, or do not match the summaries.
    """
    splits = suite.upstream_splits()
    folders: dict[str, tuple[Path, dict[int, tuple[_Task, SourceFile]]]] = {}
    for log in logs:
        found = set(_SUITE.findall(log.text))
        if len(found) != 1:
            raise UsageError(f"{log.path}: 'Task suite' must occur once, found {', '.join(sorted(found)) or 'none'}")
        upstream = found.pop()
        if upstream not in splits:
            raise UsageError(f"{log.path}: task suite {upstream!r} is none of {', '.join(splits)}")
        folder, tasks = folders.setdefault(splits[upstream], (log.path.parent, {}))
        if folder != log.path.parent:
            raise UsageError(f"{log.path}: {upstream} is in {folder} too: point at one evaluation")
        if any(path == log.path.parent and split != splits[upstream] for split, (path, _) in folders.items()):
            raise UsageError(
                f"{log.path}: a log of {upstream} among another suite's: keep each suite in its own folder"
            )
        for task in _tasks_of(log):
            _add_task(tasks, task, log)
    result: list[TaskOutcomes] = []
    summaries: list[SourceFile] = []
    for split in (name for name in suite.splits if name in folders):
        folder, tasks = folders[split]
        summary = SourceFile.read(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
        summaries += [summary] if summary else []
        result += _checked(suite, split, tasks, summary, options)
    return result, summaries


def _tasks_of(log: SourceFile) -> Iterator[_Task]:
    """Yield the tasks in a log; their running counts must match."""
    seen: list[ImportedOutcome] = []
    current: int | None = None
    outcomes: list[ImportedOutcome] = []
    errors: list[ImportedOutcome] = []
    for line in _LINE.finditer(log.text):
        if line["trial"]:
            message = f"trial {line['trial']}: {line['why']}".strip()
            errors.append(ImportedOutcome(False, error={"kind": "crash", "message": message}))
        elif line["number"]:
            task, number = int(line["task"]), int(line["number"])
            outcome = ImportedOutcome(line["verdict"] == "Success")
            if current not in (None, task):
                raise UsageError(f"{log.path}: task {task} begins before task {current} ended: {HOW_TO_COMPLETE}")
            if number <= len(seen):
                known = {number: (seen[number - 1], log.path)}
                add_outcome(known, number, outcome, log.path, f"task {task}, episode {number}")
                continue
            if number > len(seen) + 1:
                missing = format_ranges(range(len(seen) + 1, number))
                raise UsageError(f"{log.path}: task {task}: episode {missing} is missing in the middle of the log")
            current = task
            seen.append(outcome)
            outcomes.append(outcome)
            counted = (sum(o.success for o in seen), len(seen))
            if (int(line["successes"]), int(line["episodes"])) != counted:
                stated = f"({line['successes']}/{line['episodes']})"
                raise UsageError(
                    f"{log.path}: task {task}, episode {number}: the log counts {stated} and its lines give "
                    f"({counted[0]}/{counted[1]}): a line was changed or lost"
                )
        else:
            yield _ended(log, int(line["ended"]), float(line["rate"]), current, outcomes, errors)
            current, outcomes, errors = None, [], []
    if current is not None:
        yield _Task(current, outcomes + errors, ended=False)


def _ended(
    log: SourceFile,
    task: int,
    rate: float,
    current: int | None,
    outcomes: list[ImportedOutcome],
    errors: list[ImportedOutcome],
) -> _Task:
    """Return a task that ended.

    Raises:
        UsageError: the task has no episode, or its rate is not that of its lines.
    """
    if current not in (None, task) or not outcomes + errors:
        raise UsageError(f"{log.path}: task {task} ended without an episode: {HOW_TO_COMPLETE}")
    every = outcomes + errors
    counted = 100 * sum(o.success for o in every) / len(every)
    if abs(counted - rate) > 0.006:  # the log has two decimals
        raise UsageError(f"{log.path}: task {task}: the log says {rate:.2f} % and its lines give {counted:.2f} %")
    return _Task(task, every, ended=True)


def _add_task(tasks: dict[int, tuple[_Task, SourceFile]], task: _Task, log: SourceFile) -> None:
    """Add a task; one that is in two logs must be the same in both."""
    if task.number in tasks:
        other, first = tasks[task.number]
        known = {number: (outcome, first.path) for number, outcome in enumerate(other.outcomes, start=1)}
        for number, outcome in enumerate(task.outcomes, start=1):
            add_outcome(known, number, outcome, log.path, f"task {task.number}, episode {number}")
        if len(other.outcomes) >= len(task.outcomes) and other.ended >= task.ended:
            return
    tasks[task.number] = (task, log)


def _checked(
    suite: Suite,
    split: str,
    tasks: Mapping[int, tuple[_Task, SourceFile]],
    summary: SourceFile | None,
    options: ImportOptions,
) -> Iterator[TaskOutcomes]:
    """Yield the tasks in the suite's order, checked against the summary; incomplete ones only with ``allow_partial``.

    A task is complete with the protocol's number of episodes. Neither a log nor the summary states how many were
    played, so nothing else shows a loss of the last lines if every episode was a success.
    """
    names = list(suite.splits[split].tasks)
    rates = _summary(summary, suite.splits[split].tasks) if summary else {}
    for number in sorted({*tasks, *rates}):
        task, log = tasks.get(number, (_Task(number, [], ended=False), None))
        where = log.path if log else summary.path if summary else ""
        if number >= len(names):
            raise UsageError(f"{where}: task {number}: {split} has tasks 0 to {len(names) - 1}")
        limit = suite.scenes_of(split, names[number])
        expected = min(suite.episodes, limit)
        missing = format_ranges(range(len(task.outcomes) + 1, expected + 1))
        if (missing or not task.ended) and not options.allow_partial:
            problem = f"episodes {missing or 'after the last'} are missing" if log else "has no log"
            raise UsageError(f"{where}: task {number}: {problem}: {HOW_TO_COMPLETE}")
        if len(task.outcomes) > limit:
            raise UsageError(f"{where}: task {number}: {len(task.outcomes)} episodes, but the task has {limit} scenes")
        if summary and task.ended and not missing:
            _check_rate(task, rates.get(number), summary, str(where))
        outcomes = {(scene, 0): outcome for scene, outcome in enumerate(task.outcomes)}
        yield TaskOutcomes(split, names[number], max(expected, len(outcomes)), 1, outcomes)


def _check_rate(task: _Task, rate: float | None, summary: SourceFile, log: str) -> None:
    """Raise UsageError if the summary has another success rate."""
    counted = sum(o.success for o in task.outcomes) / len(task.outcomes)
    if rate is None or not abs(counted - rate) <= 1e-9:
        there = "missing" if rate is None else f"{rate:g}"
        raise UsageError(
            f"{summary.path}: task_id {task.number}: success_rate is {there} there and {counted:g} in {log}: they are "
            "not from one evaluation"
        )


def _summary(summary: SourceFile, instructions: Mapping[str, str]) -> dict[int, float]:
    """Return every task's success rate in ``merged_results.json``; its instructions and totals must match."""
    known = list(instructions.values())
    rates: dict[int, float] = {}
    try:
        content: Any = parse_json(summary.text, strict=False)
        for entry in content["individual_results"]:
            number, rate = int(entry["task_id"]), float(entry["success_rate"])
            if rates.setdefault(number, rate) != rate:
                raise UsageError(f"{summary.path}: task_id {number}: {rates[number]:g} and {rate:g}; remove one")
            if number < len(known) and entry["instruction"] != known[number]:
                raise UsageError(
                    f"{summary.path}: task_id {number}: instruction {entry['instruction']!r} is not the suite's "
                    f"{known[number]!r}: the tasks are in another order"
                )
        total = content["summary"]["total_tasks"]
        overall = float(content["summary"]["overall_success_rate"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"{summary.path}: is damaged ({error!r}): get it again, or remove it") from error
    mean = sum(rates.values()) / max(len(rates), 1)
    if total != len(rates) or not abs(overall - mean) <= 1e-9:
        raise UsageError(
            f"{summary.path}: summary: {overall:g} over {total} tasks there, but individual_results give {mean:g} over "
            f"{len(rates)}: entries were changed or lost"
        )
    return rates
