"""Metrics: pure functions from episodes to a number with its interval. Tables are these functions applied to frames.

A frame has one row per episode with a verdict; its columns are those of :func:`evalkit.aggregate.episodes_frame`.
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


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided 95 % interval.

    Attributes:
        value: the number; None where there is no episode.
        low: lower end of the interval.
        high: upper end of the interval.
        n: episodes it is made of.
        n_effective: independent episodes among them, which the interval is made with.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float


Metric = Callable[["pd.DataFrame"], Estimate]


def success_rate(frame: pd.DataFrame) -> Estimate:
    """Share of solved episodes, with the Wilson score interval (Wilson 1927).

    Repeats of a scene that ended bit for bit alike are one observation, however often they were run: they count in
    ``n``, not in ``n_effective``.
    """
    if frame.empty:
        return Estimate(None, None, None, 0, 0)
    rate = float(frame["success"].mean())
    effective = len(frame.drop_duplicates(["split", "task", "scene", "digest"]))
    return Estimate(rate, *_wilson(rate, effective), len(frame), effective)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent success rates, each counted equally whatever its n.

    The interval is Wilson's for the effective number of episodes 1 / Σ(w² / nᵢ) with w = 1 / number of parts (Kish).
    With equal nᵢ that is the plain total, and the interval is on the safe side when the parts' rates differ.
    """
    counted = [(p.value, p.n_effective) for p in parts if p.value is not None]
    if not counted or len(counted) < len(parts):
        return Estimate(None, None, None, sum(p.n for p in parts), 0)
    rate = sum(value for value, _ in counted) / len(counted)
    effective = len(counted) ** 2 / sum(1 / n for _, n in counted)
    return Estimate(rate, *_wilson(rate, effective), sum(p.n for p in parts), effective)


def _wilson(rate: float, n: float) -> tuple[float, float]:
    """The score interval for a share ``rate`` of ``n`` observations; ``n`` need not be whole."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = rate + z**2 / (2 * n)
    reach = z * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - reach) / (1 + z**2 / n)), min(1.0, (centre + reach) / (1 + z**2 / n))
