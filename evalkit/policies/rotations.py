"""Rotations with the same bits as in the benchmarks' own code."""

from __future__ import annotations

import math

import numpy as np


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,) of a quaternion x, y, z, w, as robosuite computes it (the sign of w is kept)."""
    w = min(max(float(quaternion[3]), -1.0), 1.0)
    length = math.sqrt(1.0 - w * w)
    if math.isclose(length, 0.0):
        return np.zeros(3)
    vector: np.ndarray = (quaternion[:3] * 2.0 * math.acos(w)) / length
    return vector
