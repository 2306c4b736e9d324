"""The oracle: opens and closes the cabinet's drawers, with privileged state.

It plays ahead in a second simulator of the same episode. PhysX cannot restore a state bit for bit, but the same episode
under the same actions is the same bit for bit. The second simulator repeats the first one's actions and then runs a few
steps ahead. The first one is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.adapter import Setup, SimulatorError
from evalkit.episode import Episode

from .simulation import Simulation

STEP = 0.08  # maximum motion of the hand per action, m
TURN = 0.25  # maximum rotation of the hand per action, rad
POSITION_GAIN, ROTATION_GAIN = 2.0, 1.5  # the arm covers about half of an action's motion
ALIGNED = 0.15  # rad
PATIENCE = 12  # maximum of control steps at one waypoint
DRAG = 0.1  # distance ahead of the hand of the target while pushing and pulling, m
REACH = 0.2  # maximum distance from the cabinet's middle at which a drawer is grasped, m
OPENED = 0.15  # m; upstream's threshold
CLOSED_HAND = 1.0

# directions of the hand: slightly down, to reach under the table top; steep, for low drawers; down, for pushing
SHALLOW, STEEP, DOWN = (-0.95, 0.0, -0.3), (-0.75, 0.0, -0.66), (-0.3, 0.0, -0.95)
HIGH_DRAWER = 0.4  # m above the floor: the top edge of a drawer that is opened with a shallow hand first


@dataclass(frozen=True)
class Front:
    """A drawer's front panel, m, world frame: x of its outer face, z of its middle and of its top edge."""

    face: float
    middle: float
    top: float


@dataclass(frozen=True)
class Waypoint:
    """A waypoint of the hand: target (3,) m, direction (3,), and the distance (m) that counts as reached; 0 never."""

    target: np.ndarray
    direction: np.ndarray
    near: float


def oracle_for(setup: Setup, episode: Episode, build: Callable[[], Simulation]) -> Oracle:
    """Return an episode's oracle; ``build`` makes a simulator of it. Raises SimulatorError for an unknown task."""
    problem = unknown(setup, episode.split, episode.task)
    if problem:
        raise SimulatorError(problem)
    return Oracle(build)


def unknown(setup: Setup, split: str, task: str) -> str | None:
    """Return the reason why the oracle cannot play a task, or None."""
    known = setup.settings["oracle_tasks"]
    if task in known:
        return None
    return f"{split}/{task}: the oracle knows {' and '.join(known)} alone; name those with --task"


class Oracle:
    """One episode's oracle and its simulator."""

    def __init__(self, build: Callable[[], Simulation]) -> None:
        self._build = build
        self._ahead: Simulation | None = None
        self._played: list[np.ndarray] = []
        self._next: np.ndarray | None = None

    def plan(self, done: Sequence[np.ndarray], steps: int) -> np.ndarray:
        """Return the next ``steps`` actions after those in ``done``, (steps, 7) float64. After success, zeros.

        If executed actions differ from the planned ones, the second simulator starts over.
        """
        if self._ahead is None or not _agree(self._played, done):
            self.close()
            self._ahead, self._played, self._next = self._build(), [], None
            self._drawer = DrawerScript(self._ahead)
        for action in done[len(self._played) :]:
            self._next_action()  # keeps the script's memory independent of the calls of plan
            self._play(action)
        planned = self._played[len(done) :][:steps]
        while len(planned) < steps and not self._ahead.success:
            planned.append(self._next_action())
            if len(planned) < steps:
                self._play(planned[-1])
        plan = np.zeros((steps, 7))
        plan[: len(planned)] = planned
        return plan

    def close(self) -> None:
        """Free the second simulator."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _next_action(self) -> np.ndarray:
        """Return the script's action for the second simulator's state, computed once per state."""
        assert self._ahead is not None
        if self._next is None:
            self._next = self._drawer.act(self._ahead)
        return self._next

    def _play(self, action: np.ndarray) -> None:
        assert self._ahead is not None
        self._ahead.advance(action)
        self._played.append(np.array(action))
        self._next = None


class DrawerScript:
    """A script that hooks a drawer's front panel from behind and pulls, or pushes it; a failed pull starts over."""

    def __init__(self, simulation: Simulation) -> None:
        """Read the drawer and its opening from the episode's first instant."""
        env = simulation.env
        self._opens = _extent(simulation) < OPENED
        self._beside = float(np.clip(env.tcp.pose.p[1], -REACH, REACH))
        low = _front(simulation).top < HIGH_DRAWER
        self._directions = [STEEP, SHALLOW] if low else [SHALLOW, STEEP]
        self._attempt = self._stage = self._ticks = 0

    def act(self, simulation: Simulation) -> np.ndarray:
        """Return the action for this instant, (7,) float32. Updates its memory, not the simulator."""
        from transforms3d.quaternions import quat2mat

        hand = simulation.env.tcp.pose
        way = self._waypoints(simulation)[self._stage]
        error = way.target - hand.p
        pointing = quat2mat(hand.q)[:, 2]
        turn = np.cross(pointing, way.direction)
        angle = float(np.arccos(np.clip(pointing @ way.direction, -1.0, 1.0)))
        turn *= angle / max(float(np.linalg.norm(turn)), 1e-9)
        base = quat2mat(simulation.env.agent.base_pose.q)
        move = _at_most(STEP, base.T @ (POSITION_GAIN * error))
        rotation = _at_most(TURN, base.T @ (ROTATION_GAIN * turn))
        self._advance(way, float(np.linalg.norm(error)), angle)
        return np.array([*move, *rotation, CLOSED_HAND], np.float32)

    def _advance(self, way: Waypoint, distance: float, angle: float) -> None:
        self._ticks += 1
        arrived = distance < way.near and angle < ALIGNED
        if arrived or self._ticks > PATIENCE:
            last = way.near == 0
            self._attempt += last and self._opens
            self._stage, self._ticks = (0 if last and self._opens else self._stage + (not last)), 0

    def _waypoints(self, simulation: Simulation) -> list[Waypoint]:
        front, y, x = _front(simulation), self._beside, simulation.env.tcp.pose.p[0]
        if not self._opens:
            return [
                _waypoint((front.face + 0.16, y, front.top + 0.15), DOWN, 0.04),
                _waypoint((front.face + 0.16, y, front.middle - 0.01), DOWN, 0.03),
                _waypoint((x - DRAG, y, front.middle - 0.01), DOWN, 0.0),
            ]
        way = self._directions[self._attempt % len(self._directions)]
        return [
            _waypoint((front.face + 0.13, y, front.top + 0.06), way, 0.03),
            _waypoint((front.face - 0.05, y, front.top + 0.03), way, 0.015),
            _waypoint((front.face - 0.05, y, front.top - 0.03), way, 0.012),
            _waypoint((x + DRAG, y, front.top - 0.03), way, 0.0),
        ]


def _waypoint(target: tuple[float, float, float], direction: tuple[float, float, float], near: float) -> Waypoint:
    return Waypoint(np.array(target), np.array(direction) / np.linalg.norm(direction), near)


def _extent(simulation: Simulation) -> float:
    """Return the drawer's opening, m."""
    return float(simulation.env.art_obj.get_qpos()[simulation.env.joint_idx])


def _front(simulation: Simulation) -> Front:
    """Return the front panel: the foremost of the drawer's boxes."""
    link = simulation.env.drawer_obj
    boxes = [(shape.get_local_pose().p, shape.geometry.half_lengths) for shape in link.get_collision_shapes()]
    center, half = max(boxes, key=lambda box: float(box[0][0]))
    x, _, z = link.pose.p + center
    return Front(float(x + half[0]), float(z), float(z + half[2]))


def _at_most(limit: float, vector: np.ndarray) -> np.ndarray:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-9))


def _agree(played: Sequence[np.ndarray], done: Sequence[np.ndarray]) -> bool:
    """Return True if the shorter is the beginning of the longer."""
    return all(np.array_equal(a, b) for a, b in zip(played, done, strict=False))
