"""The lines of a journal as a regular expression, for journals that are too long to parse line by line.

It matches lines as :meth:`evalkit.records.record.Record.to_json` writes them: keys in order, no blanks, ASCII. It
matches no line that :meth:`~.Record.from_json` refuses for its form. Lines with the same content in another form do not
match.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.files import parse_json
from evalkit.records.record import MAX_DIGITS

if TYPE_CHECKING:
    import duckdb

_MAPS = ("metrics", "execution_stats", "host")  # with keys that are not the same in every record
_SAMPLE = 100  # lines whose keys are looked up to speed up the rest


def _one_of(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


def _separated(item: str) -> str:
    return f"(?:{item}(?:,{item})*)?"


_BELOW_1000 = "0(?:[1-9a-f][0-9a-f]{2}|0[1-9a-f][0-9a-f]|00[1-9a-f])"  # but not 0000
_ESCAPED = rf'\\["\\/bfnrt]|\\u(?:[1-9a-ce-f][0-9a-f]{{3}}|{_BELOW_1000}|d[0-7][0-9a-f]{{2}})'
_CHARACTER = rf"(?:[ !#-\[\]-~]|{_ESCAPED})"  # no control character, and no half of a surrogate pair
_TEXT = f'"{_CHARACTER}*"'
_KEY = r'"[ !#-\[\]-~]*"'
_COUNT = rf"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?"  # below 1e118, so never infinite
_VALUES = {"metrics": _NUMBER, "execution_stats": _NUMBER, "host": _one_of(_TEXT, _NUMBER, "true", "false", "null")}
_OPTIONAL = _one_of(_COUNT, "null")
_EPISODE = rf'\{{"suite":{_TEXT},"split":{_TEXT},"task":{_TEXT},"scene":{_COUNT},"seed":{_COUNT},"repeat":{_COUNT}\}}'
_SUBTASK = rf"\[{_one_of(_TEXT, 'null')},{_one_of('true', 'false')}\]"
_REQUEST = rf"\[{_COUNT},{_OPTIONAL}\]"
_SEGMENT = rf"\[{_OPTIONAL},{_COUNT}\]"
_TIMELINE = rf'\{{"requests":\[{_separated(_REQUEST)}\],"segments":\[{_separated(_SEGMENT)}\]\}}'
_ERROR = rf'\{{"kind":"{_CHARACTER}+","message":{_TEXT}\}}'


def _line(maps: Mapping[str, str]) -> str:
    """Return the expression for a line, given those for its mappings."""
    return (
        rf'\{{"id":{_TEXT},"episode":{_EPISODE},"success":{_one_of("true", "false", "null")},"steps":{_OPTIONAL},'
        rf'"inferences":{_OPTIONAL},"clipped_steps":{_OPTIONAL},"metrics":{maps["metrics"]},'
        rf'"subtasks":\[{_separated(_SUBTASK)}\],"execution_stats":{maps["execution_stats"]},'
        rf'"timeline":{_one_of("null", _TIMELINE)},"digest":{_one_of(_TEXT, "null")},'
        rf'"error":{_one_of("null", _ERROR)},"host":{maps["host"]}\}}'
    )


def _mapping(entries: str) -> str:
    return rf"\{{{entries}\}}"


_ANY = _line({name: _mapping(_separated(f"{_KEY}:{value}")) for name, value in _VALUES.items()})


def _with_keys(shapes: Mapping[str, Iterable[tuple[str, ...]]]) -> str:
    """Return the expression for a line whose mappings have one of these sequences of keys, or none."""
    maps = {}
    for name, sequences in shapes.items():
        known = [keys for keys in sequences if all(map(_is_plain, keys))]
        entries = [",".join(f'"{key}":{_VALUES[name]}' for key in keys) for keys in known]
        maps[name] = _one_of(*(_mapping(one) for one in ["", *entries]))
    return _line(maps)


def _is_plain(key: str) -> bool:
    return re.fullmatch("[A-Za-z0-9_]+", key) is not None


def count_regular_lines(database: duckdb.DuckDBPyConnection, path: Path) -> int | None:
    """Return the number of lines of a file, or None if one of them, or any byte between them, is irregular.

    A regular line matches the expression and has no key twice. Looking up the keys of every line would take longer than
    all else. Therefore those of the first lines are looked up, and lines with the same keys in the same order match.

    Args:
        database: a connection without content.
        path: the file; its name has no character of a pattern.
    """
    size = path.stat().st_size
    keys = [f"json_keys(text, '$.{name}')" for name in _MAPS]
    unique = " AND ".join(f"len(list_distinct({one})) = len({one})" for one in keys)
    ((count, length, regular),) = database.execute(
        f"""
        SELECT count(*), sum(strlen(text) + 1), bool_and(
            CASE WHEN regexp_full_match(text, $usual) THEN true
            WHEN regexp_full_match(text, $any) THEN {unique}
            ELSE false END
        ) FROM read_csv($path, columns = {{text: 'VARCHAR'}}, header = false, auto_detect = false,
                        delim = chr(1), quote = '', escape = '')
        """,
        {"usual": _with_keys(_first_keys(path)), "any": _ANY, "path": str(path)},
    ).fetchall()
    return int(count) if (length, regular) == (size, True) else None


def _first_keys(path: Path) -> dict[str, set[tuple[str, ...]]]:
    """Return the keys of the mappings in the first lines, each in their order."""
    shapes: dict[str, set[tuple[str, ...]]] = {name: set() for name in _MAPS}
    with path.open("rb") as file, contextlib.suppress(ValueError):
        for line in itertools.islice(file, _SAMPLE):
            fields = parse_json(line)
            for name in _MAPS:
                if isinstance(fields, dict) and isinstance(fields.get(name), dict):
                    shapes[name].add(tuple(fields[name]))
    return shapes
