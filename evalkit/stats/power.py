"""How many episodes it takes to see a drop, and what a number of episodes can and cannot show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from evalkit.errors import UsageError
from evalkit.stats.metrics import wilson
from evalkit.stats.sequential import ErrorRates
from evalkit.stats.simulation import CORRELATIONS, differences, discordant, moved, scene_chances

POWER = 0.8
_SEED = 7
_MOST = 10_000_000  # pairs, beyond which nobody counts
_SIMULATED = 20_000  # pairs, beyond which no test is simulated


@dataclass(frozen=True)
class Question:
    """What is to be seen: a success rate that falls by ``drop``, with ``power``, by a one-sided test at ``alpha``.

    Attributes:
        rate: the baseline's success rate, between 0 and 1.
        drop: a fraction of 1, less than ``rate``.
        alpha: how often a test may see a drop where there is none.
        power: how often it is to see the drop.
        correlation: how alike the two policies' outcomes on a scene are; see :mod:`evalkit.stats.simulation`.
    """

    rate: float
    drop: float
    alpha: float = 0.05
    power: float = POWER
    correlation: float = 0.0

    def __post_init__(self) -> None:
        checked(rate=self.rate, alpha=self.alpha, power=self.power)
        if self.alpha >= 0.5:
            raise UsageError(f"--alpha {self.alpha:g}: must be less than 0.5")
        if not 0 < self.drop < self.rate:
            raise UsageError(f"--drop {self.drop:g}: must be more than 0 and less than the rate, {self.rate:g}")


@dataclass(frozen=True)
class Sequential:
    """What the sequential test with the drop for its margin needs, by simulation.

    Attributes:
        cap: pairs within which it calls a REGRESSION with the power asked for, where the drop is real; None where
            no number simulated is enough, as where beta leaves less power than was asked for.
        mean: pairs until a verdict, where the drop is real.
        healthy: pairs until a verdict, where the candidate is as good as the baseline.
    """

    cap: int | None
    mean: float
    healthy: float


def checked(**shares: float) -> None:
    """Raises UsageError for the first option that is not between 0 and 1."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise UsageError(f"--{name} {value:g}: must be between 0 and 1, as a fraction: 0.97 is 97 %")


def correlation_of(text: str) -> float:
    """What ``--correlation`` says: independent, correlated, or a number from 0 to 0.99."""
    try:
        value = CORRELATIONS[text] if text in CORRELATIONS else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.99:
        raise UsageError(f"--correlation {text}: independent (0), correlated (0.6), or a number from 0 to 0.99")
    return value


def episodes_unpaired(question: Question) -> int:
    """Episodes for each of two independent samples: the normal approximation, as statsmodels has it."""
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    after = question.rate - question.drop
    size = samplesize_proportions_2indep_onetail(
        question.drop, after, question.power, alpha=question.alpha, alternative="larger"
    )
    return ceil(float(size))


def mcnemar_power(pairs: int, question: Question) -> float:
    """How often McNemar's exact test (1947) sees the drop in so many pairs: summed over the discordant ones."""
    import numpy as np
    from scipy.stats import binom

    lost, gained = discordant(question.rate, question.drop, question.correlation)
    low, high = (float(binom.ppf(at, pairs, lost + gained)) for at in (1e-12, 1 - 1e-12))
    disagree = np.arange(low, high + 1)
    most = binom.isf(question.alpha, disagree, 0.5)  # the drop is seen where more than these were lost
    seen = binom.sf(most, disagree, lost / (lost + gained))
    return float((binom.pmf(disagree, pairs, lost + gained) * seen).sum())


def pairs_needed(question: Question) -> int | None:
    """Pairs with which McNemar's exact test sees the drop; None where ten millions are not enough."""
    found = _least(lambda pairs: mcnemar_power(pairs, question) >= question.power, _MOST)
    return found if found < _MOST else None


def sequential_needed(question: Question, runs: int = 500) -> Sequential | None:
    """What the sequential test needs, its alpha that of the question, by simulation with a fixed seed.

    Its beta is .05, or half of what the power asked for leaves. None where it would take longer than is simulated.
    """
    import numpy as np

    from evalkit.stats.sequential import decide

    levels = ErrorRates(question.alpha, min(0.05, (1 - question.power) / 2), question.drop)
    lost, gained = discordant(question.rate, question.drop, question.correlation)
    cap = max(200, ceil(2 * np.log(1 / question.alpha) * 3 * (lost + gained) / question.drop**2))  # thrice the usual
    if cap > _SIMULATED:
        return None
    rng, runs = np.random.default_rng(_SEED), max(100, min(runs, 600_000 // cap))
    before = np.full((runs, cap), question.rate)
    verdict, used = decide(differences(rng, before, before - question.drop, question.correlation), levels)
    _, healthy = decide(differences(rng, before, before, question.correlation), levels)
    seen = np.sort(np.where(verdict < 0, used, cap + 1))
    enough = int(seen[ceil(question.power * runs) - 1])
    return Sequential(enough if enough <= cap else None, float(used.mean()), float(healthy.mean()))


def detectable_unpaired(episodes: int, rate: float, alpha: float, power: float) -> float | None:
    """The smallest drop, to a tenth of a point, that two samples of so many episodes show; None where none does."""
    return _smallest_drop(rate, lambda drop: episodes_unpaired(Question(rate, drop, alpha, power)) <= episodes)


def detectable_paired(pairs: int, rate: float, alpha: float, power: float, correlation: float) -> float | None:
    """The same by McNemar's exact test on so many pairs."""
    return _smallest_drop(
        rate, lambda drop: mcnemar_power(pairs, Question(rate, drop, alpha, power, correlation)) >= power
    )


def half_width(rate: float, episodes: int) -> float:
    """Half the width of Wilson's 95 % interval."""
    low, high = wilson(rate, episodes)
    return (high - low) / 2


def threshold_alarms(rate: float, episodes: int, threshold: float) -> float:
    """How often "fail if the rate fell by more than ``threshold``" fails a candidate that equals the baseline.

    Exact, for two independent samples of ``episodes``.
    """
    import numpy as np
    from scipy.stats import binom

    solved = np.arange(episodes + 1)
    below = binom.cdf(solved - floor(threshold * episodes + 1e-9) - 1, episodes, rate)
    return float((binom.pmf(solved, episodes, rate) * below).sum())


@dataclass(frozen=True)
class Expectations:
    """What a gate can see, by simulation before it starts; how often it cries wolf is ``levels.alpha`` at most.

    Attributes:
        levels: of the test.
        units: scenes in the plan.
        rate: the baseline's, as guessed.
        detectable: the smallest drop, to half a point, called a REGRESSION in 80 % of runs; None where none is.
        passes: share of healthy candidates that get a PASS within the plan.
        pairs: scenes a healthy candidate takes on average.
    """

    levels: ErrorRates
    units: int
    rate: float
    detectable: float | None
    passes: float
    pairs: float

    @property
    def sentences(self) -> list[str]:
        """For people, a line each."""
        drop = f"a drop of {self.detectable * 100:.3g} points" if self.detectable else "no drop"
        margin = f"{self.levels.margin * 100:.3g} points"
        return [
            f"with {self.units} scenes, at a rate of {self.rate:.1%}: sees {drop} with {POWER:.0%} power",
            f"calls a healthy checkpoint worse in at most {self.levels.alpha:.2%} of runs, "
            f"passes one that is worse by {margin} in at most {self.levels.beta:.2%}",
            f"a healthy checkpoint passes in {self.passes:.0%} of runs, after {self.pairs:.0f} scenes on average; "
            "the rest stay inconclusive",
        ]


def expectations(
    levels: ErrorRates, units: int, rate: float, correlation: float = 0.0, every: int = 1, runs: int = 400
) -> Expectations:
    """Simulates the gate's own test, in a second or less.

    Args:
        levels: of the test.
        units: scenes in the plan.
        rate: the baseline's success rate, or its average length over the chain. Lengths vary less than rates with the
            same mean, so that for them this is on the safe side.
        correlation: as in :class:`Question`; 0 is on the safe side.
        every: scenes between looks.
        runs: simulated, fewer where there are many units.
    """
    import numpy as np

    from evalkit.stats.sequential import decide

    rng, runs = np.random.default_rng(_SEED), max(60, min(runs, 200_000 // max(1, units)))
    rate = min(max(rate, 0.005), 0.995)
    chance = scene_chances(rng, np.full((runs, units), rate), correlation)
    old, coin = (rng.random(chance.shape) < chance).astype(float), rng.random(chance.shape)

    def verdicts(drop: float) -> tuple[Any, Any]:
        return decide((coin < moved(chance, rate, rate - drop)) - old, levels, every)

    healthy, used = verdicts(0.0)
    seen = _least(lambda step: bool((verdicts(step / 200)[0] < 0).mean() >= POWER), floor(rate * 200) + 1)
    found = seen / 200 if seen <= floor(rate * 200) else None
    return Expectations(levels, units, rate, found, float((healthy > 0).mean()), float(used.mean()))


def _smallest_drop(rate: float, enough: Callable[[float], bool]) -> float | None:
    steps = ceil(rate * 1000) - 1
    found = _least(lambda step: enough(step / 1000), steps + 1) if steps > 0 else 1
    return found / 1000 if found <= steps else None


def _least(enough: Callable[[int], bool], most: int) -> int:
    """The least number from 1 that is enough, by bisection; ``most``, untried, where no smaller one is."""
    low, high = 1, 1
    while high < most and not enough(high):
        low, high = high + 1, min(most, high * 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
