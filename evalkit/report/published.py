"""Comparisons with published figures, for people, papers and programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.analysis.published import LEGEND, Cell, Column, PublishedComparison, TableRow
from evalkit.report.latex import escaped


def render(comparison: PublishedComparison) -> RenderableType:
    """Return a comparison as a rich table: measured figures with their intervals below them."""
    table = Table(title=Text(comparison.table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold", ratio=3)
    for column in comparison.table.columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold", style="dim", ratio=2)
    for row in comparison.rows:
        cells = [Text(_figure(cell, column, "\n")) for cell, column in _pairs(comparison, row)]
        table.add_row(Text(row.model), *cells, row.source, style="bold" if row.summary else "")
    return Group("", table, *(Text(text, style="dim") for text in _legend(comparison)))


def markdown(comparison: PublishedComparison) -> str:
    """Return a comparison as a markdown table."""
    names = ["", *(column.name for column in comparison.table.columns), "source"]
    rule = "|---|" + "---:|" * len(comparison.table.columns) + "---|"
    lines = [f"**{comparison.table.title}**", "", "| " + " | ".join(names) + " |", rule]
    for row in comparison.rows:
        figures = [_figure(cell, column, " ").replace("*", r"\*") for cell, column in _pairs(comparison, row)]
        model = row.model.replace("|", r"\|")
        texts = [f"**{model}**" if row.summary else model, *figures, row.source.replace("|", r"\|")]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, *(f"\n{text}".replace("\n*", "\n\\*") for text in _legend(comparison))])


def latex(comparison: PublishedComparison) -> str:
    """Return a comparison as a LaTeX tabular for booktabs."""
    columns = comparison.table.columns
    lines = [rf"% {comparison.table.title}", rf"\begin{{tabular}}{{l{'r' * len(columns)}l}}", r"\toprule"]
    lines += [" & ".join(["", *(escaped(c.name) for c in columns), "source"]) + r" \\", r"\midrule"]
    for place, row in enumerate(comparison.rows):
        if place and comparison.rows[place - 1].summary and not row.summary:
            lines.append(r"\midrule")
        figures = [escaped(_figure(cell, column, " ")) for cell, column in _pairs(comparison, row)]
        lines.append(" & ".join([escaped(row.model), *figures, escaped(row.source)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {text}" for text in _legend(comparison))])


def documents(comparison: PublishedComparison) -> list[dict[str, Any]]:
    """Return the published rows for JSON: rates are fractions of 1, lengths are lengths."""
    return [
        {
            "suite": comparison.suite,
            "table": comparison.table.title,
            "model": row.model,
            "cells": {c.name: cell.value for cell, c in list(_pairs(comparison, row))[:-1]},
            "average": row.cells[-1].value,
            "derived": None if reference.derived is None else reference.derived / comparison.table.columns[-1].scale,
            "consistent": reference.consistent,
            "average_of": reference.average_of,
            "standard": reference.standard,
            "paper": reference.paper,
            "source": row.source,
        }
        for row in comparison.rows
        if (reference := row.reference)
    ]


def comparisons(comparison: PublishedComparison) -> list[dict[str, Any]]:
    """Return the measured figures with a published one for the same checkpoint, and the result of the comparison."""
    return [
        {
            "run": str(row.summary.folder),
            **_where(comparison, column),
            **{"value": cell.value, "low": cell.low, "high": cell.high},
            **{"published": cell.published, "outside_interval": cell.outside_interval},
        }
        for row in comparison.rows
        if row.summary
        for cell, column in _pairs(comparison, row)
        if cell.published is not None
    ]


def records(comparison: PublishedComparison) -> list[dict[str, Any]]:
    """Return the published figures as records of a long table, one per figure."""
    return [
        {"checkpoint": row.model, **_where(comparison, column), "value": cell.value, "source": row.source}
        for row in comparison.rows
        if row.reference
        for cell, column in _pairs(comparison, row)
        if cell.value is not None
    ]


def _where(comparison: PublishedComparison, column: Column) -> dict[str, Any]:
    return {"suite": comparison.suite, "split": column.split, "task": column.task, "metric": column.metric}


def _pairs(comparison: PublishedComparison, row: TableRow) -> Iterator[tuple[Cell, Column]]:
    return zip(row.cells, comparison.table.columns, strict=True)


def _figure(cell: Cell, column: Column, gap: str) -> str:
    if cell.value is None:
        return "–"
    form = "{:.1f}" if column.unit == "percent" else "{:.2f}"
    value, *ends = (form.format(x * column.scale) for x in (cell.value, cell.low, cell.high) if x is not None)
    marked = f"{value} ≠" if "≠" in cell.marks else value + cell.marks
    if not ends:
        return marked
    reach = f"{ends[0]}–{ends[1]}"
    return f"{marked}\n{reach}" if gap == "\n" else f"{marked}{gap}({reach})"


def _legend(comparison: PublishedComparison) -> list[str]:
    """Return the lines below the table: the marks that occur, the runs that were not compared, the protocol."""
    used = "".join(cell.marks for row in comparison.rows for cell in row.cells)
    marks = [f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark in used]
    return [*marks, *comparison.notes, comparison.table.protocol]
