"""The trace of an episode: its digest covers every action, their order and the final physics state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from evalkit.execution import Move
from evalkit.worker.trace import Trace

ACTIONS = ([0.25, -1.0], [0.5, 0.0], [0.125, 1.0])
STATE = (1.0, -2.0, 3.5)


def digest(actions: Sequence[Sequence[float]] = ACTIONS, state: Sequence[float] = STATE) -> str:
    trace = Trace({})
    for step, action in enumerate(actions):
        executed = np.array(action, np.float32)
        trace.executed(executed, Move(executed, step))
    return trace.digest(np.array(state, np.float64))


def test_the_digest_is_that_of_actions_then_state() -> None:
    content = np.array(ACTIONS, np.float32).tobytes() + np.array(STATE, np.float64).tobytes()
    assert digest() == digest() == hashlib.sha256(content).hexdigest()


def test_the_digest_of_a_float64_suite_covers_every_bit_of_its_actions() -> None:
    traces = [Trace({}, "float64"), Trace({}, "float64")]
    for trace, value in zip(traces, (1 / 3, np.nextafter(1 / 3, 1)), strict=True):
        action = np.array([value, 0.0])
        trace.executed(action, Move(action, 0))
    one, other = (trace.digest(np.zeros(1)) for trace in traces)
    assert one == hashlib.sha256(np.array([1 / 3, 0.0, 0.0]).tobytes()).hexdigest() != other


@pytest.mark.parametrize("index", range(len(STATE)))
def test_the_digest_changes_with_the_last_bit_of_any_state_component(index: int) -> None:
    state = list(STATE)
    state[index] = float(np.nextafter(state[index], np.inf))
    assert digest(state=state) != digest()
    assert digest(state=STATE[:index] + STATE[index + 1 :]) != digest()


@pytest.mark.parametrize("step", range(len(ACTIONS)))
def test_the_digest_changes_with_every_action(step: int) -> None:
    assert digest([*ACTIONS[:step], *ACTIONS[step + 1 :]]) != digest()
    nudged = [list(action) for action in ACTIONS]
    nudged[step][1] = float(np.nextafter(np.float32(nudged[step][1]), np.float32(9)))
    assert digest(nudged) != digest()


def test_the_digest_changes_with_the_order_of_the_actions() -> None:
    assert len({digest(ACTIONS), digest(ACTIONS[::-1]), digest([ACTIONS[1], ACTIONS[0], ACTIONS[2]])}) == 3


def test_the_statistics_measure_the_switch_itself() -> None:
    trace = Trace({"position": [0], "gripper": [1]})
    chunks = [
        (0, [0.0, -1.0]),
        (0, [0.25, -1.0]),
        (2, [1.0, 1.0]),
        (2, [1.5, 1.0]),
        (None, [1.5, 1.0]),
        (5, [0.0, 1.0]),
    ]
    for source, action in chunks:
        executed = np.array(action, np.float32)
        trace.executed(executed, Move(None if source is None else executed, source))
    assert trace.execution_stats() == {
        "idle_steps": 1,
        "action_age_mean": 0.4,
        "action_age_max": 1,
        "switches": 1,
        "chunk_jump_position": 0.75,
        "chunk_jump_gripper": 2.0,
        "gripper_reversals": 1,
    }
