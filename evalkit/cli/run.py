"""`evalkit run`: run a checkpoint through a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import FAILED, progress_for, report, report_errors, stdout_to_stderr
from evalkit.cli._options import (
    AsJson,
    BatchInvariant,
    CheckpointFile,
    MaxBatch,
    Splits,
    SuiteName,
    Tasks,
    VideoChoice,
    Workers,
    batching,
)


def run(
    suite: SuiteName,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="A checkpoint (see `evalkit list`), a directory that holds one, or a hub id; parameters as "
            "ID:key=value,... The suite's default if absent.",
        ),
    ] = None,
    checkpoint_file: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Scenes per task, in the protocol's order. As the protocol has it if absent."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Attempts at each scene. As the protocol has it if absent."),
    ] = None,
    workers: Workers = None,
    execution: Annotated[
        str,
        typer.Option(
            metavar="E",
            help="How chunks become control steps: sync (the world waits), or while the policy thinks: hold (the robot "
            "holds), naive, prefix, rtc, ensemble, queue. See docs/async.md.",
        ),
    ] = "sync",
    horizon: Annotated[
        int | None,
        typer.Option(metavar="S", help="Control steps executed of each chunk. Whole (sync, hold) or half if absent."),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Inference delay, in virtual time: control steps (3), 80ms, normal:80:15ms (seeded draws) or "
            "trace:FILE (recorded latencies).",
        ),
    ] = None,
    prefix: Annotated[
        int | None, typer.Option(metavar="C", min=0, help="Actions committed at each look, for prefix; D if absent.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder. A new one under results/runs/ if absent.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out: finished episodes stay.")
    ] = False,
    video: Annotated[VideoChoice, typer.Option(help="Film episodes as mp4.")] = VideoChoice.none,
    shuffle: Annotated[
        int | None, typer.Option(metavar="SEED", help="Play episodes in a shuffled order. Changes no outcome.")
    ] = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
    patience: Annotated[
        float, typer.Option(metavar="S", min=1, max=86400, help="A worker silent for so many seconds is replaced.")
    ] = 300,
    as_json: AsJson = False,
) -> None:
    """Run a checkpoint through a suite and print its table.

    The run's folder holds manifest.json (everything that could change the outcome), journal.jsonl (one line per
    episode), and videos/. A run that was cut off is continued with the same options and --resume --out DIR.

    Examples:
        evalkit run metaworld --checkpoint oracle

        evalkit run metaworld --checkpoint random --split easy --episodes 3 --video failures

        evalkit run libero --checkpoint oracle --split object --episodes 10 --out results/runs/my-run
    """
    from evalkit.analysis.summary import summarize
    from evalkit.runner.run import RunOptions, play

    progress = progress_for(suite)
    with report_errors(progress):
        options = RunOptions(
            suite=suite,
            checkpoint=checkpoint,
            checkpoint_file=checkpoint_file,
            settings=batching(max_batch, batch_invariant),
            splits=split or (),
            tasks=task or (),
            episodes=episodes,
            repeats=repeats,
            workers=workers,
            execution=execution,
            horizon=horizon,
            delay=delay,
            prefix=prefix,
            out=out,
            resume=resume,
            video=video.value,
            shuffle=shuffle,
            worker_timeout_s=patience,
        )
        with stdout_to_stderr(as_json), progress:
            folder = play(options, progress)
        summary = summarize(folder)
        report(summary, as_json)
        if summary.errors:
            raise typer.Exit(FAILED)
