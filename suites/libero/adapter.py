"""LIBERO for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing here imports MuJoCo at module level: with a broken GL that import fails, and ``probe`` has to report it.
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
    """Return an adapter for ``setup``. Raises SimulatorError if assets or GL are missing."""
    problem = assets.folder_problem(setup.assets)
    if problem:
        raise SimulatorError(problem)
    if setup.renders:
        mujoco_gl()
    upstream.prepare(str(setup.assets), setup.renders)

    from .player import LiberoAdapter

    return LiberoAdapter(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Report the obstacles to ``tasks`` ((split, task) pairs) on this machine, and the facts that results depend on."""
    return probing.run(setup, tasks)
