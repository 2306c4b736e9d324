"""Comparisons with published figures, for people, papers and programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.analysis.published import LEGEND, Cell, Column, Comparison, Line
from evalkit.report.latex import escaped


def render(comparison: Comparison) -> RenderableType:
    """A comparison as a rich table: measured figures with their intervals below them."""
    table = Table(title=Text(comparison.table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold", ratio=3)
    for column in comparison.table.columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold", style="dim", ratio=2)
    for line in comparison.lines:
        cells = [Text(_figure(cell, column, "\n")) for cell, column in _pairs(comparison, line)]
        table.add_row(Text(line.model), *cells, line.source, style="bold" if line.summary else "")
    return Group("", table, *(Text(text, style="dim") for text in _legend(comparison)))


def markdown(comparison: Comparison) -> str:
    """A comparison as a table in markdown."""
    names = ["", *(column.name for column in comparison.table.columns), "source"]
    rule = "|---|" + "---:|" * len(comparison.table.columns) + "---|"
    lines = [f"**{comparison.table.title}**", "", "| " + " | ".join(names) + " |", rule]
    for line in comparison.lines:
        figures = [_figure(cell, column, " ").replace("*", r"\*") for cell, column in _pairs(comparison, line)]
        model = line.model.replace("|", r"\|")
        row = [f"**{model}**" if line.summary else model, *figures, line.source.replace("|", r"\|")]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, *(f"\n{text}".replace("\n*", "\n\\*") for text in _legend(comparison))])


def latex(comparison: Comparison) -> str:
    """A comparison as a tabular for booktabs."""
    columns = comparison.table.columns
    lines = [rf"% {comparison.table.title}", rf"\begin{{tabular}}{{l{'r' * len(columns)}l}}", r"\toprule"]
    lines += [" & ".join(["", *(escaped(c.name) for c in columns), "source"]) + r" \\", r"\midrule"]
    for place, line in enumerate(comparison.lines):
        if place and comparison.lines[place - 1].summary and not line.summary:
            lines.append(r"\midrule")
        figures = [escaped(_figure(cell, column, " ")) for cell, column in _pairs(comparison, line)]
        lines.append(" & ".join([escaped(line.model), *figures, escaped(line.source)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {text}" for text in _legend(comparison))])


def documents(comparison: Comparison) -> list[dict[str, Any]]:
    """The published rows as JSON: rates are fractions of 1, lengths are lengths."""
    return [
        {
            "suite": comparison.suite,
            "table": comparison.table.title,
            "model": line.model,
            "cells": {c.name: cell.value for cell, c in list(_pairs(comparison, line))[:-1]},
            "average": line.cells[-1].value,
            "derived": None if reference.derived is None else reference.derived / comparison.table.columns[-1].one,
            "consistent": reference.consistent,
            "average_of": reference.average_of,
            "standard": reference.standard,
            "paper": reference.paper,
            "source": line.source,
        }
        for line in comparison.lines
        if (reference := line.reference)
    ]


def comparisons(comparison: Comparison) -> list[dict[str, Any]]:
    """The measured figures for which the same checkpoint's are published, and whether the intervals exclude them."""
    return [
        {
            "run": str(line.summary.folder),
            **_where(comparison, column),
            **{"value": cell.value, "low": cell.low, "high": cell.high},
            **{"published": cell.published, "outside_interval": cell.outside_interval},
        }
        for line in comparison.lines
        if line.summary
        for cell, column in _pairs(comparison, line)
        if cell.published is not None
    ]


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """The published figures as records of a long table, one per figure."""
    return [
        {"checkpoint": line.model, **_where(comparison, column), "value": cell.value, "source": line.source}
        for line in comparison.lines
        if line.reference
        for cell, column in _pairs(comparison, line)
        if cell.value is not None
    ]


def _where(comparison: Comparison, column: Column) -> dict[str, Any]:
    return {"suite": comparison.suite, "split": column.split, "task": column.task, "metric": column.metric}


def _pairs(comparison: Comparison, line: Line) -> Iterator[tuple[Cell, Column]]:
    return zip(line.cells, comparison.table.columns, strict=True)


def _figure(cell: Cell, column: Column, gap: str) -> str:
    if cell.value is None:
        return "–"
    form = "{:.1f}" if column.unit == "percent" else "{:.2f}"
    value, *ends = (form.format(x * column.one) for x in (cell.value, cell.low, cell.high) if x is not None)
    marked = f"{value} ≠" if "≠" in cell.marks else value + cell.marks
    if not ends:
        return marked
    reach = f"{ends[0]}–{ends[1]}"
    return f"{marked}\n{reach}" if gap == "\n" else f"{marked}{gap}({reach})"


def _legend(comparison: Comparison) -> list[str]:
    """What must be said below: the marks that occur, what was not compared, the protocol."""
    used = "".join(cell.marks for line in comparison.lines for cell in line.cells)
    marks = [f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark in used]
    return [*marks, *comparison.notes, comparison.table.protocol]
