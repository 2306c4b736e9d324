from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalkit.environment import Environment
from evalkit.suite import load_suite

POINTMASS = str(Path(__file__).parent / "suites" / "pointmass")


@pytest.fixture
def pointmass() -> str:
    """The folder of the tiny suite, as one would name it on the command line."""
    return POINTMASS


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("POINTMASS_")]:
        monkeypatch.delenv(name)


def need(suite: str) -> None:
    """Skips, with what to do, where a suite's environment is not built or its assets are not here."""
    loaded = load_suite(suite)
    if not Environment.of(loaded, suite).ready:
        pytest.skip(f"the environment of {suite} is not built: run `evalkit setup {suite}`")
