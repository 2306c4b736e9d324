"""Where things are that tests use."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SUITES = Path(__file__).parent / "suites"
POINTMASS = str(SUITES / "pointmass")
RELAY = str(SUITES / "relay")
