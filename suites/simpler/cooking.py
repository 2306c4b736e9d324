"""Stages' collision meshes in the form that SAPIEN keeps of them.

SAPIEN cooks a stage's mesh the first time it loads it, saves the result beside the file, and reads that from then on.
The two are not the same to the last bit, so the first episode in a fresh checkout would not be like any later one. Here
every episode is a later one: a stage is cooked before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from evalkit.adapter import SimulatorError


def cooked(stage: Path) -> Path:
    """Where SAPIEN keeps what it made of a stage."""
    return stage.with_name(f"{stage.name}.nonconvex.stl")


def cook(stages: Iterable[Path]) -> None:
    """Has SAPIEN cook those of ``stages`` that it has not yet. Raises SimulatorError where it cannot save a result."""
    for stage in stages:
        if not cooked(stage).is_file():
            _cook(stage)
        if not cooked(stage).is_file():
            raise SimulatorError(
                f"SAPIEN keeps {cooked(stage).name} beside {stage}, without which episodes are not repeatable: "
                f"make that folder writable, or use a copy of the checkout that is"
            )


def _cook(stage: Path) -> None:
    """Loads a stage and lets it go. Other workers wait, so that none reads what another is still writing."""
    import sapien.core as sapien

    name = hashlib.sha256(str(stage.resolve()).encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"evalkit-cooking-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cooked(stage).is_file():
            return
        engine, renderer = sapien.Engine(), sapien.SapienRenderer()
        engine.set_renderer(renderer)
        scene = engine.create_scene()  # named, all of them: none keeps what it depends on alive
        builder = scene.create_actor_builder()
        builder.add_nonconvex_collision_from_file(str(stage))
        builder.build_static()
