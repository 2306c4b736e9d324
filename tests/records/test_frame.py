"""The two ways from a journal to a frame, and the journals that both refuse."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support.made_up import made_up, record, write
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
        if chance.random() < 0.9:
            records.append(record(episode, came, chain, same))
        if chance.random() < 0.1:
            records.append(records[-1])
    write(folder, records)
    return folder


@pytest.mark.parametrize("suite", ["metaworld", "simpler", RELAY])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_way_gives_the_same_frame_and_rows(tmp_path: Path, suite: str, seed: int) -> None:
    run = mixed(tmp_path / "run", suite, seed)
    quick, slow = frames._read_with_duckdb(run / "journal.jsonl", True), episodes_frame(read_journal(run).values())
    assert quick is not None
    assert_frame_equal(quick, slow)
    manifest = read_manifest(run)
    assert compute_rows(manifest, quick) == compute_rows(manifest, slow)
    assert_frame_equal(read_frame(run, extras=False), slow[[c for c in slow if "." not in c]])


GOOD = Record(Episode("s", "a", "t", 1, 0), True, subtasks=[["x", True]], digest="d")


@pytest.mark.parametrize(
    "change",
    [
        {"success": "true"},
        {"success": 1},
        {"success": None},
        {"error": "gone"},
        {"error": {"kind": "crash", "message": "gone"}},
        {"subtasks": [["x", 1]]},
        {"subtasks": [["x"]]},
        {"subtasks": None},
        {"metrics": None},
        {"steps": "x"},
        {"execution_stats": [1]},
        {"more": 1},
        {"id": "s/a/t/2/s0/r0"},
        {"episode": {"suite": "s", "split": "a", "task": "t", "scene": -1, "seed": 0, "repeat": 0}},
        {"episode": {"suite": "s", "split": "a", "task": "t", "scene": 1}},
    ],
)
def test_what_is_no_record_is_refused_by_line(tmp_path: Path, change: dict[str, object]) -> None:
    other = replace(GOOD, episode=replace(GOOD.episode, scene=7)).to_json()
    (tmp_path / "journal.jsonl").write_text(
        f"{other}\n{json.dumps({**json.loads(GOOD.to_json()), **change})}\n{other}\n"
    )
    with pytest.raises(UsageError, match=r"journal\.jsonl: line 2 is not an episode record"):
        read_frame(tmp_path)


def test_two_verdicts_that_differ_are_refused_by_line(tmp_path: Path) -> None:
    write(tmp_path, [GOOD, replace(GOOD, success=False, subtasks=[["x", False]])])
    with pytest.raises(UsageError, match=r"journal\.jsonl: line 2 contradicts line 1: .* episode s/a/t/1/s0/r0"):
        read_frame(tmp_path)
    error = replace(GOOD, success=None, error={"kind": "crash", "message": "gone"})
    write(tmp_path, [GOOD, error, replace(GOOD, success=False)])
    with pytest.raises(UsageError, match="line 3 contradicts line 1"):
        read_frame(tmp_path)


def test_errors_that_were_tried_again_and_equal_verdicts_are_fine(tmp_path: Path) -> None:
    error = replace(GOOD, success=None, subtasks=[], error={"kind": "crash", "message": "gone"})
    write(tmp_path, [error, error, GOOD, GOOD])
    assert read_frame(tmp_path)["success"].tolist() == [True]


def test_a_torn_last_line_and_an_odd_folder_are_read_too(tmp_path: Path) -> None:
    odd = tmp_path / "run [1]*"
    odd.mkdir()
    for folder in (tmp_path, odd):
        write(folder, [GOOD])
        with (folder / "journal.jsonl").open("a") as journal:
            journal.write('{"id": "s/a')
        assert len(read_frame(folder)) == 1


def test_an_empty_run_has_a_table_without_numbers(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "metaworld", lambda e: True, splits=["hard"], episodes=1)
    write(run, [])
    summary = summarize(run)
    assert summary.headline.value is None and summary.finished == summary.errors == 0 and not summary.complete


def test_strangers_are_named(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", "metaworld", lambda e: True, splits=["hard"], episodes=2)
    planned = list(read_journal(run).values())
    for field, value in {"suite": "libero", "split": "easy", "task": "t", "scene": 2, "seed": 7, "repeat": 1}.items():
        stranger = replace(planned[0], episode=replace(planned[0].episode, **{field: value}))
        write(run, [*planned, stranger])
        with pytest.raises(UsageError, match="does not plan: " + stranger.episode.id):
            summarize(run)


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
