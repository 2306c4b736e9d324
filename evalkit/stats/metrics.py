"""Metrics: pure functions from episodes to a number with its interval. Tables are these functions applied to frames.

A frame has one row per episode with a verdict; its columns are those of :func:`evalkit.records.frame.episodes_frame`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
_SAME = ["split", "task", "scene", "digest"]  # episodes that agree in these are one observation


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided 95 % interval.

    Attributes:
        value: the number; None where there is no episode.
        low: lower end of the interval.
        high: upper end of the interval.
        n: episodes it is made of.
        n_effective: independent episodes among them, which the interval is made with.
        max_value: the largest value there is: 1 for a rate, the sub-tasks of a chain for a length.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float
    max_value: float = 1.0


Metric = Callable[["pd.DataFrame"], Estimate]


def success_rate(frame: pd.DataFrame) -> Estimate:
    """Share of solved episodes, with the Wilson score interval (Wilson 1927).

    Repeats of a scene that ended bit for bit alike are one observation, however often they were run: they count in
    ``n``, not in ``n_effective``. So are repeats of which that is unknown, those of imported runs.
    """
    if frame.empty:
        return Estimate(None, None, None, 0, 0)
    rate = float(frame["success"].mean())
    effective = len(frame.drop_duplicates(_SAME))
    return Estimate(rate, *wilson(rate, effective), len(frame), effective)


def solved_in_a_row(frame: pd.DataFrame, count: int) -> Estimate:
    """Share of chains whose first ``count`` sub-tasks were all solved, with the Wilson interval."""
    return success_rate(frame.assign(success=frame["solved"] >= count))


def average_length(frame: pd.DataFrame, chain: int) -> Estimate:
    """Mean number of sub-tasks solved in a row, 0 to ``chain``: the sum of the rates for 1 to ``chain`` in a row.

    The interval is the score interval of the mean over ``chain``, with the variance that was observed: Wilson's for
    n · m(1 - m) / v chains, where m is the mean and v the variance of the shares. Where every chain ended alike, v says
    nothing and n is taken as it is, which is on the safe side.
    """
    if frame.empty:
        return Estimate(None, None, None, 0, 0, chain)
    effective = len(frame.drop_duplicates(_SAME))
    shares = frame["solved"] / chain
    mean, variance = float(shares.mean()), float(shares.var(ddof=0))
    weight = mean * (1 - mean) / variance if variance else 1.0
    low, high = wilson(mean, effective * weight)
    return Estimate(float(frame["solved"].mean()), low * chain, high * chain, len(frame), effective, chain)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent success rates (or lengths), each counted equally whatever its n.

    The interval is Wilson's for the effective number of episodes 1 / Σ(w² / nᵢ) with w = 1 / number of parts (Kish).
    With equal nᵢ that is the plain total, and the interval is on the safe side when the parts' rates differ.
    """
    max_value = max((p.max_value for p in parts), default=1.0)
    counted = [(p.value, p.n_effective) for p in parts if p.value is not None]
    if not counted or len(counted) < len(parts):
        return Estimate(None, None, None, sum(p.n for p in parts), 0, max_value)
    if len(parts) == 1:
        return parts[0]
    mean = sum(value for value, _ in counted) / len(counted)
    effective = len(counted) ** 2 / sum(1 / n for _, n in counted)
    low, high = wilson(mean / max_value, effective)
    return Estimate(mean, low * max_value, high * max_value, sum(p.n for p in parts), effective, max_value)


def wilson(rate: float, n: float) -> tuple[float, float]:
    """The score interval for a share ``rate`` of ``n`` observations; ``n`` need not be whole."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = rate + z**2 / (2 * n)
    reach = z * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - reach) / (1 + z**2 / n)), min(1.0, (centre + reach) / (1 + z**2 / n))
