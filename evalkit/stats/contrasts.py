"""The difference between two samples of scores, with its interval and test, paired or unpaired.

Scores lie in [0, 1]: 1 and 0 for the outcomes of episodes, the solved share for chains. A difference is the second
sample's mean minus the first's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.stats.metrics import CONFIDENCE

if TYPE_CHECKING:
    import pandas as pd

_RESAMPLES = 9999
_SEED = 0  # for resampling, so that the same runs give the same table


@dataclass(frozen=True)
class Contrast:
    """Two means and their difference.

    Attributes:
        a: mean score of the first sample.
        b: mean score of the second sample.
        difference: b - a.
        low: lower end of the two-sided 95 % interval of the difference.
        high: upper end.
        p: two-sided p-value under no difference.
        n: pairs, or the episodes of the smaller sample if unpaired.
        n_effective: independent pairs or episodes among them; the interval and the test use this number.
        only_a: pairs that only the first run solved; None for lengths and unpaired samples.
        only_b: pairs that only the second run solved; None likewise.
        p_adjusted: p-value after Holm's correction; None for a single test.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    n: int
    n_effective: float
    only_a: int | None = None
    only_b: int | None = None
    p_adjusted: float | None = None


def paired_rates(pairs: pd.DataFrame) -> Contrast:
    """Compare paired success rates: exact McNemar test, Bonett and Price's interval.

    Args:
        pairs: one row per pair, as :func:`evalkit.analysis.pairs.pair_episodes` returns them.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    a, b, distinct = (pairs[name].to_numpy() for name in ("score_a", "score_b", "distinct"))
    n = int(distinct.sum())
    only_a, only_b = int(((a > b) & distinct).sum()), int(((b > a) & distinct).sum())
    p = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0
    difference = float(b.mean() - a.mean())
    low, high = bonett_price(float((b > a).mean()), float((a > b).mean()), n)
    return Contrast(float(a.mean()), float(b.mean()), difference, low, high, p, len(pairs), n, only_a, only_b)


def bonett_price(won: float, lost: float, n: float) -> tuple[float, float]:
    """Return the adjusted Wald interval of a paired difference of rates (Bonett and Price 2012).

    Args:
        won: share of the pairs in which only the second succeeded.
        lost: share in which only the first succeeded.
        n: number of pairs; it need not be whole.
    """
    up, down = (won * n + 1) / (n + 2), (lost * n + 1) / (n + 2)
    half_width = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half_width), min(1.0, up - down + half_width)


def paired_lengths(pairs: pd.DataFrame) -> Contrast:
    """Compare paired lengths: BCa bootstrap interval, sign-flip permutation test of the mean difference."""
    from scipy import stats

    distinct = pairs[pairs["distinct"]]
    differences = (distinct["score_b"] - distinct["score_a"]).to_numpy()
    n = len(differences)
    low, high = _bca_interval((differences,), np.mean) or bonett_price(
        float((differences > 0).mean()), float((differences < 0).mean()), n
    )
    p = 1.0
    if differences.any():
        tested = stats.permutation_test(
            (differences,),
            lambda x, axis: x.mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            random_state=np.random.default_rng(_SEED),
        )
        p = float(tested.pvalue)
    a, b = float(pairs["score_a"].mean()), float(pairs["score_b"].mean())
    return Contrast(a, b, b - a, low, high, p, len(pairs), n)


def unpaired_rates(first: pd.Series, second: pd.Series, effective: tuple[int, int]) -> Contrast:
    """Compare two independent rates: Newcombe's score interval, score test.

    Args:
        first: scores of the first sample, 1 or 0.
        second: scores of the second sample.
        effective: independent episodes in each.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

    a, b = float(first.mean()), float(second.mean())
    counts = (b * effective[1], effective[1], a * effective[0], effective[0])
    low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb", alpha=1 - CONFIDENCE)
    with np.errstate(all="ignore"):  # rates of 0 and 1 divide by zero; a p-value that is not finite is caught below
        tested = test_proportions_2indep(*counts, compare="diff", method="score", return_results=True)
    p = float(tested.pvalue) if isfinite(tested.pvalue) else 1.0
    return Contrast(a, b, b - a, float(low), float(high), p, min(len(first), len(second)), min(effective))


def unpaired_lengths(first: pd.Series, second: pd.Series) -> Contrast:
    """Compare two independent mean lengths: BCa bootstrap interval, permutation test."""
    from scipy import stats

    def mean_difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        return y.mean(axis) - x.mean(axis)

    samples = (first.to_numpy(), second.to_numpy())
    difference = float(mean_difference(*samples))
    low, high = _bca_interval(samples, mean_difference) or (-1.0, 1.0)
    tested = stats.permutation_test(
        samples, mean_difference, vectorized=True, n_resamples=_RESAMPLES, random_state=np.random.default_rng(_SEED)
    )
    n = min(len(first), len(second))
    return Contrast(float(first.mean()), float(second.mean()), difference, low, high, float(tested.pvalue), n, n)


def macro_average(parts: list[Contrast], whole: Contrast) -> Contrast:
    """Return the contrast of the mean over parts, each counted equally.

    If all parts have the same size, this is ``whole``. Otherwise the means and the discordant shares are averages over
    the parts, the effective n is 1 / Σ(w² / nᵢ) with w = 1 / number of parts (Kish), and the test is that of ``whole``.

    Args:
        parts: the contrasts to average.
        whole: the contrast over all episodes of the parts at once.
    """
    if len({(p.n, p.n_effective) for p in parts}) <= 1:
        return whole
    effective = len(parts) ** 2 / sum(1 / p.n_effective for p in parts)
    a, b = (float(np.mean([getattr(p, name) for p in parts])) for name in ("a", "b"))
    widths = sqrt(sum(((p.high - p.low) / 2) ** 2 for p in parts)) / len(parts)
    low, high = max(-1.0, b - a - widths), min(1.0, b - a + widths)
    if whole.only_a is not None:
        won, lost = (
            float(np.mean([(getattr(p, name) or 0) / p.n_effective for p in parts])) for name in ("only_b", "only_a")
        )
        low, high = bonett_price(won, lost, effective)
    return replace(whole, a=a, b=b, difference=b - a, low=low, high=high, n_effective=effective)


def holm(contrasts: list[Contrast]) -> list[Contrast]:
    """Return the contrasts with p-values adjusted for multiple testing (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if len(contrasts) < 2:
        return contrasts
    adjusted = multipletests([c.p for c in contrasts], method="holm")[1]
    return [replace(c, p_adjusted=float(p)) for c, p in zip(contrasts, adjusted, strict=True)]


def _bca_interval(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> tuple[float, float] | None:
    """Return the BCa interval, or None if the samples do not vary enough for one."""
    from scipy import stats

    if any(len(s) < 2 for s in samples) or all(np.ptp(s) == 0 for s in samples):
        return None
    with np.errstate(all="ignore"):
        interval = stats.bootstrap(
            samples,
            statistic,
            vectorized=True,
            n_resamples=_RESAMPLES,
            confidence_level=CONFIDENCE,
            random_state=np.random.default_rng(_SEED),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if isfinite(low) and isfinite(high) else None
