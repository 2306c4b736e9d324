"""`evalkit baseline accept` and `evalkit baseline list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors
from evalkit.cli._options import AsJson

Baselines = Annotated[Path, typer.Option("--baselines", metavar="DIR", help="The folder of the baselines.")]


def accept(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for reviewers.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The baseline's name. Default: <suite>-<checkpoint>.")
    ] = None,
    replaces: Annotated[bool, typer.Option("--replace", help="Replace the baseline of that name.")] = False,
    folder: Baselines = Path("results/baselines"),
) -> None:
    """Accept a finished run as a baseline: files under results/baselines/ to review and commit.

    Example:
        evalkit baseline accept results/runs/released --reason "the release of May" --name released
    """
    from evalkit.experiments.baselines import accept as accepted
    from evalkit.report.formats import render

    with report_errors():
        place = accepted(run, reason, lambda summary: render([summary], "md"), name, replaces, folder)
        console(stderr=False).print(
            f"accepted: {place} (review and commit it)", highlight=False, markup=False, soft_wrap=True
        )


def list_baselines(folder: Baselines = Path("results/baselines"), as_json: AsJson = False) -> None:
    """List the accepted baselines with their reasons."""
    from rich.table import Table

    from evalkit.experiments.baselines import accepted_baselines

    with report_errors():
        found = accepted_baselines(folder)
        if as_json:
            typer.echo(json.dumps({"baselines": [one.model_dump() for one in found]}, indent=1))
            return
        table = Table(box=None, pad_edge=False)
        for column in ("baseline", "suite", "checkpoint", "headline", "accepted", "reason"):
            table.add_column(column, overflow="fold")
        for one in found:
            value = one.headline.get("value")
            shown = f"{one.headline.get('name')} {value:.3g}" if isinstance(value, float) else "–"
            table.add_row(one.name, one.suite, one.checkpoint, shown, one.accepted[:10], one.reason)
        console(stderr=False).print(table if found else f"no baseline in {folder}")
