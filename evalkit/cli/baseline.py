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
    from evalkit.experiments.baselines import accept as accept_run
    from evalkit.report.formats import render

    with report_errors():
        accepted = accept_run(run, reason, lambda summary: render([summary], "md"), name, replaces, folder)
        console(stderr=False).print(
            f"accepted: {accepted} (review and commit it)", highlight=False, markup=False, soft_wrap=True
        )


def list_baselines(folder: Baselines = Path("results/baselines"), as_json: AsJson = False) -> None:
    """List the accepted baselines with their reasons."""
    from rich.table import Table

    from evalkit.experiments.baselines import accepted_baselines

    with report_errors():
        baselines = accepted_baselines(folder)
        if as_json:
            typer.echo(json.dumps({"baselines": [baseline.model_dump() for baseline in baselines]}, indent=1))
            return
        table = Table(box=None, pad_edge=False)
        for column in ("baseline", "suite", "checkpoint", "headline", "accepted", "reason"):
            table.add_column(column, overflow="fold")
        for b in baselines:
            value = b.headline.get("value")
            headline = f"{b.headline.get('name')} {value:.3g}" if isinstance(value, float) else "–"
            table.add_row(b.name, b.suite, b.checkpoint, headline, b.accepted[:10], b.reason)
        console(stderr=False).print(table if baselines else f"no baseline in {folder}")
