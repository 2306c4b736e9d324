from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records.journal import Journal, Record, read_journal
from evalkit.testing import canonical


def record(scene: int, success: bool | None = True, **host: object) -> Record:
    error = None if success is not None else {"kind": "crash", "message": "gone"}
    return Record(Episode("s", "a", "t", scene, 0), success, steps=scene, digest="d", error=error, host=dict(host))


def test_records_survive_and_the_last_one_of_an_episode_counts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(0))
        journal.append(record(1, success=None))
        journal.append(record(1))
    assert list(read_journal(tmp_path).values()) == [record(0), record(1)]


@pytest.mark.parametrize("torn", [b'{"id":"s/a/t/2', b"{", b'{"id":"s/a/t/1/s0/r0","episode":{}}', b"\xff\xfe"])
def test_a_torn_last_line_is_dropped_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(0))
        journal.append(record(1))
    whole = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(whole + torn)
    assert len(read_journal(tmp_path)) == 2
    with Journal(tmp_path) as journal:
        assert len(journal.records) == 2
        journal.append(record(2))
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(whole) and len(read_journal(tmp_path)) == 3


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_prefix_of_a_journal_is_a_journal(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(0))
        journal.append(record(1))
    data = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(data[:-cut])
    assert len(read_journal(tmp_path)) == 1


def test_damage_in_the_middle_is_named_and_left_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(0))
    damaged = b"not json\n" + (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"journal\.jsonl: line 1 is not an episode record"):
        Journal(tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == damaged


def test_a_record_whose_id_is_not_its_episodes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(record(0).to_json().replace("s/a/t/0", "s/a/t/9") + "\n")
    with pytest.raises(UsageError, match="not that of its episode"):
        read_journal(tmp_path)


def test_the_canonical_form_ignores_order_and_host() -> None:
    one = [record(0, worker=0), record(1, worker=0)]
    other = [record(1, worker=2, attempts=2), record(0, worker=1)]
    assert canonical(one) == canonical(other)
    assert canonical([record(0, success=False)]) != canonical([record(0)])


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"journal\.jsonl: cannot be read: No such file"):
        read_journal(tmp_path)
