from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from evalkit.errors import EnvironmentProblem
from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts
from evalkit.suite import load_suite

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tiny model is quickest on one thread, and others need the rest
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network

POINTMASS = str(Path(__file__).parent / "suites" / "pointmass")
RELAY = str(Path(__file__).parent / "suites" / "relay")


@pytest.fixture
def pointmass() -> str:
    """The folder of the tiny suite, as one would name it on the command line."""
    return POINTMASS


@pytest.fixture(scope="session")
def published_logs() -> Path:
    """The evaluation logs of the released Xiaomi-Robotics-0 checkpoints; skips where they are not here."""
    chosen = os.environ.get("EVALKIT_PUBLISHED_LOGS")
    if not chosen:
        pytest.skip(
            "the released logs are not here: set EVALKIT_PUBLISHED_LOGS to a folder with libero, calvin, simpler"
        )
    return Path(chosen)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the released shape, built once; skips where its libraries are not installed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from evalkit.testing import build_tiny_vla

    return build_tiny_vla(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("POINTMASS_")]:
        monkeypatch.delenv(name)


def kill_and_resume(arguments: Sequence[str], out: Path, episodes: int, seed: int, **env: str) -> None:
    """Runs `evalkit run` to its end, killed twice on the way with SIGKILL, each at a random moment.

    Moments are counted in episodes recorded, so that a fast and a slow machine are killed in the middle alike: when up
    to a third of ``episodes`` (all there are) have been added, and a moment later.
    """
    chance = random.Random(seed)
    for _ in range(2):
        with _started(arguments, out, env) as process:
            goal = _recorded(out) + chance.randint(1, episodes // 3)
            while _recorded(out) < goal and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            ended = process.poll()
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            assert ended is None, f"it ended before it was killed: {errors.decode()}"
            assert _recorded(out) < episodes
    with _started(arguments, out, env) as process:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()


def _started(arguments: Sequence[str], out: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    resume = ["--resume"] if (out / "manifest.json").exists() else []
    command = [sys.executable, "-m", "evalkit", "run", *arguments, "--out", str(out), *resume]
    return subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _recorded(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def need(suite: str) -> None:
    """Skips, with what to do, where a suite's environment is not built or its assets or checkouts are not here."""
    loaded = load_suite(suite)
    if not Environment.of(loaded, suite).ready:
        pytest.skip(f"the environment of {suite} is not built: run `evalkit setup {suite}`")
    if loaded.assets and assets_folder(loaded) is None:
        pytest.skip(f"the assets of {suite} are not here: set {loaded.assets.variable}")
    try:
        checkouts(loaded)
    except EnvironmentProblem as error:
        pytest.skip(str(error))
