"""YAML that people write is read strictly and within bounds."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from support.faults.documents import TEXTS
from support.marks import slow

from evalkit.documents import parse_yaml, read_yaml
from evalkit.errors import UsageError

MESSAGES = {
    "billion laughs, lists": "more than 30000 values",
    "billion laughs, mappings": "more than 30000 values",
    "merge bomb": "more than 30000 values",
    "deep lists": "line 1, column 67: more than 64 mappings and lists within each other",
    "a list in itself": "*a stands for a value that contains it",
    "a merge of itself": "*a stands for a value that contains it",
    "a few digits too many": "has an integer beyond 64 bits",
    "a list as key": "line 1, column 3: a key must be a plain value",
    "bytes": "the tag !!binary is not used here",
    "an object": "the tag !!python/object/apply:os.system is not used here",
    "no such day": "'2026-02-31' is not a value (put text in quotes)",
    "half a surrogate pair": "is not Unicode",
    "a null character": "a null character",
    "a key twice": "line 2, column 1: 'name' appears twice",
    "a number twice": "1.0 appears twice",
    "a megabyte and more": "has 1.1 MB; at most 1.0 MB are read",
    "a list": "must be a mapping of names to values",
    "no document": "must be a mapping of names to values",
}
SLOW = {"100,000 keys", "deep lists"}
PLAIN = {"a day", "a key of a megabyte"}  # YAML as it should be; the schema refuses the content


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in TEXTS if name not in PLAIN])
def test_hostile_yaml_is_refused_with_its_place_quickly_and_with_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(TEXTS[name], encoding="utf-8", errors="surrogatepass")
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as error:
            read_yaml(path)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10  # with tracemalloc, which makes it several times slower
    assert str(error.value).startswith(f"{path}: ") and MESSAGES.get(name, "") in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_anchors_and_merge_keys_still_work() -> None:
    text = "base: &base {x: 1, y: 2}\nmine: {<<: *base, y: 3}\nboth: {<<: [*base, {z: 4}]}\nagain: *base"
    assert parse_yaml(text) == {
        "base": {"x": 1, "y": 2},
        "mine": {"x": 1, "y": 3},
        "both": {"x": 1, "y": 2, "z": 4},
        "again": {"x": 1, "y": 2},
    }
