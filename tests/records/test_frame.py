"""The two ways from a journal to a frame, and the journals that both refuse."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support.made_up import made_up, planned, record, write
from support.paths import RELAY

import evalkit
from evalkit.analysis.rows import compute_rows
from evalkit.analysis.summary import summarize
from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records import frame as frames
from evalkit.records.frame import episodes_frame, read_frame
from evalkit.records.journal import Record, read_journal
from evalkit.records.manifest import read_manifest
from evalkit.records.planned import PlanRules

GOOD = Record(Episode("pointmass", "near", "left", 1, 3), True, steps=3, subtasks=[["x", True]], digest="d")
ERROR = {"kind": "crash", "message": "gone"}


def mixed(folder: Path, suite: str, seed: int) -> Path:
    """A run with errors, some of them retried, repeats with equal digests, and a journal in random order."""
    chance = random.Random(seed)
    made_up(folder, suite, lambda e: True, repeats=3, episodes=4)
    manifest = read_manifest(folder)
    chain = manifest.suite.get("chain")
    records = []
    for episode in manifest.plan.episodes(str(manifest.fingerprint["suite"])):
        came = chance.randint(0, chain) if chain else chance.random() < 0.7
        same = f"{episode.task} {episode.scene}" if chance.random() < 0.5 else None
        if chance.random() < 0.2:
            records.append(record(episode, None))
            if chance.random() < 0.5:
                records.append(records[-1])
        if chance.random() < 0.9:
            records.append(record(episode, came, chain, same))
    write(folder, records)
    return folder


@pytest.mark.parametrize("suite", ["metaworld", "simpler", RELAY])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_way_gives_the_same_frame_and_rows(tmp_path: Path, suite: str, seed: int) -> None:
    run = mixed(tmp_path / "run", suite, seed)
    manifest = read_manifest(run)
    quick = frames._read_with_duckdb(run / "journal.jsonl", PlanRules.of(manifest), True)
    slow = episodes_frame(read_journal(run).values())
    assert quick is not None
    assert_frame_equal(quick, slow)
    assert compute_rows(manifest, quick) == compute_rows(manifest, slow)
    assert_frame_equal(read_frame(run, extras=False), slow[[c for c in slow if "." not in c]])
    rules = PlanRules.of(manifest)
    counted = frames._with_duckdb(run / "journal.jsonl", False, lambda database: frames._count_of(database, rules))
    assert counted == frames.count_verdicts(run, manifest) == slow["error"].isna().sum()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of 20 scenes, none played."""
    return planned(tmp_path / "run", tasks=["left"], splits=["near"], episodes=20)


def test_two_results_that_differ_are_refused_by_line(run: Path) -> None:
    for second in (replace(GOOD, success=False), replace(GOOD, steps=4), replace(GOOD, success=None, error=ERROR)):
        write(run, [replace(GOOD, success=None, error=ERROR), GOOD, second])
        with pytest.raises(UsageError, match=r"line 3 contradicts line 2: .* episode pointmass/near/left/1/s3/r0"):
            read_frame(run)


def test_errors_that_were_tried_again_and_equal_results_are_fine(run: Path) -> None:
    error = replace(GOOD, success=None, subtasks=[], error=ERROR)
    write(run, [error, error, GOOD, replace(GOOD, host={"worker": 3})])
    assert read_frame(run)["success"].tolist() == [True]


def test_a_torn_last_line_and_an_odd_folder_are_read_too(run: Path) -> None:
    odd = run.with_name("run [1]*")
    shutil.copytree(run, odd)
    for folder in (run, odd):
        write(folder, [GOOD])
        with (folder / "journal.jsonl").open("a") as journal:
            journal.write('{"id": "s/a')
        assert len(read_frame(folder)) == frames.count_verdicts(folder, read_manifest(folder)) == 1


def test_an_empty_run_has_a_table_without_numbers(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "metaworld", lambda e: True, splits=["hard"], episodes=1)
    write(run, [])
    summary = summarize(run)
    assert summary.headline.value is None and summary.finished == summary.errors == 0 and not summary.complete


def test_frames_from_python(tmp_path: Path) -> None:
    made_up(tmp_path / "one", "metaworld", lambda e: e.scene % 2, splits=["hard"], checkpoint="one")
    made_up(tmp_path / "two", "simpler", lambda e: True, splits=["widowx"], checkpoint="two")
    rows = evalkit.table(tmp_path / "one", tmp_path / "two")
    episodes = evalkit.read_episodes(tmp_path / "one", tmp_path / "two")
    assert set(rows["suite"]) == {"metaworld", "simpler"} and set(rows["checkpoint"]) == {"one", "two"}
    means = episodes.groupby(["suite", "task"])["success"].mean()
    for row in rows[rows["task"].notna()].itertuples():
        assert means[(row.suite, row.task)] == row.value
    assert isinstance(episodes, pd.DataFrame) and {"metric.distance", "execution_stats.action_age_mean"} <= set(
        episodes.columns
    )


def test_ctrl_c_while_duckdb_reads_is_ctrl_c(oracle_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr("evalkit.records.frame._load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_frame(oracle_run)
