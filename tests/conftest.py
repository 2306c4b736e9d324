from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evalkit.environment import Environment, assets_folder
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


def kill_and_resume(arguments: Sequence[str], out: Path, seconds: tuple[float, float], seed: int, **env: str) -> int:
    """Runs `evalkit run` again and again, killing it with SIGKILL at random moments, until a run ends by itself.

    Each is given a little longer than the one before, so that a slow machine gets there too. Returns how often it was
    killed. Raises where it ends with an error.
    """
    moment = random.Random(seed)
    for kills in range(40):
        resume = ["--resume"] if (out / "manifest.json").exists() else []
        command = [sys.executable, "-m", "evalkit", "run", *arguments, "--out", str(out), *resume]
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, errors = process.communicate(timeout=moment.uniform(*seconds) * 1.2**kills)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            continue
        assert process.returncode == 0, errors.decode()
        return kills
    raise AssertionError("never came to an end")


def need(suite: str) -> None:
    """Skips, with what to do, where a suite's environment is not built or its assets are not here."""
    loaded = load_suite(suite)
    if not Environment.of(loaded, suite).ready:
        pytest.skip(f"the environment of {suite} is not built: run `evalkit setup {suite}`")
    if loaded.assets and assets_folder(loaded) is None:
        pytest.skip(f"the assets of {suite} are not here: set {loaded.assets.variable}")
