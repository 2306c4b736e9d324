"""Files from elsewhere: read as far as they are regular files of a bounded size, and JSON of a bounded depth.

Pipes, devices and folders are refused before anything waits for them, and files of gigabytes before they are read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 27  # of a file that is read whole: far above a tokenizer or the log of a long evaluation
MAX_DEPTH = 64  # mappings and lists within each other
MAX_INTEGER = 2**63 - 1
_TOO_DEEP = f"has more than {MAX_DEPTH} mappings and lists within each other"
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
    try:
        status = os.fstat(number)
        for matches, kind in _KINDS.items():
            if matches(status.st_mode):
                raise Unreadable(f"is {kind}, not a file")
        with open(number, "rb", closefd=False) as file:
            content = file.read(limit + 1) if status.st_size <= limit else None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    finally:
        os.close(number)
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


def read_json(path: Path, strict: bool = True) -> Any:
    """Return the JSON value in a file. Raises Unreadable as :func:`read_bytes` and :func:`parse_json`."""
    return parse_json(read_bytes(path), strict)


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """Return the JSON value of a text, or of bytes in UTF-8.

    Args:
        text: the text.
        strict: also refuse a key that appears twice (one of the values would be lost), numbers that are not finite or
            beyond 64 bits, and text that is not Unicode. False for files that other programs write and read by their
            own rules.

    Raises:
        Unreadable: it is not such JSON, or is nested too deep.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, **_STRICT) if strict else json.loads(text)
    except RecursionError as error:
        raise Unreadable(_TOO_DEEP) from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text (byte {error.start})") from error
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"is not JSON ({error})") from error
    if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:  # else there is nothing to find
        check_plain(value, strict)
    return value


def check_plain(value: Any, strict: bool = True) -> None:
    """Check that a value of mappings, lists and plain values can be copied, compared and written again.

    Args:
        value: the value.
        strict: also check integers and text; False for the depth alone.

    Raises:
        Unreadable: it is nested too deep, has an integer beyond 64 bits, or text with nulls or outside Unicode.
    """
    pending = [(value, 1)]
    while pending:
        one, depth = pending.pop()
        if isinstance(one, Mapping | list | tuple):
            if depth > MAX_DEPTH:
                raise Unreadable(_TOO_DEEP)
            inside = [*one, *one.values()] if isinstance(one, Mapping) else one
            pending += [(part, depth + 1) for part in inside]
        elif strict and isinstance(one, int) and abs(one) > MAX_INTEGER:
            raise Unreadable("has an integer beyond 64 bits")
        elif strict and isinstance(one, str):
            _check_text(one)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Unreadable("has text with a null character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Unreadable("has text that is not Unicode (half of a surrogate pair)") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise Unreadable(f"key {name[:60]!r} appears twice")
        mapping[name] = value
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable(f"{text[:30]} is not a finite number")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
        raise Unreadable("has an integer beyond 64 bits")
    return int(text)


_STRICT: dict[str, Any] = {
    "object_pairs_hook": _unique,
    "parse_constant": _finite,
    "parse_float": _finite,
    "parse_int": _integer,
}
