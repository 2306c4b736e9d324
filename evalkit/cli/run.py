"""`evalkit run`: run a checkpoint through a suite."""

from __future__ import annotations

from typing import Annotated

import typer

from evalkit.cli._common import FAILED, progress_for, report, report_errors, stdout_to_stderr, trust_of
from evalkit.cli._options import (
    AsJson,
    BatchInvariant,
    CheckpointFile,
    Episodes,
    LockFile,
    MaxBatch,
    Out,
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

CheckpointId = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="ID",
        help="A checkpoint (see `evalkit list`), a directory with one, or a hub id. Parameters: ID:key=value,... "
        "Default: the suite's.",
    ),
]
Repeats = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Attempts at each scene. Default: the protocol's number.")
]
Execution = Annotated[
    str,
    typer.Option(
        metavar="E",
        help="Execution of action chunks: sync (the simulator waits for inference), or asynchronous: hold (the "
        "robot holds still), naive, prefix, rtc, ensemble, queue. Parameters: E:key=number, for example "
        "rtc:quantile=0.95. See docs/async.md.",
    ),
]
Horizon = Annotated[
    int | None,
    typer.Option(metavar="S", help="Control steps executed of each chunk. Default: all (sync, hold) or half."),
]
Delay = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="Inference delay in virtual time: control steps (3), 80ms, normal:80:15ms (seeded draws) or "
        "trace:FILE (recorded latencies).",
    ),
]
Prefix = Annotated[
    int | None,
    typer.Option(
        metavar="C",
        min=0,
        help="Actions committed at each inference, for prefix. Default: D, or the largest drawn delay.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out. Finished episodes stay.")]
Shuffle = Annotated[
    int | None, typer.Option(metavar="SEED", help="Play episodes in a shuffled order. Changes no outcome.")
]


def run(
    suite: SuiteName,
    checkpoint: CheckpointId = None,
    checkpoint_file: CheckpointFile = None,
    trust_remote_code: TrustRemoteCode = False,
    lock: LockFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Episodes = None,
    repeats: Repeats = None,
    workers: Workers = None,
    execution: Execution = "sync",
    horizon: Horizon = None,
    delay: Delay = None,
    prefix: Prefix = None,
    out: Out = None,
    resume: Resume = False,
    video: VideoOption = VideoChoice.none,
    shuffle: Shuffle = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """Run a checkpoint through a suite and print its table.

    The run's folder holds manifest.json (everything that could change the outcome), journal.jsonl (one line per
    episode), and videos/. To continue an interrupted run, repeat its options with --resume --out DIR.

    Examples:
        evalkit run metaworld --checkpoint oracle

        evalkit run metaworld --checkpoint random --split easy --episodes 3 --video failures

        evalkit run libero --checkpoint oracle --split object --episodes 10 --out results/runs/my-run
    """
    from evalkit.analysis.summary import summarize
    from evalkit.runner.options import RunOptions
    from evalkit.runner.run import play

    progress = progress_for(suite)
    with report_errors(progress):
        options = RunOptions(
            suite=suite, checkpoint=checkpoint, checkpoint_file=checkpoint_file, splits=split or (), tasks=task or (),
            settings=batching(max_batch, batch_invariant), episodes=episodes, repeats=repeats, workers=workers,
            execution=execution, horizon=horizon, delay=delay, prefix=prefix, out=out, resume=resume,
            video=video.value, shuffle=shuffle, worker_timeout_s=worker_timeout,
            trust=trust_of(trust_remote_code, lock, progress),
        )  # fmt: skip
        with stdout_to_stderr(as_json), progress:
            folder = play(options, progress)
        summary = summarize(folder)
        report(summary, as_json)
        if summary.errors:
            raise typer.Exit(FAILED)
