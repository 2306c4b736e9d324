"""`evalkit timeline`: which chunk drove each step of an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import report_errors


def timeline(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    episode: Annotated[
        str | None,
        typer.Argument(metavar="[EPISODE]", help="An episode's id, as in journal.jsonl. Default: the first."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also plot it: FILE.png and FILE.svg.")
    ] = None,
) -> None:
    """Show the start and arrival of each inference of an episode, and the chunk behind each control step.

    Example:
        evalkit timeline results/runs/my-run libero/object/pick_up_the_milk/0/s7/r0 --plot milk
    """
    from evalkit.errors import UsageError, unknown
    from evalkit.records.journal import read_journal
    from evalkit.records.manifest import read_manifest
    from evalkit.report.plots import plot_timeline
    from evalkit.report.timeline import as_text, timeline_of

    with report_errors():
        if plot is not None and plot.name in ("", ".."):
            raise UsageError(f"--plot {plot}: must be the name of a file")
        manifest = read_manifest(run)
        records = read_journal(run, manifest)
        by_id = {e.id: record for e, record in records.items()}
        if not by_id:
            raise UsageError(f"{run}: no episode has ended yet")
        if episode is not None and episode not in by_id:
            raise unknown("episode", episode, by_id)
        record = by_id[episode or min(by_id)]
        data = timeline_of(record, manifest.execution, bool(manifest.suite.get("chain")))
        steps = record.steps or 0
        typer.echo(f"{record.episode.id} · {manifest.execution['name']}\n\n{as_text(data, steps)}")
        if plot is not None:
            for file in plot_timeline(data, steps, record.episode.id, plot.with_suffix("")):
                typer.echo(f"plot: {file}", err=True)
