"""`evalkit table`: print the table of runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors


class FormatChoice(str, Enum):
    """The formats of `table`."""

    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"


def table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    published: Annotated[
        bool,
        typer.Option("--published", help="Add the rows of papers, and mark figures outside the run's interval."),
    ] = False,
    leaderboards: Annotated[
        bool, typer.Option("--leaderboards", help="Add the rows of public leaderboards too. Implies --published.")
    ] = False,
    form: Annotated[
        FormatChoice | None, typer.Option("--format", help="Print in this format, for programs and papers.")
    ] = None,
) -> None:
    """Print success rates with 95 % intervals, per task and split, and the suite's headline.

    With --published, also print the suite's table as in papers: measured rows, then published rows.

    Examples:
        evalkit table results/runs/my-run

        evalkit table results/runs/my-run --published --format latex
    """
    from evalkit.analysis.summary import summarize
    from evalkit.report import formats, terminal

    with report_errors():
        summaries = [summarize(run, execution_stats=False) for run in runs]
        compared = None
        if published or leaderboards:
            from evalkit.analysis.published import comparisons

            compared = comparisons(summaries, leaderboards)
            _note_unpublished([str(s.manifest.fingerprint["suite"]) for s in summaries])
        if form is not None:
            typer.echo(formats.render(summaries, form.value, compared))
            return
        out = console(stderr=False)
        for summary in summaries:
            terminal.show(summary, out)
        if compared:
            from evalkit.report.published import render

            for comparison in compared:
                out.print(render(comparison))


def _note_unpublished(suites: list[str]) -> None:
    from evalkit.analysis.published import published_tables

    for suite in dict.fromkeys(suites):
        if not published_tables(suite):
            console(stderr=True).print(f"{suite}: evalkit has no published rows", highlight=False, markup=False)
