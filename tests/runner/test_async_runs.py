"""Whole runs under every execution, on the point mass: the design's invariants hold whatever the execution is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import RELAY
from support.processes import kill_and_resume

import evalkit
from evalkit.errors import UsageError
from evalkit.execution.strategies import EXECUTORS
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions
from evalkit.runner.run import play as play_run
from evalkit.testing import canonical

LATE = [name for name in EXECUTORS if name not in ("sync", "rtc")]  # the oracle is guided by nothing


def play(suite: str, out: Path, **options: Any) -> list[dict[str, Any]]:
    play_run(RunOptions(suite, out=out, **{"workers": 1, "checkpoint": "oracle", **options}), Silent())
    return canonical(read_journal(out).values())


def outcome(records: list[dict[str, Any]]) -> list[Any]:
    return [(r["episode"], r["success"], r["steps"], r["digest"]) for r in records]


@pytest.mark.parametrize("execution", LATE)
def test_workers_and_order_change_no_outcome(pointmass: str, tmp_path: Path, execution: str) -> None:
    options: dict[str, Any] = {
        "execution": execution,
        "delay": "normal:200:200ms",
        "checkpoint": "oracle-noisy",
        "episodes": 2,
    }
    one = play(pointmass, tmp_path / "1", **options)
    three = play(pointmass, tmp_path / "3", **options, workers=3, shuffle=1)
    assert one == three and len(one) == 8


@pytest.mark.parametrize("execution", LATE)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(pointmass: str, tmp_path: Path, execution: str) -> None:
    options = ["--execution", execution, "--delay", "normal:200:100ms", "--checkpoint", "oracle-noisy"]
    kill_and_resume(
        [pointmass, *options, "--workers", "2", "--episodes", "3"],
        tmp_path / "killed",
        episodes=12,
        seed=len(execution),
        POINTMASS_DELAY="0.003",
    )
    options_: dict[str, Any] = {"execution": execution, "delay": "normal:200:100ms", "checkpoint": "oracle-noisy"}
    assert canonical(read_journal(tmp_path / "killed").values()) == play(
        pointmass, tmp_path / "whole", **options_, episodes=3
    )


@pytest.mark.parametrize("suite", ["pointmass", "relay"])
@pytest.mark.parametrize("execution", ["hold", "naive", "prefix"])
def test_without_delay_it_is_the_synchronous_run(pointmass: str, tmp_path: Path, suite: str, execution: str) -> None:
    folder = pointmass if suite == "pointmass" else RELAY
    sync = play(folder, tmp_path / "sync", horizon=5, checkpoint="oracle-noisy")
    late = play(folder, tmp_path / "late", horizon=5, checkpoint="oracle-noisy", execution=execution, delay="0")
    assert outcome(late) == outcome(sync)


def test_the_manifest_says_how_chunks_were_executed(pointmass: str, tmp_path: Path) -> None:
    play(pointmass, tmp_path / "run", execution="prefix", delay="300ms", prefix=4, episodes=1)
    assert read_manifest(tmp_path / "run").execution == {
        "name": "prefix",
        "horizon": 5,
        "delay": {"milliseconds": [300.0]},
        "prefix": 4,
        "parameters": {},
    }


def test_a_policy_that_continues_nothing_is_not_given_a_prefix(pointmass: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'random' takes no account of the running chunk so \(it can: none\)"):
        play(pointmass, tmp_path / "run", checkpoint="random", execution="prefix", delay="2")
    with pytest.raises(UsageError, match=r"rtc: .*\(it can: prefix\); use naive"):
        play(pointmass, tmp_path / "run", execution="rtc", delay="2")
    assert not (tmp_path / "run").exists()


def test_inference_overlaps_with_physics_in_real_time(pointmass: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A policy that takes 50 ms and physics that takes as long: together, not one after the other."""
    monkeypatch.setenv("POINTMASS_DELAY", "0.01")

    class Slow:
        spec = evalkit.Spec(evalkit.ObservationSpec(), 10, {})

        def act(self, requests: Sequence[evalkit.Request]) -> list[np.ndarray]:
            time.sleep(0.05)
            return [np.zeros((10, 2), np.float32) for _ in requests]

        def close(self) -> None:
            pass

    def seconds(**options: Any) -> float:
        """Real time of the episodes, without that of starting a process."""
        where: dict[str, Any] = {"suite": pointmass, "tasks": ["up"], "splits": ["far"], "episodes": 2, "workers": 1}
        folder = evalkit.evaluate(Slow(), **where, **options).folder
        return sum(float(record.host["wall_s"]) for record in read_journal(folder).values())

    late = seconds(out=tmp_path / "late", execution="naive", delay="5", horizon=5)
    sync = seconds(out=tmp_path / "sync", horizon=5)
    assert late < 0.85 * sync
