"""Files from elsewhere are read within bounds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.faults.files import hostile_files
from support.faults.trials import time_limit

from evalkit.files import MAX_DEPTH, Unreadable, check_plain, parse_json, read_bytes, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fifo", "is a named pipe, not a file"),
        ("folder", "is a folder, not a file"),
        ("zero", "is a device, not a file"),
        ("random", "is a device, not a file"),
        ("socket", "No such device or address"),
        ("sparse", "has 5,368.7 MB; at most 134.2 MB are read"),
        ("loop", "Too many levels of symbolic links"),
        ("dangling", "No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    path = hostile_files(tmp_path / "files")[name]
    with time_limit(5), pytest.raises(Unreadable) as error:
        read_bytes(path)
    assert str(error.value) == message


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path / "file", 100) == b"x" * 100
    with pytest.raises(Unreadable, match=r"at most 0\.0 MB"):
        read_bytes(tmp_path / "file", 99)
    with pytest.raises(Unreadable, match="at most"):  # its status says 0 bytes
        read_bytes(Path("/proc/self/maps"), 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "mappings and lists within each other"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "mappings and lists within each other"),
        ('{"a": 1, "a": 2}', "key 'a' appears twice"),
        ("NaN", "NaN is not a finite number"),
        ("1e999", "1e999 is not a finite number"),
        ("9" * 5_000, "an integer beyond 64 bits"),
        (str(2**63), "an integer beyond 64 bits"),
        ('"\\ud83d"', "is not Unicode"),
        ('{"\\ud83d": 1}', "is not Unicode"),
        ('"\\u0000"', "a null character"),
        ("{", "is not JSON"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_json_that_could_not_be_copied_compared_or_written_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        parse_json(text)


def test_json_of_other_programs_is_read_by_their_rules_but_not_too_deep(tmp_path: Path) -> None:
    assert parse_json('{"a": 1000000000000000019884624838656, "b": 1, "b": 2}', strict=False)["b"] == 2
    (tmp_path / "deep.json").write_text("[" * 200 + "]" * 200)
    with pytest.raises(Unreadable, match="within each other"):
        read_json(tmp_path / "deep.json", strict=False)


@given(JSON)
def test_what_is_written_is_read_again(value: object) -> None:
    import json

    check_plain(value)
    assert parse_json(json.dumps(value)) == value


def test_a_wide_value_is_checked_quickly() -> None:
    began = time.perf_counter()
    check_plain({"a": [{"b": n} for n in range(50_000)]})
    assert time.perf_counter() - began < 2
