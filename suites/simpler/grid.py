"""A task's scenes, generated from the axes of its grid in ``suite.yaml``. Needs no simulator.

A grid has ``all`` (the values of every scene) and ``axes`` (a list of ``{name: values}``; all combinations, the last
axis fastest). A value that is a mapping is merged into the scene; any other sets ``name``. Values are a list, or
``{from: a, to: b, count: n}`` (n numbers, ends included), or ``{count: n}`` (0 to n - 1), or ``block``: the grid then
has ``blocks``, lists of values, and is run once with each of them on this axis. In a scene these names mean:

========================= ==============================================================================================
``environment``           upstream's registered name; ``{drawer}`` stands for the scene's drawer
``robot``                 upstream's name of the robot
``robot_x``, ``robot_y``  position of its base, m, world frame
``robot_yaw``             yaw of its base, rad (0 by default)
``object_x``, ``object_y`` position of the object, m, world frame
``episode_id``            index of one of the placements that upstream's task has
``overlay``               the photograph behind robot and objects, a file in ``data/real_inpainting``
``limit``                 control steps after which the episode is lost
========================= ==============================================================================================

All others are passed to the environment unchanged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.adapter import Setup, SimulatorError


@dataclass(frozen=True)
class Scene:
    """One cell of a task's grid.

    Attributes:
        robot: the robot's section of ``suite.yaml``.
        environment: upstream's registered name.
        options: the arguments of the environment, by upstream's names, without control mode and photograph.
        placement: the options of its reset, in upstream's form.
        overlay: file name of the photograph, or None.
        limit: control steps after which the episode is lost.
    """

    robot: Mapping[str, Any]
    environment: str
    options: Mapping[str, Any]
    placement: Mapping[str, Any]
    overlay: str | None
    limit: int


def scene_of(setup: Setup, split: str, task: str, index: int) -> Scene:
    """Return a task's scene by its index in the published order. Raises SimulatorError if there is none."""
    grid, robot = _grid(setup, split, task), robot_of(setup, split)
    remaining = index
    for axes in _blocks(grid):
        sizes = [len(values) for values in axes]
        if 0 <= remaining < math.prod(sizes):
            cell = np.unravel_index(remaining, sizes)
            return _scene(robot, grid["all"], [values[i] for values, i in zip(axes, cell, strict=True)])
        remaining -= math.prod(sizes)
    raise SimulatorError(f"task {split}/{task} has scenes 0 to {index - remaining - 1}, not {index}")


def scenes_of(setup: Setup, split: str, task: str) -> Iterator[Scene]:
    """Yield a task's scenes in the published order."""
    grid, robot = _grid(setup, split, task), robot_of(setup, split)
    for axes in _blocks(grid):
        for chosen in itertools.product(*axes):
            yield _scene(robot, grid["all"], list(chosen))


def _grid(setup: Setup, split: str, task: str) -> Mapping[str, Any]:
    grids: Mapping[str, Mapping[str, Any]] = setup.split_settings(split)["grid"]
    if task not in grids:
        raise SimulatorError(f"suite.yaml has no grid for {split}/{task}")
    return grids[task]


def robot_of(setup: Setup, split: str) -> Mapping[str, Any]:
    """Return the section of ``suite.yaml`` for a split's robot."""
    robot: Mapping[str, Any] = setup.settings["robots"][setup.split_settings(split)["robot"]]
    return robot


def _blocks(grid: Mapping[str, Any]) -> Iterator[list[list[dict[str, Any]]]]:
    """Yield the axes of each block: the additions of each value on each axis to a scene."""
    for block in grid.get("blocks", [[]]):
        yield [_values(axis, block) for axis in grid["axes"]]


def _values(axis: Mapping[str, Any], block: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ((name, given),) = axis.items()
    if given == "block":
        given = block
    elif isinstance(given, Mapping):
        given = _numbers(given)
    return [dict(value) if isinstance(value, Mapping) else {name: value} for value in given]


def _numbers(span: Mapping[str, Any]) -> list[int] | list[float]:
    if "from" not in span:
        return list(range(span["count"]))
    return [float(number) for number in np.linspace(span["from"], span["to"], span["count"])]


def _scene(own: Mapping[str, Any], shared: Mapping[str, Any], chosen: list[dict[str, Any]]) -> Scene:
    parts = dict(shared)
    for addition in chosen:
        parts.update(addition)
    environment = parts.pop("environment").format(drawer=parts.pop("drawer", ""))
    half = parts.pop("robot_yaw", 0.0) / 2
    # upstream turns the robot by yaw after half a turn: (cos, 0, 0, sin) * (0, 0, 0, 1), in a pose's single precision
    turn = [float(np.float32(number)) for number in (-math.sin(half), 0.0, 0.0, math.cos(half))]
    stand = {"init_xy": [parts.pop("robot_x"), parts.pop("robot_y")], "init_rot_quat": turn}
    if "episode_id" in parts:
        thing = {"episode_id": parts.pop("episode_id")}
    else:
        thing = {"init_xy": [parts.pop("object_x"), parts.pop("object_y")]}
    limit, overlay = parts.pop("limit"), parts.pop("overlay", None)
    placement = {"robot_init_options": stand, "obj_init_options": thing}
    return Scene(own, environment, parts, placement, overlay, limit)
