"""Skips, with a reason, where a machine lacks what a test needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalkit.errors import EnvironmentProblem
from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts
from evalkit.suite import load_suite


def need(suite: str) -> None:
    """Skips, with what to do, where a suite's environment is not built or its assets or checkouts are not here."""
    loaded = load_suite(suite)
    if not Environment.of(loaded).ready:
        pytest.skip(f"the environment of {suite} is not built: run `evalkit setup {suite}`")
    if loaded.assets and assets_folder(loaded) is None:
        pytest.skip(f"the assets of {suite} are not here: set {loaded.assets.variable}")
    try:
        checkouts(loaded)
    except EnvironmentProblem as error:
        pytest.skip(str(error))


def xiaomi_source(file: str) -> Path:
    """Returns the checkout of the authors' code that EVALKIT_XIAOMI_SOURCE names; skips without this file of it."""
    chosen = os.environ.get("EVALKIT_XIAOMI_SOURCE")
    if not chosen:
        pytest.skip("the authors' code is not here: set EVALKIT_XIAOMI_SOURCE to a checkout of Xiaomi-Robotics-0")
    if not (Path(chosen) / file).is_file():
        pytest.skip(f"EVALKIT_XIAOMI_SOURCE: this checkout has no {file}")
    return Path(chosen)
