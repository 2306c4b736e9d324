from __future__ import annotations

import numpy as np
import pytest

from evalkit.execution import Execution, Synchronous


def chunk(start: int, length: int) -> np.ndarray:
    return np.arange(start, start + length, dtype=np.float32)[:, None]


def test_sync_executes_the_horizon_of_each_chunk_and_asks_again() -> None:
    executor = Synchronous(3)
    executed, asked = [], []
    for step in range(8):
        assert executor.asks(step) == (step in (0, 3, 6))
        if executor.asks(step):
            asked.append(step)
        if executor.due(step):
            executor.receive(chunk(10 * step, 5))
        executed.append(float(executor.act(step)[0]))
    assert asked == [0, 3, 6]
    assert executed == [0, 1, 2, 30, 31, 32, 60, 61]


def test_sync_says_ahead_of_time_when_it_will_ask() -> None:
    executor = Synchronous(2)
    executor.receive(chunk(0, 2))
    assert [executor.asks(step + 1) for step in range(4)] == [False, True, False, True]


def test_a_chunk_shorter_than_the_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon of 4"):
        Synchronous(4).receive(chunk(0, 3))


def test_an_execution_is_data() -> None:
    assert Execution.from_dict(Execution("sync", 10).to_dict()) == Execution("sync", 10)
    with pytest.raises(ValueError, match="unknown execution"):
        Execution("telepathic", 1)
    with pytest.raises(ValueError, match="horizon"):
        Execution("sync", 0)
