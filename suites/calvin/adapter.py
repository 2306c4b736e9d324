"""CALVIN for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing of upstream is imported at module level: where something is missing, ``probe`` has to say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapter import Probe, Setup

from . import probing, renderer, sequences, upstream

if TYPE_CHECKING:
    from .player import CalvinAdapter


def build(setup: Setup) -> CalvinAdapter:
    """An adapter for ``setup``; raises SimulatorError where upstream's code or the renderer is missing."""
    checkouts = upstream.Checkouts.of(setup.sources)
    upstream.prepare(checkouts)
    egl = setup.renders and renderer.resolve_execution() == "egl"

    from .player import CalvinAdapter

    return CalvinAdapter(setup, checkouts, sequences.of(setup, checkouts), egl)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """What would keep ``tasks`` ((split, task) pairs) from running here, and what results made here depend on."""
    return probing.run(setup, tasks)
