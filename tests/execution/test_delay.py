"""Delay models: parsing, drawing and recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evalkit.execution.delay import Delay


@pytest.mark.parametrize(
    ("text", "hz", "steps"),
    [
        ("0", 20, 0),
        ("3", 20, 3),
        ("80ms", 20, 2),
        ("100ms", 20, 2),
        ("101ms", 20, 3),
        ("0ms", 20, 0),
        ("37.5ms", 80, 3),
    ],
)
def test_milliseconds_become_whole_steps_that_cover_them(text: str, hz: float, steps: int) -> None:
    delay = Delay.parse(text)
    assert delay.nominal(hz) == delay.draw("anything", hz) == steps and delay.constant


def test_a_draw_depends_on_its_key_alone() -> None:
    delay = Delay.parse("normal:100:40ms")
    drawn = [delay.draw(f"episode@{i}", 100) for i in range(2000)]
    assert drawn == [delay.draw(f"episode@{i}", 100) for i in range(2000)]
    assert np.mean(drawn) == pytest.approx(10.5, abs=0.4) and np.std(drawn) == pytest.approx(4, abs=0.3)
    assert min(drawn) >= 0 and delay.nominal(100) == 10 and not delay.constant


def test_a_trace_is_drawn_from(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(json.dumps({"latency_ms": [50, 60, 200], "device": "x"}))
    delay = Delay.parse(f"trace:{tmp_path / 'trace.json'}")
    assert {delay.draw(str(i), 20) for i in range(60)} == {1, 2, 4} and delay.nominal(20) == 2
    assert Delay.from_dict(json.loads(json.dumps(delay.to_dict()))) == delay


@pytest.mark.parametrize("text", ["-1", "3.5", "fast", "ms", "normal:80", "trace:/no/such/file", ""])
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a delay|cannot be read"):
        Delay.parse(text)


@pytest.mark.parametrize("content", ["[]", '{"latency_ms": []}', "[1, -2]", '["a"]', "[true]", "3", "[1e999]"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trace.json").write_text(content)
    with pytest.raises(ValueError, match=r"must be a JSON list of latencies|is not a finite number"):
        Delay.parse(f"trace:{tmp_path / 'trace.json'}")
