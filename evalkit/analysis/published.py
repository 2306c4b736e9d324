"""Published figures: what papers and public leaderboards print, and how a run compares with them.

``results/published/<suite>.yaml`` has a suite's tables as papers print them, and the papers' rows; the files in
``leaderboards/`` have rows that others gathered. Figures stand there as printed: rates in percent, lengths as lengths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evalkit.analysis.rows import RATE, Row
from evalkit.analysis.summary import Summary
from evalkit.documents import Section, parse, read_yaml
from evalkit.errors import UsageError
from evalkit.execution.delay import Delay
from evalkit.locations import published_folder


class Column(Section):
    """One column: which of a run's rows it is. Without a split it is the suite's headline, by its name."""

    name: str
    split: str | None = None
    task: str | None = None
    metric: str = RATE
    unit: Literal["percent", "length"] = "percent"

    @property
    def one(self) -> float:
        """What a value of 1 is printed as."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def step(self) -> float:
        """The last digit that is printed, as a value: 0.1 %, or 0.01 of a length."""
        return 0.001 if self.unit == "percent" else 0.01


class Reference(Section):
    """One published row.

    Attributes:
        model: its name in the source.
        cells: the figures as printed, without the average; None where none is printed.
        average: the average as printed.
        derived: what its own cells make of the average, where all are printed.
        consistent: whether ``average`` is ``derived``, as far as rounding can tell.
        paper: the model's paper, which tells two models of one name apart.
        reported: where the figures were printed, where that is not the table's source.
        average_of: the columns that the average is over, where they are not all.
        standard: False where the source says that the evaluation departed from the protocol.
        checkpoint: the entry of ``checkpoints.yaml`` with the weights that were evaluated.
    """

    model: str
    cells: list[float | None]
    average: float | None = None
    derived: float | None = None
    consistent: bool | None = None
    paper: str | None = None
    reported: str | None = Field(None, pattern=r"^[^,\s]")
    average_of: list[str] | None = None
    standard: bool = True
    checkpoint: str | None = None


class Table(Section):
    """A suite's results as papers print them: some columns, and last the average of them."""

    title: str
    source: str
    protocol: str
    average: Literal["mean", "sum"] = Field(description="of the rates in the other columns")
    columns: list[Column] = Field(min_length=2)
    rows: list[Reference]

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        names = [column.name for column in self.columns[:-1]]
        for row in self.rows:
            if len(row.cells) != len(names):
                raise ValueError(f"{row.model}: must have {len(names)} cells: {', '.join(names)}")
            if not set(row.average_of or []) <= set(names):
                raise ValueError(f"{row.model}: average_of must be some of {', '.join(names)}")
        return self

    def derive(self, row: Reference) -> float | None:
        """What a row's average must be by its own cells, to three decimals; None where one of them is missing."""
        names = [column.name for column in self.columns[:-1]]
        cells = [c for name, c in zip(names, row.cells, strict=True) if name in (row.average_of or names)]
        whole = [cell for cell in cells if cell is not None]
        if len(whole) < len(cells):
            return None
        return round(sum(whole) / (len(whole) if self.average == "mean" else 100) + 1e-9, 3)

    def follows(self, row: Reference) -> bool | None:
        """Whether a row's average follows from its cells: half a last digit of each may have been rounded away."""
        derived = self.derive(row)
        if derived is None or row.average is None:
            return None
        if self.average == "mean":
            return abs(derived - row.average) <= 0.05 + 0.05 + 1e-6
        return abs(derived - row.average) <= 0.005 + 0.0005 * len(row.cells) + 1e-6


class Published(Section):
    """A file of one suite's tables."""

    suite: str
    tables: dict[str, Table]


class Source(Section):
    """A public collection of rows."""

    name: str
    url: str
    commit: str
    license: str


class Gathered(Reference):
    """A row of a collection, with the table that it belongs to."""

    suite: str
    table: str


class Leaderboard(Section):
    """A file of rows from one collection."""

    source: Source
    rows: list[Gathered]


@dataclass(frozen=True)
class Cell:
    """A figure in a comparison: rates are fractions of 1. A measured one has its interval.

    Attributes:
        value: the figure; None where there is none.
        low: lower end of the 95 % interval.
        high: upper end.
        published: what is published for the same checkpoint, where that may be compared.
        marks: what the legend explains of it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    marks: str = ""

    @property
    def outside_interval(self) -> bool | None:
        """Whether the interval excludes the published figure; None where there is nothing to compare."""
        return None if self.published is None else "≠" in self.marks


@dataclass(frozen=True)
class Line:
    """A line of a comparison: a run (``summary``) or a published row."""

    model: str
    source: str
    cells: list[Cell]
    summary: Summary | None = None
    reference: Reference | None = None


@dataclass(frozen=True)
class Comparison:
    """A suite's table as papers print it: what was measured, then what is published."""

    suite: str
    table: Table
    lines: list[Line]
    notes: list[str]


LEGEND = {
    "≠": "the measured interval excludes what is published for this checkpoint",
    "*": "the printed average does not follow from the row's own cells",
    "†": "the average is over some of the columns only",
    "‡": "another protocol, its source says",
}


def published_tables(suite: str, leaderboards: bool = False) -> dict[str, Table]:
    """A suite's tables by name, with the papers' rows and, where asked for, those of leaderboards; empty without any.

    Raises UsageError that names the file and the field at fault.
    """
    path = published_folder() / f"{suite}.yaml"
    if not path.is_file():
        return {}
    tables = parse(Published, read_yaml(path), path).tables
    for board in sorted(path.parent.glob("leaderboards/*.json")) if leaderboards else []:
        read = parse(Leaderboard, _read_json(board), board)
        for name, table in tables.items():
            via = f"{read.source.name} {read.source.commit}"
            rows = [_sourced(row, via) for row in read.rows if (row.suite, row.table) == (suite, name)]
            content = {**table.model_dump(), "rows": [r.model_dump() for r in [*table.rows, *rows]]}
            tables[name] = parse(Table, content, f"{board}: table {name}")
    return tables


def comparisons(summaries: Sequence[Summary], leaderboards: bool = False) -> list[Comparison]:
    """The tables that the runs are part of, the runs' lines first; none for a suite without published rows."""
    made = []
    for suite in dict.fromkeys(str(s.manifest.fingerprint["suite"]) for s in summaries):
        runs = [s for s in summaries if s.manifest.fingerprint["suite"] == suite]
        for table in published_tables(suite, leaderboards).values():
            splits = {column.split for column in table.columns if column.split}
            mine = [s for s in runs if splits & {split for split, _ in s.manifest.plan.keys}]
            if mine:
                papers: dict[str, set[str | None]] = {}
                for row in table.rows:
                    papers.setdefault(row.model, set()).add(row.paper)
                twice = {model for model, of in papers.items() if len(of) > 1}
                lines = [*(_measured(s, table) for s in mine), *(_reference(row, table, twice) for row in table.rows)]
                notes = [f"not held against published figures: {s.folder}: {why}" for s in mine if (why := _barred(s))]
                made.append(Comparison(suite, table, lines, notes))
    return made


def _measured(summary: Summary, table: Table) -> Line:
    identity = str(summary.manifest.checkpoint["id"])
    same = next((row for row in table.rows if row.checkpoint == identity), None)
    figures = [None] * len(table.columns) if same is None or _barred(summary) else [*same.cells, same.average]
    cells = []
    for column, figure in zip(table.columns, figures, strict=True):
        row = _row_of(summary, column)
        published = None if figure is None else figure / column.one
        if row is None or row.value is None or row.low is None or row.high is None:
            cells.append(Cell(None))
            continue
        half = column.step / 2  # what rounding took away from the published figure
        out = published is not None and not row.low - half <= published <= row.high + half
        cells.append(Cell(row.value, row.low, row.high, published, "≠" if out else ""))
    execution = summary.manifest.execution
    how = "" if execution["name"] == "sync" else f" ({execution['name']})"
    return Line(f"{identity}{how}", "this run", cells, summary=summary)


def _row_of(summary: Summary, column: Column) -> Row | None:
    """The run's row in a column; None where it ran only a part of what the column is about."""
    key = (column.split, column.task, column.metric)
    found = next((row for row in summary.rows if (row.split, row.task, row.metric) == key), None)
    if found and column.split and not column.task:
        whole = {(column.split, task) for task in summary.manifest.suite["splits"][column.split]["tasks"]}
        return found if whole <= set(summary.manifest.plan.keys) or column.metric != RATE else None
    return found


def _barred(summary: Summary) -> str:
    """Why a run may not be held against published figures; empty where it may."""
    execution = summary.manifest.execution
    if summary.manifest.incomparable:
        return summary.manifest.incomparable[0]
    if execution["name"] != "sync" or Delay.from_dict(execution.get("delay") or {"steps": 0}) != Delay():
        return f"its execution is {execution['name']}, where the published ones let the world wait"
    return ""


def _reference(row: Reference, table: Table, twice: set[str]) -> Line:
    """A published row as a line, with its paper where two models have its name."""
    figures = [None if f is None else f / c.one for f, c in zip([*row.cells, row.average], table.columns, strict=True)]
    marks = ("*" if row.consistent is False else "") + ("†" if row.average_of else "") + ("" if row.standard else "‡")
    cells = [*(Cell(f) for f in figures[:-1]), Cell(figures[-1], marks=marks if figures[-1] is not None else "")]
    model = f"{row.model} ({row.paper})" if row.model in twice and row.paper else row.model
    return Line(model, row.reported or table.source, cells, reference=row)


def _sourced(row: Gathered, via: str) -> Reference:
    content = {**row.model_dump(exclude={"suite", "table"}), "checkpoint": None}
    where = row.reported or row.paper
    return Reference.model_validate({**content, "reported": f"{where}, via {via}" if where else f"via {via}"})


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
