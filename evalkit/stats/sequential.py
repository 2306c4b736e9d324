"""Sequential tests of a candidate against a baseline, valid after any number of pairs.

A pair is one scene that both played, its repeats averaged. Its difference D = candidate - baseline lies in [-1, 1]. Two
bets are placed on each D before it is known, one against each hypothesis (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting"):

    "not worse":       mean D >= 0         wealth  Π (1 - λ D)         at 1/alpha or more the verdict is REGRESSION
    "worse by margin": mean D <= -margin   wealth  Π (1 + λ (D + margin))    at 1/beta or more it is PASS

Under its hypothesis, a wealth is a nonnegative supermartingale that begins at 1. The probability that it ever reaches
1/alpha is at most alpha (Ville 1939), for any number of interim looks and any stopping rule. Nothing is assumed about
the distribution of D. Bets depend on earlier pairs only and are held during a round: see
:func:`evalkit.stats.rounds.rounds`. docs/gate-statistics.md states the exact and the measured properties under each
order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

REGRESSION = "REGRESSION"
PASS = "PASS"

# The prior of the bets: 10 pairs with a mean squared difference of .06, and 20 pairs with a drop of the margin. Any
# numbers are valid; these come within a tenth of the best bet in hindsight from p = .5 to .99.
_PRIOR_SQUARE, _PRIOR_SQUARE_WEIGHT, _PRIOR_DROP_WEIGHT = 0.06, 10, 20
_MAX_BET = 0.7  # share of the wealth, against "not worse"


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of a verdict.

    Attributes:
        alpha: largest probability that a candidate that is not worse gets a REGRESSION.
        beta: largest probability that a candidate that is worse by ``margin`` gets a PASS.
        margin: the drop that must not pass, as a fraction of 1: 0.05 is 5 points of a success rate, or a quarter of a
            sub-task of chains of five.

    Raises:
        ValueError: a number is out of range.
    """

    alpha: float = 0.01
    beta: float = 0.05
    margin: float = 0.05

    def __post_init__(self) -> None:
        for name, limit in {"alpha": 0.5, "beta": 0.5, "margin": 1.0}.items():
            if not 0 < getattr(self, name) < limit:
                raise ValueError(f"{name} must be between 0 and {limit:g}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Evidence:
    """The state of a test.

    Attributes:
        pairs: pairs consumed.
        difference: their mean difference; None before the first pair.
        against_not_worse: e-value against "not worse"; at ``1 / alpha`` the verdict is REGRESSION.
        against_worse: e-value against "worse by the margin"; at ``1 / beta`` the verdict is PASS.
    """

    pairs: int
    difference: float | None
    against_not_worse: float
    against_worse: float


class PairedTest:
    """One comparison, fed pair by pair in the planned order. The first verdict stays; later pairs are ignored."""

    def __init__(self, error_rates: ErrorRates | None = None) -> None:
        self.error_rates = error_rates or ErrorRates()
        self.verdict: str | None = None
        self.score_differences: list[float] = []
        self._total = self._squares = 0.0
        self._bets = _bets(0, 0.0, 0.0, self.error_rates.margin)
        self._wealth = (0.0, 0.0)  # logarithms

    @property
    def pairs(self) -> int:
        """Pairs consumed."""
        return len(self.score_differences)

    @property
    def evidence(self) -> Evidence:
        """The state of the test."""
        mean = self._total / self.pairs if self.pairs else None
        against_not_worse, against_worse = (float(np.exp(min(w, 700.0))) for w in self._wealth)
        return Evidence(self.pairs, mean, against_not_worse, against_worse)

    def update(self, difference: float, look: bool = True) -> str | None:
        """Consume the next pair.

        Args:
            difference: candidate - baseline of one scene, -1 to 1.
            look: whether to take an interim look, at which a verdict may come and the bets are renewed. False inside a
                round.

        Returns:
            The verdict so far: REGRESSION, PASS or None. If one pair would settle both (a real drop smaller than the
            margin), REGRESSION comes first; each verdict keeps its own error rate either way.

        Raises:
            ValueError: the difference is not a number from -1 to 1.
        """
        if not -1 <= difference <= 1:
            raise ValueError(f"a difference must be from -1 to 1, got {difference}")
        if self.verdict is None:
            self.score_differences.append(difference)
            self._total += difference
            self._squares += difference * difference
            gains = _log_growth(difference, self._bets, self.error_rates.margin)
            self._wealth = (self._wealth[0] + float(gains[0]), self._wealth[1] + float(gains[1]))
        return self.look() if look else self.verdict

    def look(self) -> str | None:
        """Take an interim look and return the verdict so far.

        Call it at the end of a round whose last pair is missing.
        """
        if self.verdict is None:
            self._bets = _bets(self.pairs, self._total, self._squares, self.error_rates.margin)
            if self._wealth[0] >= -np.log(self.error_rates.alpha):
                self.verdict = REGRESSION
            elif self._wealth[1] >= -np.log(self.error_rates.beta):
                self.verdict = PASS
        return self.verdict


class SplitTests:
    """Several splits under one verdict: REGRESSION if any split has it, PASS if all have it.

    Each of k splits is tested at alpha / k (Bonferroni), so k healthy splits together raise no more false alarms than
    one. Beta is not divided: a PASS needs every split (intersection-union, Berger 1982). Feed a split's pairs to its
    test in ``tests``.

    Attributes:
        tests: the :class:`PairedTest` of each split.
    """

    def __init__(self, splits: Iterable[str], error_rates: ErrorRates | None = None) -> None:
        names, whole = list(dict.fromkeys(splits)), error_rates or ErrorRates()
        if not names:
            raise ValueError("splits must name at least one")
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
        """The splits whose verdict further pairs could change; empty once there is a verdict over all."""
        return [] if self.verdict else [name for name, test in self.tests.items() if test.verdict is None]


def decide(score_differences: Any, error_rates: ErrorRates, every: int = 1) -> tuple[Any, Any]:
    """Run :class:`PairedTest` on many comparisons at once, for simulation.

    Args:
        score_differences: (comparisons, pairs), each row in the order in which its pairs are consumed.
        error_rates: error rates of every comparison.
        every: pairs between interim looks.

    Returns:
        Two arrays of length ``comparisons``: the verdict as -1 (REGRESSION), 1 (PASS) or 0 (none), and the number of
        pairs consumed, which is all of them without a verdict.
    """
    d = np.asarray(score_differences, dtype=float)
    count = d.shape[1]
    begin = np.arange(count) // every * every
    total, squares = (np.concatenate([np.zeros((len(d), 1)), np.cumsum(x, axis=1)], axis=1) for x in (d, d * d))
    bets = _bets(begin, total[:, begin], squares[:, begin], error_rates.margin)
    worse, not_worse = (np.cumsum(gain, axis=1) for gain in _log_growth(d, bets, error_rates.margin))
    looks = np.arange(count) % every == every - 1
    fail, good = (worse >= -np.log(error_rates.alpha)) & looks, (not_worse >= -np.log(error_rates.beta)) & looks
    first_fail, first_good = (np.where(x.any(axis=1), x.argmax(axis=1), count) for x in (fail, good))
    verdict = np.where(first_fail <= first_good, -1, 1) * (np.minimum(first_fail, first_good) < count)
    return verdict, np.minimum(np.minimum(first_fail, first_good) + 1, count)


def confidence_sequence(score_differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence sequence of the mean difference after these pairs; it is valid at any stopping time.

    It holds the means that neither of two bets of capital 1/2 each has refuted at any pair so far (the hedged capital
    of Waudby-Smith and Ramdas 2024, section 4), on a grid of .0025. It is (-1, 1) without pairs.
    """
    d = np.asarray(score_differences, dtype=float)
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
    """Return the shares of the two wealths to bet on the next pair, from the sums of earlier differences and squares.

    Both are Kelly's bets (1956) for differences of -1, 0 and 1 with mean square s: drop / s for a mean of -drop, and
    for a mean of 0 the root of margin λ² + s λ = margin.
    """
    square = (_PRIOR_SQUARE * _PRIOR_SQUARE_WEIGHT + squares) / (_PRIOR_SQUARE_WEIGHT + pairs)
    drop = np.maximum(margin, (margin * _PRIOR_DROP_WEIGHT - total) / (_PRIOR_DROP_WEIGHT + pairs))
    even = (np.sqrt(square * square + 4 * margin * margin) - square) / (2 * margin)
    return np.minimum(drop / square, _MAX_BET), even


def _log_growth(difference: Any, bets: tuple[Any, Any], margin: float) -> tuple[Any, Any]:
    """Return the logarithms of the factors by which a difference multiplies the two wealths."""
    return np.log1p(-bets[0] * difference), np.log1p(bets[1] * (difference + margin))
