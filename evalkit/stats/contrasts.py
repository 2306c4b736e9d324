"""The difference between two samples of scores, with its interval and a test: paired where they are, else unpaired.

Scores are shares in [0, 1]: 1 and 0 for episodes, the share that was solved for chains. Differences are second minus
first.
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
_SEED = 0  # of resampling: the same runs give the same table


@dataclass(frozen=True)
class Contrast:
    """Two means and their difference.

    Attributes:
        a: mean score of the first sample.
        b: of the second.
        difference: b - a.
        low: lower end of its two-sided 95 % interval.
        high: upper end.
        p: two-sided p-value of no difference.
        n: pairs, or episodes of the smaller sample where they are not paired.
        n_effective: independent ones among them, which interval and test are made with.
        only_a: of paired verdicts, how many only the first solved; None for lengths and where nothing is paired.
        only_b: likewise the second.
        p_adjusted: the p-value among its like, after Holm; None where it stands alone.
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


def paired_verdicts(pairs: pd.DataFrame) -> Contrast:
    """Exact McNemar test and Bonett and Price's interval, of pairs as :func:`evalkit.analysis.pairs.paired` has them."""
    from statsmodels.stats.contingency_tables import mcnemar

    a, b, fresh = (pairs[name].to_numpy() for name in ("score_a", "score_b", "fresh"))
    n = int(fresh.sum())
    only_a, only_b = int(((a > b) & fresh).sum()), int(((b > a) & fresh).sum())
    p = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0
    difference = float(b.mean() - a.mean())
    low, high = bonett_price(float((b > a).mean()), float((a > b).mean()), n)
    return Contrast(float(a.mean()), float(b.mean()), difference, low, high, p, len(pairs), n, only_a, only_b)


def bonett_price(won: float, lost: float, n: float) -> tuple[float, float]:
    """The adjusted Wald interval for a paired difference of rates (Bonett and Price 2012).

    ``won`` and ``lost`` are the shares of the ``n`` pairs in which only the second, or only the first, succeeded.
    """
    up, down = (won * n + 1) / (n + 2), (lost * n + 1) / (n + 2)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - reach), min(1.0, up - down + reach)


def paired_lengths(pairs: pd.DataFrame) -> Contrast:
    """Paired bootstrap interval (BCa) and sign-flip permutation test of the mean difference."""
    from scipy import stats

    kept = pairs[pairs["fresh"]]
    differences = (kept["score_b"] - kept["score_a"]).to_numpy()
    n = len(differences)
    low, high = _bootstrapped((differences,), np.mean) or bonett_price(
        float((differences > 0).mean()), float((differences < 0).mean()), n
    )
    p = 1.0
    if differences.any():
        flipped = stats.permutation_test(
            (differences,),
            lambda x, axis: x.mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            random_state=np.random.default_rng(_SEED),
        )
        p = float(flipped.pvalue)
    a, b = float(pairs["score_a"].mean()), float(pairs["score_b"].mean())
    return Contrast(a, b, b - a, low, high, p, len(pairs), n)


def unpaired_verdicts(first: pd.Series, second: pd.Series, effective: tuple[int, int]) -> Contrast:
    """Newcombe's score interval and the score test of two independent rates."""
    from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

    a, b = float(first.mean()), float(second.mean())
    counts = (b * effective[1], effective[1], a * effective[0], effective[0])
    low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb", alpha=1 - CONFIDENCE)
    with np.errstate(all="ignore"):  # rates of 0 and 1 divide by nothing; what comes of it is caught below
        tested = test_proportions_2indep(*counts, compare="diff", method="score", return_results=True)
    p = float(tested.pvalue) if isfinite(tested.pvalue) else 1.0
    return Contrast(a, b, b - a, float(low), float(high), p, min(len(first), len(second)), min(effective))


def unpaired_lengths(first: pd.Series, second: pd.Series) -> Contrast:
    """Bootstrap interval (BCa) and permutation test of the difference of two independent means."""
    from scipy import stats

    def gap(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        return y.mean(axis) - x.mean(axis)

    samples = (first.to_numpy(), second.to_numpy())
    difference = float(gap(*samples))
    low, high = _bootstrapped(samples, gap) or (-1.0, 1.0)
    tested = stats.permutation_test(
        samples, gap, vectorized=True, n_resamples=_RESAMPLES, random_state=np.random.default_rng(_SEED)
    )
    n = min(len(first), len(second))
    return Contrast(float(first.mean()), float(second.mean()), difference, low, high, float(tested.pvalue), n, n)


def macro_average(parts: list[Contrast], whole: Contrast) -> Contrast:
    """The contrast of a mean over parts, each counted equally; ``whole`` is that of all their episodes at once.

    Where the parts are of one size it is ``whole``. Else means and discordant shares are those of the parts, and the
    effective n is 1 / Σ(w² / nᵢ) with w = 1 / number of parts (Kish); the test stays that of all episodes.
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
    """The contrasts with p-values adjusted for there being several (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if len(contrasts) < 2:
        return contrasts
    adjusted = multipletests([c.p for c in contrasts], method="holm")[1]
    return [replace(c, p_adjusted=float(p)) for c, p in zip(contrasts, adjusted, strict=True)]


def _bootstrapped(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> tuple[float, float] | None:
    """The BCa interval, or None where the samples do not vary enough for one."""
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
