"""The rows of a table, from a frame of episodes: tasks, splits, and the suite's headline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evalkit.records.manifest import Manifest
from evalkit.stats.metrics import Estimate, average_length, mean_of, solved_in_a_row, success_rate
from evalkit.suite import Headline

if TYPE_CHECKING:
    import pandas as pd

RATE = "success rate"
LENGTH = "average length"


@dataclass(frozen=True)
class Row:
    """One row of a table: a task's (split and task), a split's (task None) or the suite's (both None).

    A split of chains has one row for each number of sub-tasks in a row and one for the average length. A split with
    tasks that papers print as one has a row for these, and last its own. Rates are fractions of 1; lengths go up to
    ``max_value``. ``low`` and ``high`` are the ends of the 95 % interval. ``errors`` counts episodes without a verdict,
    which enter no other column.
    """

    suite: str
    split: str | None
    task: str | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float
    errors: int
    max_value: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the row for documents."""
        return {key: value for key, value in asdict(self).items() if key != "max_value"}


@dataclass(frozen=True)
class _SplitRows:
    """A split's rows, the one for the whole split last, and the estimates that a headline over tasks averages."""

    rows: list[Row]
    units: Mapping[str, Estimate]

    @property
    def whole(self) -> Estimate:
        row = self.rows[-1]
        return Estimate(row.value, row.low, row.high, row.n, row.n_effective, row.max_value)


def compute_rows(manifest: Manifest, frame: pd.DataFrame) -> list[Row]:
    """Return tasks, then splits, in the plan's order, and last the headline.

    Args:
        manifest: the run's manifest.
        frame: the run's episodes (:func:`evalkit.records.frame.episodes_frame`).
    """
    split_rows = _chains if manifest.suite.get("chain") else _tasks
    splits = {name: split_rows(manifest, name, frame[frame["split"] == name]) for name in _planned_splits(manifest)}
    rows = [row for split in splits.values() for row in split.rows]
    return [*(r for r in rows if r.task), *(r for r in rows if not r.task), _headline(manifest, splits)]


def coverage_note(manifest: Manifest) -> str:
    """Describe the planned part of the headline's protocol; empty if the plan covers all of it."""
    expected = set(_headline_tasks(manifest))
    planned = {t.key: t.scenes * t.repeats for t in manifest.plan.tasks if t.key in expected}
    whole = {key: _protocol_size(manifest.suite, *key) for key in expected}
    if planned == whole:
        return ""
    played, total = sum(planned.values()), sum(whole.values())
    return f"{len(planned)} of {len(whole)} tasks, {played} episodes where the protocol has {total}"


def _tasks(manifest: Manifest, split: str, frame: pd.DataFrame) -> _SplitRows:
    """Return every task's success rate and the split's mean over tasks with episodes, each counted equally."""
    scored, errors = _separate_errors(frame)
    tasks = [task for of, task in manifest.plan.keys if of == split]
    episodes = dict(iter(scored.groupby("task", observed=True)))
    estimates = {task: success_rate(episodes.get(task, scored.iloc[:0])) for task in tasks}
    units = _group_estimates(_rule(manifest), estimates)
    whole = mean_of([e for e in units.values() if e.n] or [success_rate(scored)])
    suite = str(manifest.fingerprint["suite"])
    error_counts = errors["task"].value_counts()
    rows = [_row(suite, split, task, RATE, e, int(error_counts.get(task, 0))) for task, e in estimates.items()]
    for name, members in _rule(manifest).groups.items():
        if set(members) <= set(tasks):
            missing = sum(int(error_counts.get(task, 0)) for task in members)
            rows.append(_row(suite, split, None, f"{RATE} of {name}", units[name], missing))
    return _SplitRows([*rows, _row(suite, split, None, RATE, whole, len(errors))], units)


def _chains(manifest: Manifest, split: str, frame: pd.DataFrame) -> _SplitRows:
    """Return every sub-task over its attempts, then the rates in a row, then the average length."""
    scored, errors = _separate_errors(frame)
    suite, chain = str(manifest.fingerprint["suite"]), int(manifest.suite["chain"])
    tried = _attempts(scored).groupby("task", observed=True)
    rates = {str(name): success_rate(attempts) for name, attempts in tried}
    lengths = {f"{count} in a row": solved_in_a_row(scored, count) for count in range(1, chain + 1)}
    lengths[LENGTH] = average_length(scored, chain)
    rows = [_row(suite, split, name, RATE, estimate, 0) for name, estimate in rates.items()]
    rows += [_row(suite, split, None, measure, estimate, len(errors)) for measure, estimate in lengths.items()]
    return _SplitRows(rows, {})


def _attempts(scored: pd.DataFrame) -> pd.DataFrame:
    """Return one row per attempted sub-task; its scene is a number for each (scene, place in the chain).

    Sub-tasks with unknown names have no task: the chain counts, and they do not.
    """
    import numpy as np
    import pandas as pd

    each = [id(subtasks) for subtasks in scored["subtasks"]]  # chains that ended alike often share one object
    codes, chains = pd.factorize(np.array(each, dtype=np.int64))
    of = dict(zip(codes, scored["subtasks"], strict=True))
    attempted = [part for code in range(len(chains)) for part in of[code]]
    lengths = np.array([len(of[code]) for code in range(len(chains))], dtype=np.int64)
    named, names = pd.factorize(np.array([name for name, _ in attempted], dtype=object), sort=True)
    episode = np.repeat(np.arange(len(codes)), lengths[codes])
    place = np.arange(len(episode)) - np.repeat(np.cumsum(lengths[codes]) - lengths[codes], lengths[codes])
    part = (np.cumsum(lengths) - lengths)[codes[episode]] + place
    whole = scored[["split", "scene", "digest"]].iloc[episode].reset_index(drop=True)
    attempts: pd.DataFrame = whole.assign(
        task=pd.Categorical.from_codes(named[part].tolist(), categories=pd.Index(names.tolist())),
        scene=whole["scene"] * max([1, *lengths.tolist()]) + place,
        success=np.array([solved for _, solved in attempted], dtype=bool)[part],
    )
    return attempts


def _headline(manifest: Manifest, splits: Mapping[str, _SplitRows]) -> Row:
    """Return the suite's number over the tasks that were run; it has its own name only if all tasks were run."""
    rule, chain = _rule(manifest), manifest.suite.get("chain")
    expected = _headline_tasks(manifest)
    named = {split for split, _ in expected}
    counted = [split for split in splits if split in named] or list(splits)
    if rule.mean_of == "tasks":
        parts = {(name, unit): e for name in counted for unit, e in splits[name].units.items()}
    else:
        parts = {(name, name): splits[name].whole for name in counted}
    if set(expected) <= set(manifest.plan.keys):
        name = rule.name + (f" of {', '.join(counted)}" if rule.each_split else "")
    else:
        measure = LENGTH if chain else RATE if len(parts) == 1 else "mean"
        units = [unit for _, unit in parts]
        name = f"{measure} of {', '.join(units) if len(units) <= 3 else f'{len(units)} {rule.mean_of}'}"
    estimate = mean_of(list(parts.values()))
    errors = sum(splits[split].rows[-1].errors for split in counted)
    return _row(str(manifest.fingerprint["suite"]), None, None, name, estimate, errors)


def _rule(manifest: Manifest) -> Headline:
    return Headline.model_validate(manifest.suite["headline"])


def _planned_splits(manifest: Manifest) -> list[str]:
    """Return the splits of the plan."""
    return list(dict.fromkeys(split for split, _ in manifest.plan.keys))


def _headline_tasks(manifest: Manifest) -> list[tuple[str, str]]:
    """Return all tasks of the headline's protocol: of every split that it names, or of the splits that were run."""
    rule, splits = _rule(manifest), manifest.suite["splits"]
    named = _planned_splits(manifest) if rule.each_split else rule.splits or list(splits)
    return [(split, task) for split in named for task in splits[split]["tasks"]]


def _group_estimates(rule: Headline, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the estimates by task; tasks that the headline groups are replaced by their mean."""
    named = {task: name for name, tasks in rule.groups.items() for task in tasks}
    members: dict[str, list[Estimate]] = {}
    for task, estimate in estimates.items():
        members.setdefault(named.get(task, task), []).append(estimate)
    return {name: mean_of(parts) for name, parts in members.items()}


def _protocol_size(suite: Mapping[str, Any], split: str, task: str) -> int:
    """Return the number of episodes of a task under the protocol."""
    section = suite["splits"][split]
    scenes = section.get("scenes") or suite["episodes"]
    own = scenes[task] if isinstance(scenes, dict) else scenes
    return int(min(own, suite["episodes"])) * int(section.get("repeats", 1))


def _separate_errors(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the episodes with a verdict, and those that ended in an error."""
    failed = frame["error"].notna()
    return frame[~failed], frame[failed]


def _row(suite: str, split: str | None, task: str | None, metric: str, e: Estimate, errors: int) -> Row:
    return Row(suite, split, task, metric, e.value, e.low, e.high, e.n, round(e.n_effective, 1), errors, e.max_value)
