"""The oracle's move for each sub-task: waypoints of the hand at scene D's table, planned from the present scene.

The robot looks along +y, at the table and the cabinet with the sliding door behind it; x is along the table, to the
right. The sliding door covers one half of the cabinet or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from evalkit.adapter import SimulatorError

from .simulator import BLOCKS, Simulator
from .waypoint import CLOSED, OPEN, Waypoint, at, down

DOOR_LEFT = 0.28  # the sliding door's position at its left end; 0 at the right end
BLOCK_ON_TABLE = 0.46  # z of a block's center
OVER = 0.56  # z of the hand on its way over the table
CABINET_TILT = -0.4  # the hand leans to reach under the cabinet's top
CABINET_SPOTS = {"left": (-0.24, -0.29, -0.19), "right": (0.07, 0.01, 0.12)}  # x, the best first
ROOM = 0.08  # m between two blocks' centers; a larger distance is no better
TURN = 1.25  # rad that a block is turned by; upstream's check needs more than 60 degrees
BUTTON = np.array([-0.12, -0.12])
BUTTON_ROOM = 0.09  # m between a block's center and the button's; below it, a finger would land on the button
DRAWER_DROP = np.array([0.18, -0.27, 0.42])  # over the open drawer


def moves(task: str, simulator: Simulator) -> tuple[Waypoint, ...]:
    """Return the waypoints that solve a sub-task from here. Raises SimulatorError for an unknown sub-task."""
    plan = _plans().get(task)
    if plan is None:
        raise SimulatorError(f"the oracle does not know the sub-task {task!r}")
    return tuple(plan(simulator))


def tidy(task: str, simulator: Simulator) -> tuple[Waypoint, ...]:
    """Return the waypoints before a sub-task: withdraw the hand, raise it, and move the sliding door to an end.

    A door counts as moved when it is half way, and then blocks both halves. Empty if the hand holds a block.
    """
    if task.startswith(("place", "stack")):
        return ()
    x, y, z, *rotation = simulator.robot_obs[:6]
    steps: list[Waypoint] = []
    if z < OVER:
        as_it_is = {"rotation": np.array(rotation)}
        steps.append(at(x, min(y, -0.06), z, grip=float(simulator.robot_obs[14]), patience=15, **as_it_is))
        steps.append(at(x, min(y, -0.08), 0.58, grip=OPEN, patience=25, **as_it_is))
    if 0.03 < simulator.slider < DOOR_LEFT - 0.03 and not task.startswith("move_slider"):
        steps += _door_left(simulator) if simulator.slider > DOOR_LEFT / 2 else _door_right(simulator)
        steps.append(at(steps[-1].position[0], -0.12, OVER, grip=CLOSED))
    return tuple(steps)


def _plans() -> dict[str, Callable[[Simulator], list[Waypoint]]]:
    plans: dict[str, Callable[[Simulator], list[Waypoint]]] = {
        "turn_on_led": _press_button,
        "turn_off_led": _press_button,
        "turn_on_lightbulb": _switch_up,
        "turn_off_lightbulb": _switch_down,
        "open_drawer": _pull_drawer,
        "close_drawer": _push_drawer,
        "move_slider_left": _door_left,
        "move_slider_right": _door_right,
        "push_into_drawer": _carry_into_drawer,
        "place_in_drawer": _drop_in_drawer,
        "place_in_slider": _place_in_cabinet,
        "stack_block": _stack,
        "unstack_block": _unstack,
    }
    for color in BLOCKS:
        plans[f"lift_{color}_block_table"] = partial(_lift, color=color, over=OVER, grasp=0.0, height=0.14)
        plans[f"lift_{color}_block_drawer"] = partial(_lift, color=color, over=0.52, grasp=0.005, height=0.18)
        plans[f"lift_{color}_block_slider"] = partial(_lift_from_cabinet, color=color)
        for side, sign in (("left", 1), ("right", -1)):
            plans[f"rotate_{color}_block_{side}"] = partial(_rotate, color=color, turn=sign * TURN)
            plans[f"push_{color}_block_{side}"] = partial(_push, color=color, sign=-sign)
    return plans


def _press_button(_: Simulator) -> list[Waypoint]:
    x, y = BUTTON
    return [
        at(x, y, 0.56, grip=CLOSED),
        at(x, y, 0.455, grip=CLOSED, speed=0.4, hold=6),
        at(x, y, 0.56, grip=CLOSED),
    ]


def _switch_up(_: Simulator) -> list[Waypoint]:
    return [
        at(0.30, -0.12, 0.56, grip=CLOSED),
        at(0.30, -0.08, 0.47, grip=CLOSED),
        at(0.30, 0.02, 0.475, grip=CLOSED, speed=0.5),
        at(0.30, 0.07, 0.60, grip=CLOSED, speed=0.4, hold=5),
    ]


def _switch_down(_: Simulator) -> list[Waypoint]:
    leaning = {"rotation": down(tilt=-0.8), "grip": CLOSED}
    return [
        at(0.30, -0.10, 0.62, **leaning),
        at(0.30, -0.02, 0.67, **leaning),
        at(0.30, 0.065, 0.66, speed=0.5, **leaning),
        at(0.30, 0.05, 0.60, speed=0.3, **leaning),
        at(0.30, 0.02, 0.50, speed=0.3, hold=5, **leaning),
    ]


def _pull_drawer(simulator: Simulator) -> list[Waypoint]:
    x, handle = 0.18, -0.21 - simulator.drawer
    return [
        at(x, handle, 0.52, grip=CLOSED),
        at(x, handle, 0.36, grip=CLOSED, speed=0.6),
        at(x, handle - 0.21, 0.36, grip=CLOSED, speed=0.5, hold=5),
    ]


def _push_drawer(simulator: Simulator) -> list[Waypoint]:
    x, before = 0.18, -0.30 - simulator.drawer
    return [
        at(x, before, 0.52, grip=CLOSED),
        at(x, before - 0.01, 0.365, grip=CLOSED, speed=0.6),
        at(x, -0.22, 0.365, grip=CLOSED, speed=0.5, hold=5),
    ]


def _door_left(simulator: Simulator) -> list[Waypoint]:
    return _slide(0.11 - simulator.slider, -0.26)


def _door_right(simulator: Simulator) -> list[Waypoint]:
    return _slide(-0.03 - simulator.slider, 0.06)


def _slide(start: float, end: float) -> list[Waypoint]:
    """Reach in beside the door's handle at x = ``start``, and push it to ``end``."""
    z = 0.53
    return [
        at(start, -0.12, z, grip=CLOSED),
        at(start, 0.0, z, grip=CLOSED),
        at(end, 0.0, z, grip=CLOSED, speed=0.5, hold=5),
    ]


def _lift(simulator: Simulator, *, color: str, over: float, grasp: float, height: float) -> list[Waypoint]:
    (x, y, z), rotation = _grasp_of(simulator, color)
    z += grasp
    return [
        at(x, y, over, rotation=rotation),
        at(x, y, z, rotation=rotation, speed=0.5, hold=2),
        at(x, y, z, rotation=rotation, grip=CLOSED, hold=10),
        at(x, y, z - grasp + height, rotation=rotation, grip=CLOSED, speed=0.5, hold=5),
    ]


def _lift_from_cabinet(simulator: Simulator, *, color: str) -> list[Waypoint]:
    (x, y, z), rotation = _grasp_of(simulator, color, CABINET_TILT)
    return [
        at(x, y - 0.20, 0.58, rotation=rotation),
        at(x, y - 0.10, 0.52, rotation=rotation),
        at(x, y, z + 0.005, rotation=rotation, speed=0.4, hold=3),
        at(x, y, z + 0.005, rotation=rotation, grip=CLOSED, hold=10),
        at(x, y - 0.02, z + 0.06, rotation=rotation, grip=CLOSED, speed=0.4, hold=5),
    ]


def _rotate(simulator: Simulator, *, color: str, turn: float) -> list[Waypoint]:
    (x, y, z), rotation = _grasp_of(simulator, color)
    turned = rotation + np.array([0.0, 0.0, turn])
    return [
        at(x, y, OVER, rotation=rotation),
        at(x, y, z + 0.005, rotation=rotation, speed=0.5, hold=2),
        at(x, y, z + 0.005, rotation=rotation, grip=CLOSED, hold=8),
        at(x, y, z + 0.007, rotation=turned, grip=CLOSED, hold=35),
        at(x, y, z + 0.005, rotation=turned, hold=8),
        at(x, y, OVER, rotation=turned),
    ]


def _push(simulator: Simulator, *, color: str, sign: float) -> list[Waypoint]:
    x, y, z = simulator.block(color)[:3]
    before = x - sign * 0.075
    return [
        at(before, y, OVER, grip=CLOSED),
        at(before, y, z, grip=CLOSED, speed=0.6),
        at(x + sign * 0.11, y, z, grip=CLOSED, speed=0.4, hold=6),
    ]


def _carry_into_drawer(simulator: Simulator) -> list[Waypoint]:
    """Carry every block on the table, one after the other: upstream's check accepts any of several."""
    plan = []
    for color in BLOCKS:
        if _on_table(simulator, color) and simulator.block(color)[1] < 0:
            (x, y, z), rotation = _grasp_of(simulator, color)
            plan += [
                at(x, y, OVER, rotation=rotation),
                at(x, y, z, rotation=rotation, speed=0.5, hold=2),
                at(x, y, z, rotation=rotation, grip=CLOSED, hold=8),
                at(x, y, 0.52, rotation=rotation, grip=CLOSED),
                at(*DRAWER_DROP[:2], 0.50, grip=CLOSED),
                *_let_go(),
            ]
    return plan or [_wait(simulator)]


def _drop_in_drawer(_: Simulator) -> list[Waypoint]:
    return [at(0.18, -0.25, OVER, grip=CLOSED), *_let_go()]


def _let_go() -> list[Waypoint]:
    return [
        Waypoint(DRAWER_DROP, grip=CLOSED, speed=0.5),
        Waypoint(DRAWER_DROP, hold=10),
        at(*DRAWER_DROP[:2], 0.54),
    ]


def _place_in_cabinet(simulator: Simulator) -> list[Waypoint]:
    """Place the held block in the open half of the cabinet, at the spot with the most room."""
    spots = CABINET_SPOTS["left" if simulator.slider < DOOR_LEFT / 2 else "right"]
    others = [simulator.block(color)[:2] for color in BLOCKS if color != _nearest(simulator)]
    x = max(spots, key=lambda spot: min(ROOM, *(float(np.hypot(*(other - (spot, 0.09)))) for other in others)))
    rotation = down(tilt=CABINET_TILT)
    return [
        at(x, -0.10, 0.60, rotation=rotation, grip=CLOSED),
        at(x, 0.02, 0.56, rotation=rotation, grip=CLOSED, speed=0.5),
        at(x, 0.09, 0.51, rotation=rotation, grip=CLOSED, speed=0.4),
        at(x, 0.09, 0.475, rotation=rotation, grip=CLOSED, speed=0.3, hold=3),
        at(x, 0.09, 0.48, rotation=rotation, hold=8),
        at(x, 0.02, 0.55, rotation=rotation, speed=0.5),
        at(x, -0.10, 0.60, rotation=rotation, hold=5),
    ]


def _stack(simulator: Simulator) -> list[Waypoint]:
    held = _nearest(simulator)
    below = [c for c in BLOCKS if c != held and _on_table(simulator, c) and simulator.block(c)[1] < 0.03]
    if not below:
        return [_wait(simulator)]
    (x, y, z), rotation = _grasp_of(simulator, below[0])
    return [
        at(x, y, 0.60, rotation=rotation, grip=CLOSED),
        at(x, y, z + 0.052, rotation=rotation, grip=CLOSED, speed=0.3, hold=4),
        at(x, y, z + 0.05, rotation=rotation, hold=10),
        at(x, y, 0.62, rotation=rotation, hold=5),
    ]


def _unstack(simulator: Simulator) -> list[Waypoint]:
    upper = max(BLOCKS, key=lambda color: float(simulator.block(color)[2]))
    (x, y, z), rotation = _grasp_of(simulator, upper)
    return [
        at(x, y, 0.62, rotation=rotation),
        at(x, y, z, rotation=rotation, speed=0.5, hold=2),
        at(x, y, z, rotation=rotation, grip=CLOSED, hold=8),
        at(x, y, 0.60, rotation=rotation, grip=CLOSED),
        at(x - 0.1, y, 0.55, grip=CLOSED),
        at(x - 0.1, y, 0.50, hold=8),
    ]


def _grasp_of(simulator: Simulator, color: str, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a block's position and the hand's rotation across it: along the table, except beside a button."""
    pose = simulator.block(color)
    yaw = pose[5] % np.pi
    if np.hypot(*(pose[:2] - BUTTON)) < BUTTON_ROOM:
        yaw -= np.pi / 2
    return pose[:3].copy(), down(yaw, tilt)


def _on_table(simulator: Simulator, color: str) -> bool:
    return abs(float(simulator.block(color)[2]) - BLOCK_ON_TABLE) < 0.03


def _nearest(simulator: Simulator) -> str:
    hand = simulator.robot_obs[:3]
    return min(BLOCKS, key=lambda color: float(np.linalg.norm(simulator.block(color)[:3] - hand)))


def _wait(simulator: Simulator) -> Waypoint:
    """Return a waypoint at the commanded pose, for a sub-task that has no possible move."""
    return Waypoint(simulator.target[:3], simulator.target[3:], float(simulator.robot_obs[14]), hold=10)
