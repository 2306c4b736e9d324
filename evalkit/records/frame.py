"""A run's journal as a data frame with one row per episode, the source of every number.

There are two ways to the same frame. :func:`episodes_frame` takes records. :func:`read_frame` takes the file and reads
it in DuckDB: a million episodes in seconds. If anything there is irregular (damage, a torn line, an episode that the
manifest does not plan, a verdict that contradicts another), :func:`evalkit.records.journal.read_journal` reads the file
instead; it knows every rule and names the line. DuckDB takes no journal that ``read_journal`` refuses, because every
line must be one that :meth:`evalkit.records.record.Record.to_json` writes, to the byte (:mod:`evalkit.records.lines`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.records.folder import RunFolder
from evalkit.records.journal import Record, chain_length, read_journal
from evalkit.records.lines import count_regular_lines
from evalkit.records.manifest import Manifest, read_manifest
from evalkit.records.planned import PlanRules

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_NAMES = ("suite", "split", "task")
_NUMBERS = ("scene", "seed", "repeat", "steps", "inferences")
_COLUMNS = (*_NAMES, "scene", "seed", "repeat", "success", "steps", "inferences", "digest", "error", "subtasks")
_EXTRAS = ("metrics", "execution_stats")
_NO_LIMIT = 2**31 - 1
_EPISODE = {**dict.fromkeys(_NAMES, "VARCHAR"), **dict.fromkeys(("scene", "seed", "repeat"), "UBIGINT")}
_RECORD = {
    "id": "VARCHAR",
    "episode": f"STRUCT({', '.join(f'{name} {kind}' for name, kind in _EPISODE.items())})",
    "steps": "BIGINT",
    "inferences": "BIGINT",
    "digest": "VARCHAR",
    **dict.fromkeys(("success", "error", "subtasks", *_EXTRAS), "JSON"),  # as text, without casts
}


def episodes_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per episode.

    Columns: the episode's fields, ``success`` (None for an error), ``steps``, ``inferences``, ``digest``, ``error``,
    ``subtasks``, ``solved``. Names and digests are categories; unknown steps and inferences are NaN. A suite's own
    metric ``x`` is column ``metric.x``; the execution's statistics are under ``execution_stats.``. Of a chain,
    ``subtasks`` has the sub-tasks with their verdicts, and ``solved`` is the number solved in a row.
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
            "subtasks": r.subtasks,
            "metrics": r.metrics,
            "execution_stats": r.execution_stats,
        }
        for r in records
    ]
    return _typed(pd.DataFrame(rows, columns=[*_COLUMNS, *_EXTRAS], dtype=object))


def read_frame(folder: Path, extras: bool = True, manifest: Manifest | None = None) -> pd.DataFrame:
    """Read the frame of the run in ``folder``, equal to :func:`episodes_frame` of its records.

    Args:
        folder: the run's folder.
        extras: include the columns under ``metric.`` and ``execution_stats.``, which take as long as all the others.
        manifest: its manifest, which the records are held against; read from the folder if None.

    Raises:
        UsageError: see :func:`evalkit.records.journal.read_journal`.
    """
    manifest = manifest or read_manifest(folder)
    frame = _read_with_duckdb(RunFolder(folder).journal, PlanRules.of(manifest), extras)
    if frame is None:
        frame = episodes_frame(read_journal(folder, manifest).values())
        frame = frame if extras else frame[[name for name in frame if "." not in str(name)]]
    return frame


def count_verdicts(folder: Path, manifest: Manifest) -> int:
    """Return the number of episodes with a verdict in the run in ``folder``; no record of a long journal is kept.

    Args:
        folder: the run's folder.
        manifest: its manifest, which the records are held against.

    Raises:
        UsageError: see :func:`evalkit.records.journal.read_journal`.
    """
    rules = PlanRules.of(manifest)
    count: int | None = _with_duckdb(RunFolder(folder).journal, False, lambda database: _count_of(database, rules))
    if count is None:
        count = sum(record.error is None for record in read_journal(folder, manifest).values())
    return count


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its dtypes, ``solved``, and a column for each number in metrics and execution_stats."""
    import pandas as pd

    for name in _NUMBERS:
        frame[name] = frame[name].astype("float64" if frame[name].isna().any() else "int64")
    codes: Any  # and ``nothing``: older stubs, the last for Python 3.10, know less of what pandas takes
    nothing: Any = None
    for name in (*_NAMES, "digest"):
        codes, values = pd.factorize(frame[name])
        frame[name] = pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object))
    missing = frame["error"].notna()
    frame["error"] = frame["error"].astype(object).where(missing, nothing)
    frame["success"] = frame["success"].astype(object if missing.any() else bool)
    if "solved" not in frame:
        frame["solved"] = pd.Series(
            [chain_length(subtasks) for subtasks in frame["subtasks"]], index=frame.index, dtype="int64"
        )
    for prefix, extra in zip(("metric", "execution_stats"), _EXTRAS, strict=True):
        if extra in frame:
            found = list(frame.pop(extra))
            for name in dict.fromkeys(name for numbers in found for name in numbers):
                column = [numbers.get(name) for numbers in found]
                frame[f"{prefix}.{name}"] = pd.Series(column, index=frame.index, dtype="float64")
    return frame


def _read_with_duckdb(path: Path, rules: PlanRules, extras: bool) -> pd.DataFrame | None:
    """Return the frame, or None if a record is irregular, not planned, or in contradiction to another."""
    frame: pd.DataFrame | None = _with_duckdb(path, extras, lambda database: _frame_of(database, rules, extras))
    return frame


def _with_duckdb(path: Path, extras: bool, result: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
    """Return the result of a function of table ``line``, or None if a line is irregular."""
    import duckdb

    # DuckDB would read a name with one of these characters as a pattern.
    if set("*?[") & set(str(path)) or not path.is_file() or not _begins_and_ends_well(path):
        return None
    try:
        with ThreadPoolExecutor(1) as executor, _database() as database:
            regular = executor.submit(_count_regular_lines, path)
            _load(database, path, extras)
            return result(database) if regular.result() == _count_lines(database) else None
    except (duckdb.Error, OSError):
        return None
    except RuntimeError as error:  # how DuckDB tells of Ctrl-C
        raise KeyboardInterrupt from error


def _begins_and_ends_well(path: Path) -> bool:
    """Return False for a file that is empty or torn, or whose first byte is wrong, without reading the rest of it."""
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _database() -> duckdb.DuckDBPyConnection:
    """Connect to a database in memory that loads no extensions."""
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})


def _count_regular_lines(path: Path) -> int | None:
    with _database() as database:
        return count_regular_lines(database, path)


def _count_lines(database: duckdb.DuckDBPyConnection) -> int:
    (row,) = database.execute("SELECT count(*) FROM line").fetchall()
    return int(row[0])


def _load(database: duckdb.DuckDBPyConnection, path: Path, extras: bool) -> None:
    """Read the file into table ``line``, one row for each line."""
    record = {name: kind for name, kind in _RECORD.items() if extras or name not in _EXTRAS}
    types = ", ".join(f"{name}: '{kind}'" for name, kind in record.items())
    own = ", ".join(name for name in record if name not in ("id", "episode", "success"))
    episode = ", ".join(f"episode.{name} AS {name}" for name in _EPISODE)
    database.execute(
        f"""
        CREATE TABLE line AS
        SELECT {own}, {episode}, success = 'true' AS success,
            (success IS NULL) = (error IS NOT NULL)
            AND id = concat(episode.suite, '/', episode.split, '/', episode.task, '/', episode.scene,
                            '/s', episode.seed, '/r', episode.repeat) AS regular
        FROM read_ndjson($path, columns = {{{types}}})
        """,
        {"path": str(path)},
    )


def _frame_of(database: duckdb.DuckDBPyConnection, rules: PlanRules, extras: bool) -> pd.DataFrame | None:
    """Return the frame of table ``line``, or None if a record is not planned or follows a verdict."""
    if not _is_planned(database, rules):
        return None
    frame = _fetch(database, "line", extras)
    if frame.duplicated(list(_EPISODE)).any():
        if not _keep_the_last(database):
            return None
        frame = _fetch(database, "kept", extras)
    return _typed(frame)


def _count_of(database: duckdb.DuckDBPyConnection, rules: PlanRules) -> int | None:
    """Return the number of verdicts in table ``line``, or None if a record is not planned or follows a verdict."""
    if not _is_planned(database, rules) or not _keep_the_last(database):
        return None
    ((count,),) = database.execute("SELECT count(success) FROM kept").fetchall()
    return int(count)


def _is_planned(database: duckdb.DuckDBPyConnection, rules: PlanRules) -> bool:
    """Return True if every line passes :meth:`PlanRules.check` and agrees with itself."""
    import pandas as pd

    tasks = [
        (task.split, task.task, task.scenes, task.repeats, rules.max_steps[task.split]) for task in rules.tasks.values()
    ]
    planned = pd.DataFrame(tasks, columns=["split", "task", "scenes", "repeats", "max_steps"])
    steps = "steps BETWEEN (success IS NOT NULL)::INT AND max_steps" if rules.played else "true"
    database.register("planned", planned)
    found = database.execute(
        f"""
        SELECT bool_and(coalesce(regular AND suite = $suite AND seed = $seed AND scene < scenes AND repeat < repeats
                                 AND {steps} AND json_array_length(subtasks) <= $chain, false))
        FROM line LEFT JOIN planned USING (split, task)
        """,
        {"suite": rules.suite, "seed": rules.seed, "chain": _NO_LIMIT if rules.chain is None else rules.chain},
    )
    return found.fetchall() == [(True,)]


def _keep_the_last(database: duckdb.DuckDBPyConnection) -> bool:
    """Make table ``kept``: the last record of every episode, in the place of the first.

    Return False if a record follows a verdict.
    """
    episode = ", ".join(_EPISODE)
    database.execute(
        f"""
        CREATE TABLE again AS
        SELECT {episode}, min(rowid) AS first, max(rowid) AS last,
            coalesce(min(rowid) FILTER (success IS NOT NULL) < max(rowid), false) AS follows_a_verdict
        FROM line GROUP BY {episode} HAVING count(*) > 1
        """
    )
    if database.execute("SELECT coalesce(bool_or(follows_a_verdict), false) FROM again").fetchall() != [(False,)]:
        return False
    database.execute(
        f"""
        CREATE TABLE kept AS
        SELECT line.* FROM line LEFT JOIN again USING ({episode})
        WHERE last IS NULL OR last = line.rowid ORDER BY coalesce(first, line.rowid)
        """
    )
    return True


def _fetch(database: duckdb.DuckDBPyConnection, table: str, extras: bool) -> pd.DataFrame:
    """Return a table as a frame with the columns of records. Repeated texts are parsed once."""
    import numpy as np
    import pandas as pd

    names = {name: name for name in (*_COLUMNS, *(_EXTRAS if extras else ()))}
    for name in (*_NAMES, "subtasks"):
        database.execute(f"CREATE OR REPLACE TYPE {name}_text AS ENUM (SELECT DISTINCT {name}::VARCHAR FROM {table})")
        names[name] = f"{name}::VARCHAR::{name}_text AS {name}"
    frame: pd.DataFrame = database.execute(f"SELECT {', '.join(names.values())} FROM {table}").df()
    subtasks = [json.loads(text) for text in frame["subtasks"].cat.categories]
    codes = frame["subtasks"].cat.codes.to_numpy()
    frame["subtasks"] = pd.Series([subtasks[code] for code in codes], index=frame.index, dtype=object)
    frame["solved"] = np.array([chain_length(chain) for chain in subtasks], dtype="int64")[codes]
    frame["error"] = frame["error"].map(lambda text: json.loads(text)["kind"], na_action="ignore")
    nothing: Any = None  # older stubs take no None
    frame["success"] = frame["success"].astype(object).where(frame["error"].isna(), nothing)
    for name in _EXTRAS if extras else ():
        codes, texts = frame[name].factorize()
        read = [json.loads(text) for text in texts]
        frame[name] = [read[code] for code in codes]
    return frame
