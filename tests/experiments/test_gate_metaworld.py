"""Gates of Meta-World: checkpoints known to be good and known to be worse, and the example workflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.paths import REPOSITORY
from support.requirements import need
from support.workflow import run_steps

from evalkit.records.journal import read_journal

pytestmark = pytest.mark.sim

BASELINE = REPOSITORY / "results" / "baselines" / "metaworld-oracle"


def gate(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = invoke("gate", *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the example workflow's gate of the oracle ran, its run in gate/run."""
    need("metaworld")
    folder = tmp_path_factory.mktemp("workflow")
    run_steps(folder)
    return folder


def test_the_steps_of_the_example_do_what_they_say(workflow: Path) -> None:
    assert "✅ PASS" in (workflow / "summary.md").read_text() and (workflow / "gate" / "junit.xml").is_file()


def test_the_oracle_passes_and_a_noisy_one_does_not(workflow: Path, tmp_path: Path) -> None:
    live, played = ["metaworld", "--baseline", BASELINE, "--checkpoint"], workflow / "gate" / "run"
    code, found = gate(played, "--baseline", BASELINE)  # the verdict that it had while it was played: see above
    assert (code, found["verdict"]) == (0, "PASS")
    assert len(read_journal(played)) < found["planned"] == 200
    code, found = gate(*live, "oracle-noisy", "--out", tmp_path / "worse")
    assert (code, found["verdict"]) == (1, "REGRESSION") and found["episodes"] < 150
    code, found = gate(*live, "oracle", "--task", "reach-v3", "--out", tmp_path / "few")
    assert (code, found["verdict"]) == (3, "INCONCLUSIVE")
