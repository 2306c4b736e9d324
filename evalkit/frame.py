"""A run's journal as a frame: one row per episode, which every number is made from.

There are two ways to the same frame. :func:`episodes_frame` takes records. :func:`read_frame` takes the file, and reads
it in DuckDB: a million episodes in seconds. Whatever is not plainly in order there (damage, a verdict that contradicts
another) is left to :func:`evalkit.journal.read_journal`, which knows every rule and names the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.journal import FILE, Record, check_parts, read_journal

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_NAMES = ("suite", "split", "task")
_NUMBERS = ("scene", "seed", "repeat", "steps", "inferences")
_COLUMNS = (*_NAMES, "scene", "seed", "repeat", "success", "steps", "inferences", "digest", "error", "parts")
_EXTRAS = ("metrics", "motion")
_EPISODE = {**dict.fromkeys(_NAMES, "VARCHAR"), **dict.fromkeys(("scene", "seed", "repeat"), "UBIGINT")}
_RECORD = {
    "id": "VARCHAR",
    "episode": _EPISODE,
    "steps": "BIGINT",
    "inferences": "BIGINT",
    "digest": "VARCHAR",
    **dict.fromkeys(("success", "error", "parts", *_EXTRAS), "JSON"),  # as text: nothing is cast
}


def episodes_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per episode: its fields, ``success`` (None for an error), ``steps``, ``digest``, ``error``, and metrics.

    Names and digests are categories. A suite's own metric ``x`` is column ``metric.x``, and what its execution did is
    under ``motion.``. Of a chain, ``parts`` has its sub-tasks with their verdicts and ``solved`` how many of them were
    solved in a row.
    """
    import pandas as pd

    rows = [
        {
            **vars(r.episode),
            "success": r.success,
            "steps": r.steps,
            "inferences": r.inferences,
            "digest": r.digest,
            "error": r.error["kind"] if r.error else None,
            "parts": r.parts,
            "metrics": r.metrics,
            "motion": r.motion,
        }
        for r in records
    ]
    return _finished(pd.DataFrame(rows, columns=[*_COLUMNS, *_EXTRAS], dtype=object))


def read_frame(folder: Path, extras: bool = True) -> pd.DataFrame:
    """The frame of the run in ``folder``, as :func:`episodes_frame` makes it of its records.

    Args:
        folder: the run's.
        extras: whether to have the columns under ``metric.`` and ``motion.``, which take as long as all the others.

    Raises:
        UsageError: as :func:`evalkit.journal.read_journal` does.
    """
    frame = _read_quickly(folder / FILE, extras)
    return episodes_frame(read_journal(folder).values()) if frame is None else frame


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its types, with ``solved``, and with a column for each number in ``metrics`` and ``motion``."""
    import pandas as pd

    for name in _NUMBERS:
        frame[name] = frame[name].astype("int64")
    for name in (*_NAMES, "digest"):
        codes, values = pd.factorize(frame[name])
        frame[name] = pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object))
    missing = frame["error"].notna()
    frame["error"] = frame["error"].astype(object).where(missing, None)
    frame["success"] = frame["success"].astype(object if missing.any() else bool)
    frame["solved"] = pd.Series(_taken(frame["parts"], _solved), index=frame.index, dtype="int64")
    for prefix, extra in zip(("metric", "motion"), _EXTRAS, strict=True):
        if extra in frame:
            found = list(frame.pop(extra))
            for name in dict.fromkeys(name for numbers in found for name in numbers):
                column = [numbers.get(name) for numbers in found]
                frame[f"{prefix}.{name}"] = pd.Series(column, index=frame.index, dtype="float64")
    return frame


def _solved(parts: list[list[Any]]) -> int:
    return next((place for place, (_, solved) in enumerate(parts) if not solved), len(parts))


def _taken(values: Iterable[Any], make: Callable[[Any], Any]) -> list[Any]:
    """``make`` of every value, called once for each object: equal parts of a journal's records are one."""
    known: dict[int, Any] = {}
    values = list(values)
    for value in values:
        if id(value) not in known:
            known[id(value)] = make(value)
    return [known[id(value)] for value in values]


def _read_quickly(path: Path, extras: bool) -> pd.DataFrame | None:
    """The frame, or None where a line is not plainly a record or two of them contradict one another."""
    import duckdb

    if not path.is_file() or path.stat().st_size == 0 or set("*?[") & set(str(path)):  # the name would be a pattern
        return None
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(config=settings) as database:
            _load(database, path)
            return _fetched(database, extras) if _in_order(database) else None
    except (duckdb.Error, ValueError, TypeError, KeyError):
        return None


def _load(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Makes table ``line``, one row per record; ``plain`` says that it has a record's fields and its episode's id."""
    own = ", ".join(f"r.{name}" for name in _RECORD if name != "episode")
    episode = ", ".join(f"r.episode.{name} AS {name}" for name in _EPISODE)
    database.execute(
        f"""
        CREATE TABLE line AS
        SELECT {own}, {episode},
            whole AND coalesce(r.success IN ('true', 'false'), r.error LIKE '{{"%')
            AND (r.success IS NULL) = (r.error IS NOT NULL)
            AND r.id = concat(r.episode.suite, '/', r.episode.split, '/', r.episode.task, '/', r.episode.scene,
                              '/s', r.episode.seed, '/r', r.episode.repeat) AS plain
        FROM (SELECT json_transform_strict(json, $record) AS r, json_keys(json) = $keys AS whole
              FROM read_ndjson_objects($path))
        """,
        {"record": json.dumps(_RECORD), "keys": ["id", *(f.name for f in fields(Record))], "path": str(path)},
    )


def _in_order(database: duckdb.DuckDBPyConnection) -> bool:
    """Whether all lines are plain, and no two verdicts on an episode differ. Makes table ``again`` of repeated ids."""
    database.execute(
        """
        CREATE TABLE again AS
        SELECT id, min(rowid) AS first, max(rowid) AS last,
            count(DISTINCT success || parts) AS verdicts
        FROM line GROUP BY id HAVING count(*) > 1
        """
    )
    asked = "SELECT (SELECT bool_and(coalesce(plain, false)) FROM line), (SELECT max(verdicts) FROM again)"
    plain, verdicts = database.execute(asked).fetchone() or (False, None)
    return bool(plain) and (verdicts or 0) <= 1


def _fetched(database: duckdb.DuckDBPyConnection, extras: bool) -> pd.DataFrame:
    """The frame of table ``line``: of every episode its last record, in the order of the first ones."""
    for name in _NAMES:
        database.execute(f"CREATE TYPE {name}_name AS ENUM (SELECT DISTINCT {name} FROM line)")
    columns = [f"{name}::{name}_name AS {name}" if name in _NAMES else name for name in _COLUMNS]
    query = f"SELECT {', '.join([*columns, *(_EXTRAS if extras else [])])} FROM line"
    if database.execute("SELECT 1 FROM again").fetchone():
        query += (
            " LEFT JOIN again USING (id) WHERE last IS NULL OR last = line.rowid ORDER BY coalesce(first, line.rowid)"
        )
    frame: pd.DataFrame = database.execute(query).df()
    frame["success"] = (frame["success"] == "true").astype(object).where(frame["error"].isna(), None)
    frame["error"] = frame["error"].map(lambda text: json.loads(text)["kind"], na_action="ignore")
    for column in ("parts", *(_EXTRAS if extras else ())):
        codes, texts = frame[column].factorize()
        read = [check_parts(json.loads(t)) if column == "parts" else json.loads(t) for t in texts]
        frame[column] = [read[code] for code in codes]
    return _finished(frame)
