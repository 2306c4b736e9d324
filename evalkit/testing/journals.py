"""Comparison of journals, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evalkit.records.journal import Record


def canonical(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the outcomes, ordered by episode: two journals of the same run must agree on them bit for bit."""
    return [r.outcome() for r in sorted(records, key=lambda r: r.episode)]
