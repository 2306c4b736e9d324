"""LIBERO for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing here imports MuJoCo at module level: where GL is broken, that import is what fails, and ``probe`` has to say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapter import Probe, Setup, SimulatorError
from evalkit.gl import mujoco_gl

from . import assets, probing, upstream

if TYPE_CHECKING:
    from .player import LiberoAdapter


def build(setup: Setup) -> LiberoAdapter:
    """An adapter for ``setup``; raises SimulatorError where assets or GL are missing."""
    problem = assets.folder_problem(setup.assets)
    if problem:
        raise SimulatorError(problem)
    if setup.renders:
        mujoco_gl()
    upstream.prepare(str(setup.assets), setup.renders)

    from .player import LiberoAdapter

    return LiberoAdapter(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """What would keep ``tasks`` ((split, task) pairs) from running here, and what results made here depend on."""
    return probing.run(setup, tasks)
