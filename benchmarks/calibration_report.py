"""The tables and the plot of a calibration (see calibration.py), for results/calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evalkit.report.plots import COLOURS, STYLE, save_figure
from evalkit.stats.sequential import ErrorRates


def plot_power(table: pd.DataFrame, margin: float, out: Path) -> None:
    """Plot the shares of REGRESSION (lines) and PASS (dashes) against the true drop, a panel per correlation.

    Args:
        table: columns correlation, rate, drop, fails, passes; all but the first are fractions of 1.
        margin: the drop that must not pass.
        out: the folder for ``power.png`` and ``power.svg``.
    """
    panels = list(dict.fromkeys(table["correlation"]))
    rates = list(dict.fromkeys(table["rate"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(panels), 3.0), layout="constrained")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            axes.axvline(margin * 100, color="#999999", linewidth=0.8)
            for colour, rate in zip(COLOURS, rates, strict=False):
                selected = table[(table["correlation"] == panel) & (table["rate"] == rate)]
                axes.plot(selected["drop"] * 100, selected["fails"] * 100, color=colour, linewidth=1.3)
                axes.plot(selected["drop"] * 100, selected["passes"] * 100, color=colour, linewidth=1.3, linestyle="--")
            axes.set_title(str(panel), loc="left", fontsize=9)
            axes.set_xlabel("true drop (points)")
            axes.set_ylim(-2, 102)
            if index == 0:
                axes.set_ylabel("share of comparisons (%)")
                axes.text(margin * 100 + 0.2, 50, "margin", fontsize=7, color="#777777", rotation=90, va="center")
        keys = [Line2D([], [], color=c, label=f"p = {r:g}") for c, r in zip(COLOURS, rates, strict=False)]
        keys.append(Line2D([], [], color="#444444", label="REGRESSION"))
        keys.append(Line2D([], [], color="#444444", linestyle="--", label="PASS"))
        figure.legend(handles=keys, loc="outside right center", frameon=False, fontsize=8)
        save_figure(figure, out / "power")


def markdown(table: pd.DataFrame, percent: tuple[str, ...]) -> str:
    """Return a table for people."""

    def cell(column: str, value: Any) -> str:
        if value is None or value != value:
            return ""
        if column in percent:
            return f"{value:.2%}" if column.startswith("false") else f"{value:.0%}"
        if column.startswith("pairs") or column == "exact_n":
            return f"{value:.0f}"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(c.replace("_", " ") for c in table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += [
        "| " + " | ".join(cell(*pair) for pair in row.items()) + " |" for _, row in table.astype(object).iterrows()
    ]
    return "\n".join(lines)


def report(tables: dict[str, pd.DataFrame], error_rates: ErrorRates) -> str:
    """Return README.md: the tables, and their settings."""
    shares = ("false_fail", "false_fail_upper", "false_pass", "false_pass_upper", "passed", "inconclusive")
    shares = (*shares, "of_fixed_n", "of_500", "disagree")
    main = tables["calibration"]
    columns = ["rate", "correlation", "tasks_apart", "every", "false_fail", "false_fail_upper", "false_pass"]
    columns += ["false_pass_upper", "pairs_mean", "pairs_median", "inconclusive"]
    heads = {
        "calibration": "Success rates, at most 500 pairs (calibration.csv has 100 too)",
        "lengths": "Average lengths, chains of five, at most 500 pairs",
        "fixed": "Healthy candidates against a test of fixed size with the same errors",
        "order": "Ten tasks that differ by 14 points either way and not in the mean",
    }
    shown = {name: tables[name] for name in heads}
    shown["calibration"] = main[main["cap"] == 500][columns]
    shown["lengths"] = shown["lengths"][shown["lengths"]["cap"] == 500].drop(columns=["cap", "passed"])
    parts = [
        "# Calibration of the gate's test",
        f"Made by `python benchmarks/calibration.py`: {int(main['runs'].max())} simulated comparisons per setting, "
        f"alpha {error_rates.alpha:g}, beta {error_rates.beta:g}, margin {error_rates.margin:g}.",
        "False fails are REGRESSION verdicts on candidates as good as the baseline. False passes are PASS verdicts on "
        "candidates that are worse by exactly the margin. Upper: Clopper and Pearson's one-sided 95 % limit. Every: "
        "pairs between interim looks; 10 is a round of one scene of each task. Correlated: scenes differ, with an "
        "intraclass correlation of 0.6 (0.2 for sub-tasks of chains). Tasks apart: half of the tasks gain this much "
        "and half lose it. Pairs: to a verdict, or all of them without one. "
        "[docs/gate-statistics.md](../../docs/gate-statistics.md) has the conclusions.",
    ]
    for name, head in heads.items():
        parts += [f"## {head}", markdown(shown[name], shares)]
    parts += ["## Power", "At most 500 pairs; power.csv has the numbers.", "![power](power.svg)"]
    return "\n\n".join(parts) + "\n"
