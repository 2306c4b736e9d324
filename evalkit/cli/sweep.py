"""The commands about how chunks are executed: sweep and timeline. They parse and print, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, progress_for, report_errors, stdout_to_stderr
from evalkit.cli._options import AsJson, CheckpointFile, Splits, SuiteName, Tasks, Workers


def sweep(
    suite: SuiteName,
    checkpoint: Annotated[str | None, typer.Option(metavar="ID", help="A checkpoint, as for `evalkit run`.")] = None,
    delay: Annotated[
        str, typer.Option(metavar="D,D,...", help="Inference delays, each as `evalkit run --delay` takes one.")
    ] = "0,1,2,3,4",
    execution: Annotated[
        list[str] | None,
        typer.Option(
            metavar="E", help="hold, naive, prefix, rtc, ensemble, queue. Repeatable; hold and naive if absent."
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(metavar="S", help="Control steps executed of each chunk. Half of it if absent."),
    ] = None,
    checkpoint_file: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Scenes per task. As the protocol has it if absent.")
    ] = None,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder. A new one under results/runs/ if absent.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure success against inference delay, for several executions on the same episodes.

    Each execution under each delay is a run in a folder of its own, beside sweep.csv and the plot (sweep.png and
    sweep.svg). The synchronous run with the same horizon is what they are compared with, episode by episode.

    Example:
        evalkit sweep metaworld --checkpoint oracle-noisy:chunk=24 --delay 0,4,8,12 --execution naive --execution prefix
    """
    from evalkit.errors import UsageError
    from evalkit.experiments.sweep import sweep as play
    from evalkit.report.sweeps import document, show, write
    from evalkit.runner.run import RunOptions

    with report_errors():
        delays = [text.strip() for text in delay.split(",") if text.strip()]
        if not delays:
            raise UsageError("--delay: name one delay at least")
        if resume and out is None:
            raise UsageError("--resume needs --out DIR, the folder of the sweep to continue")
        options = RunOptions(
            suite=suite,
            checkpoint=checkpoint,
            checkpoint_file=checkpoint_file,
            splits=split or (),
            tasks=task or (),
            episodes=episodes,
            workers=workers,
            horizon=horizon,
            out=out,
            resume=resume,
        )
        with stdout_to_stderr(as_json):
            folder, table = play(options, execution or ["hold", "naive"], delays, progress_for)
            files = write(folder, table)
        if as_json:
            typer.echo(json.dumps(document(folder, table), indent=1))
        else:
            show(folder, table, files, console(stderr=False))
