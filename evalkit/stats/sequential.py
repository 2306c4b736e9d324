"""Sequential tests of a candidate against a baseline: after any number of pairs, is it worse, or is it not?

A pair is one scene played by both, its repeats averaged, and D = candidate - baseline in [-1, 1] is its difference.
Two bets are made on each D before it is seen, each against a hypothesis (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting"):

    "not worse":       mean D >= 0         wealth  Π (1 - λ D)         at 1/alpha or more the verdict is REGRESSION
    "worse by margin": mean D <= -margin   wealth  Π (1 + λ (D + margin))    at 1/beta or more it is PASS

Where its hypothesis holds, a wealth is a nonnegative supermartingale that begins at 1: that it ever reaches 1/alpha has
a chance of alpha at most (Ville 1939), however often one looks and whenever one stops. Nothing is assumed of how D is
distributed. Bets depend on earlier pairs only, and are held while a round lasts: see :func:`evalkit.stats.rounds.rounds`,
and docs/gate-statistics.md for what holds exactly under which order and what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

REGRESSION = "REGRESSION"
PASS = "PASS"

# What bets are made with before there is a pair: 10 pairs with a mean squared difference of .06, and 20 with a drop of
# the margin. Any numbers are valid; these come within a tenth of the best bet in hindsight from p = .5 to .99.
_PRIOR_SQUARE, _PRIOR_SQUARE_WEIGHT, _PRIOR_DROP_WEIGHT = 0.06, 10, 20
_BOLDEST = 0.7  # of the wealth, against "not worse"


@dataclass(frozen=True)
class ErrorRates:
    """What a verdict may cost.

    Attributes:
        alpha: the most likely that a candidate that is not worse is called a REGRESSION.
        beta: the most likely that a candidate that is worse by ``margin`` gets a PASS.
        margin: the drop that must not pass, as a fraction of 1: 0.05 is 5 points of a success rate, or a quarter of a
            sub-task of chains of five.
    """

    alpha: float = 0.01
    beta: float = 0.05
    margin: float = 0.05

    def __post_init__(self) -> None:
        for name, most in {"alpha": 0.5, "beta": 0.5, "margin": 1.0}.items():
            if not 0 < getattr(self, name) < most:
                raise ValueError(f"{name} must be between 0 and {most:g}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Evidence:
    """How far a test has come.

    Attributes:
        pairs: differences consumed.
        difference: their mean; None before the first.
        against_not_worse: the e-value against "not worse"; ``1 / alpha`` means REGRESSION.
        against_worse: the e-value against "worse by the margin"; ``1 / beta`` means PASS.
    """

    pairs: int
    difference: float | None
    against_not_worse: float
    against_worse: float


class PairedTest:
    """One comparison, fed pair by pair in the planned order. The first verdict stays; what comes later is ignored."""

    def __init__(self, error_rates: ErrorRates | None = None) -> None:
        self.error_rates = error_rates or ErrorRates()
        self.verdict: str | None = None
        self.differences: list[float] = []
        self._total = self._squares = 0.0
        self._bets = _bets(0, 0.0, 0.0, self.error_rates.margin)
        self._wealth = (0.0, 0.0)  # logarithms

    @property
    def pairs(self) -> int:
        """Differences consumed."""
        return len(self.differences)

    @property
    def evidence(self) -> Evidence:
        """How far the test has come."""
        mean = self._total / self.pairs if self.pairs else None
        against_not_worse, against_worse = (float(np.exp(min(w, 700.0))) for w in self._wealth)
        return Evidence(self.pairs, mean, against_not_worse, against_worse)

    def update(self, difference: float, look: bool = True) -> str | None:
        """Takes the next pair.

        Args:
            difference: candidate - baseline of one scene, -1 to 1.
            look: whether a verdict may come of it. Bets are renewed at looks only; False inside a round.

        Returns:
            The verdict so far: REGRESSION, PASS or None. Where one pair would settle both (a drop that is real but
            smaller than the margin), REGRESSION comes first; each verdict keeps its own level either way.

        Raises:
            ValueError: the difference is not a number from -1 to 1.
        """
        if not -1 <= difference <= 1:
            raise ValueError(f"a difference must be from -1 to 1, got {difference}")
        if self.verdict is None:
            self.differences.append(difference)
            self._total += difference
            self._squares += difference * difference
            gains = _gains(difference, self._bets, self.error_rates.margin)
            self._wealth = (self._wealth[0] + float(gains[0]), self._wealth[1] + float(gains[1]))
        return self.look() if look else self.verdict

    def look(self) -> str | None:
        """Ends a round: the verdict so far. Needed only where the last pair of a round is missing."""
        if self.verdict is None:
            self._bets = _bets(self.pairs, self._total, self._squares, self.error_rates.margin)
            if self._wealth[0] >= -np.log(self.error_rates.alpha):
                self.verdict = REGRESSION
            elif self._wealth[1] >= -np.log(self.error_rates.beta):
                self.verdict = PASS
        return self.verdict


class SplitTests:
    """Several splits under one verdict: REGRESSION where any split has it, PASS where all of them do.

    Each split's alpha is the k-th part of the whole (Bonferroni), so that k healthy splits together raise no more false
    alarms than one would. Beta is not shared: a PASS needs every split's (intersection-union, Berger 1982).
    """

    def __init__(self, splits: Iterable[str], error_rates: ErrorRates | None = None) -> None:
        names, whole = list(dict.fromkeys(splits)), error_rates or ErrorRates()
        if not names:
            raise ValueError("splits must name one at least")
        shared = ErrorRates(whole.alpha / len(names), whole.beta, whole.margin)
        self.tests: Mapping[str, PairedTest] = {name: PairedTest(shared) for name in names}

    @property
    def verdict(self) -> str | None:
        """The verdict so far."""
        found = [test.verdict for test in self.tests.values()]
        if REGRESSION in found:
            return REGRESSION
        return PASS if all(v == PASS for v in found) else None

    @property
    def undecided(self) -> list[str]:
        """The splits that further pairs could still say something about; none once the whole has its verdict."""
        return [] if self.verdict else [name for name, test in self.tests.items() if test.verdict is None]

    def update(self, split: str, difference: float, look: bool = True) -> str | None:
        """Takes the next pair of a split, as :meth:`PairedTest.update` does; returns the verdict over all splits."""
        self.tests[split].update(difference, look)
        return self.verdict


def decide(differences: Any, error_rates: ErrorRates, every: int = 1) -> tuple[Any, Any]:
    """What :class:`PairedTest` decides on many comparisons at once, for simulation.

    Args:
        differences: (comparisons, pairs), each row in the order in which its pairs are consumed.
        levels: of every comparison.
        every: pairs between looks.

    Returns:
        Two arrays of length ``comparisons``: the verdict as -1 (REGRESSION), 1 (PASS) or 0 (none), and the pairs
        consumed for it, which are all of them where there is none.
    """
    d = np.asarray(differences, dtype=float)
    count = d.shape[1]
    begin = np.arange(count) // every * every
    total, squares = (np.concatenate([np.zeros((len(d), 1)), np.cumsum(x, axis=1)], axis=1) for x in (d, d * d))
    bets = _bets(begin, total[:, begin], squares[:, begin], error_rates.margin)
    worse, not_worse = (np.cumsum(gain, axis=1) for gain in _gains(d, bets, error_rates.margin))
    looks = np.arange(count) % every == every - 1
    fail, good = (worse >= -np.log(error_rates.alpha)) & looks, (not_worse >= -np.log(error_rates.beta)) & looks
    first_fail, first_good = (np.where(x.any(axis=1), x.argmax(axis=1), count) for x in (fail, good))
    verdict = np.where(first_fail <= first_good, -1, 1) * (np.minimum(first_fail, first_good) < count)
    return verdict, np.minimum(np.minimum(first_fail, first_good) + 1, count)


def interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A confidence sequence for the mean difference, as it stands after these pairs: valid wherever one stopped.

    The means that neither of two bets of capital 1/2 each has refuted at any pair so far (the hedged capital of
    Waudby-Smith and Ramdas 2024, section 4), on a grid of .0025. (-1, 1) where there is no pair.
    """
    d = np.asarray(differences, dtype=float)
    grid = np.linspace(-1, 1, 801)
    if not len(d):
        return -1.0, 1.0
    step = np.arange(1, len(d) + 1)
    centre = (np.cumsum(d)) / (step + 1)
    spread = (0.25 + np.cumsum((d - centre) ** 2)) / (step + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    limit = np.log(2 / (1 - confidence))
    bet = np.sqrt(2 * limit / (before * step * np.log(1 + step)))
    away = d[None, :] - grid[:, None]
    up = np.minimum(bet[None, :], 0.75 / (1 + grid[:, None] + 1e-12))
    down = np.minimum(bet[None, :], 0.75 / (1 - grid[:, None] + 1e-12))
    refuted = [np.cumsum(np.log1p(s * b * away), axis=1).max(axis=1) >= limit for s, b in ((1, up), (-1, down))]
    kept = grid[~(refuted[0] | refuted[1])]
    if not len(kept):
        return float(d.mean()), float(d.mean())
    return float(kept.min()), float(kept.max())


def _bets(pairs: Any, total: Any, squares: Any, margin: float) -> tuple[Any, Any]:
    """How much of each wealth to bet on the next pair, from the sums of earlier differences and of their squares.

    Both are Kelly's bets (1956) for differences of -1, 0 and 1 with mean square s: drop / s where the mean is -drop,
    and where it is 0 the root of margin λ² + s λ = margin.
    """
    square = (_PRIOR_SQUARE * _PRIOR_SQUARE_WEIGHT + squares) / (_PRIOR_SQUARE_WEIGHT + pairs)
    drop = np.maximum(margin, (margin * _PRIOR_DROP_WEIGHT - total) / (_PRIOR_DROP_WEIGHT + pairs))
    even = (np.sqrt(square * square + 4 * margin * margin) - square) / (2 * margin)
    return np.minimum(drop / square, _BOLDEST), even


def _gains(difference: Any, bets: tuple[Any, Any], margin: float) -> tuple[Any, Any]:
    """The logarithms of what a difference multiplies each wealth by."""
    return np.log1p(-bets[0] * difference), np.log1p(bets[1] * (difference + margin))
