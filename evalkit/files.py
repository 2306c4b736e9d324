"""Files from elsewhere: read as far as they are regular files of a bounded size, and JSON of a bounded depth.

Pipes, devices and folders are refused before anything waits for them, and files of gigabytes before they are read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 27  # of a file that is read whole: far above a tokenizer or the log of a long evaluation
MAX_DEPTH = 64  # mappings and lists within each other
MAX_INTEGER = 2**63 - 1
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class Unreadable(ValueError):
    """A file is none that can be read, or its content breaks a bound; the message does not name the file."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        Unreadable: it does not exist, cannot be opened, is not a regular file, or has more than ``limit`` bytes.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer must not wait
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
    with open(number, "rb") as file:  # noqa: PTH123 (a descriptor)
        status = os.fstat(number)
        for matches, kind in _KINDS.items():
            if matches(status.st_mode):
                raise Unreadable(f"is {kind}, not a file")
        try:
            content = file.read(limit + 1) if status.st_size <= limit else None
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
    if content is None or len(content) > limit:
        size = max(status.st_size, limit + 1)
        raise Unreadable(f"has {size / 1e6:,.1f} MB; at most {limit / 1e6:,.1f} MB are read")
    return content


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Return the text of a regular file in UTF-8. Raises Unreadable as :func:`read_bytes`, and for other text."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text (byte {error.start})") from error


def read_json(path: Path, plain: bool = True) -> Any:
    """Return the JSON value in a file. Raises Unreadable as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path), plain)


def parse_json(text: str, plain: bool = True) -> Any:
    """Return the JSON value of a text.

    Args:
        text: the text.
        plain: also refuse a key that appears twice, and values that break a bound of :func:`check_plain`. False for
            files that other programs read as well, by their own rules.

    Raises:
        Unreadable: it is not such JSON, or is nested too deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=_mapping if plain else None)
    except RecursionError as error:
        raise Unreadable(f"has more than {MAX_DEPTH} mappings and lists within each other") from error
    except ValueError as error:
        raise Unreadable(f"is not JSON ({error})") from error
    if plain:
        check_plain(value)
    return value


def check_plain(value: Any) -> None:
    """Check that a value of mappings, lists and plain values can be copied, compared and written again.

    Raises:
        Unreadable: it is nested too deep, has an integer beyond 64 bits, or text with nulls or outside Unicode.
    """
    pending = [(value, 1)]
    while pending:
        one, depth = pending.pop()
        if isinstance(one, Mapping | list):
            if depth > MAX_DEPTH:
                raise Unreadable(f"has more than {MAX_DEPTH} mappings and lists within each other")
            inside = [*one, *one.values()] if isinstance(one, Mapping) else one
            pending += [(part, depth + 1) for part in inside]
        elif isinstance(one, int) and abs(one) > MAX_INTEGER:
            raise Unreadable("has an integer beyond 64 bits")
        elif isinstance(one, str):
            _check_text(one)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Unreadable("has text with a null character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Unreadable("has text that is not Unicode (half of a surrogate pair)") from error


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} appears twice")
    return made
