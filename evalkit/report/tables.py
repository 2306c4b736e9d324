"""Rows as text that other programs and papers take: markdown, CSV, JSON, LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.analysis.rows import RATE, Row
from evalkit.analysis.summary import Summary
from evalkit.execution.delay import Delay
from evalkit.report.latex import escaped

if TYPE_CHECKING:
    pass


def percent(value: float | None) -> str:
    """A fraction of 1 as a percentage with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(row: Row) -> str:
    """The value: a rate in percent, a length with two decimals."""
    return _shown(row, row.value)


def interval(row: Row) -> str:
    """The 95 % interval in the same form, or nothing."""
    return "" if row.low is None else f"{_shown(row, row.low)}–{_shown(row, row.high)}"


def _shown(row: Row, value: float | None) -> str:
    return percent(value) if row.max_value == 1 or value is None else f"{value:.2f}"


def label(row: Row) -> str:
    """What a row is about."""
    if row.split and not row.task and row.metric != RATE:
        return f"{row.split}: {row.metric}"
    return row.task or row.split or row.metric


def title(summary: Summary) -> str:
    """One line on what a run is."""
    manifest = summary.manifest
    horizon = manifest.execution["horizon"]
    execution = f"{manifest.execution['name']}, horizon {'unknown' if horizon is None else horizon}"
    delay = Delay.from_dict(manifest.execution.get("delay") or {"steps": 0})
    execution += f", delay {delay}" if delay != Delay() else ""
    return f"{manifest.suite['title']} · {manifest.checkpoint['id']} · {execution}"


_MOTION = (
    ("inferences", "{:.1f} inferences"),
    ("idle_steps", "held still for {:.1f} steps"),
    ("action_age_mean", "actions {:.1f} steps old"),
    ("chunk_jump_position", "position jumps by {:.3f}"),
    ("chunk_jump_rotation", "rotation by {:.3f}"),
    ("gripper_reversals", "{:.2f} gripper reversals"),
    ("seconds", "{:.1f} s to success"),
)


def execution_line(summary: Summary) -> str:
    """What the execution did in a mean episode, in one line; nothing for a synchronous run, where it says little."""
    if summary.manifest.execution["name"] == "sync":
        return ""
    return "per episode: " + ", ".join(
        form.format(summary.execution_stats[n]) for n, form in _MOTION if n in summary.execution_stats
    )


def notes(summary: Summary) -> list[str]:
    """What a reader of the numbers must know: missing episodes, errors, why they are not comparable."""
    origin = summary.manifest.origin
    lines = [f"imported: {origin.describe()}"] if origin else []
    lines += [f"not the protocol's whole: {summary.covered}"] if summary.covered else []
    missing = summary.planned - summary.finished - summary.errors
    if missing:
        what = "they are not in what was imported" if origin else "continue with --resume"
        lines.append(f"{missing} of {summary.planned} planned episodes are missing: {what}")
    if summary.errors:
        lines.append(f"{summary.errors} episodes ended in errors; they count neither as success nor as failure")
    lines += [f"not comparable with published figures: {reason}" for reason in summary.manifest.incomparable]
    if not summary.manifest.checkpoint.get("batch_invariant", True):
        lines.append("the policy does not promise that a chunk is independent of what else was in its batch")
    return lines


def effective(row: Row) -> str:
    """The number of independent episodes, where it is not n."""
    return "" if row.n_effective == row.n else f"{row.n_effective:g}"


def repeats(summary: Summary) -> bool:
    """Whether some of a run's rows have fewer independent episodes than episodes."""
    return any(effective(row) for row in summary.rows)


def heading(summary: Summary) -> str:
    """What the values are."""
    return "success rate (%)" if all(row.max_value == 1 for row in summary.rows) else "success rate (%) or length"


def _cells(row: Row, summary: Summary) -> list[str]:
    counts = [str(row.n), *([effective(row)] if repeats(summary) else []), str(row.errors) if row.errors else ""]
    return [label(row), number(row), interval(row), *counts]


def markdown(summary: Summary) -> str:
    header = ["", heading(summary), "95 % interval", "n", *(["n effective"] if repeats(summary) else []), "errors"]
    lines = [f"**{title(summary)}**", "", "| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for row in summary.rows:
        cells = [cell.replace("|", r"\|") for cell in _cells(row, summary)]
        if row.task is None:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in [execution_line(summary), *notes(summary)] if note)])


def latex(summary: Summary) -> str:
    more = [r"$n_\mathrm{eff}$"] if repeats(summary) else []
    header = ["", escaped(heading(summary)), r"95\,\% interval", "$n$", *more, "errors"]
    lines = [rf"% {title(summary)}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(header) + r" \\", r"\midrule"]
    for row in summary.rows:
        name, *numbers = (escaped(c) for c in _cells(row, summary))
        name = name if row.task else rf"\textbf{{{name}}}"
        lines.append(" & ".join([name, *numbers]) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {note}" for note in [execution_line(summary), *notes(summary)] if note),
    ]
    return "\n".join(lines)
