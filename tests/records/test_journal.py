from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke, refused
from support.made_up import made_up, planned, write
from support.paths import POINTMASS, RELAY

import evalkit
from evalkit.analysis.compare import compare
from evalkit.analysis.summary import summarize
from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.experiments.baselines import accept
from evalkit.experiments.gate import Gate, GateOptions
from evalkit.records.frame import read_frame
from evalkit.records.journal import Journal, Record, read_journal
from evalkit.records.manifest import read_manifest
from evalkit.testing import canonical


def record(scene: int, success: bool | None = True, **host: object) -> Record:
    error = None if success is not None else {"kind": "crash", "message": "gone"}
    episode = Episode("pointmass", "near", "left", scene, 3)
    return Record(episode, success, steps=scene + 1, digest="d", error=error, host=dict(host))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of 20 scenes, none played."""
    return planned(tmp_path / "run", tasks=["left"], splits=["near"], episodes=20)


def test_records_survive_and_the_last_one_of_an_episode_counts(run: Path) -> None:
    with Journal(run) as journal:
        journal.append(record(0))
        journal.append(record(1, success=None))
        journal.append(record(1))
    assert list(read_journal(run).values()) == [record(0), record(1)]


@pytest.mark.parametrize(
    "torn", [b'{"id":"pointmass/near', b"{", b'{"id":"pointmass/near/left/1/s3/r0","episode":{}}', b"\xff\xfe"]
)
def test_a_torn_last_line_is_dropped_and_nothing_else(run: Path, torn: bytes) -> None:
    with Journal(run) as journal:
        journal.append(record(0))
        journal.append(record(1))
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(whole + torn)
    assert len(read_journal(run)) == 2
    with Journal(run) as journal:
        assert len(journal.records) == 2
        journal.append(record(2))
    assert (run / "journal.jsonl").read_bytes().startswith(whole) and len(read_journal(run)) == 3


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_prefix_of_a_journal_is_a_journal(run: Path, cut: int) -> None:
    with Journal(run) as journal:
        journal.append(record(0))
        journal.append(record(1))
    data = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(data[:-cut])
    assert len(read_journal(run)) == 1


def test_damage_in_the_middle_is_named_and_left_alone(run: Path) -> None:
    with Journal(run) as journal:
        journal.append(record(0))
    damaged = b"not json\n" + (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"journal\.jsonl: line 1 is not an episode record"):
        Journal(run)
    assert (run / "journal.jsonl").read_bytes() == damaged


def test_a_record_whose_id_is_not_its_episodes_is_refused(run: Path) -> None:
    (run / "journal.jsonl").write_text(record(0).to_json().replace("near/left/0", "near/left/9") + "\n")
    with pytest.raises(UsageError, match="not that of its episode"):
        read_journal(run)


def test_the_canonical_form_ignores_order_and_host() -> None:
    one = [record(0, worker=0), record(1, worker=0)]
    other = [record(1, worker=2, attempts=2), record(0, worker=1)]
    assert canonical(one) == canonical(other)
    assert canonical([record(0, success=False)]) != canonical([record(0)])


def test_a_journal_that_cannot_be_read_is_named(run: Path) -> None:
    (run / "journal.jsonl").unlink()
    with pytest.raises(UsageError, match=r"journal\.jsonl: cannot be read: No such file"):
        read_journal(run)
    os.mkfifo(run / "journal.jsonl")
    for read in (read_journal, read_frame):
        with pytest.raises(UsageError, match=r"journal\.jsonl: cannot be read: it is not a file"):
            read(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode": {"suite": "relay"}}, "does not plan: relay/near/left/0/s3/r0"),
        ({"episode": {"split": "far"}}, "does not plan: pointmass/far/left/0/s3/r0"),
        ({"episode": {"task": "right"}}, "does not plan: pointmass/near/right/0/s3/r0"),
        ({"episode": {"scene": 20}}, "does not plan: pointmass/near/left/20/s3/r0"),
        ({"episode": {"seed": 4}}, "does not plan: pointmass/near/left/0/s4/r0"),
        ({"episode": {"repeat": 1}}, "does not plan: pointmass/near/left/0/s3/r1"),
        ({"steps": 0}, "near/left/0/s3/r0: steps is 0, and an episode has 1 to 30"),
        ({"steps": 31}, "steps is 31, and an episode has 1 to 30"),
        ({"steps": None}, "steps is None"),
        ({"success": None, "error": {"kind": "crash", "message": ""}, "steps": 31}, "steps is 31, .* has 0 to 30"),
    ],
)
def test_what_is_not_this_runs_is_refused_by_every_reader(run: Path, changes: dict[str, Any], message: str) -> None:
    fields = {**changes, "episode": replace(record(0).episode, **changes.get("episode", {}))}
    write(run, [record(1), replace(record(0), **fields)])
    before = (run / "journal.jsonl").read_bytes()
    readers: list[Callable[[], Any]] = [
        lambda: read_journal(run),
        lambda: read_frame(run),
        lambda: read_frame(run, extras=False),
        lambda: Journal(run, read_manifest(run)),
        lambda: summarize(run),
        lambda: evalkit.read_episodes(run),
        lambda: compare(run, run),
        lambda: Gate(GateOptions(run), lambda forecast: None),
        lambda: accept(run, "a reason", lambda summary: "", folder=run.parent / "baselines"),
    ]
    for read in readers:
        with pytest.raises(UsageError, match=rf"journal\.jsonl: line 2: .*{message}.*; remove the line"):
            read()
    for command in (["table"], ["timeline"], ["gate", "--baseline", run]):
        assert re.search(message, refused(invoke(command[0], run, *command[1:])))
    (listed,) = json.loads(invoke("list", "runs", "--runs", run.parent, "--json").stdout)["runs"]
    assert re.search(message, listed["problem"])
    assert (run / "journal.jsonl").read_bytes() == before


def test_an_imported_runs_steps_may_be_unknown_or_counted_otherwise(tmp_path: Path) -> None:
    origin = {"format": "x", "source": "elsewhere", "files": {}, "missing_fields": []}
    run = made_up(tmp_path / "run", POINTMASS, lambda e: True, manifest={"origin": origin}, episodes=3)
    episodes = list(read_journal(run))[:3]
    records = [Record(e, True, steps=steps) for e, steps in zip(episodes, (None, 0, 900), strict=True)]
    write(run, records)
    assert list(read_journal(run).values()) == records and len(read_frame(run)) == 3


def test_no_chain_is_longer_than_its_suites(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", RELAY, lambda e: 3, episodes=1)
    (played,) = read_journal(run).values()
    write(run, [replace(played, subtasks=[["x", True]] * 4)])
    for read in (read_journal, read_frame):
        with pytest.raises(UsageError, match="line 1: relay/here/chain/0/s3/r0: 4 subtasks, and the chain has 3"):
            read(run)
