"""``Adapter.step(observe=...)`` is True exactly at the steps after which ``observe()`` is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.commands import invoke
from support.paths import SUITES

LOGGED = '''

class Logged(PointMass):
    """A point mass that writes every call of reset, step (with its flag) and observe to a file, and never ends."""

    def _log(self, *entry):
        with open(os.environ["POINTMASS_LOG"], "a") as file:
            print(json.dumps(entry), file=file)

    def reset(self, episode):
        self._log("reset")
        super().reset(episode)

    def step(self, action, observe):
        self._log("step", observe)
        super().step(action, observe)
        return False

    def observe(self, observation_spec):
        self._log("observe")
        return super().observe(observation_spec)


def build(setup):
    return Logged(setup)
'''
STEPS = 30  # max_steps of the split


def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Sequence[str]) -> list[list[object]]:
    """Return the adapter's calls in one episode that runs to ``max_steps``."""
    suite = shutil.copytree(SUITES / "pointmass", tmp_path / "pointmass")
    adapter = suite / "adapter.py"
    adapter.write_text(adapter.read_text().replace("import os\n", "import json\nimport os\n") + LOGGED)
    monkeypatch.setenv("POINTMASS_LOG", str(tmp_path / "log"))
    arguments = ["--checkpoint", "zero", "--split", "near", "--task", "left", "--episodes", "1", "--workers", "1"]
    result = invoke("run", suite, *arguments, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "inferences"),
    [
        (["--horizon", "7"], [0, 7, 14, 21, 28]),
        (["--horizon", "10"], [0, 10, 20]),
        (["--execution", "naive", "--horizon", "5", "--delay", "3"], [0, 5, 10, 15, 20, 25]),
        (["--execution", "hold", "--horizon", "5", "--delay", "3"], [0, 5, 13, 21, 29]),
    ],
)
def test_a_step_is_told_to_observe_exactly_if_an_observation_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], inferences: list[int]
) -> None:
    seen = calls(tmp_path, monkeypatch, options)
    assert seen[0] == ["reset"]
    flags = [bool(entry[1]) for entry in seen if entry[0] == "step"]
    observed = [
        sum(before[0] == "step" for before in seen[:index]) for index, entry in enumerate(seen) if entry[0] == "observe"
    ]
    assert observed == inferences
    assert flags == [step + 1 in inferences for step in range(STEPS)]
