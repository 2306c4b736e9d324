"""The geometry of a scene, from collision shapes, for the oracle's plans."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import mujoco
import numpy as np

COLLISION_GROUP = 0
CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


@dataclass(frozen=True)
class Solids:
    """Collision shapes as oriented boxes (other shapes count as the box around them).

    Attributes:
        centers: (N, 3) in the world frame, m.
        axes: (N, 3, 3); the columns are a box's axes in the world frame.
        halves: (N, 3) half extents along those axes, m.
    """

    centers: np.ndarray
    axes: np.ndarray
    halves: np.ndarray

    def corners(self) -> np.ndarray:
        """Return all corners, (8 N, 3)."""
        offsets = np.einsum("nij,ncj->nci", self.axes, CORNERS[None] * self.halves[:, None])
        points: np.ndarray = (self.centers[:, None] + offsets).reshape(-1, 3)
        return points

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of each of (P, 3) points to the nearest box, (P,) m; negative inside a box."""
        local = np.einsum("nij,pni->pnj", self.axes, points[:, None] - self.centers[None])
        excess = np.abs(local) - self.halves[None]
        outside = np.linalg.norm(np.maximum(excess, 0.0), axis=-1)
        nearest: np.ndarray = (outside + np.minimum(excess.max(-1), 0.0)).min(-1)
        return nearest


def solids(model: mujoco.MjModel, data: mujoco.MjData, bodies: set[int]) -> Solids:
    """Return the collision shapes of ``bodies``, without planes."""
    chosen = [
        geom
        for geom in range(model.ngeom)
        if model.geom_bodyid[geom] in bodies
        and model.geom_group[geom] == COLLISION_GROUP
        and model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_PLANE
    ]
    axes, boxes = data.geom_xmat[chosen].reshape(-1, 3, 3), model.geom_aabb[chosen]
    centers = data.geom_xpos[chosen] + np.einsum("nij,nj->ni", axes, boxes[:, :3])
    return Solids(centers, axes, boxes[:, 3:])


def descendants(model: mujoco.MjModel, root: int) -> set[int]:
    """Return body ``root`` and every body attached to it, directly or not."""
    found = {root}
    for body in range(root + 1, model.nbody):  # a parent has a lower index than its child
        if model.body_parentid[body] in found:
            found.add(body)
    return found


def smallest_rectangle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smallest rectangle around (N, 2) points: its center and the direction (rad) of its shorter side."""
    best = (np.inf, np.zeros(2), 0.0)
    for angle in np.linspace(0.0, np.pi / 2, 90, endpoint=False):
        frame = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        spread = points @ frame.T
        low, high = spread.min(0), spread.max(0)
        sides = high - low
        if sides.prod() < best[0]:
            best = (sides.prod(), (low + high) / 2 @ frame, angle if sides[0] <= sides[1] else angle + np.pi / 2)
    return best[1], best[2]
