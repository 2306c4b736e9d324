"""Episodes that are chains of sub-tasks: flushed chunks, what is recorded, and what the tables make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint
from support.paths import RELAY

from evalkit.analysis.summary import episodes_frame, summarize
from evalkit.episode import Episode
from evalkit.execution import Execution
from evalkit.execution.strategies import build_executor
from evalkit.records.journal import Record, read_journal
from evalkit.report.formats import render
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.stats.metrics import average_length, mean_of, solved_in_a_row
from evalkit.suite import load_suite
from evalkit.testing import AdapterConformance, canonical


@pytest.mark.slow
class TestRelay(AdapterConformance):
    suite = RELAY
    tasks = (("here", "chain"),)  # type: ignore[assignment]
    renders = False


def run(out: Path, **options: Any) -> list[dict[str, Any]]:
    play(RunOptions(RELAY, out=out, **{"workers": 1, "checkpoint": "oracle", **options}), Silent())
    return canonical(read_journal(out).values())


def frame(lengths: list[int], chain: int = 5) -> pd.DataFrame:
    def parts(length: int) -> list[list[Any]]:
        return [[f"t{i}", i < length] for i in range(min(length + 1, chain))]

    return episodes_frame(
        Record(Episode("s", "a", "chain", scene, 0), length == chain, digest=str(scene), subtasks=parts(length))
        for scene, length in enumerate(lengths)
    )


def test_the_chunk_is_thrown_away_where_a_sub_task_begins(tmp_path: Path) -> None:
    whole, short = run(tmp_path / "10"), run(tmp_path / "1", horizon=1)
    assert [r["success"] for r in whole] == [True] * 6
    assert [r["digest"] for r in whole] == [r["digest"] for r in short], "the oracle acted on an old chunk"
    for record in whole:
        assert record["inferences"] == 3, "one look for each sub-task: none takes longer than a chunk"


def test_a_restart_counts_the_horizon_anew() -> None:
    executor = build_executor(Execution("sync", 4))
    chunks = [np.arange(4.0)[:, None] + 10 * i for i in range(3)]
    acted, asked = [], []
    for step in range(10):
        if step == 6:
            executor.restart(6)
        if executor.wants_inference(step):
            executor.start_inference(step)
            asked.append(step)
            executor.receive(chunks[len(asked) - 1])
        move = executor.act(step)
        assert move.action is not None
        acted.append(float(move.action[0]))
    assert asked == [0, 4, 6]
    assert acted == [0, 1, 2, 3, 10, 11, 20, 21, 22, 23]


def test_records_say_which_sub_tasks_were_solved(tmp_path: Path) -> None:
    records = run(tmp_path / "run", checkpoint="zero")
    assert all(not r["success"] and [solved for _, solved in r["subtasks"]] == [False] for r in records)
    assert {r["subtasks"][0][0] for r in records} <= {"left", "middle", "right"}
    assert run(tmp_path / "three", checkpoint="random", workers=3) == run(tmp_path / "one", checkpoint="random")


def test_a_runs_table_has_lengths_and_rates_of_sub_tasks(tmp_path: Path) -> None:
    records = run(tmp_path / "run", checkpoint="random:chunk=20")
    summary = summarize(tmp_path / "run")
    solved = [sum(ok for _, ok in r["subtasks"]) for r in records]
    rows = {(r.task or r.metric): r for r in summary.rows if r.split}
    assert summary.headline.metric == "average length of here" and summary.complete
    assert summary.headline.value == pytest.approx(sum(solved) / 6) == rows["average length"].value
    for count in (1, 2, 3):
        assert rows[f"{count} in a row"].value == pytest.approx(sum(s >= count for s in solved) / 6)
    attempts = [part for r in records for part in r["subtasks"]]
    for name in {name for name, _ in attempts}:
        mine = [ok for of, ok in attempts if of == name]
        assert (rows[name].value, rows[name].n) == (pytest.approx(sum(mine) / len(mine)), len(mine))
    document = json.loads(render([summary], "json"))
    assert sum(row["metric"] == "average length" for row in document["rows"]) == 1
    assert f"| {summary.headline.value:.2f} |" in render([summary], "md")


@pytest.mark.slow
def test_each_split_is_a_benchmark_of_its_own(tmp_path: Path) -> None:
    run(tmp_path / "one", splits=["there"])
    run(tmp_path / "fewer", episodes=2)
    assert summarize(tmp_path / "one").complete and not summarize(tmp_path / "one").coverage_note
    fewer = summarize(tmp_path / "fewer")
    assert fewer.coverage_note == "1 of 1 tasks, 2 episodes where the protocol has 6" and not fewer.complete


def test_average_length_is_the_sum_of_the_chain_rates_with_its_interval() -> None:
    lengths = [5] * 70 + [3] * 20 + [0] * 10
    made = frame(lengths)
    length = average_length(made, 5)
    assert length.value == pytest.approx(np.mean(lengths)) and (length.n, length.max_value) == (100, 5)
    assert sum(solved_in_a_row(made, k).value or 0 for k in range(1, 6)) == pytest.approx(length.value)
    wald = 1.96 * np.std(lengths) / 10
    assert (length.high or 0) - (length.low or 0) == pytest.approx(2 * wald, rel=0.1)


def test_where_every_chain_ended_alike_the_interval_is_wilsons() -> None:
    length = average_length(frame([5] * 40), 5)
    low, high = proportion_confint(40, 40, method="wilson")
    assert (length.low, length.high) == (pytest.approx(5 * low), pytest.approx(5 * high))


@pytest.mark.slow
def test_the_interval_covers_the_true_length() -> None:
    chance = np.random.default_rng(0)
    shares = np.array([0.03, 0.03, 0.04, 0.05, 0.08, 0.77])
    truth = float(shares @ np.arange(6))
    found = [average_length(frame(list(chance.choice(6, 60, p=shares))), 5) for _ in range(300)]
    covered = np.mean([(e.low or 0) <= truth <= (e.high or 0) for e in found])
    assert 0.91 <= covered <= 0.985


def test_lengths_have_a_mean_too() -> None:
    mean = mean_of([average_length(frame([5] * 10), 5), average_length(frame([0] * 10), 5)])
    assert mean.value == 2.5 and 0 < (mean.low or 0) < 2.5 < (mean.high or 0) < 5


def test_bad_sequences_are_named(tmp_path: Path) -> None:
    suite = load_suite(RELAY)
    with pytest.raises(Exception, match="--episodes 7: relay has 1 to 6 scenes"):
        suite.plan(episodes=7)
    with pytest.raises(Exception, match=r"unknown task 'left': there are: chain$"):
        suite.plan(tasks=["left"])
