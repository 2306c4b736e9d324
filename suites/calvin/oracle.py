"""The oracle: a follower of waypoints to a sub-task's end, with privileged state and official relative actions."""

from __future__ import annotations

import numpy as np

from .moves import moves, tidy
from .simulator import Simulator
from .waypoint import Waypoint

METERS = 0.02  # change of the commanded position by an action of 1
RADIANS = 0.05  # change of the commanded Euler angles by an action of 1
ARRIVED = 1e-5  # m and rad between the command and the waypoint
NEAR = 0.008  # m between the hand and the waypoint


class Oracle:
    """The oracle of one sub-task. A copy (``copy.copy``) has the same memory: remaining waypoints and step counts."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._plan: tuple[Waypoint, ...] = ()
        self._fresh = True
        self._ticks = 0
        self._held = 0

    def act(self, simulator: Simulator) -> np.ndarray:
        """Return the action for this instant, (7,) float32 within [-1, 1]. Updates its memory, not the simulator.

        Raises SimulatorError for a sub-task that it does not know.
        """
        if self._plan and self._ticks and self._finished(simulator, self._plan[0]):
            self._plan, self._ticks, self._held = self._plan[1:], 0, 0
        if not self._plan and self._fresh:
            self._plan, self._fresh = tidy(self._task, simulator), False
        if not self._plan:  # also after the last waypoint, if the sub-task is not solved
            self._plan = moves(self._task, simulator)
        waypoint = self._plan[0]
        self._ticks += 1
        action = np.empty(7)
        action[:3] = np.clip((waypoint.position - simulator.target[:3]) / METERS, -waypoint.speed, waypoint.speed)
        action[3:6] = np.clip(turn(simulator.target[3:], waypoint.rotation) / RADIANS, -1.0, 1.0)
        action[6] = waypoint.grip
        return action.astype(np.float32)

    def _finished(self, simulator: Simulator, waypoint: Waypoint) -> bool:
        """Return True if the hand has stayed at the waypoint long enough, or exceeded its steps."""
        if self._ticks >= waypoint.patience + waypoint.hold:
            return True
        there = np.abs(simulator.target[:3] - waypoint.position).max() < ARRIVED
        turned = np.abs(turn(simulator.target[3:], waypoint.rotation)).max() < ARRIVED
        near = np.linalg.norm(simulator.robot_obs[:3] - waypoint.position) < NEAR
        if there and turned and (near or self._ticks > waypoint.patience):
            self._held += 1
        return self._held > waypoint.hold


def turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the rotation from one set of Euler angles to another, each the shorter way, rad."""
    difference: np.ndarray = (end - start + np.pi) % (2 * np.pi) - np.pi
    return difference
