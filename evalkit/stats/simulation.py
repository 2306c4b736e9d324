"""Simulated comparisons of a candidate with a baseline on the same scenes, without physics.

A scene has a success probability, drawn from a beta distribution around the task's rate. The intraclass correlation
says how much scenes differ. At 0 all are alike and the outcomes of two policies are independent. Towards 1 most scenes
are always solved or never, and outcomes mostly agree. Given the scene, the outcomes of both policies are independent.
"""

from __future__ import annotations

from typing import Any

CORRELATIONS = {"independent": 0.0, "correlated": 0.6}


def scene_probabilities(rng: Any, rate: Any, correlation: float) -> Any:
    """Draw the success probability of each scene; ``rate`` is the mean at each place of the array."""
    import numpy as np

    rate = np.clip(np.asarray(rate, dtype=float), 1e-6, 1 - 1e-6)
    if not correlation:
        return rate
    size = 1 / correlation - 1
    return rng.beta(rate * size, (1 - rate) * size)


def shift_probabilities(probability: Any, before: Any, after: Any) -> Any:
    """Shift scenes' probabilities from the mean ``before`` to ``after``.

    A fall scales the success probabilities by one factor, a rise the failure probabilities.
    """
    import numpy as np

    before, after = np.broadcast_arrays(np.asarray(before, dtype=float), np.asarray(after, dtype=float))
    down = probability * after / np.maximum(before, 1e-12)
    up = 1 - (1 - probability) * (1 - after) / np.maximum(1 - before, 1e-12)
    return np.where(after <= before, down, up)


def simulate_differences(rng: Any, before: Any, after: Any, correlation: float) -> Any:
    """Draw candidate - baseline, -1, 0 or 1 for each scene.

    Args:
        rng: numpy's generator.
        before: the baseline's rate at each scene, an array of any shape.
        after: the candidate's rate, of the same shape.
        correlation: intraclass correlation of scenes, 0 to 1 (exclusive).
    """
    probability = scene_probabilities(rng, before, correlation)
    old = rng.random(before.shape) < probability
    new = rng.random(before.shape) < shift_probabilities(probability, before, after)
    return new.astype(float) - old


def discordant_shares(rate: float, drop: float, correlation: float) -> tuple[float, float]:
    """Return the shares of scenes that only the baseline solves, and that only the candidate solves."""
    left = (rate - drop) / rate
    second = rate * rate + correlation * rate * (1 - rate)  # mean square of the scenes' probabilities
    return rate - left * second, left * (rate - second)
