"""The rows of a run as markdown and LaTeX, and the text that all formats share."""

from __future__ import annotations

from evalkit.analysis.rows import RATE, Row
from evalkit.analysis.summary import Summary
from evalkit.execution.delay import Delay
from evalkit.report.latex import escaped


def percent(value: float | None) -> str:
    """Format a fraction of 1 as a percentage with one decimal; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(row: Row) -> str:
    """Format the value: a rate in percent, a length with two decimals."""
    return _shown(row, row.value)


def interval(row: Row) -> str:
    """Format the 95 % interval in the same form; empty if there is none."""
    return "" if row.low is None else f"{_shown(row, row.low)}–{_shown(row, row.high)}"


def _shown(row: Row, value: float | None) -> str:
    return percent(value) if row.max_value == 1 or value is None else f"{value:.2f}"


def label(row: Row) -> str:
    """Return the name of a row."""
    if row.split and not row.task and row.metric != RATE:
        return f"{row.split}: {row.metric}"
    return row.task or row.split or row.metric


def title(summary: Summary) -> str:
    """Return one line that names suite, checkpoint and execution."""
    manifest = summary.manifest
    horizon = manifest.execution["horizon"]
    execution = f"{manifest.execution['name']}, horizon {'unknown' if horizon is None else horizon}"
    delay = Delay.from_dict(manifest.execution.get("delay") or {"steps": 0})
    execution += f", delay {delay}" if delay != Delay() else ""
    return f"{manifest.suite['title']} · {manifest.checkpoint['id']} · {execution}"


_EXECUTION_STATS = (
    ("inferences", "{:.1f} inferences"),
    ("idle_steps", "idle for {:.1f} steps"),
    ("late_chunks", "{:.1f} late chunks"),
    ("action_age_mean", "actions {:.1f} steps old"),
    ("chunk_jump_position", "position jumps by {:.3f}"),
    ("chunk_jump_rotation", "rotation by {:.3f}"),
    ("gripper_reversals", "{:.2f} gripper reversals"),
    ("seconds", "{:.1f} s to success"),
)


def execution_line(summary: Summary) -> str:
    """Return the execution's statistics of a mean episode in one line; empty for a synchronous run."""
    if summary.manifest.execution["name"] == "sync":
        return ""
    return "per episode: " + ", ".join(
        form.format(summary.execution_stats[n]) for n, form in _EXECUTION_STATS if n in summary.execution_stats
    )


def notes(summary: Summary) -> list[str]:
    """Return the notes on the numbers: missing episodes, errors, reasons against a comparison."""
    origin = summary.manifest.origin
    lines = [f"imported: {origin.describe()}"] if origin else []
    lines += [f"covers only part of the protocol: {summary.coverage_note}"] if summary.coverage_note else []
    missing = summary.planned - summary.finished - summary.errors
    if missing:
        hint = "the imported files do not have them" if origin else "continue with --resume"
        lines.append(f"{missing} of {summary.planned} planned episodes are missing: {hint}")
    if summary.errors:
        lines.append(f"{summary.errors} episodes ended in errors; they count neither as success nor as failure")
    lines += [f"not comparable with published figures: {reason}" for reason in summary.manifest.incomparable]
    if not summary.manifest.checkpoint.get("batch_invariant", True):
        lines.append("the policy does not guarantee that a chunk is independent of the other requests in its batch")
    return lines


def effective(row: Row) -> str:
    """Format the number of independent episodes; empty if it equals n."""
    return "" if row.n_effective == row.n else f"{row.n_effective:g}"


def has_repeats(summary: Summary) -> bool:
    """Return True if some rows have fewer independent episodes than episodes."""
    return any(effective(row) for row in summary.rows)


def heading(summary: Summary) -> str:
    """Return the heading of the value column."""
    return "success rate (%)" if all(row.max_value == 1 for row in summary.rows) else "success rate (%) or length"


def _cells(row: Row, summary: Summary) -> list[str]:
    counts = [str(row.n), *([effective(row)] if has_repeats(summary) else []), str(row.errors) if row.errors else ""]
    return [label(row), number(row), interval(row), *counts]


def markdown(summary: Summary) -> str:
    """Return a run's rows as a markdown table, with its notes."""
    header = ["", heading(summary), "95 % interval", "n", *(["n effective"] if has_repeats(summary) else []), "errors"]
    lines = [f"**{title(summary)}**", "", "| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for row in summary.rows:
        cells = [cell.replace("|", r"\|") for cell in _cells(row, summary)]
        if row.task is None:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in [execution_line(summary), *notes(summary)] if note)])


def latex(summary: Summary) -> str:
    """Return a run's rows as a LaTeX tabular for booktabs, with its notes as comments."""
    more = [r"$n_\mathrm{eff}$"] if has_repeats(summary) else []
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
