"""Gates on real runs of the tests' suites: live and finished, stopping early, and every way to come to no verdict."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import invoke
from support.paths import POINTMASS, RELAY
from support.runs import altered, kept, run

from evalkit.episode import Episode
from evalkit.experiments.gate_order import GateOrder, Unit, planned_order
from evalkit.records.journal import Record, read_journal
from evalkit.stats.sequential import ErrorRates, SplitTests


def gate(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    result = invoke("gate", *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def baseline(long_oracle_run: Path) -> Path:
    """The oracle on 20 scenes of each of four tasks, in two splits."""
    return long_oracle_run


LIVE = [POINTMASS, "--workers", "1", "--checkpoint"]


def test_a_healthy_checkpoint_passes_before_the_cap(baseline: Path, tmp_path: Path) -> None:
    code, found = gate(*LIVE, "oracle", "--baseline", baseline, "--margin", "0.3", "--out", tmp_path / "run")
    assert code == 0 and found["verdict"] == "PASS" and "not worse by 30.0 points" in found["reason"]
    assert {t["split"] for t in found["tests"]} == {"near", "far"} and found["planned"] == 80
    assert all(t["verdict"] == "PASS" and t["difference"] == 0 and t["scenes"] < 40 for t in found["tests"])
    assert [t["alpha"] for t in found["tests"]] == [0.005, 0.005]
    assert len(read_journal(tmp_path / "run")) < 60


def test_a_worse_one_is_a_regression_and_found_early(baseline: Path, tmp_path: Path) -> None:
    code, found = gate(*LIVE, "zero", "--baseline", baseline, "--out", tmp_path / "run")
    assert code == 1 and found["verdict"] == "REGRESSION" and found["episodes"] < 40
    assert found["tests"][0]["difference"] == -1 and found["tests"][0]["against_not_worse"] >= 200


def test_too_few_scenes_are_inconclusive(baseline: Path, tmp_path: Path) -> None:
    code, found = gate(*LIVE, "oracle", "--baseline", baseline, "--max-scenes", "6", "--out", tmp_path / "run")
    assert code == 3 and found["verdict"] == "INCONCLUSIVE" and found["planned"] == 6
    assert "more scenes would tell" in found["reason"]


@pytest.mark.slow
def test_a_finished_run_is_judged_as_it_would_have_been(baseline: Path, noisy_run: Path, tmp_path: Path) -> None:
    after = gate(noisy_run, "--baseline", baseline)
    live = gate(*LIVE, "oracle-noisy:noise=1.5", "--baseline", baseline, "--out", tmp_path / "live")
    again = gate(tmp_path / "live", "--baseline", baseline)
    for code, found in (after, live, again):
        assert code == 1
        assert {**found, "candidate": 0, "episodes": 0} == {**live[1], "candidate": 0, "episodes": 0}
    three = gate(POINTMASS, "--workers", "3", "--checkpoint", "oracle-noisy:noise=1.5", "--baseline", baseline, "--out",
                 tmp_path / "three")[1]  # fmt: skip
    assert [three["verdict"], three["tests"]] == [live[1]["verdict"], live[1]["tests"]]
    other = gate(noisy_run, "--baseline", baseline, "--seed", "1")[1]
    assert other["verdict"] == "REGRESSION" and other["tests"] != live[1]["tests"]


@pytest.mark.slow
def test_a_gate_that_was_killed_goes_on_to_the_same_verdict(baseline: Path, tmp_path: Path) -> None:
    named = ["--checkpoint", "oracle", "--baseline", str(baseline), "--margin", "0.3"]
    whole = gate(POINTMASS, "--workers", "2", *named, "--out", tmp_path / "whole")[1]
    command = [
        sys.executable,
        "-m",
        "evalkit",
        "gate",
        POINTMASS,
        "--workers",
        "2",
        *named,
        "--out",
        str(tmp_path / "k"),
    ]
    with subprocess.Popen(
        command, env={**os.environ, "POINTMASS_DELAY": "0.01"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        journal = tmp_path / "k" / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 5):
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    code, found = gate(POINTMASS, "--workers", "2", *named, "--out", tmp_path / "k", "--resume")
    assert code == 0 and found["tests"] == whole["tests"]


@pytest.mark.slow
def test_chains_are_gated_by_their_lengths(tmp_path: Path) -> None:
    both = ["here", "there"]
    base = run(tmp_path / "base", RELAY, checkpoint="oracle", episodes=6, splits=both)
    code, found = gate(RELAY, "--checkpoint", "zero", "--baseline", base, "--alpha", "0.1", "--out", tmp_path / "run")
    assert code == 1 and {t["split"] for t in found["tests"]} == {"here", "there"} and "here: -3.00" in found["reason"]
    same = gate(base, "--baseline", base, "--margin", "0.7")[1]
    assert same["verdict"] == "PASS" and "not worse by 2.10" in same["reason"]


@pytest.mark.slow
def test_other_scenes_of_the_same_tasks_are_weighed_unpaired(baseline: Path, tmp_path: Path) -> None:
    theirs = kept(baseline, tmp_path / "theirs", lambda r: r.episode.scene >= 10)
    ours = run(tmp_path / "ours", checkpoint="oracle", episodes=10)
    code, found = gate(ours, "--baseline", theirs, "--margin", "0.4")
    assert code == 0 and found["paired"] is False and found["planned"] == 40
    assert "unpaired" in invoke("gate", ours, "--baseline", theirs).stdout


def test_before_it_starts_it_says_what_it_can_detect(baseline: Path) -> None:
    result = invoke("gate", baseline, "--baseline", baseline)
    for words in (
        "up to near 40, far 40 scenes",
        "the same scenes",
        "80% power",
        "calls a healthy checkpoint worse in",
    ):
        assert words in " ".join(result.stderr.split())


@pytest.mark.slow
def test_reports_for_continuous_integration(baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = run(tmp_path / "still", checkpoint="zero")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    assert invoke("gate", still, "--baseline", baseline, "--junit", tmp_path / "out" / "gate.xml").exit_code == 1
    root = ElementTree.parse(tmp_path / "out" / "gate.xml").getroot()
    assert root.get("failures") == "1" and [c.get("name") for c in root.iter("testcase")] == ["near", "far"]
    assert "worse than the baseline" in next(root.iter("failure")).get("message", "")
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("before\n## ❌ REGRESSION: zero on pointmass") and "| near | -100.0 |" in text
    invoke("gate", still, "--baseline", tmp_path / "nothing", "--junit", tmp_path / "gate.xml")
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert root.get("errors") == "1" and "nothing" in next(root.iter("error")).get("message", "")


# No verdict: exit code 2, and never 1.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fingerprint.versions.numpy": "1.0"}, "versions.numpy"),
        ({"fingerprint.protocol": "x", "suite.splits.near.max_steps": 31}, "protocol.splits.near.max_steps"),
    ],
)
def test_another_protocol_is_refused_before_the_first_episode(
    baseline: Path, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    other = altered(baseline, tmp_path / "other", change)
    code, found = gate(*LIVE, "oracle", "--baseline", other, "--out", tmp_path / "run")
    assert code == 2 and found["verdict"] == "NOT COMPARABLE" and f"{field} is" in found["reason"]
    assert not (tmp_path / "run").exists()
    code, found = gate(*LIVE, "oracle", "--baseline", other, "--margin", "0.3", "--allow", field.partition(".")[0])
    assert code == 0 and field in found["allowed"][0]


def test_a_baseline_of_another_suite_is_refused(baseline: Path, tmp_path: Path) -> None:
    code, found = gate(RELAY, "--checkpoint", "oracle", "--baseline", baseline, "--out", tmp_path / "run")
    assert code == 2 and "of suite pointmass, not relay" in found["reason"]
    code, found = gate(*LIVE, "oracle", "--baseline", baseline, "--split", "cursed", "--out", tmp_path / "run")
    assert code == 2 and "none of the tasks" in found["reason"]


@pytest.mark.slow
def test_workers_that_all_crash_are_no_verdict(baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTMASS_FATAL", "1")
    code, found = gate(*LIVE, "zero", "--baseline", baseline, "--out", tmp_path / "run")
    assert code == 2 and found["verdict"] == "ERROR" and "errors" in found["reason"]


@pytest.mark.slow
def test_errors_above_their_limit_are_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTMASS_MARK", str(tmp_path / "mark"))
    base = run(tmp_path / "base", checkpoint="zero", tasks=["dies-once"], episodes=8)
    monkeypatch.setenv("POINTMASS_MARK", str(tmp_path / "no" / "mark"))
    live = [*LIVE, "zero", "--baseline", base, "--margin", "0.7", "--beta", "0.01"]
    code, found = gate(*live, "--out", tmp_path / "run")
    assert code == 2 and "1 of 8 episodes ended in errors, more than 2 %: no verdict" in found["reason"]
    code, found = gate(tmp_path / "run", "--baseline", base, "--max-error-rate", "0.2", "--margin", "0.7")
    assert code in (0, 3) and found["errors"] == 1 and found["tests"][0]["scenes"] <= 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "0"], "--alpha must be between 0 and 0.5"),
        (["--alpha", "1.5"], "--alpha must be between 0 and 0.5"),
        (["--beta", "nan"], "--beta must be between 0 and 0.5"),
        (["--margin", "1"], "--margin must be between 0 and 1"),
        (["--max-error-rate", "1"], "--max-error-rate must be at least 0 and below 1"),
        (["--checkpoint", "oracle"], "--checkpoint: "),
        (["--video", "some"], "'some' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(baseline: Path, arguments: list[str], message: str) -> None:
    result = invoke("gate", baseline, "--baseline", baseline, *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_what_is_missing_is_named(baseline: Path, tmp_path: Path) -> None:
    assert "--checkpoint: name the checkpoint" in invoke("gate", POINTMASS, "--baseline", baseline).stderr
    part = kept(baseline, tmp_path / "part", lambda r: r.episode.scene != 3)
    result = invoke("gate", part, "--baseline", baseline)
    assert result.exit_code == 2 and "4 episodes that the verdict needs have not been played" in result.stderr
    empty = kept(baseline, tmp_path / "empty", lambda r: False)
    assert "no episode of this baseline has a verdict" in invoke("gate", baseline, "--baseline", empty).stderr


# The order of a gate: results may come in any order, the tests take them in the planned order.

EPISODES = [
    Episode("s", split, task, scene, 0, r) for split in "ab" for task in "xy" for scene in range(6) for r in (0, 1)
]


def gate_order(seed: int) -> GateOrder:
    order = planned_order([Unit.of(e) for e in EPISODES], {"a": "a", "b": "b"}, seed, None)
    error_rates = ErrorRates(alpha=0.1, beta=0.1, margin=0.4)
    return GateOrder(EPISODES, order, dict.fromkeys(map(Unit.of, EPISODES), 1.0), SplitTests(order, error_rates), None)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5), st.randoms(), st.lists(st.sampled_from([True, True, False, None]), min_size=48, max_size=48))
def test_the_order_in_which_results_come_changes_nothing(
    seed: int, chance: random.Random, ends: list[bool | None]
) -> None:
    records = [
        Record(e, success, error={"kind": "crash", "message": ""} if success is None else None)
        for e, success in zip(EPISODES, ends, strict=True)
    ]
    planned, mixed = gate_order(seed), gate_order(seed)
    by_episode = {r.episode: r for r in records}
    for episode in planned.order():
        planned.on_record(by_episode[episode])
    chance.shuffle(records)
    for record in records:
        mixed.on_record(record)
    assert planned.verdict == mixed.verdict and planned.skipped == mixed.skipped
    for name, test in planned.tests.tests.items():
        assert test.score_differences == mixed.tests.tests[name].score_differences
        assert test.verdict == mixed.tests.tests[name].verdict
    assert set(planned.order()) == set(EPISODES) and planned.missing() == []


def test_a_verdict_comes_at_the_end_of_a_round_only() -> None:
    scenes = [Episode("s", "a", task, scene, 0) for task in "tuvwxyz" for scene in range(12)]
    order = planned_order([Unit.of(e) for e in scenes], {"a": "a"}, 0, None)
    sizes = [len(one) for one in order["a"]]
    results = GateOrder(scenes, order, dict.fromkeys(map(Unit.of, scenes), 1.0), SplitTests(order, ErrorRates()), None)
    for episode in results.order():
        results.on_record(Record(episode, False))
        if results.verdict:
            break
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    assert results.verdict == "REGRESSION" and results.tests.tests["a"].pairs in ends and sizes[0] == 7


def test_the_cap_cuts_off_what_comes_last() -> None:
    units = [Unit.of(e) for e in EPISODES]
    whole = planned_order(units, {"a": "a", "b": "b"}, 3, None)
    capped = planned_order(units, {"a": "a", "b": "b"}, 3, 7)
    assert sum(len(one) for of in capped.values() for one in of) == 7
    for name, of in capped.items():
        assert [u for one in of for u in one] == [u for one in whole[name] for u in one][: sum(map(len, of))]
    assert all({u.task for u in one} == {"x", "y"} for one in whole["a"])
