"""Whole runs under every execution, on the point mass: the design's invariants hold whatever the execution is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.marks import slow
from support.paths import POINTMASS, RELAY
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
ONE_QUICK = [name if name == "prefix" else slow(name) for name in LATE]
DRAWN = {"prefix": "prefix:quantile=0.9"}  # the largest draw would be longer than half of a chunk


def play(suite: str, out: Path, **options: Any) -> list[dict[str, Any]]:
    play_run(RunOptions(suite, out=out, **{"workers": 1, "checkpoint": "oracle", **options}), Silent())
    return canonical(read_journal(out).values())


def outcome(records: list[dict[str, Any]]) -> list[Any]:
    return [(r["episode"], r["success"], r["steps"], r["digest"]) for r in records]


@pytest.mark.parametrize("execution", ONE_QUICK)
def test_workers_and_order_change_no_outcome(pointmass: str, tmp_path: Path, execution: str) -> None:
    options: dict[str, Any] = {
        "execution": DRAWN.get(execution, execution),
        "delay": "normal:200:200ms",
        "checkpoint": "oracle-noisy",
        "episodes": 2,
    }
    one = play(pointmass, tmp_path / "1", **options)
    three = play(pointmass, tmp_path / "3", **options, workers=3, shuffle=1)
    assert one == three and len(one) == 8
    late_chunks = [r["execution_stats"].get("late_chunks") for r in one]
    assert (any(late_chunks) and None not in late_chunks) == (execution == "prefix")


@dataclass
class Guided:
    """A policy that supports rtc: it moves, by an amount that the number of committed actions determines."""

    spec: evalkit.Spec = field(
        default_factory=lambda: evalkit.Spec(evalkit.ObservationSpec(), 12, {}, supported_prefixes=("rtc",))
    )
    committed: dict[str, list[int]] = field(default_factory=dict)

    def act(self, requests: Sequence[evalkit.Request]) -> list[np.ndarray]:
        for request in requests:
            if request.prefix:
                self.committed.setdefault(request.episode.id, []).append(request.prefix.committed)
        amounts = [0.01 * (1 + request.prefix.committed if request.prefix else 0) for request in requests]
        return [np.full((12, 2), amount, np.float32) for amount in amounts]

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_the_running_maximum_of_an_episode_depends_on_no_other_episode(pointmass: str, tmp_path: Path) -> None:
    runs = []
    for workers in (1, 3):
        policy, out = Guided(), tmp_path / str(workers)
        options: dict[str, Any] = {"execution": "rtc", "delay": "normal:200:90ms", "workers": workers, "episodes": 2}
        evalkit.evaluate(policy, suite=pointmass, out=out, **options)
        runs.append((canonical(read_journal(out).values()), dict(sorted(policy.committed.items()))))
    assert runs[0] == runs[1] and len(runs[0][0]) == 8
    forecasts = list(runs[0][1].values())
    assert all(values == sorted(values) and values[0] == 2 for values in forecasts)
    assert len({values[-1] for values in forecasts}) > 1
    assert read_manifest(tmp_path / "3").execution["parameters"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("execution", LATE)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(pointmass: str, tmp_path: Path, execution: str) -> None:
    execution = DRAWN.get(execution, execution)
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


@pytest.fixture(scope="module", params=[POINTMASS, RELAY], ids=["pointmass", "relay"])
def sync(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """A suite, and the records of its synchronous run."""
    out = tmp_path_factory.mktemp("sync") / "run"
    return request.param, play(request.param, out, horizon=5, checkpoint="oracle-noisy")


@pytest.mark.parametrize("execution", ["hold", "naive", "prefix"])
def test_without_delay_it_is_the_synchronous_run(
    sync: tuple[str, list[dict[str, Any]]], tmp_path: Path, execution: str
) -> None:
    suite, records = sync
    late = play(suite, tmp_path / "late", horizon=5, checkpoint="oracle-noisy", execution=execution, delay="0")
    assert outcome(late) == outcome(records)


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
    with pytest.raises(UsageError, match=r"'random' does not support it \(it supports: none\)"):
        play(pointmass, tmp_path / "run", checkpoint="random", execution="prefix", delay="2")
    with pytest.raises(UsageError, match=r"rtc: .*\(it supports: prefix\); use naive"):
        play(pointmass, tmp_path / "run", execution="rtc", delay="2")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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
