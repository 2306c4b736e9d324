from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.paths import POINTMASS
from support.runs import run

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tiny model is quickest on one thread, and others need the rest
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files of torch tests alone if the tests are not wanted: torch takes seconds to import, or is not there."""
    if "not torch" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return "pytestmark = pytest.mark.torch" in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture
def pointmass() -> str:
    """The folder of the tiny suite, as one would name it on the command line."""
    return POINTMASS


@pytest.fixture(scope="session")
def oracle_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle's run of the point mass's whole protocol, 16 episodes. Shared: change a copy (support.runs.kept)."""
    return run(tmp_path_factory.mktemp("shared") / "oracle", checkpoint="oracle", episodes=None)


@pytest.fixture(scope="session")
def long_oracle_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle on all 20 scenes of each of the point mass's four tasks, in two splits. Shared: change a copy."""
    return run(tmp_path_factory.mktemp("shared") / "long-oracle", checkpoint="oracle", episodes=20)


@pytest.fixture(scope="session")
def noisy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like ``long_oracle_run`` of a worse checkpoint, with videos of its failures. Shared: change a copy."""
    out = tmp_path_factory.mktemp("shared") / "noisy"
    return run(out, checkpoint="oracle-noisy:noise=1.5", episodes=20, video="failures")


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


@pytest.fixture
def family_process() -> None:
    """Let policies run in the environment of their family; skips where Xiaomi-Robotics-0's is not built."""
    from evalkit.policies.process.family import find_family

    if not find_family("xiaomi").built:
        pytest.skip("the environment of xiaomi is not built: run `evalkit setup xiaomi`")


@pytest.fixture(autouse=True)
def _undisturbed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "family_process" not in request.fixturenames:  # tests look into policies, which must be in this process
        monkeypatch.setattr("evalkit.policies.process.family.Family.built", False)
    for name in [n for n in os.environ if n.startswith("POINTMASS_")]:
        monkeypatch.delenv(name)
