from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke, refused
from support.made_up import made_up, planned, write
from support.paths import POINTMASS, RELAY
from support.processes import files_limited_to

import evalkit
from evalkit.analysis.compare import compare
from evalkit.analysis.summary import summarize
from evalkit.episode import Episode
from evalkit.errors import EvalkitError, UsageError
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


def test_what_is_cut_off_is_kept_beside_the_journal(run: Path) -> None:
    write(run, [record(0)])
    whole = (run / "journal.jsonl").read_bytes()
    torn = [b'{"id":"pointmass', b"\0" * 700, record(1).to_json().encode(), b"\0\0\0,1}\n"]
    for number, part in enumerate(torn, start=1):
        (run / "journal.jsonl").write_bytes(whole + part)
        with Journal(run, read_manifest(run)):
            pass
        assert (run / "journal.jsonl").read_bytes() == whole
        assert (run / f"journal.jsonl.torn-{number}").read_bytes() == part
    with Journal(run, read_manifest(run)):
        pass
    assert len(list(run.glob("*.torn-*"))) == len(torn)


def of_another_system(journal: bytes) -> dict[str, bytes]:
    text = journal.decode()
    return {
        "CRLF": text.replace("\n", "\r\n").encode(),
        "CR": text.replace("\n", "\r").encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a BOM": text.encode("utf-16-le"),
        "BOM": b"\xef\xbb\xbf" + journal,
        "first byte": b"[" + journal[1:],
        "blank first line": b"\n" + journal,
        "one line": journal.replace(b"\n", b" "),
        "another file": b"# A title\n\nAnd some text.",
        "another short file": b"hello",
        "zeros": b"\0" * 100,
        "valid JSON at the end": journal + b'{"a":1}\n',
    }


@pytest.mark.parametrize("kind", of_another_system(b"x\n"))
def test_what_is_no_journal_is_refused_and_not_touched(run: Path, kind: str) -> None:
    write(run, [record(n) for n in range(6)])
    damaged = of_another_system((run / "journal.jsonl").read_bytes())[kind]
    (run / "journal.jsonl").write_bytes(damaged)
    for read in (lambda: Journal(run, read_manifest(run)), lambda: read_journal(run), lambda: read_frame(run)):
        with pytest.raises(UsageError, match=r"journal\.jsonl: line \d+ "):
            read()
    assert (run / "journal.jsonl").read_bytes() == damaged
    assert sorted(path.name for path in run.iterdir()) == ["journal.jsonl", "manifest.json"]


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


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda path: path.unlink(), "is gone"),
    "with its folder": (lambda path: shutil.rmtree(path.parent), "is gone"),
    "replaced": (lambda path: (path.rename(path.with_name("x")), shutil.copy(path.with_name("x"), path)), "replaced"),
    "emptied": (lambda path: path.write_bytes(b""), "0 bytes long"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 5), "bytes long where this run left"),
    "lengthened": (lambda path: path.write_bytes(path.read_bytes() * 2), "bytes long where this run left"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_the_writer_is_noticed_at_the_next_record(run: Path, change: str) -> None:
    act, message = CHANGES[change]
    with Journal(run, read_manifest(run)) as journal:
        journal.append(record(0))
        journal.append(record(1))
        act(journal.path)
        for check in (lambda: journal.append(record(2)), journal.check_written):
            with pytest.raises(
                EvalkitError, match=rf"journal\.jsonl: .*{message}.*; restore it, and continue with --res"
            ):
                check()


def test_the_file_is_read_back_at_the_end(run: Path) -> None:
    write(run, [record(0)])
    with Journal(run, read_manifest(run)) as journal:
        journal.append(record(1))
        journal.check_written([record(0).episode, record(1).episode])
        with pytest.raises(
            EvalkitError, match=r"journal\.jsonl: 1 planned episodes have no record, pointmass/near/left/2"
        ):
            journal.check_written([record(1).episode, record(2).episode])
        content = journal.path.read_bytes()
        with journal.path.open("r+b") as file:
            file.write(content.replace(b'"success":true', b'"success":null'))
        with pytest.raises(EvalkitError, match=r"journal\.jsonl: its content is not what this run wrote"):
            journal.check_written()


def test_a_full_disk_leaves_whole_records_and_is_named(run: Path) -> None:
    with Journal(run, read_manifest(run)) as journal:
        journal.append(record(0))
        whole = journal.path.read_bytes()
        full = pytest.raises(EvalkitError, match=r"journal\.jsonl: cannot be written: File too large")
        with files_limited_to(len(whole) + 50), full:
            journal.append(record(1))
        assert journal.path.read_bytes() == whole and list(journal.records) == [record(0).episode]


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


@pytest.mark.slow
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


@pytest.mark.parametrize("start", [b"", b'{"id":"'])
def test_a_journal_of_gigabytes_without_lines_is_refused_at_once(tmp_path: Path, start: bytes) -> None:
    path = planned(tmp_path / "run") / "journal.jsonl"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(3 << 30)
    began = time.perf_counter()
    for read in (read_frame, read_journal):
        with pytest.raises(UsageError, match=r"line 1 is no record: it has more than 16,777,216 bytes"):
            read(tmp_path / "run")
    assert time.perf_counter() - began < 5
