"""CALVIN for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing of upstream is imported at module level, so that ``probe`` can report missing parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapter import Probe, Setup

from . import probing, renderer, sequences, upstream

if TYPE_CHECKING:
    from .player import CalvinAdapter


def build(setup: Setup) -> CalvinAdapter:
    """Return an adapter for ``setup``. Raises SimulatorError if upstream's code or the renderer is missing."""
    checkouts = upstream.Checkouts.of(setup.sources)
    upstream.prepare(checkouts)
    egl = setup.renders and renderer.resolve_renderer() == "egl"

    from .player import CalvinAdapter

    return CalvinAdapter(setup, checkouts, sequences.of(setup, checkouts), egl)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Report the obstacles to ``tasks`` ((split, task) pairs) on this machine, and the facts that results depend on."""
    return probing.run(setup, tasks)
