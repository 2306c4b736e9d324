"""Helpers for tests of suites, policies and tools; each is imported on first use.

AdapterConformance   the tests that an adapter must pass (needs pytest)
build_tiny_vla       a small model of the released checkpoints' shape, as a hub-format directory (needs transformers)
canonical            the outcomes of a journal, which must be equal for two runs of the same thing
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.testing.conformance import AdapterConformance
    from evalkit.testing.journals import canonical
    from evalkit.testing.tiny_vla import build_tiny_vla

__all__ = ["AdapterConformance", "build_tiny_vla", "canonical"]

_LAZY_EXPORTS = {"AdapterConformance": "conformance", "build_tiny_vla": "tiny_vla", "canonical": "journals"}


def __getattr__(name: str) -> Any:
    if name in _LAZY_EXPORTS:
        return getattr(importlib.import_module(f"evalkit.testing.{_LAZY_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'evalkit.testing' has no attribute {name!r}")
