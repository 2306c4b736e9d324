"""`evalkit gate`: judge a checkpoint against a baseline."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli._common import console, no_verdict, one_line, progress_for, report_errors, stdout_to_stderr, trust_of
from evalkit.cli._options import (
    Allow,
    AsJson,
    BatchInvariant,
    CheckpointFile,
    CheckpointId,
    LockFile,
    MaxBatch,
    Out,
    Splits,
    Tasks,
    TrustRemoteCode,
    VideoChoice,
    VideoOption,
    Workers,
    WorkerTimeout,
    batching,
)

if TYPE_CHECKING:
    from evalkit.experiments.gate import GateOptions, GateResult
    from evalkit.runner.options import RunOptions
    from evalkit.runner.progress import LiveProgress, PlainProgress

EXIT_CODES = {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 3}

Target = Annotated[
    str,
    typer.Argument(metavar="SUITE|RUN", help="The suite to run a checkpoint through, or a finished run's folder."),
]
Baseline = Annotated[
    str, typer.Option(metavar="BASELINE", help="An accepted baseline (`evalkit baseline list`), or a run's folder.")
]
Episodes = Annotated[int | None, typer.Option(metavar="N", help="Scenes per task. Default: the baseline's number.")]
MaxScenes = Annotated[int | None, typer.Option(metavar="N", min=1, help="Play at most this many scenes. Default: all.")]
Alpha = Annotated[
    float, typer.Option(metavar="P", help="Probability that a checkpoint that is not worse is called a REGRESSION.")
]
Beta = Annotated[
    float, typer.Option(metavar="P", help="Probability that a checkpoint worse by the margin gets a PASS.")
]
Margin = Annotated[
    float, typer.Option(metavar="M", help="The drop that must not pass, as a fraction (0.05 is 5 points).")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the order in which scenes are played and tested.")]
MaxErrorRate = Annotated[
    float, typer.Option(metavar="SHARE", help="No verdict if more than this share of episodes ends in errors.")
]
Horizon = Annotated[
    int | None, typer.Option(metavar="S", help="Control steps executed of each chunk. Default: the baseline's.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the gate's run in --out.")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the verdict as JUnit XML.")]
StepSummary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="GITHUB_STEP_SUMMARY",
        help="Append the verdict to FILE as markdown. Default: the GitHub step's summary.",
    ),
]


def gate(
    target: Target,
    baseline: Baseline,
    checkpoint: CheckpointId = None,
    checkpoint_file: CheckpointFile = None,
    trust_remote_code: TrustRemoteCode = False,
    lock: LockFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Episodes = None,
    max_scenes: MaxScenes = None,
    alpha: Alpha = 0.01,
    beta: Beta = 0.05,
    margin: Margin = 0.05,
    seed: Seed = 0,
    max_error_rate: MaxErrorRate = 0.02,
    allow: Allow = None,
    horizon: Horizon = None,
    workers: Workers = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
    worker_timeout: WorkerTimeout = 300,
    video: VideoOption = VideoChoice.none,
    out: Out = None,
    resume: Resume = False,
    junit: Junit = None,
    summary: StepSummary = None,
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
    from evalkit.runner.options import RunOptions

    progress = progress_for(f"gate {target}")
    run_options = RunOptions(
        suite=target, checkpoint=checkpoint, checkpoint_file=checkpoint_file, splits=split or (), tasks=task or (),
        settings=batching(max_batch, batch_invariant), episodes=episodes, horizon=horizon, workers=workers,
        worker_timeout_s=worker_timeout, video=video.value, out=out, resume=resume,
        trust=trust_of(trust_remote_code, lock, progress),
    )  # fmt: skip
    reports = _Reports(target, as_json, junit, summary)
    with report_errors(progress):
        with reports.of_errors():
            _check_usage(target, run_options)
            options = _gate_options(baseline, alpha, beta, margin, max_scenes, seed, allow or (), max_error_rate)
            result = _judge(target, run_options, options, progress, as_json)
        reports.write(result)
        raise typer.Exit(EXIT_CODES[result.verdict])


def _check_usage(target: str, run: RunOptions) -> None:
    """Raise UsageError if the options do not fit a finished run, or the checkpoint is missing for a live one."""
    from evalkit.errors import UsageError

    if not _is_run(target):
        if run.checkpoint is None:
            raise UsageError("--checkpoint: name the checkpoint to judge")
        return
    live_only = {
        "--checkpoint": run.checkpoint,
        "--checkpoint-file": run.checkpoint_file,
        "--split": run.splits or None,
        "--task": run.tasks or None,
        "--episodes": run.episodes,
        "--horizon": run.horizon,
        "--workers": run.workers,
        "--out": run.out,
        "--resume": run.resume or None,
        "--max-batch": run.settings.get("max_batch"),
        "--trust-remote-code": run.trust.yes or None,
        "--batch-invariant": run.settings.get("batch_invariant"),
        "--video": None if run.video == "none" else run.video,
    }
    for option, value in live_only.items():
        if value is not None:
            raise UsageError(f"{option}: {target} is a finished run, so nothing is played")


def _is_run(target: str) -> bool:
    from evalkit.records.folder import RunFolder

    return RunFolder(Path(target)).is_run


def _gate_options(
    baseline: str,
    alpha: float,
    beta: float,
    margin: float,
    max_scenes: int | None,
    seed: int,
    allow: Sequence[str],
    max_error_rate: float,
) -> GateOptions:
    """Return the gate's options. Raises UsageError for a number out of range or an unknown baseline."""
    from evalkit.errors import UsageError
    from evalkit.experiments.baselines import find_baseline
    from evalkit.experiments.gate import GateOptions
    from evalkit.stats.sequential import ErrorRates

    try:
        return GateOptions(
            find_baseline(baseline), ErrorRates(alpha, beta, margin), max_scenes, seed, allow, max_error_rate
        )
    except ValueError as error:
        raise UsageError(f"--{error}".replace("_", "-")) from error


def _judge(
    target: str, run: RunOptions, options: GateOptions, progress: LiveProgress | PlainProgress, as_json: bool
) -> GateResult:
    """Return the verdict on a finished run, or play the candidate's run and return its verdict."""
    from evalkit.experiments.gate import GateForecast, gate_finished_run, gate_live_run
    from evalkit.report import gates

    def announce(forecast: GateForecast) -> None:
        gates.show_forecast(forecast, console(stderr=True))

    if _is_run(target):
        return gate_finished_run(Path(target), options, announce)
    with stdout_to_stderr(as_json), progress:
        return gate_live_run(run, options, progress, announce)


@dataclass(frozen=True)
class _Reports:
    """The outputs of a gate: standard output, the JUnit file and the step summary."""

    target: str
    as_json: bool
    junit: Path | None
    summary: Path | None

    def write(self, result: GateResult) -> None:
        """Write a verdict to all outputs."""
        from evalkit.report import gates

        if self.junit:
            gates.write(self.junit, gates.junit(result))
        if self.summary:
            gates.write(self.summary, gates.markdown(result), append=True)
        if self.as_json:
            typer.echo(json.dumps(result.to_json(), indent=1))
        else:
            gates.show(result, console(stderr=False))

    @contextlib.contextmanager
    def of_errors(self) -> Iterator[None]:
        """Write an error that prevents a verdict to the outputs for programs, and raise it again."""
        from evalkit.errors import NotComparable
        from evalkit.report import gates

        try:
            yield
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            kind = "NOT COMPARABLE" if isinstance(error, NotComparable) else "ERROR"
            message = one_line(error)
            if self.as_json:
                typer.echo(no_verdict(kind, error))
            if self.junit:
                gates.write(self.junit, gates.junit_error(Path(self.target).name, kind, message))
            if self.summary:
                gates.write(self.summary, f"## ⚠️ {kind}: no verdict\n\n{message}\n", append=True)
            raise
