"""Pictures that a paper could print: success against delay, and the timeline of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours: told apart by everyone, and in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "osD^vP*"
_STYLE: Any = {
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


def plot_sweep(table: pd.DataFrame, title: str, out: Path, most: float = 1.0) -> list[Path]:
    """Success against delay, a line per execution with its 95 % intervals, the synchronous run as a band.

    Args:
        table: what :func:`evalkit.experiments.sweep.table_of` returns.
        title: what was run.
        out: the folder for ``sweep.png`` and ``sweep.svg``.
        most: the measure's largest value: 1 for rates, which are shown in percent.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scale = 100 if most == 1 else 1
    delays = list(dict.fromkeys(table["delay"][table["execution"] != "sync"]))
    numeric = all(str(delay).isdecimal() for delay in delays)
    place = {delay: int(delay) if numeric else index for index, delay in enumerate(delays)}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        base = table[table["execution"] == "sync"].iloc[0]
        axes.axhspan(base["low"] * scale, base["high"] * scale, color="#999999", alpha=0.2, linewidth=0)
        axes.axhline(
            base["value"] * scale, color="#666666", linewidth=1, linestyle="--", label="sync (the world waits)"
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
                color=_COLOURS[index % len(_COLOURS)],
                marker=_MARKS[index % len(_MARKS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                elinewidth=0.8,
                label=name,
            )
        axes.set_xticks(list(place.values()), delays)
        axes.set_xlabel("inference delay (control steps)" if numeric else "inference delay")
        axes.set_ylabel("success rate (%)" if most == 1 else str(base["metric"]))
        axes.set_ylim(bottom=min(0.0, *axes.get_ylim()), top=most * scale * 1.02)
        axes.set_title(title, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        return _saved(figure, out / "sweep")


def plot_timeline(timeline: Mapping[str, Any], steps: int, title: str, out: Path) -> list[Path]:
    """When each inference was asked and arrived (grey), and which one drove each step (colour); held steps below.

    Args:
        timeline: a record's (:meth:`evalkit.worker.trace.Trace.timeline`).
        steps: control steps of the episode.
        title: which episode.
        out: the pictures' path without its ending: ``.png`` and ``.svg`` are added.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    requests: Sequence[tuple[int, int | None]] = timeline["requests"]
    rank = {source: index for index, (source, _) in enumerate(requests)}
    with mpl.rc_context(_STYLE):
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
                colour = _COLOURS[rank[source] % len(_COLOURS)]
                axes.barh(-rank[source], length, left=begins, height=0.8, color=colour)
            begins += length
        labels = [f"#{index}" for index in range(len(requests))]
        axes.set_yticks([-i for i in range(len(requests) + 1)], [*labels, "idle_steps"], fontsize=7)
        axes.set_xlim(0, steps)
        axes.set_ylim(-len(requests) - 0.7, 0.7)
        axes.set_xlabel("control step (hatched: the policy thinks; colour: its chunk drives the robot)")
        axes.set_title(title, loc="left", fontsize=9)
        return _saved(figure, out)


def plot_power(table: pd.DataFrame, margin: float, out: Path) -> list[Path]:
    """How often a gate says REGRESSION (lines) and PASS (dashes) against the true drop, a panel per correlation.

    Args:
        table: columns correlation, rate, drop, fails, passes; all but the first are fractions of 1.
        margin: the drop that must not pass.
        out: the folder for ``power.png`` and ``power.svg``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = list(dict.fromkeys(table["correlation"]))
    rates = list(dict.fromkeys(table["rate"]))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * len(panels), 3.0), layout="constrained")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            axes.axvline(margin * 100, color="#999999", linewidth=0.8)
            for colour, rate in zip(_COLOURS, rates, strict=False):
                mine = table[(table["correlation"] == panel) & (table["rate"] == rate)]
                axes.plot(mine["drop"] * 100, mine["fails"] * 100, color=colour, linewidth=1.3)
                axes.plot(mine["drop"] * 100, mine["passes"] * 100, color=colour, linewidth=1.3, linestyle="--")
            axes.set_title(str(panel), loc="left", fontsize=9)
            axes.set_xlabel("true drop (points)")
            axes.set_ylim(-2, 102)
            if index == 0:
                axes.set_ylabel("share of comparisons (%)")
                axes.text(margin * 100 + 0.2, 50, "margin", fontsize=7, color="#777777", rotation=90, va="center")
        keys = [Line2D([], [], color=c, label=f"p = {r:g}") for c, r in zip(_COLOURS, rates, strict=False)]
        keys.append(Line2D([], [], color="#444444", label="REGRESSION"))
        keys.append(Line2D([], [], color="#444444", linestyle="--", label="PASS"))
        figure.legend(handles=keys, loc="outside right center", frameon=False, fontsize=8)
        return _saved(figure, out / "power")


def _saved(figure: Any, stem: Path) -> list[Path]:
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=200, metadata={"Date": None} if file.suffix == ".svg" else {})
    return files
