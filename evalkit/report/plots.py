"""Plots for papers: success against delay, and the timeline of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.locations import naming

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours, distinct for colour-blind readers and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "osD^vP*"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "evalkit",
}


def plot_sweep(table: pd.DataFrame, title: str, out: Path, max_value: float = 1.0) -> list[Path]:
    """Plot success against delay, a line per execution with its 95 % intervals, the synchronous run as a band.

    Args:
        table: the result of :func:`evalkit.experiments.sweep.table_of`.
        title: title of the plot.
        out: the folder for ``sweep.png`` and ``sweep.svg``.
        max_value: largest value of the metric: 1 for rates, which are shown in percent.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scale = 100 if max_value == 1 else 1
    delays = list(dict.fromkeys(table["delay"][table["execution"] != "sync"]))
    numeric = all(str(delay).isdecimal() for delay in delays)
    place = {delay: int(delay) if numeric else index for index, delay in enumerate(delays)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        base = table[table["execution"] == "sync"].iloc[0]
        axes.axhspan(base["low"] * scale, base["high"] * scale, color="#999999", alpha=0.2, linewidth=0)
        axes.axhline(
            base["value"] * scale, color="#666666", linewidth=1, linestyle="--", label="sync (simulation waits)"
        )
        names = [name for name in dict.fromkeys(table["execution"]) if name != "sync"]
        nudge = 0.035 * max(1, max(place.values()) - min(place.values()))
        for index, name in enumerate(names):
            mine = table[table["execution"] == name]
            x = [place[d] + (index - (len(names) - 1) / 2) * nudge for d in mine["delay"]]
            y = mine["value"] * scale
            axes.errorbar(
                x,
                y,
                yerr=[(y - mine["low"] * scale).clip(0), (mine["high"] * scale - y).clip(0)],
                color=COLOURS[index % len(COLOURS)],
                marker=_MARKS[index % len(_MARKS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                elinewidth=0.8,
                label=name,
            )
        axes.set_xticks(list(place.values()), delays)
        axes.set_xlabel("inference delay (control steps)" if numeric else "inference delay")
        axes.set_ylabel("success rate (%)" if max_value == 1 else str(base["metric"]))
        axes.set_ylim(bottom=min(0.0, *axes.get_ylim()), top=max_value * scale * 1.02)
        axes.set_title(title, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        return save_figure(figure, out / "sweep")


def plot_timeline(timeline: Mapping[str, Any], steps: int, title: str, out: Path) -> list[Path]:
    """Plot the duration of each inference (grey) and the steps that its chunk drove (colour); idle steps below.

    Args:
        timeline: a record's timeline (:meth:`evalkit.worker.trace.Trace.timeline`).
        steps: control steps of the episode.
        title: title of the plot.
        out: path of the files without a suffix: ``.png`` and ``.svg`` are added.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    requests: Sequence[tuple[int, int | None]] = timeline["requests"]
    rank = {source: index for index, (source, _) in enumerate(requests)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, min(9.0, 1.4 + 0.22 * (len(requests) + 1))), layout="constrained")
        axes = figure.add_subplot()
        for index, (source, arrived) in enumerate(requests):
            end = steps if arrived is None else arrived
            axes.barh(-index, end - source, left=source, height=0.5, color="#bbbbbb", hatch="////", edgecolor="white")
            axes.plot([source], [-index], marker="|", color="#444444", markersize=8)
        begins = 0
        for source, length in timeline["segments"]:
            if source is None:
                axes.barh(-len(requests), length, left=begins, height=0.8, color="#cc0000")
            else:
                colour = COLOURS[rank[source] % len(COLOURS)]
                axes.barh(-rank[source], length, left=begins, height=0.8, color=colour)
            begins += length
        labels = [f"#{index}" for index in range(len(requests))]
        axes.set_yticks([-i for i in range(len(requests) + 1)], [*labels, "idle"], fontsize=7)
        axes.set_xlim(0, steps)
        axes.set_ylim(-len(requests) - 0.7, 0.7)
        axes.set_xlabel("control step (hatched: inference; colour: its chunk drives the robot)")
        axes.set_title(title, loc="left", fontsize=9)
        return save_figure(figure, out)


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Save a figure as PNG and SVG beside each other, reproducibly; return the files."""
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for file in files:
        with naming(file):
            figure.savefig(file, dpi=200, metadata={"Date": None} if file.suffix == ".svg" else {})
    return files
