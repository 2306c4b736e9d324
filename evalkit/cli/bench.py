"""`evalkit bench`: measure throughput on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli._common import console, progress_for, report_errors, stdout_to_stderr, trust_of
from evalkit.cli._options import AsJson, CheckpointFile, LockFile, TrustRemoteCode

if TYPE_CHECKING:
    from evalkit.experiments.bench import Throughput


def bench(
    suite: Annotated[str, typer.Argument(metavar="[SUITE]", help="A suite's name, or its folder.")] = "metaworld",
    checkpoint: Annotated[
        str,
        typer.Option(metavar="ID", help="A checkpoint, as for `evalkit run`. Default: random actions, all cameras."),
    ] = "random:chunk=10,cameras=all",
    checkpoint_file: CheckpointFile = None,
    trust_remote_code: TrustRemoteCode = False,
    lock: LockFile = None,
    split: Annotated[str | None, typer.Option(metavar="S", help="The split. Default: the first.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="T", help="A task. Repeatable. Default: the split's first.")
    ] = None,
    episodes: Annotated[int, typer.Option(metavar="N", min=2, help="Scenes per task.")] = 6,
    horizon: Annotated[
        int | None, typer.Option(metavar="S", min=1, help="Control steps executed of each chunk. Default: all.")
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, help="Simulator processes. Repeatable. Default: one, then one per core."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the latencies of single requests, for `--delay trace:FILE`."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure throughput on this machine, per part: reset, physics, observation, policy.

    Examples:
        evalkit bench metaworld

        evalkit bench libero --checkpoint my-checkpoint --workers 1 --workers 8 --trace latencies.json
    """
    from evalkit.experiments.bench import bench as measure
    from evalkit.runner.options import RunOptions

    with report_errors():
        options = RunOptions(
            suite,
            checkpoint=checkpoint,
            checkpoint_file=checkpoint_file,
            splits=[split] if split else (),
            tasks=task or (),
            episodes=episodes,
            horizon=horizon,
            trust=trust_of(trust_remote_code, lock),
        )
        with stdout_to_stderr(as_json):
            throughputs = measure(
                options, workers or (), lambda count: progress_for(f"{suite}, {count} workers"), trace
            )
        if as_json:
            document = {
                "suite": suite,
                "checkpoint": checkpoint,
                "rows": [throughput.to_dict() for throughput in throughputs],
            }
            typer.echo(json.dumps(document, indent=1))
        else:
            _show(throughputs)
        if trace:
            typer.echo(f"latencies: {trace} (evalkit run ... --delay trace:{trace})", err=True)


def _show(throughputs: list[Throughput]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for t in throughputs:
        table.add_column(f"{t.workers} worker{'s' if t.workers > 1 else ''}", justify="right")
    rows = {
        "episodes": [str(t.episodes) for t in throughputs],
        "episodes per hour": [f"{t.episodes_per_hour:.0f}" for t in throughputs],
        "control steps per second": [f"{t.steps_per_s:.0f}" for t in throughputs],
        "reset (ms per episode)": [f"{t.reset_ms:.1f}" for t in throughputs],
        "physics (ms per control step)": [f"{t.physics_ms:.2f}" for t in throughputs],
        "observation (ms per inference)": [f"{t.observe_ms:.2f}" for t in throughputs],
        "waiting for the chunk (ms per inference)": [f"{t.wait_ms:.2f}" for t in throughputs],
        "of which the policy (ms per call)": [f"{t.policy_ms:.2f}" for t in throughputs],
        "requests per call": [f"{t.batch:.2f}" for t in throughputs],
        "simulator build (s, once per worker)": [f"{t.build_s:.2f}" for t in throughputs],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    out = console(stderr=False)
    out.print(table)
    out.print("without each worker's first episode, which builds the simulator", style="dim")
