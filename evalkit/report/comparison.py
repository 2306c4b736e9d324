"""A comparison for people: the headline, the splits, the tasks that changed, and the episodes that flipped."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalkit.analysis.compare import Comparison, ContrastRow
from evalkit.report.tables import percent

_COLOURS = {"PASS": "green", "REGRESSION": "red", "INCONCLUSIVE": "yellow"}
_MAX_FLIPS = 20  # episodes shown; --json has them all


def show(comparison: Comparison, console: Console) -> None:
    """Print the whole comparison."""
    a, b = (side.manifest.checkpoint["id"] for side in (comparison.a, comparison.b))
    console.print(Text(f"{comparison.a.manifest.suite['title']} · {a} and {b}", style="bold"))
    console.print(f"a: {comparison.a.folder}\nb: {comparison.b.folder}", style="dim", highlight=False, soft_wrap=True)
    console.print()
    console.print(_table(comparison))
    show_notes(notes(comparison), console)
    if comparison.flips:
        _show_flips(comparison, console)
    show_verdict(comparison.verdict, comparison.reason, console)


def show_notes(found: Sequence[str], console: Console) -> None:
    """Print notes for the reader, a line each."""
    for note in found:
        console.print(Text(f"! {note}", style="yellow"))


def show_verdict(verdict: str, reason: str, console: Console) -> None:
    """Print a verdict, in its colour, and its reason."""
    console.print()
    shown = Text(verdict, style=f"bold {_COLOURS[verdict]}")
    console.print(shown.append(f"  {reason}", style="not bold default"), soft_wrap=True)


def allowed_notes(allowed: Sequence[str]) -> list[str]:
    """Return the fields that differ beyond the checkpoints, as notes."""
    return [f"differs, as allowed: {field}" for field in allowed]


def notes(comparison: Comparison) -> list[str]:
    """Return the notes on the numbers."""
    found = allowed_notes(comparison.allowed)
    if not comparison.paired:
        found.append(
            "no episode is in both runs: compared unpaired, which has less power for the same number of episodes"
        )
    if comparison.unmatched:
        found.append(f"{comparison.unmatched} episodes have a verdict in one run only and are not compared")
    for name, side in (("a", comparison.a), ("b", comparison.b)):
        if side.errors:
            found.append(f"{side.errors} episodes of {name} ended in errors; they count neither way")
    return found


def _table(comparison: Comparison) -> Table:
    """Return the headline, the splits, and the tasks in which anything differs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("a", "b", "b - a", "95 % interval", "n", "only a", "only b", "p", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    tasks = [row for row in comparison.rows if row.task]
    for split in dict.fromkeys(row.split for row in comparison.rows if row.split):
        for row in (x for x in comparison.rows if x.split == split and not x.task):
            table.add_row(*_cells(row, split if row.metric.startswith(("success", "average")) else row.metric))
        for row in (x for x in tasks if x.split == split and _differs(x)):
            table.add_row(*_cells(row, f"  {row.task}"), style="dim")
    table.add_row()
    table.add_row(*_cells(comparison.headline, comparison.headline.metric), style="bold")
    same = sum(not _differs(row) for row in tasks)
    table.caption = f"{same} of {len(tasks)} tasks are alike" if same else None
    table.caption_justify = "left"
    return table


def _differs(row: ContrastRow) -> bool:
    c = row.contrast
    return bool(c.difference or c.only_a or c.only_b)


def _cells(row: ContrastRow, label: str) -> list[str]:
    c = row.contrast

    def value(x: float) -> str:
        return percent(x) if row.max_value == 1 else f"{row.max_value * x:.2f}"

    def change(x: float) -> str:
        return f"{100 * x:+.1f}" if row.max_value == 1 else f"{row.max_value * x:+.2f}"

    only = ["" if n is None else str(n) for n in (c.only_a, c.only_b)]
    adjusted = "" if c.p_adjusted is None else f"{c.p_adjusted:.2g}"
    interval = f"{change(c.low)} … {change(c.high)}"
    size = str(c.n) if c.n_effective == c.n else f"{c.n} ({c.n_effective:g})"
    return [label, value(c.a), value(c.b), change(c.difference), interval, size, *only, f"{c.p:.2g}", adjusted]


def _show_flips(comparison: Comparison, console: Console) -> None:
    worse = [flip for flip in comparison.flips if flip.b < flip.a]
    better = [flip for flip in comparison.flips if flip.b > flip.a]
    for title, flips in (("worse in b", worse), ("better in b", better)):
        if flips:
            console.print(f"\n{title}: {len(flips)} episodes", style="bold")
        for flip in flips[:_MAX_FLIPS]:
            videos = f"  {' '.join(flip.videos)}" if flip.videos else ""
            console.print(f"  {flip.episode}{videos}", highlight=False, markup=False, soft_wrap=True)
        if len(flips) > _MAX_FLIPS:
            console.print(f"  and {len(flips) - _MAX_FLIPS} more (see --json)", style="dim")
