"""SimplerEnv for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing here imports SAPIEN at module level: with a broken Vulkan that import fails, and ``probe`` has to report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapter import Probe, Setup

from . import probing, upstream

if TYPE_CHECKING:
    from .player import SimplerAdapter


def build(setup: Setup) -> SimplerAdapter:
    """Return an adapter for ``setup``. Raises SimulatorError if sources or Vulkan are missing."""
    upstream.prepare(setup)

    from .player import SimplerAdapter

    return SimplerAdapter(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Report the obstacles to ``tasks`` ((split, task) pairs) on this machine, and the facts that results depend on."""
    return probing.run(setup, tasks)
