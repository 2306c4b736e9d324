"""Marks of single parameters of a test."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Return the parameters of one case of many, marked as slow: it says little more than the cases that are not."""
    return pytest.param(*values, marks=pytest.mark.slow)
