"""Metrics: pure functions from episodes to a number with its interval. Tables are these functions applied to frames.

A frame has one row per episode with a verdict; its columns are those of :func:`evalkit.records.frame.episodes_frame`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
_OBSERVATION_KEY = ["split", "task", "scene", "digest"]  # episodes that agree in all of these are one observation


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided 95 % interval.

    Attributes:
        value: the number; None without episodes.
        low: lower end of the interval.
        high: upper end of the interval.
        n: episodes in the sample.
        n_effective: independent episodes among them; the interval uses this number.
        max_value: largest possible value: 1 for a rate, the sub-tasks of a chain for a length.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float
    max_value: float = 1.0


def success_rate(frame: pd.DataFrame) -> Estimate:
    """Return the share of solved episodes, with the Wilson score interval (Wilson 1927).

    Repeats of a scene with equal digests are one observation: they count in ``n``, not in ``n_effective``. So do
    repeats without digests, as imported runs have them.
    """
    if frame.empty:
        return Estimate(None, None, None, 0, 0)
    rate = float(frame["success"].mean())
    effective = len(frame.drop_duplicates(_OBSERVATION_KEY))
    return Estimate(rate, *wilson(rate, effective), len(frame), effective)


def solved_in_a_row(frame: pd.DataFrame, count: int) -> Estimate:
    """Return the share of chains whose first ``count`` sub-tasks were all solved, with the Wilson interval."""
    return success_rate(frame.assign(success=frame["solved"] >= count))


def average_length(frame: pd.DataFrame, chain: int) -> Estimate:
    """Return the mean number of sub-tasks solved in a row, 0 to ``chain``.

    It equals the sum of the rates for 1 to ``chain`` in a row. The interval is the score interval of the mean over
    ``chain`` with the observed variance: Wilson's for n · m(1 - m) / v chains, with the mean m and the variance v of
    the shares. If every chain ended alike, v is 0 and n is used as it is, which is conservative.
    """
    if frame.empty:
        return Estimate(None, None, None, 0, 0, chain)
    effective = len(frame.drop_duplicates(_OBSERVATION_KEY))
    shares = frame["solved"] / chain
    mean, variance = float(shares.mean()), float(shares.var(ddof=0))
    weight = mean * (1 - mean) / variance if variance else 1.0
    low, high = wilson(mean, effective * weight)
    return Estimate(float(frame["solved"].mean()), low * chain, high * chain, len(frame), effective, chain)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent success rates (or lengths), each counted equally.

    The interval is Wilson's for the effective number of episodes, 1 / Σ(w² / nᵢ) with w = 1 / number of parts (Kish).
    With equal nᵢ that is the total number. The interval is conservative if the rates of the parts differ.
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
    """Return the score interval for a share ``rate`` of ``n`` observations; ``n`` need not be whole."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = rate + z**2 / (2 * n)
    half_width = z * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - half_width) / (1 + z**2 / n)), min(1.0, (centre + half_width) / (1 + z**2 / n))
