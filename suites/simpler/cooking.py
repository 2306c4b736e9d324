"""Stages' collision meshes in SAPIEN's cached form.

SAPIEN cooks a stage's mesh when it first loads it, saves the result beside the file, and later reads the result. The
two differ in the last bits, so the first episode in a fresh checkout would differ from later ones. Here a stage is
always cooked before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from evalkit.adapter import SimulatorError


def cooked(stage: Path) -> Path:
    """Return the path of SAPIEN's cooked form of a stage."""
    return stage.with_name(f"{stage.name}.nonconvex.stl")


def cook(stages: Iterable[Path]) -> None:
    """Make SAPIEN cook the uncooked ones of ``stages``. Raises SimulatorError if it cannot save a result."""
    for stage in stages:
        if not cooked(stage).is_file():
            _cook(stage)
        if not cooked(stage).is_file():
            raise SimulatorError(
                f"SAPIEN keeps {cooked(stage).name} beside {stage}, without which episodes are not repeatable: "
                f"make that folder writable, or use a copy of the checkout that is"
            )


def _cook(stage: Path) -> None:
    """Load a stage and free it. Other workers wait, so that none reads a file that is still being written."""
    import sapien.core as sapien

    name = hashlib.sha256(str(stage.resolve()).encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"evalkit-cooking-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cooked(stage).is_file():
            return
        engine, renderer = sapien.Engine(), sapien.SapienRenderer()
        engine.set_renderer(renderer)
        scene = engine.create_scene()  # all in variables: none keeps the objects that it depends on alive
        builder = scene.create_actor_builder()
        builder.add_nonconvex_collision_from_file(str(stage))
        builder.build_static()
