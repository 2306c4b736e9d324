"""LIBERO's logs, as ``eval_libero/main.py`` writes them.

A task's 50 trials are played by ten processes, and a line says "Episode k" of the k-th trial to *finish*: which initial
state that was is not in the log. A trial that raised counts as a failure in ``merged_results.json`` and has an error
line instead of an outcome; here it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evalkit.errors import UsageError
from evalkit.importers.result import WHOLE, ImportOptions, Outcome, Source, TaskOutcomes, add_outcome, format_ranges
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
    """A task in one log: the outcomes in the order they finished, the errors after them; and whether it ended."""

    number: int
    outcomes: list[Outcome]
    ended: bool


def read_libero(suite: Suite, logs: Sequence[Source], asked: ImportOptions) -> tuple[list[TaskOutcomes], list[Source]]:
    """Every task's outcomes by split, and the summaries beside the logs. Raises UsageError for what does not fit."""
    splits = {str(getattr(section, "upstream", name)): name for name, section in suite.splits.items()}
    folders: dict[str, tuple[Path, dict[int, tuple[_Task, Source]]]] = {}
    for log in logs:
        found = set(_SUITE.findall(log.text))
        if len(found) != 1:
            raise UsageError(f"{log.path}: 'Task suite' must be said once, found {', '.join(sorted(found)) or 'none'}")
        upstream = found.pop()
        if upstream not in splits:
            raise UsageError(f"{log.path}: task suite {upstream!r} is none of {', '.join(splits)}")
        folder, tasks = folders.setdefault(splits[upstream], (log.path.parent, {}))
        if folder != log.path.parent:
            raise UsageError(f"{log.path}: {upstream} is in {folder} too: point at one evaluation")
        if any(path == log.path.parent and split != splits[upstream] for split, (path, _) in folders.items()):
            raise UsageError(f"{log.path}: a log of {upstream} among another suite's: keep each in a folder of its own")
        for task in _tasks_of(log):
            _keep(tasks, task, log)
    result: list[TaskOutcomes] = []
    summaries: list[Source] = []
    trials = max((len(t.outcomes) for _, tasks in folders.values() for t, _ in tasks.values() if t.ended), default=None)
    for split in (name for name in suite.splits if name in folders):
        folder, tasks = folders[split]
        summary = Source.read(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
        summaries += [summary] if summary else []
        result += _checked(suite, split, tasks, trials, summary, asked)
    return result, summaries


def _tasks_of(log: Source) -> Iterator[_Task]:
    """The tasks in a log, whose running counts must add up."""
    seen: list[Outcome] = []
    current: int | None = None
    outcomes: list[Outcome] = []
    errors: list[Outcome] = []
    for line in _LINE.finditer(log.text):
        if line["trial"]:
            message = f"trial {line['trial']}: {line['why']}".strip()
            errors.append(Outcome(False, error={"kind": "crash", "message": message}))
        elif line["number"]:
            task, number = int(line["task"]), int(line["number"])
            outcome = Outcome(line["verdict"] == "Success")
            if current not in (None, task):
                raise UsageError(f"{log.path}: task {task} begins before task {current} ended: {WHOLE}")
            if number <= len(seen):
                kept = {number: (seen[number - 1], log.path)}
                add_outcome(kept, number, outcome, log.path, f"task {task}, episode {number}")
                continue
            if number > len(seen) + 1:
                missing = format_ranges(range(len(seen) + 1, number))
                raise UsageError(f"{log.path}: task {task}: episode {missing} is missing in the middle of the log")
            current = task
            seen.append(outcome)
            outcomes.append(outcome)
            counted = (sum(o.success for o in seen), len(seen))
            if (int(line["successes"]), int(line["episodes"])) != counted:
                said = f"({line['successes']}/{line['episodes']})"
                raise UsageError(
                    f"{log.path}: task {task}, episode {number}: the log counts {said} and its lines are "
                    f"({counted[0]}/{counted[1]}): a line was changed or lost"
                )
        else:
            yield _ended(log, int(line["ended"]), float(line["rate"]), current, outcomes, errors)
            current, outcomes, errors = None, [], []
    if current is not None:
        yield _Task(current, outcomes + errors, ended=False)


def _ended(
    log: Source, task: int, rate: float, current: int | None, outcomes: list[Outcome], errors: list[Outcome]
) -> _Task:
    """A task that ended. Raises UsageError where its rate is not that of its lines."""
    if current not in (None, task) or not outcomes + errors:
        raise UsageError(f"{log.path}: task {task} ended without an episode: {WHOLE}")
    every = outcomes + errors
    counted = 100 * sum(o.success for o in every) / len(every)
    if abs(counted - rate) > 0.006:  # two decimals
        raise UsageError(f"{log.path}: task {task}: the log says {rate:.2f} % and its lines make {counted:.2f} %")
    return _Task(task, every, ended=True)


def _keep(tasks: dict[int, tuple[_Task, Source]], task: _Task, log: Source) -> None:
    """Adds a task; one that is in two logs must be the same in both."""
    if task.number in tasks:
        other, first = tasks[task.number]
        kept = {number: (outcome, first.path) for number, outcome in enumerate(other.outcomes, start=1)}
        for number, outcome in enumerate(task.outcomes, start=1):
            add_outcome(kept, number, outcome, log.path, f"task {task.number}, episode {number}")
        if len(other.outcomes) >= len(task.outcomes) and other.ended >= task.ended:
            return
    tasks[task.number] = (task, log)


def _checked(
    suite: Suite,
    split: str,
    tasks: Mapping[int, tuple[_Task, Source]],
    trials: int | None,
    summary: Source | None,
    asked: ImportOptions,
) -> Iterator[TaskOutcomes]:
    """The tasks in the suite's order, whole (or ``asked.partial``) and as the summary has them.

    ``trials`` is what the evaluation played of each task, None where no task ended. It is the only sign of a lost line
    where every episode of a task was a success.
    """
    names = list(suite.splits[split].tasks)
    rates = _summary(summary, suite.splits[split].tasks) if summary else {}
    for number in sorted({*tasks, *rates}):
        task, log = tasks.get(number, (_Task(number, [], ended=False), None))
        where = log.path if log else summary.path if summary else ""
        if number >= len(names):
            raise UsageError(f"{where}: task {number}: {split} has tasks 0 to {len(names) - 1}")
        most = suite.scenes_of(split, names[number])
        expected = trials or min(suite.episodes, most)
        missing = format_ranges(range(len(task.outcomes) + 1, expected + 1))
        if (missing or not task.ended) and not asked.allow_partial:
            what = f"episodes {missing or 'after the last'} are missing" if log else "has no log"
            raise UsageError(f"{where}: task {number}: {what}: {WHOLE}")
        if len(task.outcomes) > most:
            raise UsageError(f"{where}: task {number}: {len(task.outcomes)} episodes, and the task has {most} scenes")
        if summary and task.ended and not missing:
            _check_rate(task, rates.get(number), summary, str(where))
        outcomes = {(scene, 0): outcome for scene, outcome in enumerate(task.outcomes)}
        yield TaskOutcomes(split, names[number], max(expected, len(outcomes)), 1, outcomes)


def _check_rate(task: _Task, rate: float | None, summary: Source, log: str) -> None:
    """Raises UsageError where the summary has another success rate."""
    counted = sum(o.success for o in task.outcomes) / len(task.outcomes)
    if rate is None or abs(counted - rate) > 1e-9:
        there = "missing" if rate is None else f"{rate:g}"
        raise UsageError(
            f"{summary.path}: task_id {task.number}: success_rate is {there} there and {counted:g} in {log}: they are "
            "not of one evaluation"
        )


def _summary(summary: Source, instructions: Mapping[str, str]) -> dict[int, float]:
    """``merged_results.json``: every task's success rate, its instructions checked."""
    known = list(instructions.values())
    rates: dict[int, float] = {}
    try:
        content: Any = json.loads(summary.text)
        for entry in content["individual_results"]:
            number, rate = int(entry["task_id"]), float(entry["success_rate"])
            if rates.setdefault(number, rate) != rate:
                raise UsageError(f"{summary.path}: task_id {number}: {rates[number]:g} and {rate:g}; remove one")
            if number < len(known) and entry["instruction"] != known[number]:
                raise UsageError(
                    f"{summary.path}: task_id {number}: instruction {entry['instruction']!r} is not the suite's "
                    f"{known[number]!r}: the tasks are in another order"
                )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{summary.path}: is damaged ({error!r}): get it again, or remove it") from error
    return rates
