"""The oracle's waypoint: a pose of the hand in the world frame, and the way to reach it.

Positions are the point between the fingertips (tcp), in m. Rotations are Euler angles in rad; pi about x points the
fingers down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

OPEN, CLOSED = 1.0, -1.0
ACROSS = np.pi / 2  # yaw at which the hand opens along the table


def down(yaw: float = ACROSS, tilt: float = 0.0) -> np.ndarray:
    """Return the rotation with the fingers down, at a yaw; ``tilt`` leans the hand about y."""
    return np.array([np.pi, tilt, yaw])


@dataclass(frozen=True, eq=False)
class Waypoint:
    """A pose of the hand, with the way to reach it.

    Attributes:
        position: position of the tcp, m.
        rotation: Euler angles of the hand, rad.
        grip: OPEN or CLOSED, on the way and there.
        speed: share of the full speed of 0.02 m a step.
        hold: control steps to stay there.
        patience: control steps after which it counts as reached.
    """

    position: np.ndarray
    rotation: np.ndarray = field(default_factory=down)
    grip: float = OPEN
    speed: float = 1.0
    hold: int = 0
    patience: int = 60


def at(x: float, y: float, z: float, **more: object) -> Waypoint:
    """Return a waypoint from coordinates."""
    return Waypoint(np.array([x, y, z]), **more)  # type: ignore[arg-type]
