"""The committed actions under drawn delays: what is committed, and which chunks come too late for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executors import HZ, Played, play

from evalkit.errors import UsageError
from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import parse_execution, resolve_execution

NORMAL = Delay.parse("normal:300:100ms")  # at 10 Hz 3 steps, at most 7
TRACE = Delay(None, (100.0, 100.0, 100.0, 700.0))


@st.composite
def delays(draw: st.DrawFn) -> Delay:
    """Draw a delay model of either kind whose draws are at most 12 steps."""
    if draw(st.booleans()):
        return Delay(None, tuple(draw(st.lists(st.floats(0, 1200), min_size=1, max_size=12))))
    return Delay(None, normal_ms=(draw(st.floats(0, 600)), draw(st.floats(0, 150))))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Execution, int, list[int], int]:
    """Draw a committing execution with the default rule or a quantile, an episode's length and its sub-tasks."""
    delay = draw(delays())
    parameters = draw(st.sampled_from([{}, {"quantile": draw(st.floats(0.01, 1))}]))
    most = delay.quantile(1, HZ)
    chunk = draw(st.integers(max(2 * most, 1), 2 * most + 10))
    s = draw(st.integers(max(most, 1), max(chunk - most, 1)))
    execution = resolve_execution(draw(st.sampled_from(["prefix", "rtc"])), chunk, HZ, s, delay, None, parameters)
    turns = sorted(draw(st.sets(st.integers(1, 119), max_size=4)))
    return execution, 120, turns, chunk


def delays_of(played: Played) -> dict[int, int]:
    """The delay of every inference whose chunk arrived."""
    return {asked: arrived - asked for asked, arrived in played.arrivals.items()}


@settings(max_examples=300, deadline=None)
@given(delays(), st.floats(1e-6, 1), st.floats(1, 100), st.integers(0, 10_000))
def test_no_draw_exceeds_the_largest_delay_and_quantiles_grow(delay: Delay, q: float, hz: float, key: int) -> None:
    assert delay.draw(str(key), hz) <= delay.quantile(1, hz)
    assert delay.quantile(1e-9, hz) <= delay.quantile(q, hz) <= delay.quantile(1, hz)
    if delay.constant:
        assert delay.quantile(q, hz) == delay.nominal(hz)


@pytest.mark.parametrize("delay", [NORMAL, TRACE, Delay(None, (5.0, 20.0, 130.0, 250.0, 251.0))])
@pytest.mark.parametrize("q", [0.2, 0.5, 0.75, 0.95])
def test_a_quantile_covers_its_share_of_the_draws_and_no_fewer_steps_do(delay: Delay, q: float) -> None:
    drawn = np.array([delay.draw(str(i), HZ) for i in range(4000)])
    steps = delay.quantile(q, HZ)
    assert (drawn <= steps).mean() >= q - 0.02
    assert (drawn <= steps - 1).mean() < q + 0.02


@pytest.mark.parametrize("q", [0, -0.1, 1.0001, float("nan")])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(ValueError, match="greater than 0 and at most 1"):
        NORMAL.quantile(q, HZ)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_a_chunk_is_late_if_and_only_if_its_committed_actions_had_ended(case) -> None:
    execution, length, turns, chunk = case
    played = play(execution, length, turns, chunk)
    late = 0
    for asked, delay in delays_of(played).items():
        prefix, begins = played.prefixes[asked], asked == 0 or asked in turns
        late += not begins and delay > (prefix.committed if prefix else 0)
    assert played.stats == {"late_chunks": late}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(cases())
def test_with_quantile_1_no_chunk_is_late_and_the_robot_never_idles(case) -> None:
    execution, length, turns, chunk = case
    everything = {"quantile": 1.0}
    execution = resolve_execution(execution.name, chunk, HZ, execution.horizon, execution.delay, None, everything)
    played = play(execution, length, turns, chunk)
    assert played.stats == {"late_chunks": 0}
    for step, move in enumerate(played.moves):
        began = max([0, *(t for t in turns if t <= step)])
        assert move.action is not None or step < played.arrivals.get(began, length)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_running_maximum_never_falls_and_is_the_largest_delay_so_far(case) -> None:
    execution, length, turns, chunk = case
    execution = Execution("rtc", execution.horizon, execution.delay)
    played = play(execution, length, turns, chunk)
    forecasts = []
    for asked, prefix in played.prefixes.items():
        if prefix is None:
            continue
        seen = [arrived - start for start, arrived in played.arrivals.items() if arrived <= asked]
        assert prefix.committed == min(max([execution.delay.nominal(HZ), *seen]), len(prefix.actions))
        forecasts.append(max([execution.delay.nominal(HZ), *seen]))
    assert forecasts == sorted(forecasts)


def test_the_default_prefix_covers_every_delay_and_a_quantile_covers_fewer() -> None:
    committed = {
        text: resolve_execution(text, 20, HZ, delay=NORMAL).prefix
        for text in ("prefix", "prefix:quantile=1", "prefix:quantile=0.95", "prefix:quantile=0.5")
    }
    assert list(committed.values()) == [7, 7, 5, 3]
    assert play(resolve_execution("prefix", 20, HZ, delay=NORMAL), 2000, chunk=20).stats == {"late_chunks": 0}


def test_an_explicit_prefix_below_the_largest_delay_is_played_and_its_late_chunks_are_counted() -> None:
    execution = resolve_execution("prefix", 20, HZ, 10, NORMAL, 4)
    played = play(execution, 4000, chunk=20)
    late = [delay for asked, delay in delays_of(played).items() if delay > 4]
    assert played.stats == {"late_chunks": len(late)} and 0.1 < len(late) / len(played.requests) < 0.25


@pytest.mark.parametrize("execution", ["prefix", "rtc"])
def test_when_a_chunk_is_late_the_running_one_is_executed_to_its_end_and_then_the_robot_idles(execution: str) -> None:
    late = Execution(execution, 3, TRACE, 2 if execution == "prefix" else None, {"quantile": 0.5})
    played = play(late, 400, chunk=8)
    assert 0 < played.stats["late_chunks"] < len(played.requests)
    for asked, delay in delays_of(played).items():
        if asked == 0 or delay <= 2:
            continue
        running = max(start for start in played.arrivals if start < asked)
        for step in range(asked, min(asked + delay, 400)):
            expected = (running, step - running) if step - running < 8 else None
            assert played.sources[step] == expected
        if asked + delay < 400:
            assert played.sources[asked + delay] == ((asked, delay) if delay < 8 else None)


def test_a_sub_task_that_begins_commits_nothing_and_its_chunk_is_not_late() -> None:
    played = play(resolve_execution("rtc", 20, HZ, 10, Delay(4)), 60, turns=[7, 31], chunk=20)
    assert played.prefixes[7] is None and played.arrivals[7] == 11 and played.stats == {"late_chunks": 0}


@pytest.mark.parametrize("text", ["3", "300ms", "normal:300:0ms"])
@pytest.mark.parametrize("name", ["prefix", "rtc"])
def test_a_constant_delay_is_committed_as_it_is_whatever_the_quantile(name: str, text: str) -> None:
    delay = Delay.parse(text)
    constant = resolve_execution(name, 10, HZ, delay=delay)
    assert (constant.prefix, dict(constant.parameters)) == (3 if name == "prefix" else None, {})
    played = play(constant, 100)
    assert {p.committed for p in played.prefixes.values() if p} == {3} and played.stats == {"late_chunks": 0}
    some = play(resolve_execution(f"{name}:quantile=0.1", 10, HZ, delay=delay), 100)
    assert some.sources == played.sources


def test_only_executions_that_commit_have_the_statistic() -> None:
    for name in ("sync", "hold", "naive", "ensemble", "queue"):
        delay = Delay() if name == "sync" else NORMAL
        assert play(resolve_execution(name, 10, HZ, delay=delay), 50).stats == {}


def test_parameters_are_read_from_the_executions_text() -> None:
    assert parse_execution("rtc") == ("rtc", {})
    assert parse_execution("rtc:quantile=0.95") == ("rtc", {"quantile": 0.95})
    made = resolve_execution("rtc:quantile=0.5", 20, HZ, delay=NORMAL)
    assert made == Execution("rtc", 10, NORMAL, None, {"quantile": 0.5})
    assert Execution.from_dict(made.to_dict()) == made
    assert resolve_execution("ensemble:decay=0.5", 10, HZ).parameters == {"decay": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtc:quantile=0", "quantile=0: must be greater than 0 and at most 1"),
        ("rtc:quantile=nan", "quantile=nan: must be greater than 0"),
        ("rtc:quantile=95%", "write parameters as rtc:key=number"),
        ("rtc:quantile", "write parameters as rtc:key=number"),
        ("naive:quantile=0.5", "naive has no parameter 'quantile'; it has none"),
        ("rtc:decay=1", "rtc has no parameter 'decay'; it has quantile"),
        ("queue:blend=1.5", "blend=1.5: must be between 0 and 1"),
        ("rtd:quantile=0.5", "unknown execution 'rtd'"),
    ],
)
def test_bad_parameters_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_execution(text, 10, HZ, delay=NORMAL)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rtc", {}, r"must have c <= s, .*\(H = 10, s = 3, d = 0 to 7, c = 7\): use a smaller quantile"),
        ("rtc", {"horizon": 8}, r"s <= H - c, .*c = 7\): use another --horizon, a smaller quantile .*rtc:quantile=Q"),
        ("prefix", {}, r"c <= s and s \+ c <= H.*d = 0 to 7, c = 7\): use a smaller quantile .*longer chunks"),
        ("prefix", {"prefix": 6}, r"c <= s and .*c = 6\): use a smaller --prefix, longer chunks"),
        ("prefix:quantile=0.5", {"prefix": 2}, "quantile=0.5 commits 3 actions: give one of the two"),
    ],
)
def test_what_cannot_be_committed_is_refused_with_the_remedy(name: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_execution(name, 10, HZ, delay=NORMAL, **options)


def test_a_prefix_that_ends_before_every_chunk_is_refused() -> None:
    with pytest.raises(UsageError, match=r"c >= d, .*d = 2 to 4, c = 1\): use a larger --prefix"):
        resolve_execution("prefix", 10, HZ, delay=Delay(None, (150.0, 400.0)), prefix=1)
