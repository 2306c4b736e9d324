"""Comparison of two finished runs on the episodes that both have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.analysis.pairs import KEY, Side, pair_episodes, read_side
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

    _ContrastOf = Callable[[pd.DataFrame], Contrast]

Verdict = Literal["PASS", "REGRESSION", "INCONCLUSIVE"]


@dataclass(frozen=True)
class ContrastRow:
    """One row of a comparison: a task's, a split's (task None) or the headline's (both None)."""

    split: str | None
    task: str | None
    metric: str
    contrast: Contrast
    max_value: float = 1.0

    def signed(self, difference: float) -> str:
        """Format a difference for people: rates in points, lengths as lengths."""
        return f"{100 * difference:+.1f} points" if self.max_value == 1 else f"{self.max_value * difference:+.2f}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row for documents: rates as fractions of 1, lengths as lengths."""
        fields = asdict(self.contrast)
        for name in ("a", "b", "difference", "low", "high"):
            fields[name] *= self.max_value
        return {"split": self.split, "task": self.task, "metric": self.metric, **fields}


@dataclass(frozen=True)
class Flip:
    """An episode with different outcomes in the two runs: its scores, and its videos if there are any."""

    episode: str
    a: float
    b: float
    videos: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two runs; ``b`` is judged against ``a``.

    Attributes:
        a: the first run, the reference.
        b: the second run.
        paired: True if the same episodes were compared.
        rows: tasks, then splits, and last the headline.
        flips: episodes that only one run solved, or that one solved further; empty if not paired.
        unmatched: episodes with a verdict in only one of the runs.
        allowed: fields that differ beyond the checkpoints and were allowed to.
        verdict: PASS: the second run is not worse by ``margin``; REGRESSION: it is worse; INCONCLUSIVE: neither is
            shown.
        reason: the verdict in words.
        margin: largest loss that still passes, as a fraction (of the chain, for lengths).
        level: significance level of the test for a regression.
    """

    a: Side
    b: Side
    paired: bool
    rows: list[ContrastRow]
    flips: list[Flip]
    unmatched: int
    allowed: list[str]
    verdict: Verdict
    reason: str
    margin: float
    level: float

    @property
    def headline(self) -> ContrastRow:
        """The row of the headline."""
        return self.rows[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``evalkit compare --json`` prints."""
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
            "rows": [row.to_dict() for row in self.rows],
            "flips": [asdict(flip) for flip in self.flips],
            "unmatched": self.unmatched,
            "allowed": self.allowed,
        }


def compare(
    first: Path, second: Path, allow: Sequence[str] = (), margin: float = 0.05, level: float = 0.05
) -> Comparison:
    """Compare the second run with the first.

    Episodes are paired by split, task, scene and repeat. Runs without a common episode are compared unpaired, over the
    tasks that both have.

    Args:
        first: a run's folder.
        second: another run's folder.
        allow: see :func:`evalkit.records.comparability.check_comparable`.
        margin: largest loss that still passes, a fraction in (0, 1).
        level: significance level, in (0, 0.5).

    Raises:
        NotComparable: the runs must not be compared, or have no task in common.
        UsageError: a folder is no run, or a number is out of range.
    """
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g}: must lie between 0 and 1, as a fraction (0.05 is 5 points)")
    if not 0 < level < 0.5:
        raise UsageError(f"--alpha {level:g}: must lie between 0 and 0.5")
    a, b = read_side(first), read_side(second)
    allowed = check_comparable(a.manifest, b.manifest, allow)
    for one in (a, b):
        if one.scored.empty:
            raise UsageError(f"{one.folder}: no episode of this run has a verdict")
    pairs = pair_episodes(a, b)
    if pairs.empty:
        rows, flips = _unpaired_rows(a, b), []
        unmatched = 0
    else:
        rows, flips = _paired_rows(a, pairs), list(_flips(a, b, pairs))
        unmatched = len(a.scored) + len(b.scored) - 2 * len(pairs)
    verdict, reason = _verdict(rows[-1], margin, level)
    return Comparison(a, b, not pairs.empty, rows, flips, unmatched, allowed, verdict, reason, margin, level)


def _paired_rows(a: Side, pairs: pd.DataFrame) -> list[ContrastRow]:
    return _contrast_rows(a, pairs, contrasts.paired_rates, contrasts.paired_lengths)


def _unpaired_rows(a: Side, b: Side) -> list[ContrastRow]:
    """Return the rows over the tasks that both runs have."""
    import pandas as pd

    both = pd.concat([a.scored.assign(second=False), b.scored.assign(second=True)])
    sides = both.groupby(["split", "task"], observed=True)["second"].transform("nunique")
    both = both[sides == 2]
    if both.empty:
        raise NotComparable(f"not comparable: {a.folder} and {b.folder} have no task in common")

    def split_runs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return rows[~rows["second"]], rows[rows["second"]]

    def rates(rows: pd.DataFrame) -> Contrast:
        one, other = split_runs(rows)
        distinct = ["split", "task", "scene", "digest", "score"]
        effective = len(one.drop_duplicates(distinct)), len(other.drop_duplicates(distinct))
        return contrasts.unpaired_rates(one["score"], other["score"], effective)

    def lengths(rows: pd.DataFrame) -> Contrast:
        one, other = split_runs(rows)
        return contrasts.unpaired_lengths(one["score"], other["score"])

    return _contrast_rows(a, both, rates, lengths)


def _contrast_rows(a: Side, episodes: pd.DataFrame, rates: _ContrastOf, lengths: _ContrastOf) -> list[ContrastRow]:
    """Return tasks (for chains: the counts in a row), splits, and the headline, by the suite's own rule."""
    import pandas as pd

    contrast_of = lengths if a.chain else rates
    max_value, metric = (float(a.chain), LENGTH) if a.chain else (1.0, RATE)
    rule = Headline.model_validate(a.manifest.suite["headline"])
    by_task = dict(tuple(episodes.groupby(["split", "task"], observed=True)))
    tasks = {key: contrast_of(by_task[key]) for key in a.manifest.plan.keys if key in by_task}
    units = _units(rule, tasks, lambda keys: contrast_of(pd.concat([by_task[key] for key in keys])))
    splits = {
        name: contrasts.macro_average(
            [c for (s, _), c in units.items() if s == name], contrast_of(episodes[episodes["split"] == name])
        )
        for name in dict.fromkeys(split for split, _ in tasks)
    }
    counted = [name for name in splits if name in (rule.splits or splits)] or list(splits)
    parts = [splits[name] for name in counted]
    if rule.mean_of == "tasks":
        parts = [contrast for (split, _), contrast in units.items() if split in counted]
    headline = contrasts.macro_average(parts, contrast_of(episodes[episodes["split"].isin(counted)]))
    rows = [] if a.chain else _adjusted([ContrastRow(s, t, RATE, c) for (s, t), c in tasks.items()])
    for name, count in ((n, k) for n in splits for k in range(1, (a.chain or 0) + 1)):
        reached = rates(_at_least(episodes[episodes["split"] == name], count / max_value))
        rows.append(ContrastRow(name, None, f"{count} in a row", reached))
    rows += _adjusted([ContrastRow(name, None, metric, c, max_value) for name, c in splits.items()])
    return [*rows, ContrastRow(None, None, metric if len(parts) == 1 else rule.name, headline, max_value)]


def _at_least(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return the rows with scores replaced by 1 or 0: at least this share of the chain was solved, or not."""
    scores = [name for name in rows.columns if name.startswith("score")]
    reached: pd.DataFrame = rows.assign(**{name: (rows[name] >= share - 1e-9).astype(float) for name in scores})
    return reached


def _units(
    rule: Headline,
    tasks: Mapping[tuple[str, str], Contrast],
    whole: Callable[[list[tuple[str, str]]], Contrast],
) -> dict[tuple[str, str], Contrast]:
    """Return the contrasts by task; tasks that the headline groups are replaced by their mean."""
    named = {task: name for name, members in rule.groups.items() for task in members}
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for split, task in tasks:
        found.setdefault((split, named.get(task, task)), []).append((split, task))
    return {
        unit: tasks[keys[0]] if len(keys) == 1 else contrasts.macro_average([tasks[k] for k in keys], whole(keys))
        for unit, keys in found.items()
    }


def _adjusted(rows: list[ContrastRow]) -> list[ContrastRow]:
    adjusted = contrasts.holm([row.contrast for row in rows])
    return [ContrastRow(x.split, x.task, x.metric, c, x.max_value) for x, c in zip(rows, adjusted, strict=True)]


def _flips(a: Side, b: Side, pairs: pd.DataFrame) -> Iterable[Flip]:
    suite, seed = str(a.manifest.fingerprint["suite"]), a.manifest.plan.seed
    for row in pairs[pairs["score_a"] != pairs["score_b"]].to_dict("records"):
        split, task, scene, repeat = (row[name] for name in KEY)
        episode = Episode(suite, str(split), str(task), int(scene), seed, int(repeat))
        scores = float(row["score_a"]), float(row["score_b"])
        videos = [RunFolder(s.folder).video(episode, score == 1) for s, score in zip((a, b), scores, strict=True)]
        yield Flip(episode.id, *scores, tuple(str(v) for v in videos if v.exists()))


def _verdict(headline: ContrastRow, margin: float, level: float) -> tuple[Verdict, str]:
    c = headline.contrast
    interval = f"{headline.signed(c.low)} to {headline.signed(c.high)}"
    shown = f"{headline.signed(c.difference)} ({interval}), p = {c.p:.2g}, n = {c.n}"
    if c.p < level and c.difference < 0:
        return "REGRESSION", f"{headline.metric} is lower: {shown}"
    if c.low > -margin:
        better = "higher" if c.p < level else f"not lower by {headline.signed(margin).lstrip('+')}"
        return "PASS", f"{headline.metric} is {better}: {shown}"
    return "INCONCLUSIVE", f"{headline.metric}: neither a drop nor its absence is shown: {shown}"
