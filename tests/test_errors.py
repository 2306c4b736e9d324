"""Texts from elsewhere, as they may be shown and recorded."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import excerpt


@given(st.text(st.characters(codec=None), max_size=2000), st.integers(10, 400))
def test_an_excerpt_is_one_short_line_without_control_characters(text: str, limit: int) -> None:
    shown = excerpt(text, limit)
    assert len(shown) <= limit and len(shown.splitlines()) <= 1 and shown == shown.strip()
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)
    shown.encode()  # no unpaired surrogate


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the policy failed: CUDA out of memory", "the policy failed: CUDA out of memory"),
        ("a\nb\t c\r\n", "a b c"),
        ("\x1b[31mred\x1b[0m \x07", "[31mred [0m"),
        ("user\u202etxt.exe\u200b", "user txt.exe"),
        ("größe 漢字 é", "größe 漢字 é"),
        ("\x9b31m \udcff", "31m"),
        (ValueError("no\nsuch"), "no such"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 297 + "..."),
        (" " * 5000 + "x", "..."),
    ],
)
def test_an_excerpt_keeps_what_can_be_read(text: object, shown: str) -> None:
    assert excerpt(text) == shown


def test_an_excerpt_of_megabytes_takes_no_time() -> None:
    began = time.perf_counter()
    assert len(excerpt("\x1b" * 50_000_000)) <= 300
    assert time.perf_counter() - began < 0.5
