"""Rows for people, in a terminal."""

from __future__ import annotations

import os

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.analysis.rows import Row
from evalkit.analysis.summary import Summary
from evalkit.report.tables import effective, execution_line, interval, label, notes, number, repeats, title

_WIDTH = 24  # cells of the bar from 0 to 100 %
_NUMBERS = 40  # cells of the other columns
_SHORTEST = 12  # cells that a name has at least, however narrow the terminal


class _Console(Console):
    """A console that says so when nobody reads it any more, where rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool) -> Console:
    """The console for people's output, on standard error or standard output."""
    made = _Console(stderr=stderr)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 120  # a file or a pipe has no width of its own
    made.width = max(made.width, _WIDTH + _NUMBERS // 2)
    return made


def show(summary: Summary, console: Console) -> None:
    """Prints a run: its tasks by split, the headline and what must be known about them."""
    console.print(render(summary, console.width))


def render(summary: Summary, width: int = 120) -> RenderableType:
    """A run as a rich table ``width`` cells wide, with a bar per row where the names leave room for it."""
    names = max(len(label(row)) for row in summary.rows) + 2
    bars = names + 2 + _NUMBERS + _WIDTH <= width
    heading = Text(title(summary), style="bold")
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold", max_width=max(_SHORTEST, width - _NUMBERS))
    table.add_column("success", justify="right", no_wrap=True, min_width=7)
    table.add_column("95 % interval", justify="right", style="dim", no_wrap=True, min_width=13)
    if bars:
        table.add_column("0 %" + " " * (_WIDTH - 8) + "100 %", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True, min_width=4)
    if repeats(summary):
        table.add_column("n eff.", justify="right", style="dim", no_wrap=True)
    if summary.errors:
        table.add_column("errors", justify="right", style="red")
    for split in dict.fromkeys(r.split for r in summary.rows if r.split):
        mine = [r for r in summary.rows if r.split == split]
        for row in (r for r in mine if not r.task):
            table.add_row(*_cells(row, summary, bars), style="bold")
        for row in (r for r in mine if r.task):
            table.add_row(*_cells(row, summary, bars, indent="  "))
        table.add_row()
    table.add_row(*_cells(summary.headline, summary, bars), style="bold")
    did = [Text(line, style="dim") for line in [execution_line(summary)] if line]
    return Group("", table, *did, *(Text(f"! {note}", style="yellow") for note in notes(summary)))


def _cells(row: Row, summary: Summary, bars: bool, indent: str = "") -> list[str | Text]:
    cells: list[str | Text] = [Text(indent + label(row)), number(row), interval(row)]
    cells += [_bar(row)] if bars else []
    cells += [str(row.n), *([effective(row)] if repeats(summary) else [])]
    return [*cells, str(row.errors) if row.errors else ""] if summary.errors else cells


def _bar(row: Row) -> Text:
    """A bar to the value; beyond it and up to the interval's end, a thin line."""
    if row.value is None or row.low is None or row.high is None:
        return Text("")
    shares = [x / row.max_value for x in (row.low, row.value, row.high)]
    colour = "green" if shares[1] >= 0.9 else "yellow" if shares[1] >= 0.5 else "red"
    low, value, high = (round(x * _WIDTH) for x in shares)
    bar = Text("━" * low, style=colour)
    bar.append("━" * (value - low), style=f"dim {colour}")
    bar.append("╌" * (high - value), style="dim")
    return bar
