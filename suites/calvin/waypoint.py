"""Where the expert's hand goes next: a pose in the world frame, and how to get there.

Positions are the point between the fingertips (tcp), in m. Rotations are Euler angles in rad; pi about x points the
fingers down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

OPEN, CLOSED = 1.0, -1.0
ACROSS = np.pi / 2  # yaw of the hand at which it opens along the table


def down(yaw: float = ACROSS, tilt: float = 0.0) -> np.ndarray:
    """Fingers down, at a yaw; ``tilt`` leans the hand about y."""
    return np.array([np.pi, tilt, yaw])


@dataclass(frozen=True, eq=False)
class Waypoint:
    """Where the hand goes.

    Attributes:
        position: of the tcp.
        rotation: of the hand.
        grip: OPEN or CLOSED, on the way and there.
        speed: share of the full speed of 0.02 m a step.
        hold: control steps to stay, once there.
        patience: control steps after which it counts as reached.
    """

    position: np.ndarray
    rotation: np.ndarray = field(default_factory=down)
    grip: float = OPEN
    speed: float = 1.0
    hold: int = 0
    patience: int = 60


def at(x: float, y: float, z: float, **more: object) -> Waypoint:
    """A waypoint from coordinates."""
    return Waypoint(np.array([x, y, z]), **more)  # type: ignore[arg-type]
