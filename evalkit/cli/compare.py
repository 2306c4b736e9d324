"""`evalkit compare`: two finished runs on the episodes that both have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, no_verdict, report_errors
from evalkit.cli._options import Allow, AsJson


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of the run to measure against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of the run to judge.")],
    margin: Annotated[
        float, typer.Option(metavar="M", help="Largest loss that still passes, as a fraction (0.05 is 5 points).")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(metavar="P", help="Significance level of the regression test.")] = 0.05,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Compare two finished runs on the episodes that both have.

    Tests success rates with the exact McNemar test and average lengths with a paired bootstrap, and corrects over tasks
    with Holm's method. Lists the episodes whose outcome flipped, with their videos. Refuses runs whose suite, protocol,
    simulator versions, assets or delay differ, and names the field.

    Examples:
        evalkit compare results/runs/before results/runs/after

        evalkit compare results/runs/sync results/runs/delayed --allow execution
    """
    from evalkit.analysis.compare import compare as compare_runs
    from evalkit.errors import NotComparable
    from evalkit.report import comparison

    with report_errors():
        try:
            result = compare_runs(a, b, allow or (), margin, alpha)
        except NotComparable as error:
            if as_json:
                typer.echo(no_verdict("NOT COMPARABLE", error))
            raise
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=1))
        else:
            comparison.show(result, console(stderr=False))
