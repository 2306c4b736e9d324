"""A sweep as a table for people, a CSV, a JSON document and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from evalkit.analysis.summary import summarize
from evalkit.locations import naming
from evalkit.report.tables import percent

if TYPE_CHECKING:
    import pandas as pd


def write(folder: Path, table: pd.DataFrame) -> list[Path]:
    """Write ``sweep.csv`` and the plot into the sweep's folder; return the files."""
    from evalkit.report.plots import plot_sweep

    with naming(folder / "sweep.csv"):
        table.to_csv(folder / "sweep.csv", index=False)
    base = summarize(folder / str(table["run"].iloc[0]))
    title = (
        f"{base.manifest.suite['title']} · {base.manifest.checkpoint['id']} · s = {base.manifest.execution['horizon']}"
    )
    return [folder / "sweep.csv", *plot_sweep(table, title, folder, base.headline.max_value)]


def document(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """Return the document that ``evalkit sweep --json`` prints."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records"))
    return {"sweep": str(folder), "rows": rows}


def show(folder: Path, table: pd.DataFrame, files: Sequence[Path], console: Console) -> None:
    """Print a row per execution and delay, and the paths of the files."""
    max_value = summarize(folder / str(table["run"].iloc[0])).headline.max_value
    shown = Table(
        box=None, pad_edge=False, title=str(table["metric"].iloc[0]), title_justify="left", title_style="bold"
    )
    for name, right in (("execution", False), ("delay", True), ("success" if max_value == 1 else "length", True)):
        shown.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("95 % interval", "against sync", "n", "idle", "late", "age", "jump", "reversals", "seconds"):
        shown.add_column(name, justify="right", no_wrap=True)

    def number(value: Any, form: str = "{:.2f}") -> str:
        return "–" if value is None or value != value else form.format(value)

    for row in table.to_dict("records"):
        value, low, high = (row[key] for key in ("value", "low", "high"))
        in_form = percent if max_value == 1 else number
        difference = "" if row["execution"] == "sync" else _signed(row)
        shown.add_row(
            str(row["execution"]),
            "" if row["execution"] == "sync" else str(row["delay"]),
            in_form(value),
            f"{in_form(low)}–{in_form(high)}",
            difference,
            str(row["n"]),
            number(row.get("idle_steps"), "{:.1f}"),
            number(row.get("late_chunks"), "{:.1f}"),
            number(row.get("action_age_mean"), "{:.1f}"),
            number(row.get("chunk_jump_position"), "{:.3f}"),
            number(row.get("gripper_reversals")),
            number(row.get("seconds"), "{:.1f}"),
        )
    console.print(shown)
    console.print("against sync: paired difference in success, in points, with its 95 % interval", style="dim")
    for file in files:
        console.print(str(file), highlight=False, markup=False, soft_wrap=True)


def _signed(row: Mapping[Any, Any]) -> str:
    if not row["pairs"]:
        return "–"
    low, high = (f"{100 * row[key]:+.1f}" for key in ("difference_low", "difference_high"))
    return f"{100 * row['difference']:+.1f} ({low} … {high})"
