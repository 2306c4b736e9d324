"""The oracle: picks an object up from above and places it on the task's goal, with privileged state.

It knows one move in seven stages. It grasps an object across its narrow side, and a bowl (wider than the hand opens) by
its rim, at the point with the most room for the open hand. Everything is planned once, at the first action. After that
each action is a proportional step towards the stage's target, and a lost object or a failed delivery starts over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from evalkit.adapter import Setup, SimulatorError
from evalkit.episode import Episode

from .geometry import descendants, smallest_rectangle, solids
from .scene import Scene

POSITION_GAIN = 2.0 / 0.05  # action per m of error; 1 is 0.05 m
ROTATION_GAIN = 1.5 / 0.5  # action per rad of error; 1 is 0.5 rad
YAW_TOLERANCE = 0.08  # rad
HOVER = 0.10  # m above an object before the fingers go down
CLEARANCE = 0.04  # m between the carried object and the objects below it
RIM_DEPTH = 0.018  # m from a bowl's rim down to the grip site
BODY_DEPTH = 0.035  # m from an object's top down to the grip site
HAND_OPENING = 0.07  # m between the open fingers, less a margin
ROOM_ENOUGH = 0.03  # m of room around the open hand beyond which more is no better
TURN_COST = 0.005  # m of room that one radian of turning costs
CLOSE_STEPS = 12  # control steps until the fingers hold
RELEASE_STEPS = 30  # control steps after which a delivery that did not solve the task has failed
SLIPPED = 0.05  # m an object may move in the hand before it counts as lost

# points on the open hand, from the grip site: along the line through the fingers, across it, up
FINGERS = [(r, w, h) for r in (-0.055, -0.035, 0.035, 0.055) for w in (-0.01, 0.01) for h in (0.0, 0.03)]
PALM = [(r, w, h) for r in (-0.1, -0.05, 0.0, 0.05, 0.1) for w in (-0.03, 0.03) for h in (0.045, 0.11)]
OPEN_HAND = np.array(FINGERS + PALM)
UP = np.array([0.0, 0.0, 1.0])


class Stage(IntEnum):
    """The stages of the move, in order."""

    APPROACH = 0
    DESCEND = 1
    CLOSE = 2
    LIFT = 3
    CARRY = 4
    LOWER = 5
    RELEASE = 6


# the maximum of control steps in a stage, and the distance (m) at which its target counts as reached
PATIENCE = {Stage.APPROACH: 60, Stage.DESCEND: 45, Stage.LIFT: 60, Stage.CARRY: 80, Stage.LOWER: 60}
NEAR = {Stage.APPROACH: 0.015, Stage.DESCEND: 0.006, Stage.LIFT: 0.02, Stage.CARRY: 0.012, Stage.LOWER: 0.012}


@dataclass(frozen=True)
class Job:
    """One transport: names of the task's objects, and the height of release (m) below the goal's top edge."""

    moved: str
    goal: str
    by_rim: bool
    depth: float


@dataclass(frozen=True)
class Grasp:
    """A way to close the hand.

    Attributes:
        point: x and y between the fingers, m.
        yaw: direction of the line through both fingers, rad.
        cost: its disadvantages, in m of room around the hand.
    """

    point: np.ndarray
    yaw: float
    cost: float


@dataclass(frozen=True)
class Plan:
    """A grasp and a delivery, in the world frame (m, rad).

    Attributes:
        grip: position of the grip site when it closes.
        yaw: direction of the line through both fingers.
        reach: distance from the grip position to the object's origin.
        transit, hover, carry, release: heights of the grip site on the way to the object, above it, on the way to the
            goal, and at the release.
        goal: final x and y of the object's origin.
    """

    grip: np.ndarray
    yaw: float
    reach: float
    transit: float
    hover: float
    carry: float
    release: float
    goal: np.ndarray


def oracle_for(setup: Setup, episode: Episode, scene: Scene) -> PickAndPlace:
    """Return the oracle of the episode's task. Raises SimulatorError if there is none."""
    known = setup.suite["oracle"]
    if episode.split not in known:
        raise SimulatorError(f"the oracle does not know {episode.split}/{episode.task}; it knows {', '.join(known)}")
    ((_, moved, place),) = scene.env.parsed_problem["goal_state"]  # one sentence: on/in, object, place
    goal = next(name for name in scene.env.objects_dict if place.startswith(name))
    bowl = "bowl" in moved
    return PickAndPlace(Job(moved, goal, by_rim=bowl, depth=0.005 if bowl else 0.05))


class PickAndPlace:
    """The oracle of one transport. A copy (``copy.copy``) has the same memory: plan, stage, steps in the stage."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._plan: Plan | None = None
        self._stage = Stage.APPROACH
        self._ticks = 0

    def act(self, scene: Scene) -> np.ndarray:
        """Return the action for this instant, (7,) float32 within [-1, 1]. Updates its memory, not the scene."""
        if self._plan is None or self._failed(scene, self._plan):
            self._plan, self._stage, self._ticks = make_plan(scene, self._job), Stage.APPROACH, 0
        plan, stage = self._plan, self._stage
        hand = scene.env.robots[0].eef_site_id
        position = scene.data.site_xpos[hand]
        error = self._target(scene, plan, position) - position
        turn = _wrapped(plan.yaw - _finger_yaw(scene), np.pi) if stage <= Stage.CLOSE else 0.0
        tilt = np.cross(scene.data.site_xmat[hand].reshape(3, 3)[:, 2], -UP)
        action = np.empty(7)
        action[:3] = POSITION_GAIN * error
        action[3:6] = ROTATION_GAIN * (tilt + turn * UP)
        action[6] = 1.0 if Stage.CLOSE <= stage <= Stage.LOWER else -1.0
        self._ticks += 1
        if self._done(error, turn):
            self._stage, self._ticks = Stage(stage + 1), 0
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _target(self, scene: Scene, plan: Plan, position: np.ndarray) -> np.ndarray:
        """Return the target of the grip site in this stage."""
        x, y = plan.grip[:2]
        if self._stage == Stage.APPROACH:
            over = np.linalg.norm(plan.grip[:2] - position[:2]) < 0.05
            return np.array([x, y, plan.hover if over else plan.transit])
        if self._stage in (Stage.DESCEND, Stage.CLOSE):
            return plan.grip
        if self._stage == Stage.LIFT:
            return np.array([x, y, plan.carry])
        origin = scene.data.xpos[scene.env.obj_body_id[self._job.moved]]
        there = position[:2] + plan.goal - origin[:2]
        if self._stage == Stage.CARRY:
            return np.array([*there, plan.carry])
        if self._stage == Stage.LOWER:
            return np.array([*there, plan.release])
        return np.array([*position[:2], plan.carry])

    def _failed(self, scene: Scene, plan: Plan) -> bool:
        """Return True if the object has slipped from the hand, or a finished delivery has not solved the task."""
        if self._stage == Stage.RELEASE:
            return self._ticks > RELEASE_STEPS
        origin = scene.data.xpos[scene.env.obj_body_id[self._job.moved]]
        distance = float(np.linalg.norm(origin - scene.data.site_xpos[scene.env.robots[0].eef_site_id]))
        return self._stage > Stage.CLOSE and distance > plan.reach + SLIPPED

    def _done(self, error: np.ndarray, turn: float) -> bool:
        if self._stage == Stage.RELEASE:
            return False
        if self._stage == Stage.CLOSE:
            return self._ticks >= CLOSE_STEPS
        remaining = {Stage.LIFT: error[2:], Stage.CARRY: error[:2]}.get(self._stage, error)
        near = float(np.linalg.norm(remaining)) < NEAR[self._stage] and abs(turn) < YAW_TOLERANCE
        return near or self._ticks > PATIENCE[self._stage]


def make_plan(scene: Scene, job: Job) -> Plan:
    """Return a plan for ``job`` from here."""
    model, data, bodies = scene.model, scene.data, scene.env.obj_body_id
    moved = solids(model, data, descendants(model, bodies[job.moved])).corners()
    place = solids(model, data, descendants(model, bodies[job.goal])).corners()
    bottom, top, edge = moved[:, 2].min(), moved[:, 2].max(), place[:, 2].max()
    origin = data.xpos[bodies[job.moved]]
    if job.by_rim:
        height = top - RIM_DEPTH
        goal = data.xpos[bodies[job.goal]][:2].copy()
        grasps = _rim_grasps(moved, origin[:2])
    else:
        height = max(top - BODY_DEPTH, bottom + 0.012) if top - bottom > 0.05 else (top + bottom) / 2
        goal = (place[:, :2].min(0) + place[:, :2].max(0)) / 2
        grasps = _side_grasps(moved[:, :2])
    point, yaw = _roomiest(scene, job, grasps, height)
    grip = np.array([*point, height])
    hanging = height - bottom
    return Plan(
        grip=grip,
        yaw=yaw,
        reach=float(np.linalg.norm(origin - grip)),
        transit=max(top + HOVER, float(data.site_xpos[scene.env.robots[0].eef_site_id][2])),
        hover=top + HOVER,
        carry=max(edge + hanging + CLEARANCE, height + 0.08),
        release=edge + hanging - job.depth,
        goal=goal,
    )


def _side_grasps(outline: np.ndarray) -> list[Grasp]:
    """Return grasps across each side of the object's rectangle that fits the fingers, centered and off-center."""
    center, shorter = smallest_rectangle(outline)
    grasps = []
    for yaw, cost in ((shorter, 0.0), (shorter + np.pi / 2, 0.01)):
        across, along = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        width, length = np.ptp(outline @ across), np.ptp(outline @ along)
        if cost and width > HAND_OPENING:
            continue
        for offset in (0.0, 0.015, -0.015, 0.03, -0.03):
            if offset == 0.0 or abs(offset) < length / 2 - 0.02:
                grasps.append(Grasp(center + offset * along, yaw, cost + 0.3 * abs(offset)))
    return grasps


def _rim_grasps(corners: np.ndarray, center: np.ndarray) -> list[Grasp]:
    """Return grasps all around the rim, one finger inside the bowl and one outside."""
    rim = corners[corners[:, 2] > corners[:, 2].max() - 0.005][:, :2]
    radius = float(np.median(np.linalg.norm(rim - center, axis=1))) - 0.003
    angles = np.linspace(-np.pi, np.pi, 36, endpoint=False)
    return [Grasp(center + radius * np.array([np.cos(angle), np.sin(angle)]), angle, 0.0) for angle in angles]


def _roomiest(scene: Scene, job: Job, grasps: list[Grasp], height: float) -> tuple[np.ndarray, float]:
    """Return point and yaw of the best grasp by room for the open hand, less the grasp's cost and the turning."""
    model = scene.model
    own = descendants(model, scene.env.obj_body_id[job.moved])
    robot = descendants(model, scene.env.sim.model.body_name2id(scene.env.robots[0].robot_model.root_body))
    others = solids(model, scene.data, set(range(model.nbody)) - own - robot)
    yaw_now = _finger_yaw(scene)

    def score(grasp: Grasp) -> float:
        across = np.array([np.cos(grasp.yaw), np.sin(grasp.yaw), 0.0])
        along = np.array([-across[1], across[0], 0.0])
        hand = np.array([*grasp.point, height]) + OPEN_HAND @ np.stack([across, along, UP])
        room = min(float(others.distance(hand).min()), ROOM_ENOUGH)
        return room - grasp.cost - TURN_COST * abs(_wrapped(grasp.yaw - yaw_now, np.pi))

    best = max(grasps, key=score)
    return best.point, best.yaw


def _finger_yaw(scene: Scene) -> float:
    left, right = (scene.data.body(f"gripper0_{side}finger").xpos for side in ("left", "right"))
    return float(np.arctan2(left[1] - right[1], left[0] - right[0]))


def _wrapped(angle: float, period: float) -> float:
    return float((angle + period / 2) % period - period / 2)
