"""Evaluating a policy that one holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evalkit
from evalkit.errors import PolicyProblem, RunExists, UsageError
from evalkit.records.manifest import read_manifest


def towards_the_goal(observation: evalkit.Observation) -> np.ndarray:
    """Left or right, as the instruction says: one action at a time."""
    return np.array([-1.0 if "left" in observation.instruction else 1.0, 0.0], np.float32)


def test_a_function_is_evaluated(pointmass: str, tmp_path: Path) -> None:
    summary = evalkit.evaluate(
        towards_the_goal,
        suite=pointmass,
        splits=["near"],
        episodes=2,
        name="step-1000",
        metadata={"step": 1000},
        out=tmp_path / "run",
    )
    assert summary.finished == summary.planned > 0 and not summary.errors
    checkpoint = read_manifest(summary.folder).checkpoint
    assert checkpoint["id"] == "step-1000" and checkpoint["parameters"] == {"step": 1000}
    assert checkpoint["policy"].endswith(":towards_the_goal") and checkpoint["chunk_size"] == 1
    assert checkpoint["observation_spec"]["cameras"] == ["above"]


def test_a_function_sees_what_it_names_and_nothing_else(pointmass: str, tmp_path: Path) -> None:
    seen: list[evalkit.Observation] = []

    def policy(observation: evalkit.Observation) -> np.ndarray:
        seen.append(observation)
        return np.zeros((4, 2), np.float32)

    evalkit.evaluate(
        policy,
        suite=pointmass,
        tasks=["left"],
        episodes=1,
        chunk=4,
        cameras=[],
        state=["position"],
        workers=1,
        out=tmp_path / "run",
    )
    assert seen and all(not o.images and list(o.state) == ["position"] for o in seen)


class Batched:
    """A policy with the whole interface."""

    def __init__(self) -> None:
        self.spec = evalkit.Spec(evalkit.ObservationSpec(state=("position",)), 2, {"made": "here"})
        self.closed = False

    def act(self, requests: Sequence[evalkit.Request]) -> list[np.ndarray]:
        return [np.full((2, 2), 0.5, np.float32) for _ in requests]

    def close(self) -> None:
        self.closed = True


@pytest.mark.slow
def test_a_policy_object_is_asked_in_batches_and_stays_open(pointmass: str, tmp_path: Path) -> None:
    policy = Batched()
    summary = evalkit.evaluate(policy, suite=pointmass, episodes=1, out=tmp_path / "run")
    assert summary.finished == summary.planned and not policy.closed
    assert read_manifest(summary.folder).checkpoint["metadata"] == {"made": "here"}
    with pytest.raises(RunExists):
        evalkit.evaluate(policy, suite=pointmass, episodes=1, out=tmp_path / "run")
    again = evalkit.evaluate(policy, suite=pointmass, episodes=1, out=tmp_path / "run", resume=True)
    assert again.rows == summary.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk: must be a whole number from 1 on, got 0"),
        ({"chunk": "x"}, "chunk: must be a whole number"),
        ({"episodes": 1.5}, "episodes: must be a whole number"),
        ({"workers": -1}, "workers: must be a whole number"),
        ({"workers": 0}, "workers: must be a whole number"),
        ({"metadata": {"a": np.float32(1)}}, "metadata: must be JSON values"),
        ({"metadata": {"a": float("nan")}}, "metadata: must be JSON values"),
        ({"metadata": {"a": {1}}}, "metadata: must be JSON values"),
        ({"video": "yes"}, "video: 'yes' is none of none, failures, all"),
        ({"name": "../x"}, "must have no slash"),
        ({"splits": "neer"}, "unknown split 'neer'"),
        ({"resume": True}, "pass metadata that identify the function"),
    ],
)
def test_bad_arguments_are_explained(pointmass: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evalkit.evaluate(towards_the_goal, suite=pointmass, **{"out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_names_numbers_and_paths_are_taken_as_they_come(pointmass: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"suite": Path(pointmass), "splits": "near", "tasks": 0, "episodes": np.int64(1)}
    summary = evalkit.evaluate(towards_the_goal, state="position", out=tmp_path / "run", **given)
    assert summary.planned == 1


@pytest.mark.parametrize(("bad", "message"), [("none", "object of type 'NoneType'"), ("exit", "SystemExit: 0")])
def test_a_policy_that_breaks_its_word_is_one_line(pointmass: str, tmp_path: Path, bad: str, message: str) -> None:
    class Bad(Batched):
        def act(self, requests: Sequence[evalkit.Request]) -> Any:
            return sys.exit(0) if bad == "exit" else None

    with pytest.raises(PolicyProblem, match=message):
        evalkit.evaluate(Bad(), suite=pointmass, out=tmp_path / "run")


def test_bad_policies_are_explained(pointmass: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="policy: int is neither a function nor"):
        evalkit.evaluate(7, suite=pointmass, out=tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(PolicyProblem, match=r"returned float32 \(1, 2\) at .*, not a float \(8, 2\) chunk"):
        evalkit.evaluate(towards_the_goal, suite=pointmass, chunk=8, out=tmp_path / "b")
    with pytest.raises(UsageError, match="needs camera 'behind', which pointmass lacks"):
        evalkit.evaluate(towards_the_goal, suite=pointmass, cameras=["behind"], out=tmp_path / "c")
