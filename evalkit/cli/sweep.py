"""`evalkit sweep`: measure success against inference delay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, progress_for, report_errors, stdout_to_stderr, trust_of
from evalkit.cli._options import (
    AsJson,
    BatchInvariant,
    CheckpointFile,
    CheckpointId,
    Episodes,
    LockFile,
    MaxBatch,
    Splits,
    SuiteName,
    Tasks,
    TrustRemoteCode,
    VideoChoice,
    VideoOption,
    Workers,
    WorkerTimeout,
    batching,
)

Delays = Annotated[
    str,
    typer.Option(
        "--delay", metavar="D,D,...", help="Inference delays, each in a form that `evalkit run --delay` accepts."
    ),
]
Executions = Annotated[
    list[str] | None,
    typer.Option(
        "--execution",
        metavar="E",
        help="hold, naive, prefix, rtc, ensemble or queue, as for `evalkit run`. Repeatable. Default: hold and naive.",
    ),
]
Horizon = Annotated[
    int | None, typer.Option(metavar="S", help="Control steps executed of each chunk. Default: half of it.")
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The sweep's folder. Default: a new one under results/runs/.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the sweep in --out.")]


def sweep(
    suite: SuiteName,
    checkpoint: CheckpointId = None,
    delay: Delays = "0,1,2,3,4",
    execution: Executions = None,
    horizon: Horizon = None,
    checkpoint_file: CheckpointFile = None,
    trust_remote_code: TrustRemoteCode = False,
    lock: LockFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Episodes = None,
    workers: Workers = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
    worker_timeout: WorkerTimeout = 300,
    video: VideoOption = VideoChoice.none,
    out: Out = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Measure success against inference delay, for several executions on the same episodes.

    Each pair of execution and delay is a run in a folder of its own, beside sweep.csv and the plot (sweep.png and
    sweep.svg). Every run is compared, episode by episode, with the synchronous run of the same horizon.

    Example:
        evalkit sweep metaworld --checkpoint oracle-noisy:chunk=24 --delay 0,4,8,12 --execution naive --execution prefix
    """
    from evalkit.errors import UsageError
    from evalkit.experiments.sweep import sweep as run_sweep
    from evalkit.report.sweeps import document, show, write
    from evalkit.runner.options import RunOptions

    with report_errors():
        delays = [text.strip() for text in delay.split(",") if text.strip()]
        if not delays:
            raise UsageError("--delay: name at least one delay")
        if resume and out is None:
            raise UsageError("--resume needs --out DIR, the folder of the sweep to continue")
        options = RunOptions(
            suite=suite, checkpoint=checkpoint, checkpoint_file=checkpoint_file, splits=split or (), tasks=task or (),
            settings=batching(max_batch, batch_invariant), episodes=episodes, workers=workers, horizon=horizon,
            out=out, resume=resume, video=video.value, worker_timeout_s=worker_timeout,
            trust=trust_of(trust_remote_code, lock),
        )  # fmt: skip
        with stdout_to_stderr(as_json):
            folder, table = run_sweep(options, execution or ["hold", "naive"], delays, progress_for)
            files = write(folder, table)
        if as_json:
            typer.echo(json.dumps(document(folder, table), indent=1))
        else:
            show(folder, table, files, console(stderr=False))
