"""Published figures of papers and public leaderboards, and the comparison of runs with them.

``results/published/<suite>.yaml`` has a suite's tables as papers print them, and the papers' rows; the files in
``leaderboards/`` have rows from public collections. Figures are stored as printed: rates in percent, lengths as
lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from evalkit.analysis.rows import RATE, Row
from evalkit.analysis.summary import Summary
from evalkit.documents import Section, parse, read_json, read_yaml
from evalkit.execution.delay import Delay
from evalkit.locations import published_folder


class Column(Section):
    """One column of a table, which names a row of a run. Without a split it is the suite's headline."""

    name: str
    split: str | None = None
    task: str | None = None
    metric: str = RATE
    unit: Literal["percent", "length"] = "percent"

    @property
    def scale(self) -> float:
        """The printed form of the value 1."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def last_digit(self) -> float:
        """The last printed digit, as a value: 0.1 %, or 0.01 of a length."""
        return 0.001 if self.unit == "percent" else 0.01


class PublishedRow(Section):
    """One published row.

    Attributes:
        model: its name in the source.
        cells: the figures as printed, without the average; None if not printed.
        average: the average as printed.
        derived: the average of the row's own cells, to three decimals, if all are printed.
        consistent: True if ``average`` equals ``derived`` within rounding.
        paper: the model's paper, which distinguishes models of one name.
        reported: the source of the figures, if it is not the table's source.
        average_of: the columns of the average, if it is not over all.
        standard: False if the source states a departure from the protocol.
        checkpoint: the entry of ``checkpoints.yaml`` with the evaluated weights.
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
    """A suite's results as papers print them: some columns, and last their average."""

    title: str
    source: str
    protocol: str
    average: Literal["mean", "sum"] = Field(description="of the rates in the other columns")
    columns: list[Column] = Field(min_length=2)
    rows: list[PublishedRow]

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        names = [column.name for column in self.columns[:-1]]
        for row in self.rows:
            if len(row.cells) != len(names):
                raise ValueError(f"{row.model}: must have {len(names)} cells: {', '.join(names)}")
            if not set(row.average_of or []) <= set(names):
                raise ValueError(f"{row.model}: average_of must be some of {', '.join(names)}")
        return self


class PublishedFile(Section):
    """A file of one suite's tables."""

    suite: str
    tables: dict[str, Table]


class Collection(Section):
    """A public collection of rows."""

    name: str
    url: str
    commit: str
    license: str


class CollectedRow(PublishedRow):
    """A row of a collection, with the table to which it belongs."""

    suite: str
    table: str


class Leaderboard(Section):
    """A file of rows from one collection."""

    source: Collection
    rows: list[CollectedRow]


@dataclass(frozen=True)
class Cell:
    """A figure in a comparison. Rates are fractions of 1.

    Attributes:
        value: the figure; None if there is none.
        low: lower end of the 95 % interval; None for a published figure.
        high: upper end.
        published: the published figure of the same checkpoint, if it may be compared.
        marks: marks that the legend explains.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    marks: str = ""

    @property
    def outside_interval(self) -> bool | None:
        """True if the published figure lies outside the interval; None if there is nothing to compare."""
        return None if self.published is None else "≠" in self.marks


@dataclass(frozen=True)
class TableRow:
    """A row of a comparison: a run (``summary``) or a published row (``reference``)."""

    model: str
    source: str
    cells: list[Cell]
    summary: Summary | None = None
    reference: PublishedRow | None = None


@dataclass(frozen=True)
class PublishedComparison:
    """A suite's table as papers print it, with the runs first and the published rows below."""

    suite: str
    table: Table
    rows: list[TableRow]
    notes: list[str]


LEGEND = {
    "≠": "the published figure for this checkpoint lies outside the measured interval",
    "*": "the printed average does not follow from the row's own cells",
    "†": "the average is over some of the columns only",
    "‡": "another protocol, according to the source",
}


def published_tables(suite: str, leaderboards: bool = False) -> dict[str, Table]:
    """Return a suite's tables by name, with the papers' rows; empty if there are none.

    Args:
        suite: name of the suite.
        leaderboards: add the rows of public leaderboards.

    Raises:
        UsageError: a file is damaged; the message names the file and the field.
    """
    path = published_folder() / f"{suite}.yaml"
    if not path.is_file():
        return {}
    tables = parse(PublishedFile, read_yaml(path), path).tables
    for board in sorted(path.parent.glob("leaderboards/*.json")) if leaderboards else []:
        read = parse(Leaderboard, read_json(board), board)
        for name, table in tables.items():
            via = f"{read.source.name} {read.source.commit}"
            rows = [_with_source(row, via) for row in read.rows if (row.suite, row.table) == (suite, name)]
            content = {**table.model_dump(), "rows": [r.model_dump() for r in [*table.rows, *rows]]}
            tables[name] = parse(Table, content, f"{board}: table {name}")
    return tables


def comparisons(summaries: Sequence[Summary], leaderboards: bool = False) -> list[PublishedComparison]:
    """Return the tables to which the runs belong, the runs' rows first; none for a suite without published rows."""
    compared = []
    for suite in dict.fromkeys(str(s.manifest.fingerprint["suite"]) for s in summaries):
        runs = [s for s in summaries if s.manifest.fingerprint["suite"] == suite]
        for table in published_tables(suite, leaderboards).values():
            splits = {column.split for column in table.columns if column.split}
            mine = [s for s in runs if splits & {split for split, _ in s.manifest.plan.keys}]
            if mine:
                papers: dict[str, set[str | None]] = {}
                for row in table.rows:
                    papers.setdefault(row.model, set()).add(row.paper)
                ambiguous = {model for model, of in papers.items() if len(of) > 1}
                rows = [
                    *(_measured_row(s, table) for s in mine),
                    *(_published_row(row, table, ambiguous) for row in table.rows),
                ]
                notes = [
                    f"not compared with published figures: {s.folder}: {why}"
                    for s in mine
                    if (why := _exclusion_reason(s))
                ]
                compared.append(PublishedComparison(suite, table, rows, notes))
    return compared


def _measured_row(summary: Summary, table: Table) -> TableRow:
    identity = str(summary.manifest.checkpoint["id"])
    same = next((row for row in table.rows if row.checkpoint == identity), None)
    figures = [None] * len(table.columns) if same is None or _exclusion_reason(summary) else [*same.cells, same.average]
    cells = []
    for column, figure in zip(table.columns, figures, strict=True):
        row = _row_of(summary, column)
        published = None if figure is None else figure / column.scale
        if row is None or row.value is None or row.low is None or row.high is None:
            cells.append(Cell(None))
            continue
        rounding = column.last_digit / 2  # largest rounding error of the published figure
        outside = published is not None and not row.low - rounding <= published <= row.high + rounding
        cells.append(Cell(row.value, row.low, row.high, published, "≠" if outside else ""))
    execution = summary.manifest.execution
    how = "" if execution["name"] == "sync" else f" ({execution['name']})"
    return TableRow(f"{identity}{how}", "this run", cells, summary=summary)


def _row_of(summary: Summary, column: Column) -> Row | None:
    """Return the run's row in a column; None if the run played only a part of the column's tasks."""
    key = (column.split, column.task, column.metric)
    found = next((row for row in summary.rows if (row.split, row.task, row.metric) == key), None)
    if found and column.split and not column.task:
        whole = {(column.split, task) for task in summary.manifest.suite["splits"][column.split]["tasks"]}
        return found if whole <= set(summary.manifest.plan.keys) or column.metric != RATE else None
    return found


def _exclusion_reason(summary: Summary) -> str:
    """Return the reason against a comparison of the run with published figures; empty if there is none."""
    execution = summary.manifest.execution
    if summary.manifest.incomparable:
        return summary.manifest.incomparable[0]
    if execution["name"] != "sync" or Delay.from_dict(execution.get("delay") or {"steps": 0}) != Delay():
        return f"its execution is {execution['name']}, and published runs are synchronous"
    return ""


def _published_row(row: PublishedRow, table: Table, ambiguous: set[str]) -> TableRow:
    """Return a published row for the table, with its paper if two models share its name."""
    figures = [
        None if f is None else f / c.scale for f, c in zip([*row.cells, row.average], table.columns, strict=True)
    ]
    marks = ("*" if row.consistent is False else "") + ("†" if row.average_of else "") + ("" if row.standard else "‡")
    cells = [*(Cell(f) for f in figures[:-1]), Cell(figures[-1], marks=marks if figures[-1] is not None else "")]
    model = f"{row.model} ({row.paper})" if row.model in ambiguous and row.paper else row.model
    return TableRow(model, row.reported or table.source, cells, reference=row)


def _with_source(row: CollectedRow, via: str) -> PublishedRow:
    content = {**row.model_dump(exclude={"suite", "table"}), "checkpoint": None}
    where = row.reported or row.paper
    return PublishedRow.model_validate({**content, "reported": f"{where}, via {via}" if where else f"via {via}"})
