"""The scripted expert: opens and closes the cabinet's drawers, with privileged state.

It plays ahead in a second simulator of the same episode. PhysX does not let a state be put back bit for bit, but the
same episode under the same actions is the same bit for bit: the second simulator goes through what the first one did
and is then a few steps ahead of it. The first one is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.adapter import Setup, SimulatorError
from evalkit.episode import Episode

from .simulation import Simulation

STEP = 0.08  # m an action moves the hand at most
TURN = 0.25  # rad an action turns it at most
POSITION_GAIN, ROTATION_GAIN = 2.0, 1.5  # the arm covers about half of what an action asks for
ALIGNED = 0.15  # rad
PATIENCE = 12  # control steps at one waypoint
DRAG = 0.1  # m ahead of the hand that pushing and pulling aim at
REACH = 0.2  # m to either side of the cabinet's middle where a drawer is handled
OPENED = 0.15  # m; upstream's threshold
CLOSED_HAND = 1.0

# where the hand points: down a little, to reach under the table top; steeply, for the low drawers; down, for pushing
SHALLOW, STEEP, DOWN = (-0.95, 0.0, -0.3), (-0.75, 0.0, -0.66), (-0.3, 0.0, -0.95)
HIGH_DRAWER = 0.4  # m above the floor: the top edge of a drawer that is opened with a shallow hand first


@dataclass(frozen=True)
class Front:
    """A drawer's front panel as it stands, m, world frame: its outer face's x, and z of its middle and its top edge."""

    face: float
    middle: float
    top: float


@dataclass(frozen=True)
class Waypoint:
    """Where the hand goes next: target (3,) m, direction it points (3,), and how near (m) counts as there; 0 never."""

    target: np.ndarray
    direction: np.ndarray
    near: float


def expert_for(setup: Setup, episode: Episode, build: Callable[[], Simulation]) -> Expert:
    """The expert for an episode, which ``build`` makes another simulator of. Raises SimulatorError for other tasks."""
    problem = unknown(setup, episode.split, episode.task)
    if problem:
        raise SimulatorError(problem)
    return Expert(build)


def unknown(setup: Setup, split: str, task: str) -> str | None:
    """Why the expert cannot play a task, or None where it can."""
    known = setup.settings["oracle_tasks"]
    if task in known:
        return None
    return f"{split}/{task}: the scripted expert knows {' and '.join(known)} alone; name those with --task"


class Expert:
    """One episode's expert and its simulator."""

    def __init__(self, build: Callable[[], Simulation]) -> None:
        self._build = build
        self._ahead: Simulation | None = None
        self._played: list[np.ndarray] = []
        self._next: np.ndarray | None = None

    def plan(self, done: Sequence[np.ndarray], steps: int) -> np.ndarray:
        """The next ``steps`` actions after those in ``done``, (steps, 7) float32. After success, zeros.

        What was done instead of what was planned before the plan's last action makes the second simulator start over.
        """
        if self._ahead is None or not _agree(self._played, done):
            self.close()
            self._ahead, self._played, self._next = self._build(), [], None
            self._drawer = DrawerScript(self._ahead)
        for action in done[len(self._played) :]:
            self._ask()  # so that the script remembers the same whether it was asked or not
            self._play(action)
        planned = self._played[len(done) :][:steps]
        while len(planned) < steps and not self._ahead.success:
            planned.append(self._ask())
            if len(planned) < steps:
                self._play(planned[-1])
        plan = np.zeros((steps, 7), np.float32)
        plan[: len(planned)] = planned
        return plan

    def close(self) -> None:
        """Frees the second simulator."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _ask(self) -> np.ndarray:
        """The script's action for where the second simulator is; asked once at each place."""
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
    """Hooks a drawer's front panel from behind and pulls, or pushes against it; a pull that fails starts over."""

    def __init__(self, simulation: Simulation) -> None:
        """Reads which drawer it is, and whether it stands open, from the episode's first instant."""
        env = simulation.env
        self._opens = _extent(simulation) < OPENED
        self._beside = float(np.clip(env.tcp.pose.p[1], -REACH, REACH))
        low = _front(simulation).top < HIGH_DRAWER
        self._directions = [STEEP, SHALLOW] if low else [SHALLOW, STEEP]
        self._attempt = self._stage = self._ticks = 0

    def act(self, simulation: Simulation) -> np.ndarray:
        """The action for this instant, (7,) float32. Remembers; does not touch the simulator."""
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
    """How far the drawer is pulled out, m."""
    return float(simulation.env.art_obj.get_qpos()[simulation.env.joint_idx])


def _front(simulation: Simulation) -> Front:
    """The front panel: the foremost of the boxes that a drawer is made of."""
    link = simulation.env.drawer_obj
    boxes = [(shape.get_local_pose().p, shape.geometry.half_lengths) for shape in link.get_collision_shapes()]
    center, half = max(boxes, key=lambda box: float(box[0][0]))
    x, _, z = link.pose.p + center
    return Front(float(x + half[0]), float(z), float(z + half[2]))


def _at_most(limit: float, vector: np.ndarray) -> np.ndarray:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-9))


def _agree(played: Sequence[np.ndarray], done: Sequence[np.ndarray]) -> bool:
    """Whether the shorter is how the longer begins."""
    return all(np.array_equal(a, b) for a, b in zip(played, done, strict=False))
