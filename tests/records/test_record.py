"""The schema of a record: what it refuses, and that both ways of reading a journal refuse it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from support.made_up import made_up, planned, record, write
from support.paths import POINTMASS, RELAY

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records import frame as frames
from evalkit.records.frame import episodes_frame, read_frame
from evalkit.records.journal import Record, read_journal
from evalkit.records.manifest import read_manifest
from evalkit.records.planned import PlanRules

GOOD = Record(
    Episode("pointmass", "near", "left", 1, 3),
    True,
    steps=3,
    inferences=1,
    metrics={"distance": 0.5},
    subtasks=[["x", True]],
    execution_stats={"idle_steps": 0, "action_age_mean": 1.5},
    timeline={"requests": [[0, 0], [2, None]], "segments": [[0, 2], [None, 1]]},
    digest="d",
    host={"worker": 1, "wall_s": 0.25, "finished": "now", "last_log_line": None},
)
ERROR = {"kind": "crash", "message": "gone"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 20 scenes, of which a test writes the journal."""
    return planned(tmp_path_factory.mktemp("schema") / "run", tasks=["left"], splits=["near"], episodes=20)


def test_a_line_gives_the_record_that_it_was_made_of() -> None:
    for one in (GOOD, replace(GOOD, success=None, error={"kind": "crash", "message": "“\x1b[1m” \U0001f916\n"})):
        assert Record.from_json(one.to_json().encode()) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"success": "true"}, "success: must be a valid boolean"),
        ({"success": 1}, "success"),
        ({"success": None}, "either a verdict or an error"),
        ({"error": ERROR}, "either a verdict or an error"),
        ({"error": "gone"}, "error"),
        ({"success": None, "error": {"message": "gone"}}, "error.kind: is missing"),
        ({"success": None, "error": {}}, "error.kind: is missing"),
        ({"success": None, "error": {"kind": "", "message": "gone"}}, "error.kind"),
        ({"success": None, "error": {"kind": None, "message": "gone"}}, "error.kind"),
        ({"success": None, "error": {**ERROR, "more": 1}}, "error.more: unknown key"),
        ({"steps": "3"}, "steps"),
        ({"steps": True}, "steps: must be a valid integer"),
        ({"steps": 3.0}, "steps: must be a valid integer"),
        ({"steps": -1}, "steps"),
        ({"steps": 10**15}, "steps"),
        ({"inferences": False}, "inferences"),
        ({"clipped_steps": 0.5}, "clipped_steps"),
        ({"metrics": None}, "metrics"),
        ({"metrics": {"x": True}}, "metrics.x: must be a valid number"),
        ({"metrics": {"x": None}}, "metrics.x"),
        ({"metrics": {"x": 10**400}}, "an integer beyond 64 bits"),
        ({"metrics": {"x": {"y": 1}}}, "metrics.x"),
        ({"execution_stats": [1]}, "execution_stats"),
        ({"subtasks": None}, "subtasks"),
        ({"subtasks": [["x", 1]]}, "subtasks.0.1"),
        ({"subtasks": [["x"]]}, "subtasks.0.1"),
        ({"subtasks": [["x", True, True]]}, "subtasks.0"),
        ({"subtasks": [[1, True]]}, "subtasks.0.0"),
        ({"timeline": {"requests": []}}, "timeline.segments: is missing"),
        ({"timeline": {"requests": [[0, True]], "segments": []}}, "timeline.requests.0.1"),
        ({"digest": 7}, "digest"),
        ({"host": {"deep": {"er": 1}}}, "host.deep"),
        ({"more": 1}, "more: unknown key"),
        ({"id": "pointmass/near/left/2/s3/r0"}, "not that of its episode"),
        ({"episode": {**vars(GOOD.episode), "scene": -1}}, "episode.scene"),
        ({"episode": {**vars(GOOD.episode), "scene": True}}, "episode.scene"),
        ({"episode": {**vars(GOOD.episode), "repeat": 0.0}}, "episode.repeat"),
        ({"episode": {**vars(GOOD.episode), "colour": 1}}, "episode.colour: unknown key"),
        ({"episode": {"suite": "pointmass", "split": "near", "task": "left", "scene": 1}}, "episode.seed: is missing"),
    ],
)
def test_what_is_no_record_is_refused_by_line_and_field(run: Path, change: dict[str, Any], message: str) -> None:
    fields = {**json.loads(GOOD.to_json()), **change}
    refused_in_both_ways(run, json.dumps(fields, separators=(",", ":")).encode(), message)


@pytest.mark.slow
@pytest.mark.parametrize("field", list(json.loads(GOOD.to_json())))
def test_no_field_may_be_missing_or_twice(run: Path, field: str) -> None:
    fields = json.loads(GOOD.to_json())
    text = json.dumps({field: fields[field]}, separators=(",", ":"))[1:-1]
    refused_in_both_ways(run, (GOOD.to_json()[:-1] + f",{text}}}").encode(), f"key '{field}' appears twice")
    del fields[field]
    refused_in_both_ways(run, json.dumps(fields, separators=(",", ":")).encode(), f"{field}: is missing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"distance":0.5', '"distance":NaN', "NaN is not a finite number"),
        ('"distance":0.5', '"distance":-Infinity', "not a finite number"),
        ('"distance":0.5', '"distance":1e999', "1e999 is not a finite number"),
        ('"distance":0.5', '"distance":0.5,"distance":0.25', "key 'distance' appears twice"),
        ('"idle_steps":0', '"idle_steps":0,"idle_steps":0', "key 'idle_steps' appears twice"),
        ('"worker":1', '"worker":1,"worker":2', "key 'worker' appears twice"),
        ('"scene":1', '"scene":1,"scene":1', "key 'scene' appears twice"),
        ('"scene":1', '"scene":01', "not an episode record"),
        ('"steps":3', f'"steps":{"9" * 5000}', "not an episode record"),
        ('"digest":"d"', '"digest":"\\ud800"', "not an episode record"),
        ('"digest":"d"', '"digest":"\x01"', "not an episode record"),
        ('"wall_s":0.25', '"wall_s":' + '{"a":' * 50000 + "1" + "}" * 50000, "not an episode record"),
        ('"wall_s":0.25', '"wall_s":0.25,', "not an episode record"),
    ],
)
def test_what_is_no_json_is_refused_by_line(run: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD.to_json()
    refused_in_both_ways(run, GOOD.to_json().replace(old, new).encode(), message)


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"\r", b" ", b"\n", b"\0", b"\xff"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b" "])
def test_nothing_stands_around_a_record(run: Path, begin: bytes, end: bytes) -> None:
    refused_in_both_ways(run, begin + GOOD.to_json().encode() + end, "line [23] is not an episode record")


def refused_in_both_ways(run: Path, line: bytes, message: str) -> None:
    """Assert that the line, between two others, is refused by its number, and that the quick way does not take it."""
    first, last = (replace(GOOD, episode=replace(GOOD.episode, scene=n)).to_json().encode() for n in (7, 8))
    (run / "journal.jsonl").write_bytes(b"\n".join([first, line, last, b""]))
    for read in (read_journal, read_frame):
        with pytest.raises(UsageError, match=r"journal\.jsonl: line [23] is not an episode record") as error:
            read(run)
        assert re.search(message, str(error.value))
    assert frames._read_with_duckdb(run / "journal.jsonl", PlanRules.of(read_manifest(run)), True) is None


# Any damage: both ways agree.

VALUES = [None, True, False, 0, 1, -1, 3, 1.0, 0.5, 10**20, "", "x", "relay", [], {}, [["x", True]], [[None, False]]]
VALUES += [{"kind": "crash", "message": ""}, {"x": 1}, {"x": True}, [0, 1], "near", "left", 61, 20, 19]
TOKENS = [b"\n", b"\r\n", b"\r", b"{", b"}", b"[", b",", b'"', b"null", b"true", b"1e999", b"NaN", b"0", b"-", b".0"]
TOKENS += [b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b'"steps":3,', b'"x":1,', b"1", b"9" * 20]


def changed_value(journal: bytes, chance: random.Random) -> bytes:
    """Another value at a random place of a random line, in the form in which the journal is written."""
    lines = journal.split(b"\n")
    number = chance.randrange(max(1, len(lines) - 1))
    try:
        place = fields = json.loads(lines[number])
        while True:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
                break
            place = place[key]
        if isinstance(place, dict) and chance.random() < 0.2:
            del place[key]
        else:
            place[key] = chance.choice(VALUES)
        lines[number] = json.dumps(fields, separators=(",", ":")).encode()
    except (ValueError, TypeError, IndexError):
        pass  # another damage was there before
    return b"\n".join(lines)


def changed_bytes(journal: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(journal) + 1)
    end = min(len(journal), start + chance.choice([0, 0, 1, 1, 2, 10, 500]))
    middle = chance.choice([b"", journal[start:end] * 2, chance.choice(TOKENS), bytes([chance.randrange(256)])])
    return journal[:start] + middle + journal[end:]


def moved_lines(journal: bytes, chance: random.Random) -> bytes:
    lines = journal.split(b"\n")
    line = chance.choice(lines)
    lines.insert(chance.randrange(len(lines)), line)
    if chance.random() < 0.5:
        lines.remove(line)
    return b"\n".join(lines)


def other_system(journal: bytes, chance: random.Random) -> bytes:
    text = journal.decode(errors="replace")
    return chance.choice(
        [text.replace("\n", "\r\n").encode(), text.replace("\n", "\r").encode(), text.encode("utf-16"), b"\n" + journal]
    )


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [changed_value] * 5 + [changed_bytes] * 3
DAMAGES += [moved_lines] * 2 + [other_system]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with verdicts, errors and errors that were tried again; of a chain, and of single tasks."""
    runs = []
    for suite, outcome in ((POINTMASS, lambda e: e.scene != 1), (RELAY, lambda e: e.scene)):
        run = made_up(tmp_path_factory.mktemp("whole") / "run", suite, outcome, episodes=3)
        played = list(read_journal(run).values())
        failed = [record(one.episode, None) for one in played[:2]]
        played[0] = replace(played[0], timeline=GOOD.timeline, host=GOOD.host)
        runs.append(write(run, [*failed, *played[:-1], record(played[-1].episode, None)]))
    return runs


@pytest.mark.slow
@given(seed=st.integers(0, 2**40), count=st.integers(1, 3), of_chains=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_both_ways_agree_on_every_damaged_journal(whole: list[Path], seed: int, count: int, of_chains: bool) -> None:
    run, chance = whole[of_chains], random.Random(seed)
    journal = (run / "journal.jsonl").read_bytes()
    damaged = journal
    for _ in range(count):
        damaged = chance.choice(DAMAGES)(damaged, chance)
    try:
        (run / "journal.jsonl").write_bytes(damaged)
        agree(run)
    finally:
        (run / "journal.jsonl").write_bytes(journal)


def agree(run: Path) -> None:
    """Assert that both ways give the same frame, or the same refusal."""
    manifest = read_manifest(run)
    try:
        slow = episodes_frame(read_journal(run).values())
    except UsageError as error:
        with pytest.raises(UsageError) as refusal:
            read_frame(run)
        assert str(refusal.value) == str(error)
        assert frames._read_with_duckdb(run / "journal.jsonl", PlanRules.of(manifest), True) is None
        return
    assert_frame_equal(read_frame(run), slow)
    assert_frame_equal(read_frame(run, extras=False), slow[[c for c in slow if "." not in c]])
