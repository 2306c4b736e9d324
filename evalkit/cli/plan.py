"""`evalkit plan`: compute episode numbers and detectable drops."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli._common import console, report_errors
from evalkit.cli._options import AsJson

if TYPE_CHECKING:
    from evalkit.analysis.sensitivity import Sensitivity
    from evalkit.stats.power import PowerAnalysis
    from evalkit.suite import Suite


def plan(
    suite: Annotated[
        str | None,
        typer.Argument(metavar="[SUITE]", help="Show the resolving power of this suite's number of episodes."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="P", help="The baseline's success rate. Default with SUITE: 0.95.")
    ] = None,
    drop: Annotated[float | None, typer.Option(metavar="D", help="The drop to detect (0.03 is 3 points).")] = None,
    power: Annotated[float, typer.Option(metavar="P", help="Probability of detecting the drop.")] = 0.8,
    alpha: Annotated[float, typer.Option(metavar="A", help="Probability of a false alarm.")] = 0.05,
    correlation: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="Correlation of outcomes on a scene: independent, correlated, or 0 to 0.99. Default: both named ones.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the episodes needed to detect a drop, or the drops that a suite's number of episodes can detect.

    Examples:
        evalkit plan --rate 0.97 --drop 0.03

        evalkit plan libero --rate 0.95
    """
    from evalkit.errors import UsageError
    from evalkit.stats.power import PowerAnalysis, check_fractions, parse_correlation
    from evalkit.stats.simulation import CORRELATIONS
    from evalkit.suite import load_suite

    with report_errors():
        if suite is None:
            if rate is None or drop is None:
                raise UsageError("give --rate P --drop D, or name a SUITE")
            chosen = CORRELATIONS if correlation is None else {correlation: parse_correlation(correlation)}
            analyses = {name: PowerAnalysis(rate, drop, alpha, power, value) for name, value in chosen.items()}
            _show_needed(analyses, as_json)
        else:
            if correlation is not None:
                raise UsageError("--correlation: with SUITE, both independent and correlated are shown")
            rate = 0.95 if rate is None else rate
            check_fractions(rate=rate, alpha=alpha, power=power)
            if drop is not None:
                PowerAnalysis(rate, drop, alpha, power)
            _show_detectable(load_suite(suite), rate, drop, alpha, power, as_json)


def _show_needed(analyses: dict[str, PowerAnalysis], as_json: bool) -> None:
    from dataclasses import asdict

    from evalkit.stats.power import episodes_unpaired, mcnemar_power, pairs_needed, sequential_needed, threshold_alarms

    analysis = next(iter(analyses.values()))
    unpaired = episodes_unpaired(analysis)
    alarms = {n: threshold_alarms(analysis.rate, n, 0.02) for n in (50, 500, 2000)}
    paired = {name: (pairs_needed(q), mcnemar_power(500, q), sequential_needed(q)) for name, q in analyses.items()}
    if as_json:
        given = {"rate": analysis.rate, "drop": analysis.drop, "alpha": analysis.alpha, "power": analysis.power}
        ways = {
            name: {"pairs": needed, "power_at_500": power, "sequential": test and asdict(test)}
            for name, (needed, power, test) in paired.items()
        }
        threshold = [{"episodes": n, "points": 2, "false_alarms": share} for n, share in alarms.items()]
        typer.echo(json.dumps({**given, "unpaired": unpaired, "paired": ways, "threshold": threshold}, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = (
        f"{analysis.rate:.1%} to {analysis.rate - analysis.drop:.1%}, detected with {analysis.power:.0%} power "
        f"by a one-sided test at {analysis.alpha:.1%}"
    )
    for column in ("", "episodes", "power at 500", "on average", "if unchanged"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("other scenes: unpaired, of each", str(unpaired))
    for name, (needed, power, _) in paired.items():
        table.add_row(f"same scenes: McNemar's exact test, {name}", str(needed or f"over {10**7}"), _share(power))
    for name, (_, _, test) in paired.items():
        numbers = ["too many to simulate"]
        if test:
            limit = f"at most {test.cap}" if test.cap else "no number is enough"
            numbers = [limit, "", f"{test.mean:.0f}", f"{test.healthy:.0f}"]
        table.add_row(f"same scenes: sequential, {name}", *numbers)
    out = console(stderr=False)
    out.print(table)
    shares = ", ".join(f"{_share(share)} at {n} episodes" for n, share in alarms.items())
    out.print(
        f'\n"Fail if it falls by more than 2 points" fails an unchanged checkpoint: {shares}.',
        highlight=False,
    )


def _show_detectable(suite: Suite, rate: float, drop: float | None, alpha: float, power: float, as_json: bool) -> None:
    from dataclasses import asdict

    from evalkit.analysis.sensitivity import sensitivities

    rows = sensitivities(suite, rate, drop, alpha, power)
    if as_json:
        given = {"suite": suite.name, "rate": rate, "drop": drop, "alpha": alpha, "power": power}
        typer.echo(json.dumps({**given, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{suite.title}: detectable drops at a rate of {rate:.1%}, one-sided {alpha:.1%}"
    names = ["scenes", "95 % interval", "drop: unpaired", "paired", "correlated", '"more than 2 points"']
    for column in ("", *names, *([f"power for {drop * 100:.3g} points"] if drop else [])):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*_cells(row, len(suite.splits[row.split].tasks) if row.split else 0))
    out = console(stderr=False)
    out.print(table)
    lines = [f"Drops: the smallest that are detected with {power:.0%} power, in points."]
    lines.append("Correlated: if scenes differ in difficulty.")
    lines.append('"More than 2 points": rate at which this rule fails an unchanged checkpoint.')
    if any(row.episodes > row.scenes for row in rows):
        lines.append("Repeats of a scene are not counted: they add nothing if they cannot differ.")
    if suite.chain:
        lines.append(f"Rates are of chains. The average length's interval is at most {suite.chain} times a rate's.")
    out.print("\n" + "\n".join(lines), style="dim", highlight=False)


def _cells(row: Sensitivity, tasks: int) -> list[str]:
    name = row.split or "all of its headline"
    task = f"  one of {tasks} tasks" if row.task else name
    scenes = f"{row.scenes}" + (f" of {row.episodes}" if row.episodes > row.scenes else "")
    drops = ["none" if d is None else f"{d * 100:.1f}" for d in (row.unpaired, row.paired, row.correlated)]
    cells = [task, scenes, f"±{row.half_width * 100:.1f}", *drops, _share(row.alarms)]
    return [*cells, *([] if row.power is None else [_share(row.power)])]


def _share(value: float) -> str:
    return "< 1%" if 0 < value < 0.01 else f"{value:.0%}"
