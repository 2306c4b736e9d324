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
    CheckpointFile,
    Splits,
    Tasks,
    Workers,
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
    checkpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="The checkpoint that is judged, as for `evalkit run`.")
    ] = None,
    checkpoint_file: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Scenes per task; the baseline's if absent.")
    ] = None,
    max_scenes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Play so many scenes at most; all of them if absent.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="P", help="How often a checkpoint that is not worse may be called a REGRESSION.")
    ] = 0.01,
    beta: Annotated[
        float, typer.Option(metavar="P", help="How often one that is worse by the margin may PASS.")
    ] = 0.05,
    margin: Annotated[
        float, typer.Option(metavar="M", help="The drop that must not pass, as a fraction: 0.05 is 5 points.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which scenes are played and weighed.")] = 0,
    max_error_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="No verdict where more episodes than this share end in errors.")
    ] = 0.02,
    allow: Allow = None,
    horizon: Annotated[
        int | None, typer.Option(metavar="S", help="Control steps executed of each chunk; the baseline's if absent.")
    ] = None,
    workers: Workers = None,
    video: Annotated[str, typer.Option(metavar="none|failures|all", help="Film episodes as mp4.")] = "none",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder. A new one under results/runs/ if absent.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the gate's run in --out.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML too.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="GITHUB_STEP_SUMMARY",
            help="Append the verdict to FILE as markdown; a GitHub step's summary if absent.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a checkpoint against a baseline, for CI: PASS, REGRESSION or INCONCLUSIVE.

    Plays the baseline's scenes in a seeded shuffle and stops as soon as the verdict is clear: REGRESSION where the
    checkpoint is worse, PASS where it is not worse by the margin. The verdict is valid whenever it comes: see
    docs/gate.md. A finished run is judged as it would have been while it ran.

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
    from evalkit.runner.run import RunOptions
    from evalkit.stats.sequential import ErrorRates

    err = console(stderr=True)
    finished = RunFolder(Path(what)).is_run
    progress = progress_for(f"gate {what}")
    with report_errors(progress):
        try:
            live_only = {
                "--checkpoint": checkpoint, "--checkpoint-file": checkpoint_file, "--split": split, "--task": task,
                "--episodes": episodes, "--horizon": horizon, "--workers": workers, "--out": out,
                "--resume": resume or None,
            }  # fmt: skip
            for option, value in live_only.items():
                if finished and value is not None:
                    raise UsageError(f"{option}: {what} is a finished run, of which nothing is played")
            if not finished and checkpoint is None:
                raise UsageError("--checkpoint: name the checkpoint that is judged")
            if video not in ("none", "failures", "all"):
                raise UsageError(f"--video {video}: must be none, failures or all")
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
                    splits=split or (),
                    tasks=task or (),
                    episodes=episodes,
                    workers=workers,
                    horizon=horizon,
                    out=out,
                    resume=resume,
                    video=video,  # type: ignore[arg-type]  # it was checked
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
