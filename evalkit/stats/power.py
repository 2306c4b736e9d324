"""Sample sizes for detecting a drop, and the sensitivity of a given number of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from evalkit.errors import UsageError
from evalkit.stats.metrics import wilson
from evalkit.stats.sequential import ErrorRates
from evalkit.stats.simulation import (
    CORRELATIONS,
    discordant_shares,
    scene_probabilities,
    shift_probabilities,
    simulate_differences,
)

POWER = 0.8
_SEED = 7
_MAX_PAIRS = 10_000_000  # pairs; the search for a sample size ends here
_MAX_SIMULATED_PAIRS = 20_000  # pairs; longer tests are not simulated


@dataclass(frozen=True)
class PowerAnalysis:
    """A drop to detect: a success rate that falls by ``drop``, with ``power``, by a one-sided test at ``alpha``.

    Attributes:
        rate: the baseline's success rate, between 0 and 1.
        drop: a fraction of 1, less than ``rate``.
        alpha: false-alarm rate of the test.
        power: probability of detecting the drop.
        correlation: correlation of the two policies' outcomes on a scene; see :mod:`evalkit.stats.simulation`.

    Raises:
        UsageError: a number is out of range.
    """

    rate: float
    drop: float
    alpha: float = 0.05
    power: float = POWER
    correlation: float = 0.0

    def __post_init__(self) -> None:
        check_fractions(rate=self.rate, alpha=self.alpha, power=self.power)
        if self.alpha >= 0.5:
            raise UsageError(f"--alpha {self.alpha:g}: must be less than 0.5")
        if not 0 < self.drop < self.rate:
            raise UsageError(f"--drop {self.drop:g}: must be more than 0 and less than the rate, {self.rate:g}")


@dataclass(frozen=True)
class SequentialSampleSize:
    """Pairs that the sequential test needs if its margin equals the drop, by simulation.

    Attributes:
        cap: pairs within which it returns REGRESSION with the requested power if the drop is real; None if no simulated
            number suffices, for example if beta leaves less power than requested.
        mean: mean number of pairs to a verdict if the drop is real.
        healthy: mean number of pairs to a verdict if the candidate equals the baseline.
    """

    cap: int | None
    mean: float
    healthy: float


def check_fractions(**shares: float) -> None:
    """Raise UsageError for the first option that is not between 0 and 1."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise UsageError(f"--{name} {value:g}: must be between 0 and 1, as a fraction: 0.97 is 97 %")


def parse_correlation(text: str) -> float:
    """Parse ``--correlation``: independent, correlated, or a number from 0 to 0.99.

    Raises:
        UsageError: the text is none of these.
    """
    try:
        value = CORRELATIONS[text] if text in CORRELATIONS else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.99:
        raise UsageError(f"--correlation {text}: independent (0), correlated (0.6), or a number from 0 to 0.99")
    return value


def episodes_unpaired(analysis: PowerAnalysis) -> int:
    """Return the episodes for each of two independent samples, by statsmodels' normal approximation."""
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    after = analysis.rate - analysis.drop
    size = samplesize_proportions_2indep_onetail(
        analysis.drop, after, analysis.power, alpha=analysis.alpha, alternative="larger"
    )
    return ceil(float(size))


def mcnemar_power(pairs: int, analysis: PowerAnalysis) -> float:
    """Return the power of McNemar's exact test (1947) with ``pairs`` pairs, summed over the discordant counts."""
    import numpy as np
    from scipy.stats import binom

    lost, gained = discordant_shares(analysis.rate, analysis.drop, analysis.correlation)
    low, high = (float(binom.ppf(at, pairs, lost + gained)) for at in (1e-12, 1 - 1e-12))
    disagree = np.arange(low, high + 1)
    critical = binom.isf(analysis.alpha, disagree, 0.5)  # the test detects the drop if more pairs than this were lost
    seen = binom.sf(critical, disagree, lost / (lost + gained))
    return float((binom.pmf(disagree, pairs, lost + gained) * seen).sum())


def pairs_needed(analysis: PowerAnalysis) -> int | None:
    """Return the pairs with which McNemar's exact test detects the drop; None if 10 million are too few."""
    found = _smallest(lambda pairs: mcnemar_power(pairs, analysis) >= analysis.power, _MAX_PAIRS)
    return found if found < _MAX_PAIRS else None


def sequential_needed(analysis: PowerAnalysis, runs: int = 500) -> SequentialSampleSize | None:
    """Simulate, with a fixed seed, the pairs that the sequential test needs.

    Its alpha is that of the analysis; its beta is .05, or half of 1 - power if that is smaller. Returns None if the
    test would take more pairs than are simulated.
    """
    import numpy as np

    from evalkit.stats.sequential import decide

    error_rates = ErrorRates(analysis.alpha, min(0.05, (1 - analysis.power) / 2), analysis.drop)
    lost, gained = discordant_shares(analysis.rate, analysis.drop, analysis.correlation)
    cap = max(
        200, ceil(2 * np.log(1 / analysis.alpha) * 3 * (lost + gained) / analysis.drop**2)
    )  # three times the typical number
    if cap > _MAX_SIMULATED_PAIRS:
        return None
    rng, runs = np.random.default_rng(_SEED), max(100, min(runs, 600_000 // cap))
    before = np.full((runs, cap), analysis.rate)
    verdict, used = decide(simulate_differences(rng, before, before - analysis.drop, analysis.correlation), error_rates)
    _, healthy = decide(simulate_differences(rng, before, before, analysis.correlation), error_rates)
    seen = np.sort(np.where(verdict < 0, used, cap + 1))
    enough = int(seen[ceil(analysis.power * runs) - 1])
    return SequentialSampleSize(enough if enough <= cap else None, float(used.mean()), float(healthy.mean()))


def detectable_unpaired(episodes: int, rate: float, alpha: float, power: float) -> float | None:
    """Return the smallest drop, to 0.1 points, that two independent samples detect; None if there is none."""
    return _smallest_drop(rate, lambda drop: episodes_unpaired(PowerAnalysis(rate, drop, alpha, power)) <= episodes)


def detectable_paired(pairs: int, rate: float, alpha: float, power: float, correlation: float) -> float | None:
    """Return the smallest drop, to 0.1 points, that McNemar's exact test detects; None if there is none."""
    return _smallest_drop(
        rate, lambda drop: mcnemar_power(pairs, PowerAnalysis(rate, drop, alpha, power, correlation)) >= power
    )


def half_width(rate: float, episodes: int) -> float:
    """Return half the width of Wilson's 95 % interval."""
    low, high = wilson(rate, episodes)
    return (high - low) / 2


def threshold_alarms(rate: float, episodes: int, threshold: float) -> float:
    """Return the false-alarm rate of "fail if the rate fell by more than ``threshold``".

    Exact, for two independent samples of ``episodes`` episodes with the same true rate.
    """
    import numpy as np
    from scipy.stats import binom

    solved = np.arange(episodes + 1)
    below = binom.cdf(solved - floor(threshold * episodes + 1e-9) - 1, episodes, rate)
    return float((binom.pmf(solved, episodes, rate) * below).sum())


@dataclass(frozen=True)
class Expectations:
    """Sensitivity of a gate, by simulation before it starts. Its false-alarm rate is at most ``error_rates.alpha``.

    Attributes:
        error_rates: error rates of the test.
        units: scenes in the plan.
        rate: the baseline's assumed success rate.
        detectable: smallest drop, to half a point, that is a REGRESSION in 80 % of runs; None if there is none.
        passes: share of healthy candidates that get a PASS within the plan.
        pairs: mean number of scenes that a healthy candidate takes.
    """

    error_rates: ErrorRates
    units: int
    rate: float
    detectable: float | None
    passes: float
    pairs: float

    @property
    def sentences(self) -> list[str]:
        """The expectations in words, one line each."""
        drop = f"a drop of {self.detectable * 100:.3g} points" if self.detectable else "no drop"
        margin = f"{self.error_rates.margin * 100:.3g} points"
        return [
            f"with {self.units} scenes, at a rate of {self.rate:.1%}: detects {drop} with {POWER:.0%} power",
            f"calls a healthy checkpoint worse in at most {self.error_rates.alpha:.2%} of runs, "
            f"passes one that is worse by {margin} in at most {self.error_rates.beta:.2%}",
            f"a healthy checkpoint passes in {self.passes:.0%} of runs, after {self.pairs:.0f} scenes on average; "
            "the rest stay inconclusive",
        ]


def expectations(
    error_rates: ErrorRates, units: int, rate: float, correlation: float = 0.0, every: int = 1, runs: int = 400
) -> Expectations:
    """Simulate the gate's own test; this takes a second or less.

    Args:
        error_rates: error rates of the test.
        units: scenes in the plan.
        rate: the baseline's success rate, or its average length over the chain. Lengths vary less than rates with the
            same mean, so the result is conservative for them.
        correlation: as in :class:`PowerAnalysis`; 0 is conservative.
        every: scenes between interim looks.
        runs: simulated runs; fewer if there are many units.
    """
    import numpy as np

    from evalkit.stats.sequential import decide

    rng, runs = np.random.default_rng(_SEED), max(60, min(runs, 200_000 // max(1, units)))
    rate = min(max(rate, 0.005), 0.995)
    probability = scene_probabilities(rng, np.full((runs, units), rate), correlation)
    old, coin = (rng.random(probability.shape) < probability).astype(float), rng.random(probability.shape)

    def verdicts(drop: float) -> tuple[Any, Any]:
        return decide((coin < shift_probabilities(probability, rate, rate - drop)) - old, error_rates, every)

    healthy, used = verdicts(0.0)
    seen = _smallest(lambda step: bool((verdicts(step / 200)[0] < 0).mean() >= POWER), floor(rate * 200) + 1)
    found = seen / 200 if seen <= floor(rate * 200) else None
    return Expectations(error_rates, units, rate, found, float((healthy > 0).mean()), float(used.mean()))


def _smallest_drop(rate: float, enough: Callable[[float], bool]) -> float | None:
    steps = ceil(rate * 1000) - 1
    found = _smallest(lambda step: enough(step / 1000), steps + 1) if steps > 0 else 1
    return found / 1000 if found <= steps else None


def _smallest(enough: Callable[[int], bool], limit: int) -> int:
    """Return the least number from 1 that is enough, by bisection; ``limit``, untested, if no smaller one is."""
    low, high = 1, 1
    while high < limit and not enough(high):
        low, high = high + 1, min(limit, high * 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
