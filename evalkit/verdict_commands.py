"""The commands that say whether one run is as good as another: compare, gate, baseline. They parse and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.console import console, explained

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output, and nothing else there.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="Compare although FIELD differs, and put that on record. Repeatable."),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compare)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of the run to measure against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of the run that is judged.")],
    margin: Annotated[
        float, typer.Option(metavar="M", help="Largest loss that still passes, as a fraction: 0.05 is 5 points.")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(metavar="P", help="Level of the test that finds a regression.")] = 0.05,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Compare two finished runs on the episodes that both have.

    Success rates by the exact McNemar test, average lengths by a paired bootstrap, tasks with Holm's correction for
    there being many. Lists the episodes that flipped, with their videos. Runs whose suite, protocol, simulator
    versions, assets or delay differ are refused, and the field is named.

    Examples:
        evalkit compare results/runs/before results/runs/after

        evalkit compare results/runs/sync results/runs/delayed --allow execution
    """
    from evalkit.compare import compare as compared
    from evalkit.report import comparison

    with explained():
        found = compared(a, b, allow or (), margin, alpha)
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1))
        else:
            comparison.show(found, console(stderr=False))
