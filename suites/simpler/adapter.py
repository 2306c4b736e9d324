"""SimplerEnv for evalkit: see ``README.md`` in this folder, and ``evalkit.adapter`` for the contract.

Nothing here imports SAPIEN at module level: where Vulkan is broken, that import is what fails, and ``probe`` has to say
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapter import Probe, Setup

from . import probing, upstream

if TYPE_CHECKING:
    from .player import SimplerAdapter


def build(setup: Setup) -> SimplerAdapter:
    """An adapter for ``setup``; raises SimulatorError where sources or Vulkan are missing."""
    upstream.prepare(setup)

    from .player import SimplerAdapter

    return SimplerAdapter(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """What would keep ``tasks`` ((split, task) pairs) from running here, and what results made here depend on."""
    return probing.run(setup, tasks)
