"""The rows of a run for people, in a terminal."""

from __future__ import annotations

import os

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.analysis.rows import Row
from evalkit.analysis.summary import Summary
from evalkit.report.tables import effective, execution_line, has_repeats, interval, label, notes, number, title

_WIDTH = 24  # cells of the bar from 0 to 100 %
_NUMBERS = 40  # cells of the other columns
_MIN_LABEL = 12  # smallest number of cells for a name, in any terminal


class _Console(Console):
    """A console that raises BrokenPipeError on a closed pipe; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool) -> Console:
    """Return the console for people's output, on standard error or standard output."""
    created = _Console(stderr=stderr)
    if not created.is_terminal and "COLUMNS" not in os.environ:
        created.width = 120  # a file or a pipe has no width of its own
    created.width = max(created.width, _WIDTH + _NUMBERS // 2)
    return created


def show(summary: Summary, console: Console) -> None:
    """Print a run: its tasks by split, the headline and the notes."""
    console.print(render(summary, console.width))


def render(summary: Summary, width: int = 120) -> RenderableType:
    """Return a run as a rich table ``width`` cells wide, with a bar per row if the names leave room for it."""
    names = max(len(label(row)) for row in summary.rows) + 2
    bars = names + 2 + _NUMBERS + _WIDTH <= width
    heading = Text(title(summary), style="bold")
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold", max_width=max(_MIN_LABEL, width - _NUMBERS))
    table.add_column("success", justify="right", no_wrap=True, min_width=7)
    table.add_column("95 % interval", justify="right", style="dim", no_wrap=True, min_width=13)
    if bars:
        table.add_column("0 %" + " " * (_WIDTH - 8) + "100 %", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True, min_width=4)
    if has_repeats(summary):
        table.add_column("n eff.", justify="right", style="dim", no_wrap=True)
    if summary.errors:
        table.add_column("errors", justify="right", style="red")
    for split in dict.fromkeys(r.split for r in summary.rows if r.split):
        split_rows = [r for r in summary.rows if r.split == split]
        for row in (r for r in split_rows if not r.task):
            table.add_row(*_cells(row, summary, bars), style="bold")
        for row in (r for r in split_rows if r.task):
            table.add_row(*_cells(row, summary, bars, indent="  "))
        table.add_row()
    table.add_row(*_cells(summary.headline, summary, bars), style="bold")
    execution = [Text(line, style="dim") for line in [execution_line(summary)] if line]
    return Group("", table, *execution, *(Text(f"! {note}", style="yellow") for note in notes(summary)))


def _cells(row: Row, summary: Summary, bars: bool, indent: str = "") -> list[str | Text]:
    cells: list[str | Text] = [Text(indent + label(row)), number(row), interval(row)]
    cells += [_bar(row)] if bars else []
    cells += [str(row.n), *([effective(row)] if has_repeats(summary) else [])]
    return [*cells, str(row.errors) if row.errors else ""] if summary.errors else cells


def _bar(row: Row) -> Text:
    """Return a bar up to the value, and a thin line from there to the end of the interval."""
    if row.value is None or row.low is None or row.high is None:
        return Text("")
    shares = [x / row.max_value for x in (row.low, row.value, row.high)]
    colour = "green" if shares[1] >= 0.9 else "yellow" if shares[1] >= 0.5 else "red"
    low, value, high = (round(x * _WIDTH) for x in shares)
    bar = Text("━" * low, style=colour)
    bar.append("━" * (value - low), style=f"dim {colour}")
    bar.append("╌" * (high - value), style="dim")
    return bar
