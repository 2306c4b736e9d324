"""A suite whose actions are float64: the simulator receives the policy's own bits, whatever is in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import POINTMASS

import evalkit
from evalkit.adapter import Setup
from evalkit.errors import UsageError
from evalkit.execution import Move
from evalkit.observation import ObservationSpec
from evalkit.policies.remote import Remote, RemoteParameters
from evalkit.policies.scripted import Oracle, OracleParameters
from evalkit.policy import Policy, Request, Spec
from evalkit.records.journal import read_journal
from evalkit.serving.server import Server
from evalkit.suite import Suite, load_suite, protocol
from evalkit.testing import canonical
from evalkit.worker.loop import load_adapter_module
from evalkit.worker.trace import Trace

STEPS = 10
IDENTITY = {"suite": "pointmass", "action_size": 2}


def pointmass(dtype: str) -> Suite:
    suite = load_suite(POINTMASS)
    return suite.model_copy(update={"action": suite.action.model_copy(update={"dtype": dtype})})


class Drawn:
    """A policy whose small actions need all 53 bits."""

    spec = Spec(ObservationSpec(), STEPS, {})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return [chunk_of(request.seed) for request in requests]

    def close(self) -> None:
        pass


def chunk_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.01, 0.01, (STEPS, 2))


def records(policy: Policy, suite: Suite, out: Path, **options: Any) -> list[dict[str, Any]]:
    evalkit.evaluate(policy, suite=suite, splits=["far"], tasks=["up"], episodes=1, workers=1, out=out, **options)
    return canonical(read_journal(out).values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_simulator_executes_and_the_digest_covers_actions_in_the_suites_dtype(dtype: str, tmp_path: Path) -> None:
    suite = pointmass(dtype)
    (record,) = records(Drawn(), suite, tmp_path / "run")
    (episode,) = suite.plan(["far"], ["up"], 1)
    adapter = load_adapter_module(Path(POINTMASS)).build(Setup(suite.to_message()))
    adapter.reset(episode)
    trace = Trace({}, dtype)
    for step in range(record["steps"]):
        action = chunk_of(Request(episode, step - step % STEPS, None).seed)[step % STEPS].astype(dtype)  # type: ignore[arg-type]
        adapter.step(action, observe=False)
        trace.executed(action, Move(action, step))
    assert record["digest"] == trace.digest(adapter.state())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_through_a_server_has_the_journal_of_the_run_without_it(dtype: str, tmp_path: Path) -> None:
    """With committed prefixes, which travel both ways: the plan continues from exactly these actions."""
    suite = pointmass(dtype)
    oracle = Oracle(suite, OracleParameters(chunk=STEPS, noise=0.1))
    options: dict[str, Any] = {"execution": "prefix", "delay": 2, "horizon": 5}
    here = records(oracle, suite, tmp_path / "here", **options)
    server = Server(oracle, identity={**IDENTITY, "action_dtype": dtype})
    policy = Remote(suite, RemoteParameters(url=server.start()))
    try:
        assert records(policy, suite, tmp_path / "there", **options) == here
    finally:
        policy.close()
        server.stop()


def test_a_server_with_another_dtype_of_actions_is_refused() -> None:
    server = Server(Drawn(), identity=IDENTITY)
    url = server.start()
    try:
        with pytest.raises(UsageError, match="its actions are float32, and those of pointmass here are float64; use"):
            Remote(pointmass("float64"), RemoteParameters(url=url))
    finally:
        server.stop()


def test_the_protocol_of_a_float32_suite_is_that_of_before_the_key() -> None:
    single, double = (pointmass(dtype).to_message() for dtype in ("float32", "float64"))
    assert protocol(double)["action"]["dtype"] == "float64"
    assert "dtype" not in protocol(single)["action"]
    del single["action"]["dtype"]
    assert protocol(single) == protocol(pointmass("float32").to_message())
