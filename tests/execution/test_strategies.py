"""The executions: the source of every step's action, for any chunk length, horizon, delay and change of sub-task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executors import HZ, Played, play

from evalkit.errors import UsageError
from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import resolve_execution
from evalkit.execution.strategies import EXECUTORS, build_executor


@st.composite
def cases(draw: st.DrawFn, names: Sequence[str] = tuple(EXECUTORS)) -> tuple[Execution, int, list[int], int]:
    """Draw any valid execution, with an episode's length and the steps at which sub-tasks begin."""
    name = draw(st.sampled_from(names))
    chunk = draw(st.integers(1, 16))
    if name == "sync":
        execution = resolve_execution(name, chunk, HZ, draw(st.integers(1, chunk)))
    elif name == "hold":
        execution = resolve_execution(name, chunk, HZ, draw(st.integers(1, chunk)), Delay(draw(st.integers(0, 20))))
    else:
        d = draw(st.integers(0, chunk // 2))
        s = draw(st.integers(max(d, 1), max(chunk - d, 1)))
        c = draw(st.integers(d, max(d, min(s, chunk - s)))) if name == "prefix" else None
        execution = resolve_execution(name, chunk, HZ, s, Delay(d), c)
    length = draw(st.integers(1, 60))
    turns = sorted(draw(st.sets(st.integers(1, 59), max_size=4)))
    return execution, length, [t for t in turns if t < length], chunk


@settings(max_examples=400, deadline=None)
@given(cases(("sync", "naive", "prefix", "rtc", "hold")))
def test_every_step_is_driven_by_a_chunk_that_had_arrived_and_is_not_too_old(case) -> None:
    execution, length, turns, chunk = case
    played = play(execution, length, turns, chunk)
    d, s = execution.delay.nominal(HZ), execution.horizon
    for step, (source, move) in enumerate(zip(played.sources, played.moves, strict=True)):
        began = max([0, *(t for t in turns if t <= step)])
        if source is None:
            waiting = execution.name == "hold" and any(a <= step < a + d for a in played.requests if a >= began)
            assert waiting or (began > 0 and step < began + d), "it held still although it had a chunk"
            continue
        asked, index = source
        assert asked == move.source_step and played.arrivals[asked] <= step, "the chunk had not arrived"
        assert asked >= began, "the chunk is for an earlier sub-task"
        assert index == (step - played.arrivals[asked] if execution.name == "hold" else step - asked)
        assert index < chunk and step - asked < s + (d if execution.name != "prefix" else execution.prefix or 0) + (
            d if execution.name == "hold" else 0
        ), "older than the rule allows"


@settings(max_examples=200, deadline=None)
@given(cases())
def test_inferences_are_a_horizon_apart_and_never_two_at_a_time(case) -> None:
    execution, length, turns, chunk = case
    played = play(execution, length, turns, chunk)
    d = execution.delay.nominal(HZ)
    assert played.requests[0] == 0 and played.arrivals[0] == 0
    for asked in played.requests[1:]:
        if asked in played.arrivals:
            assert played.arrivals[asked] == asked + d
        else:
            assert asked in played.dropped or asked + d >= length
    for before, after in zip(played.requests, played.requests[1:], strict=False):
        if any(before < t <= after for t in turns):
            assert after in turns
        elif execution.name == "hold":
            assert after == played.arrivals[before] + execution.horizon
        else:
            assert after == before + execution.horizon


@settings(max_examples=200, deadline=None)
@given(cases(("prefix",)))
def test_a_prefix_is_what_is_executed_next(case) -> None:
    execution, length, turns, chunk = case
    played = play(execution, length, turns, chunk)
    for asked, prefix in played.prefixes.items():
        if asked == 0 or asked in turns or not execution.prefix:
            assert prefix is None
            continue
        assert prefix is not None and prefix.committed == len(prefix.actions) == execution.prefix
        for offset, action in enumerate(prefix.actions):
            if asked + offset >= length or any(asked < t <= asked + offset for t in turns):
                break
            assert (played.moves[asked + offset].action == action).all(), "a committed action was not executed"


@settings(max_examples=100, deadline=None)
@given(cases(("rtc",)))
def test_real_time_chunking_is_given_all_that_is_left_and_how_much_is_frozen(case) -> None:
    execution, length, turns, chunk = case
    played = play(execution, length, turns, chunk)
    d = execution.delay.nominal(HZ)
    for asked, prefix in played.prefixes.items():
        if prefix is None:
            assert asked == 0 or asked in turns or execution.horizon == chunk
            continue
        assert (len(prefix.actions), prefix.kind) == (chunk - execution.horizon, "rtc")
        assert prefix.committed == min(d, len(prefix.actions))
        for offset in range(prefix.committed):
            if asked + offset < length and not any(asked < t <= asked + offset for t in turns):
                assert (played.moves[asked + offset].action == prefix.actions[offset]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.data())
def test_without_delay_what_should_equal_synchronous_execution_does(chunk: int, data: st.DataObject) -> None:
    s = data.draw(st.integers(1, chunk))
    turns = sorted(data.draw(st.sets(st.integers(1, 39), max_size=3)))
    sync = play(resolve_execution("sync", chunk, HZ, s), 40, turns, chunk)
    for name in ("hold", "naive", "prefix", "rtc"):
        other = play(resolve_execution(name, chunk, HZ, s, Delay(0)), 40, turns, chunk)
        assert other.sources == sync.sources and other.requests == sync.requests, name
    if s == chunk:  # nothing overlaps
        for name in ("ensemble", "queue"):
            assert play(resolve_execution(name, chunk, HZ, s, Delay(0)), 40, turns, chunk).sources == sync.sources, name


@settings(max_examples=200, deadline=None)
@given(cases(("naive", "prefix", "rtc", "ensemble", "queue", "hold")), st.integers(0, 200), st.integers(1, 300))
def test_delays_that_are_drawn_leave_every_step_with_one_action_from_a_chunk_that_was_there(
    case, mean: int, spread: int
) -> None:
    execution, length, turns, chunk = case
    drawn = Execution(
        execution.name,
        execution.horizon,
        Delay(None, normal_ms=(mean, spread)),
        execution.prefix,
        execution.parameters,
    )
    played = play(drawn, length, turns, chunk)
    again = play(drawn, length, turns, chunk)
    assert [m.source_step for m in played.moves] == [m.source_step for m in again.moves] and len(played.moves) == length
    for step, move in enumerate(played.moves):
        assert (move.action is None) == (move.source_step is None)
        if move.source_step is not None:
            assert played.arrivals[move.source_step] <= step
            assert move.source_step >= max([0, *(t for t in turns if t <= step)])
    for before, after in zip(played.requests, played.requests[1:], strict=False):
        assert after in turns or played.arrivals[before] <= after, "two inferences at a time"


def values(played: Played) -> list[float]:
    return [float(m.action[1]) if m.action is not None else float("nan") for m in played.moves]


def test_an_ensemble_weighs_old_against_new_as_act_does() -> None:
    executor = build_executor(resolve_execution("ensemble", 4, HZ, 1, Delay(0), parameters={"decay": 0.5}))
    for step in range(3):
        executor.start_inference(step)
        executor.receive(np.full((4, 1), 10.0**step, np.float32))
        move = executor.act(step)
        chunks = 10.0 ** np.arange(step + 1)
        weights = np.exp(-0.5 * np.arange(step + 1))
        assert move.action is not None and move.source_step == step
        assert move.action[0] == pytest.approx((weights * chunks).sum() / weights.sum())


def test_an_ensemble_forgets_chunks_that_have_ended() -> None:
    played = play(resolve_execution("ensemble", 3, HZ, 1, Delay(0)), 8, chunk=3)
    assert values(played)[7] == pytest.approx(np.average([2, 1, 0], weights=np.exp(-0.01 * np.arange(3))))


def test_a_queue_drops_the_past_and_blends_the_overlap() -> None:
    executor = build_executor(resolve_execution("queue", 6, HZ, 3, Delay(1)))
    executor.start_inference(0)
    executor.receive(np.zeros((6, 1), np.float32))
    executor.start_inference(3)
    executor.receive(np.ones((6, 1), np.float32))  # arrives at step 4: its first action is past
    moves = [executor.act(step).action for step in range(4, 9)]
    assert [float(m[0]) for m in moves if m is not None] == pytest.approx([0.7, 0.7, 1, 1, 1])


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moves_and_prefixes_have_the_dtype_of_the_chunks(name: str, dtype: type[np.floating[Any]]) -> None:
    delay = Delay(0) if name == "sync" else Delay(1)
    executor = build_executor(resolve_execution(name, 6, HZ, 3, delay))
    executor.start_inference(0)
    executor.receive(np.full((6, 1), 1 / 3, dtype))
    prefix = executor.start_inference(3)
    executor.receive(np.full((6, 1), 1 / 7, dtype))
    actions = [executor.act(step).action for step in range(4, 7)]
    assert all(action is not None and action.dtype == dtype for action in actions)
    assert prefix is None or prefix.actions.dtype == dtype


def test_a_late_reply_is_an_underrun_and_the_robot_holds() -> None:
    late = Execution("naive", 5, Delay(None, (100.0, 100.0, 100.0, 700.0)))
    played = play(late, 200)
    held = [step for step, move in enumerate(played.moves) if move.action is None]
    pairs = zip(played.requests, played.requests[1:], strict=False)
    late_ones = [range(before + 10, played.arrivals.get(after, 200)) for before, after in pairs]
    assert held and held == [step for steps in late_ones for step in steps]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sync", {"delay": Delay(1)}, "with --execution sync the simulator waits"),
        ("sync", {"horizon": 11}, "1 <= s <= H"),
        ("naive", {"horizon": 3, "delay": Delay(4)}, r"d <= s, .* \(H = 10, s = 3, d = 4\)"),
        ("naive", {"horizon": 7, "delay": Delay(4)}, r"s <= H - d, .* \(H = 10, s = 7, d = 4\)"),
        ("naive", {"delay": Delay(6)}, "must have"),
        ("rtc", {"horizon": 8, "delay": Delay(None, (250.0,))}, r"s <= H - d, .*d = 3"),
        ("prefix", {"delay": Delay(3), "prefix": 2}, r"c >= d, .*\(H = 10, s = \d+, d = 3, c = 2\)"),
        ("prefix", {"horizon": 5, "delay": Delay(1), "prefix": 6}, r"c <= s and s \+ c <= H"),
        ("naive", {"prefix": 2}, "only --execution prefix commits actions"),
        ("telepathic", {}, "unknown execution 'telepathic'"),
        ("queue", {"parameters": {"decay": 1.0}}, "has no parameter 'decay'; it has blend"),
    ],
)
def test_what_cannot_work_is_refused_with_the_inequality(name: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_execution(name, 10, HZ, **options)


@pytest.mark.parametrize("name", list(EXECUTORS))
@pytest.mark.parametrize("chunk", [1, 2, 7, 10])
def test_defaults_work_wherever_anything_does(name: str, chunk: int) -> None:
    for d in range(1 if name == "sync" else chunk // 2 + 1):
        assert resolve_execution(name, chunk, HZ, delay=Delay(d)).horizon >= 1


@pytest.mark.parametrize("name", list(EXECUTORS))
def test_an_execution_is_data(name: str) -> None:
    delay = Delay() if name == "sync" else Delay.parse("normal:80:15ms")
    made = resolve_execution(name, 10, HZ, delay=delay)
    assert Execution.from_dict(made.to_dict()) == made


def test_a_chunk_shorter_than_the_horizon_is_refused() -> None:
    executor = build_executor(Execution("sync", 4))
    executor.start_inference(0)
    with pytest.raises(ValueError, match="horizon of 4"):
        executor.receive(np.zeros((3, 1), np.float32))
    with pytest.raises(ValueError, match="unknown execution"):
        Execution("telepathic", 1)
    with pytest.raises(ValueError, match="horizon"):
        Execution("sync", 0)
