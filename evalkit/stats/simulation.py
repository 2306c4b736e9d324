"""Simulated comparisons of a candidate with a baseline on the same scenes, many at once. No physics: coin flips.

A scene has a chance of success, drawn from a beta distribution around the task's rate. How much scenes differ is their
intraclass correlation: 0 where all are alike, so that two policies' outcomes are independent; towards 1 where most
scenes are always solved or never, so that outcomes mostly agree. Given the scene, both policies flip their own coins.
"""

from __future__ import annotations

from typing import Any

CORRELATIONS = {"independent": 0.0, "correlated": 0.6}


def scene_chances(rng: Any, rate: Any, correlation: float) -> Any:
    """The chance of success of each scene; ``rate`` is the mean at each place of the array."""
    import numpy as np

    rate = np.clip(np.asarray(rate, dtype=float), 1e-6, 1 - 1e-6)
    if not correlation:
        return rate
    size = 1 / correlation - 1
    return rng.beta(rate * size, (1 - rate) * size)


def moved(chance: Any, before: Any, after: Any) -> Any:
    """Scenes' chances with their mean moved from ``before`` to ``after``: successes, or failures, shrink alike."""
    import numpy as np

    before, after = np.broadcast_arrays(np.asarray(before, dtype=float), np.asarray(after, dtype=float))
    down = chance * after / np.maximum(before, 1e-12)
    up = 1 - (1 - chance) * (1 - after) / np.maximum(1 - before, 1e-12)
    return np.where(after <= before, down, up)


def differences(rng: Any, before: Any, after: Any, correlation: float) -> Any:
    """Candidate - baseline, one of -1, 0 and 1 a scene.

    Args:
        rng: numpy's generator.
        before: the baseline's rate at each scene, an array of any shape.
        after: the candidate's, of the same shape.
        correlation: between scenes' outcomes, 0 to 1 (exclusive).
    """
    chance = scene_chances(rng, before, correlation)
    old = rng.random(before.shape) < chance
    new = rng.random(before.shape) < moved(chance, before, after)
    return new.astype(float) - old


def discordant(rate: float, drop: float, correlation: float) -> tuple[float, float]:
    """The shares of scenes that only the baseline solves, and that only the candidate solves."""
    left = (rate - drop) / rate
    second = rate * rate + correlation * rate * (1 - rate)  # mean square of the scenes' chances
    return rate - left * second, left * (rate - second)
