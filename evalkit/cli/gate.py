"""`evalkit gate`: judge a checkpoint against a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, no_verdict, one_line, progress_for, report_errors, stdout_to_stderr
from evalkit.cli._options import (
    Allow,
    AsJson,
    BatchInvariant,
    CheckpointFile,
    CheckpointId,
    MaxBatch,
    Out,
    Splits,
    Tasks,
    VideoChoice,
    VideoOption,
    Workers,
    WorkerTimeout,
    batching,
)

EXIT_CODES = {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 3}


def gate(
    what: Annotated[
        str,
        typer.Argument(metavar="SUITE|RUN", help="The suite to run a checkpoint through, or a finished run's folder."),
    ],
    baseline: Annotated[
        str, typer.Option(metavar="BASELINE", help="An accepted baseline (`evalkit baseline list`), or a run's folder.")
    ],
    checkpoint: CheckpointId = None,
    checkpoint_file: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Scenes per task. Default: the baseline's number.")
    ] = None,
    max_scenes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Play at most this many scenes. Default: all.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="P", help="Probability that a checkpoint that is not worse is called a REGRESSION.")
    ] = 0.01,
    beta: Annotated[
        float, typer.Option(metavar="P", help="Probability that a checkpoint worse by the margin gets a PASS.")
    ] = 0.05,
    margin: Annotated[
        float, typer.Option(metavar="M", help="The drop that must not pass, as a fraction (0.05 is 5 points).")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order in which scenes are played and weighed.")] = 0,
    max_error_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="No verdict if more than this share of episodes ends in errors.")
    ] = 0.02,
    allow: Allow = None,
    horizon: Annotated[
        int | None, typer.Option(metavar="S", help="Control steps executed of each chunk. Default: the baseline's.")
    ] = None,
    workers: Workers = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
    worker_timeout: WorkerTimeout = 300,
    video: VideoOption = VideoChoice.none,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the gate's run in --out.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the verdict as JUnit XML.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="GITHUB_STEP_SUMMARY",
            help="Append the verdict to FILE as markdown. Default: the GitHub step's summary.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a checkpoint against a baseline, for CI: PASS, REGRESSION or INCONCLUSIVE.

    Plays the baseline's scenes in a seeded shuffle and stops as soon as the verdict is clear: REGRESSION if the
    checkpoint is worse, PASS if it is not worse by the margin. The verdict is valid whenever the gate stops
    (docs/gate.md). A finished run gets the verdict that a live gate would have given.

    Exit codes: 0 PASS, 1 REGRESSION, 2 no verdict (usage, infrastructure, not comparable), 3 INCONCLUSIVE.

    Examples:
        evalkit baseline accept results/runs/released --reason "the release of May" --name released

        evalkit gate metaworld --checkpoint my-checkpoint --baseline released --junit gate.xml

        evalkit gate results/runs/candidate --baseline results/runs/before --margin 0.03
    """
    from evalkit.errors import EvalkitError, NotComparable, UsageError
    from evalkit.experiments.baselines import find_baseline
    from evalkit.experiments.gate import GateForecast, GateOptions, gate_finished_run, gate_live_run
    from evalkit.records.folder import RunFolder
    from evalkit.report import gates
    from evalkit.runner.options import RunOptions
    from evalkit.stats.sequential import ErrorRates

    err = console(stderr=True)
    finished = RunFolder(Path(what)).is_run
    progress = progress_for(f"gate {what}")
    with report_errors(progress):
        try:
            live_only = {
                "--checkpoint": checkpoint, "--checkpoint-file": checkpoint_file, "--split": split, "--task": task,
                "--episodes": episodes, "--horizon": horizon, "--workers": workers, "--out": out,
                "--resume": resume or None, "--max-batch": max_batch, "--batch-invariant": batch_invariant or None,
                "--video": None if video == VideoChoice.none else video,
            }  # fmt: skip
            for option, value in live_only.items():
                if finished and value is not None:
                    raise UsageError(f"{option}: {what} is a finished run, so nothing is played")
            if not finished and checkpoint is None:
                raise UsageError("--checkpoint: name the checkpoint to judge")
            try:
                options = GateOptions(
                    find_baseline(baseline),
                    ErrorRates(alpha, beta, margin),
                    max_scenes,
                    seed,
                    allow or (),
                    max_error_rate,
                )
            except ValueError as error:
                raise UsageError(f"--{error}".replace("_", "-")) from error

            def announce(forecast: GateForecast) -> None:
                gates.show_forecast(forecast, err)

            if finished:
                found = gate_finished_run(Path(what), options, announce)
            else:
                asked = RunOptions(
                    suite=what,
                    checkpoint=checkpoint,
                    checkpoint_file=checkpoint_file,
                    settings=batching(max_batch, batch_invariant),
                    splits=split or (),
                    tasks=task or (),
                    episodes=episodes,
                    workers=workers,
                    horizon=horizon,
                    out=out,
                    resume=resume,
                    video=video.value,
                    worker_timeout_s=worker_timeout,
                )
                with stdout_to_stderr(as_json), progress:
                    found = gate_live_run(asked, options, progress, announce)
        except EvalkitError as error:
            kind = "NOT COMPARABLE" if isinstance(error, NotComparable) else "ERROR"
            message = one_line(error)
            if as_json:
                typer.echo(no_verdict(kind, error))
            if junit:
                gates.write(junit, gates.junit_error(Path(what).name, kind, message))
            if summary:
                gates.write(summary, f"## ⚠️ {kind}: no verdict\n\n{message}\n", append=True)
            raise
        if junit:
            gates.write(junit, gates.junit(found))
        if summary:
            gates.write(summary, gates.markdown(found), append=True)
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1))
        else:
            gates.show(found, console(stderr=False))
        raise typer.Exit(EXIT_CODES[found.verdict])
