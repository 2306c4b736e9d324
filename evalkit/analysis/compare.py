"""Two finished runs compared on the episodes that both have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.analysis.pairs import KEY, Side, paired, side
from evalkit.analysis.rows import LENGTH, RATE
from evalkit.episode import Episode
from evalkit.errors import NotComparable, UsageError
from evalkit.records.comparability import check_comparable
from evalkit.records.folder import RunFolder
from evalkit.stats import contrasts
from evalkit.stats.contrasts import Contrast
from evalkit.suite import Headline

if TYPE_CHECKING:
    import pandas as pd

    _Whole = Callable[[pd.DataFrame], Contrast]

Verdict = Literal["PASS", "REGRESSION", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Line:
    """One line of a comparison: a task's, a split's (task None) or the headline's (both None)."""

    split: str | None
    task: str | None
    metric: str
    contrast: Contrast
    max_value: float = 1.0

    def signed(self, difference: float) -> str:
        """A difference for people: in points for rates, else in lengths."""
        return f"{100 * difference:+.1f} points" if self.max_value == 1 else f"{self.max_value * difference:+.2f}"

    def to_dict(self) -> dict[str, Any]:
        """What documents say of it: rates as fractions of 1, lengths as lengths."""
        fields = asdict(self.contrast)
        for name in ("a", "b", "difference", "low", "high"):
            fields[name] *= self.max_value
        return {"split": self.split, "task": self.task, "metric": self.metric, **fields}


@dataclass(frozen=True)
class Flip:
    """An episode that ended otherwise in the two runs, with its scores and its videos where there are any."""

    episode: str
    a: float
    b: float
    videos: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two runs compared; ``b`` is the one that is judged.

    Attributes:
        a: the first run, the one to be measured against.
        b: the second.
        paired: whether the same episodes were compared.
        lines: tasks, then splits, and last the headline.
        flips: what only one of them solved (or solved more of); paired comparisons only.
        left_out: episodes with a verdict in one run that the other has none for.
        allowed: what differs beyond the checkpoints, and was allowed to.
        verdict: PASS: the second is not worse by ``margin``; REGRESSION: it is worse; INCONCLUSIVE: neither is shown.
        reason: the verdict in words.
        margin: largest loss that would still pass, as a fraction (of the chain, for lengths).
        level: of the test that finds a regression.
    """

    a: Side
    b: Side
    paired: bool
    lines: list[Line]
    flips: list[Flip]
    unmatched: int
    allowed: list[str]
    verdict: Verdict
    reason: str
    margin: float
    level: float

    @property
    def headline(self) -> Line:
        """The whole in one line."""
        return self.lines[-1]

    def to_json(self) -> dict[str, Any]:
        """The document that ``evalkit compare --json`` prints."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "suite": self.a.manifest.fingerprint["suite"],
            "a": {"run": str(self.a.folder), "checkpoint": self.a.manifest.checkpoint["id"], "errors": self.a.errors},
            "b": {"run": str(self.b.folder), "checkpoint": self.b.manifest.checkpoint["id"], "errors": self.b.errors},
            "paired": self.paired,
            "margin": self.margin,
            "level": self.level,
            "headline": self.headline.to_dict(),
            "rows": [line.to_dict() for line in self.lines],
            "flips": [asdict(flip) for flip in self.flips],
            "unmatched": self.unmatched,
            "allowed": self.allowed,
        }


def compare(
    first: Path, second: Path, allow: Sequence[str] = (), margin: float = 0.05, level: float = 0.05
) -> Comparison:
    """Compares the second run with the first.

    Episodes are paired by split, task, scene and repeat. Runs that have no episode in common are compared unpaired,
    over the tasks that both have.

    Args:
        first: a run's folder.
        second: another's.
        allow: see :func:`evalkit.records.comparability.check_comparable`.
        margin: largest loss that would still pass, a fraction in (0, 1).
        level: of the test, in (0, 0.5).

    Raises:
        NotComparable: they must not be held against each other, or have no task in common.
        UsageError: a folder is no run, or a number is out of range.
    """
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g}: must lie between 0 and 1, as a fraction (0.05 is 5 points)")
    if not 0 < level < 0.5:
        raise UsageError(f"--alpha {level:g}: must lie between 0 and 0.5")
    a, b = side(first), side(second)
    allowed = check_comparable(a.manifest, b.manifest, allow)
    for one in (a, b):
        if one.judged.empty:
            raise UsageError(f"{one.folder}: no episode of this run has a verdict")
    pairs = paired(a, b)
    if pairs.empty:
        lines, flips = _unpaired_lines(a, b), []
        unmatched = 0
    else:
        lines, flips = _paired_lines(a, pairs), list(_flips(a, b, pairs))
        unmatched = len(a.judged) + len(b.judged) - 2 * len(pairs)
    verdict, reason = _judged(lines[-1], margin, level)
    return Comparison(a, b, not pairs.empty, lines, flips, unmatched, allowed, verdict, reason, margin, level)


def _paired_lines(a: Side, pairs: pd.DataFrame) -> list[Line]:
    return _lines(a, pairs, contrasts.paired_verdicts, contrasts.paired_lengths)


def _unpaired_lines(a: Side, b: Side) -> list[Line]:
    """The lines over the tasks that both runs have."""
    import pandas as pd

    both = pd.concat([a.judged.assign(second=False), b.judged.assign(second=True)])
    sides = both.groupby(["split", "task"], observed=True)["second"].transform("nunique")
    both = both[sides == 2]
    if both.empty:
        raise NotComparable(f"not comparable: {a.folder} and {b.folder} have no task in common")

    def parted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return rows[~rows["second"]], rows[rows["second"]]

    def verdicts(rows: pd.DataFrame) -> Contrast:
        one, other = parted(rows)
        distinct = ["split", "task", "scene", "digest", "score"]
        effective = len(one.drop_duplicates(distinct)), len(other.drop_duplicates(distinct))
        return contrasts.unpaired_verdicts(one["score"], other["score"], effective)

    def lengths(rows: pd.DataFrame) -> Contrast:
        one, other = parted(rows)
        return contrasts.unpaired_lengths(one["score"], other["score"])

    return _lines(a, both, verdicts, lengths)


def _lines(a: Side, rows: pd.DataFrame, verdicts: _Whole, lengths: _Whole) -> list[Line]:
    """Tasks (of chains: how many were solved in a row), splits, and the headline, by the suite's own rule."""
    import pandas as pd

    whole = lengths if a.chain else verdicts
    max_value, metric = (float(a.chain), LENGTH) if a.chain else (1.0, RATE)
    rule = Headline.model_validate(a.manifest.suite["headline"])
    by_task = dict(tuple(rows.groupby(["split", "task"], observed=True)))
    tasks = {key: whole(by_task[key]) for key in a.manifest.plan.keys if key in by_task}
    units = _units(rule, tasks, lambda keys: whole(pd.concat([by_task[key] for key in keys])))
    splits = {
        name: contrasts.macro_average(
            [c for (s, _), c in units.items() if s == name], whole(rows[rows["split"] == name])
        )
        for name in dict.fromkeys(split for split, _ in tasks)
    }
    counted = [name for name in splits if name in (rule.splits or splits)] or list(splits)
    parts = [splits[name] for name in counted]
    if rule.mean_of == "tasks":
        parts = [contrast for (split, _), contrast in units.items() if split in counted]
    head = contrasts.macro_average(parts, whole(rows[rows["split"].isin(counted)]))
    lines = [] if a.chain else _adjusted([Line(s, t, RATE, c) for (s, t), c in tasks.items()])
    for name, count in ((n, k) for n in splits for k in range(1, (a.chain or 0) + 1)):
        reached = verdicts(_at_least(rows[rows["split"] == name], count / max_value))
        lines.append(Line(name, None, f"{count} in a row", reached))
    lines += _adjusted([Line(name, None, metric, c, max_value) for name, c in splits.items()])
    return [*lines, Line(None, None, metric if len(parts) == 1 else rule.name, head, max_value)]


def _at_least(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """The rows with verdicts for scores: whether so much of the chain was solved."""
    scores = [name for name in rows.columns if name.startswith("score")]
    reached: pd.DataFrame = rows.assign(**{name: (rows[name] >= share - 1e-9).astype(float) for name in scores})
    return reached


def _units(
    rule: Headline,
    tasks: Mapping[tuple[str, str], Contrast],
    whole: Callable[[list[tuple[str, str]]], Contrast],
) -> dict[tuple[str, str], Contrast]:
    """The contrasts by task, those that the headline counts as one replaced by their mean."""
    named = {task: name for name, members in rule.groups.items() for task in members}
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for split, task in tasks:
        found.setdefault((split, named.get(task, task)), []).append((split, task))
    return {
        unit: tasks[keys[0]] if len(keys) == 1 else contrasts.macro_average([tasks[k] for k in keys], whole(keys))
        for unit, keys in found.items()
    }


def _adjusted(lines: list[Line]) -> list[Line]:
    adjusted = contrasts.holm([line.contrast for line in lines])
    return [Line(x.split, x.task, x.metric, c, x.max_value) for x, c in zip(lines, adjusted, strict=True)]


def _flips(a: Side, b: Side, pairs: pd.DataFrame) -> Iterable[Flip]:
    suite, seed = str(a.manifest.fingerprint["suite"]), a.manifest.plan.seed
    for row in pairs[pairs["score_a"] != pairs["score_b"]].to_dict("records"):
        split, task, scene, repeat = (row[name] for name in KEY)
        episode = Episode(suite, str(split), str(task), int(scene), seed, int(repeat))
        scores = float(row["score_a"]), float(row["score_b"])
        videos = [RunFolder(s.folder).video(episode, score == 1) for s, score in zip((a, b), scores, strict=True)]
        yield Flip(episode.id, *scores, tuple(str(v) for v in videos if v.exists()))


def _judged(head: Line, margin: float, level: float) -> tuple[Verdict, str]:
    c = head.contrast
    shown = f"{head.signed(c.difference)} ({head.signed(c.low)} to {head.signed(c.high)}), p = {c.p:.2g}, n = {c.n}"
    if c.p < level and c.difference < 0:
        return "REGRESSION", f"{head.metric} is lower: {shown}"
    if c.low > -margin:
        better = "higher" if c.p < level else f"not lower by {head.signed(margin).lstrip('+')}"
        return "PASS", f"{head.metric} is {better}: {shown}"
    return "INCONCLUSIVE", f"{head.metric}: neither a drop nor its absence is shown: {shown}"
