"""The throughput command: its parts add up, its trace is one that --delay takes, its refusals are explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import invoke
from support.paths import POINTMASS

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.execution.delay import Delay
from evalkit.experiments.bench import TimedPolicy, _throughput
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.records.journal import Record
from evalkit.suite import load_suite


@pytest.mark.slow
def test_what_is_measured_is_what_was_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTMASS_DELAY", "0.002")
    trace = tmp_path / "trace.json"
    named = ["--checkpoint", "random:chunk=10,cameras=all", "--episodes", "5", "--workers", "1", "--workers", "2"]
    result = invoke("bench", POINTMASS, *named, "--trace", trace, "--json")
    assert result.exit_code == 0, result.stderr
    one, two = json.loads(result.stdout)["rows"]
    assert (one["workers"], one["episodes"], two["workers"], two["episodes"]) == (1, 4, 2, 3)
    assert one["steps"] == 4 * 30 and one["inferences"] == 4 * 3 and one["batch"] == 1.0
    assert one["physics_ms"] >= 2 and one["physics_ms"] > one["observe_ms"] / 10
    busy_s = (one["steps"] * one["physics_ms"] + one["inferences"] * (one["observe_ms"] + one["wait_ms"])) / 1000
    assert one["steps"] / one["steps_per_s"] == pytest.approx(busy_s + 4 * one["reset_ms"] / 1000, rel=0.02)
    assert len(Delay.parse(f"trace:{trace}").milliseconds) >= 11


def test_people_see_a_column_for_each_number_of_workers() -> None:
    result = invoke("bench", POINTMASS, "--episodes", "3", "--workers", "1")
    assert result.exit_code == 0 and "1 worker" in result.stdout and "control steps per second" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "middle"], "unknown split 'middle'"),
        (["--task", "sideways"], "unknown task 'sideways'"),
        (["--checkpoint", "nobody"], "unknown checkpoint 'nobody'"),
    ],
)
def test_what_cannot_be_measured_is_explained(arguments: list[str], message: str) -> None:
    result = invoke("bench", POINTMASS, *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_first_episodes_alone_say_nothing() -> None:
    parts = {"wall_s": 1.0, "reset_s": 0.5, "observe_s": 0.1, "policy_s": 0.1}
    records = [Record(Episode("s", "a", "t", n, 0), True, host={"worker": n, **parts}) for n in (0, 1)]
    with pytest.raises(UsageError, match="at least two for each worker"):
        _throughput(records, TimedPolicy(find_checkpoint("zero").build(load_suite(POINTMASS))), 2)
