"""From a frame of episodes to the lines of a table: tasks, splits, and the suite's headline."""

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
    """One line of a table: a task's (split and task), a split's (task None) or the suite's (both None).

    A split of chains has several, one for each number of sub-tasks in a row and one for the average length; one with
    tasks that papers print as one has a line for these, and last its own. Rates are fractions of 1, lengths go up to
    ``max_value``; ``low`` and ``high`` are the ends of the 95 % interval; ``errors`` are episodes without a verdict, which
    are in no other column.
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
        """What documents say of it."""
        return {key: value for key, value in asdict(self).items() if key != "max_value"}


@dataclass(frozen=True)
class _Split:
    """A split's lines, the one that stands for it last, and what a headline over tasks counts of it."""

    rows: list[Row]
    units: Mapping[str, Estimate]

    @property
    def whole(self) -> Estimate:
        row = self.rows[-1]
        return Estimate(row.value, row.low, row.high, row.n, row.n_effective, row.max_value)


def rows_of(manifest: Manifest, frame: pd.DataFrame) -> list[Row]:
    """Tasks, then splits, in the plan's order, and last the headline, from a frame of the run's episodes."""
    kind = _chains if manifest.suite.get("chain") else _tasks
    splits = {name: kind(manifest, name, frame[frame["split"] == name]) for name in _planned(manifest)}
    rows = [row for split in splits.values() for row in split.rows]
    return [*(r for r in rows if r.task), *(r for r in rows if not r.task), _headline(manifest, splits)]


def coverage_note(manifest: Manifest) -> str:
    """What part of the headline's protocol the plan is, in words; empty where it is all of it."""
    asked = set(_asked(manifest))
    planned = {t.key: t.scenes * t.repeats for t in manifest.plan.tasks if t.key in asked}
    whole = {key: _protocol_size(manifest.suite, *key) for key in asked}
    if planned == whole:
        return ""
    run, all_of_it = sum(planned.values()), sum(whole.values())
    return f"{len(planned)} of {len(whole)} tasks, {run} episodes where the protocol has {all_of_it}"


def _tasks(manifest: Manifest, split: str, frame: pd.DataFrame) -> _Split:
    """Every task's success rate, and for the split the mean of those that have episodes, each counted equally."""
    judged, lost = _parted(frame)
    tasks = [task for of, task in manifest.plan.keys if of == split]
    episodes = dict(iter(judged.groupby("task", observed=True)))
    estimates = {task: success_rate(episodes.get(task, judged.iloc[:0])) for task in tasks}
    units = _grouped(_rule(manifest), estimates)
    whole = mean_of([e for e in units.values() if e.n] or [success_rate(judged)])
    suite = str(manifest.fingerprint["suite"])
    errors = lost["task"].value_counts()
    rows = [_row(suite, split, task, RATE, e, int(errors.get(task, 0))) for task, e in estimates.items()]
    for name, members in _rule(manifest).groups.items():
        if set(members) <= set(tasks):
            missing = sum(int(errors.get(task, 0)) for task in members)
            rows.append(_row(suite, split, None, f"{RATE} of {name}", units[name], missing))
    return _Split([*rows, _row(suite, split, None, RATE, whole, len(lost))], units)


def _chains(manifest: Manifest, split: str, frame: pd.DataFrame) -> _Split:
    """Every sub-task over its attempts, then how many chains got how far, then the average length."""
    judged, lost = _parted(frame)
    suite, chain = str(manifest.fingerprint["suite"]), int(manifest.suite["chain"])
    tried = _attempts(judged).groupby("task", observed=True)
    rates = {str(name): success_rate(attempts) for name, attempts in tried}
    lengths = {f"{count} in a row": solved_in_a_row(judged, count) for count in range(1, chain + 1)}
    lengths[LENGTH] = average_length(judged, chain)
    rows = [_row(suite, split, name, RATE, estimate, 0) for name, estimate in rates.items()]
    rows += [_row(suite, split, None, measure, estimate, len(lost)) for measure, estimate in lengths.items()]
    return _Split(rows, {})


def _attempts(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per sub-task that was attempted; its scene is a number for each (scene, place in the chain).

    Sub-tasks whose names are unknown have no task: the chain counts, and they cannot.
    """
    import numpy as np
    import pandas as pd

    each = [id(parts) for parts in judged["subtasks"]]  # chains that ended alike are often one object
    codes, chains = pd.factorize(np.array(each, dtype=np.int64))
    of = dict(zip(codes, judged["subtasks"], strict=True))
    attempted = [part for code in range(len(chains)) for part in of[code]]
    lengths = np.array([len(of[code]) for code in range(len(chains))], dtype=np.int64)
    named, names = pd.factorize(np.array([name for name, _ in attempted], dtype=object), sort=True)
    episode = np.repeat(np.arange(len(codes)), lengths[codes])
    place = np.arange(len(episode)) - np.repeat(np.cumsum(lengths[codes]) - lengths[codes], lengths[codes])
    part = (np.cumsum(lengths) - lengths)[codes[episode]] + place
    whole = judged[["split", "scene", "digest"]].iloc[episode].reset_index(drop=True)
    attempts: pd.DataFrame = whole.assign(
        task=pd.Categorical.from_codes(named[part].tolist(), categories=names.tolist()),
        scene=whole["scene"] * int(lengths.max(initial=1)) + place,
        success=np.array([solved for _, solved in attempted], dtype=bool)[part],
    )
    return attempts


def _headline(manifest: Manifest, splits: Mapping[str, _Split]) -> Row:
    """The suite's number over what was run, by its own name only where all of its tasks were."""
    rule, chain = _rule(manifest), manifest.suite.get("chain")
    asked = _asked(manifest)
    named = {split for split, _ in asked}
    counted = [split for split in splits if split in named] or list(splits)
    if rule.mean_of == "tasks":
        parts = {(name, unit): e for name in counted for unit, e in splits[name].units.items()}
    else:
        parts = {(name, name): splits[name].whole for name in counted}
    if set(asked) <= set(manifest.plan.keys):
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


def _planned(manifest: Manifest) -> list[str]:
    """The splits that were run."""
    return list(dict.fromkeys(split for split, _ in manifest.plan.keys))


def _asked(manifest: Manifest) -> list[tuple[str, str]]:
    """All the tasks that the headline's protocol has: of every split that it names, or of the splits that were run."""
    rule, splits = _rule(manifest), manifest.suite["splits"]
    named = _planned(manifest) if rule.each_split else rule.splits or list(splits)
    return [(split, task) for split in named for task in splits[split]["tasks"]]


def _grouped(rule: Headline, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The estimates by task, those that the headline counts as one replaced by their mean."""
    named = {task: name for name, tasks in rule.groups.items() for task in tasks}
    together: dict[str, list[Estimate]] = {}
    for task, estimate in estimates.items():
        together.setdefault(named.get(task, task), []).append(estimate)
    return {name: mean_of(parts) for name, parts in together.items()}


def _protocol_size(suite: Mapping[str, Any], split: str, task: str) -> int:
    """How many episodes of a task the protocol runs."""
    section = suite["splits"][split]
    scenes = section.get("scenes") or suite["episodes"]
    own = scenes[task] if isinstance(scenes, dict) else scenes
    return int(min(own, suite["episodes"])) * int(section.get("repeats", 1))


def _parted(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Episodes with a verdict, and those that ended in an error."""
    failed = frame["error"].notna()
    return frame[~failed], frame[failed]


def _row(suite: str, split: str | None, task: str | None, metric: str, e: Estimate, errors: int) -> Row:
    return Row(suite, split, task, metric, e.value, e.low, e.high, e.n, round(e.n_effective, 1), errors, e.max_value)
