"""Rows as text that other programs and papers take: markdown, CSV, JSON, LaTeX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from evalkit.aggregate import Summary
from evalkit.delay import Delay
from evalkit.rows import RATE, Row

Format = Literal["md", "csv", "json", "latex"]


_LATEX = str.maketrans({**{c: rf"\{c}" for c in "_&%$#{}"}, "–": "--", "~": r"\~{}", "^": r"\^{}"})


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
    return percent(value) if row.most == 1 or value is None else f"{value:.2f}"


def label(row: Row) -> str:
    """What a row is about."""
    if row.split and not row.task and row.metric != RATE:
        return f"{row.split}: {row.metric}"
    return row.task or row.split or row.metric


def render(summaries: Sequence[Summary], form: Format) -> str:
    """Every row of every run, as one document.

    JSON and CSV have one record per row and numbers in full; markdown and LaTeX have one table per run, in percent.
    """
    if form == "json":
        return json.dumps({"rows": [row.to_dict() for s in summaries for row in s.rows]}, indent=1)
    if form == "csv":
        return _csv(summaries)
    tables = [_markdown(s) if form == "md" else _latex(s) for s in summaries]
    return "\n\n".join(tables)


def _csv(summaries: Sequence[Summary]) -> str:
    import pandas as pd

    rows = [
        {"run": str(s.folder), "checkpoint": s.manifest.checkpoint["id"], **r.to_dict()}
        for s in summaries
        for r in s.rows
    ]
    text: str = pd.DataFrame(rows).to_csv(index=False)
    return text.rstrip("\n")


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
    ("held", "held still for {:.1f} steps"),
    ("age", "actions {:.1f} steps old"),
    ("jump_position", "position jumps by {:.3f}"),
    ("jump_rotation", "rotation by {:.3f}"),
    ("flips", "{:.2f} gripper flips"),
    ("seconds", "{:.1f} s to success"),
)


def execution_line(summary: Summary) -> str:
    """What the execution did in a mean episode, in one line; nothing for a synchronous run, where it says little."""
    if summary.manifest.execution["name"] == "sync":
        return ""
    return "per episode: " + ", ".join(form.format(summary.motion[n]) for n, form in _MOTION if n in summary.motion)


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


def _cells(row: Row) -> list[str]:
    return [label(row), number(row), interval(row), str(row.n), str(row.errors) if row.errors else ""]


def _markdown(summary: Summary) -> str:
    header = ["", "success rate (%)", "95 % interval", "n", "errors"]
    lines = [f"**{title(summary)}**", "", "| " + " | ".join(header) + " |", "|---|---:|---:|---:|---:|"]
    for row in summary.rows:
        cells = [cell.replace("|", r"\|") for cell in _cells(row)]
        if row.task is None:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in [execution_line(summary), *notes(summary)] if note)])


def _latex(summary: Summary) -> str:
    lines = [rf"% {title(summary)}", r"\begin{tabular}{lrrrr}", r"\toprule"]
    lines += [r" & success rate (\%) & 95\,\% interval & $n$ & errors \\", r"\midrule"]
    for row in summary.rows:
        name, *numbers = (c.translate(_LATEX) for c in _cells(row))
        name = name if row.task else rf"\textbf{{{name}}}"
        lines.append(" & ".join([name, *numbers]) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {note}" for note in [execution_line(summary), *notes(summary)] if note),
    ]
    return "\n".join(lines)
