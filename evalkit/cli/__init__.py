"""The command line: parses and prints, nothing else."""

from __future__ import annotations

import io
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from evalkit import (
    bench_commands,
    execution_commands,
    import_commands,
    planning_commands,
    table_commands,
    verdict_commands,
)
from evalkit.cli._common import FAILED, console, explained, nothing_on_standard_output, progress_for, report
from evalkit.cli._options import AsJson, CheckpointFile, Splits, SuiteName, Tasks, Workers

app = typer.Typer(
    name="evalkit",
    help="Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table.",
    epilog="First steps:  evalkit setup metaworld  ·  evalkit run metaworld --checkpoint oracle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class What(str, Enum):
    """What `list` lists."""

    suites = "suites"
    checkpoints = "checkpoints"
    runs = "runs"


class VideoChoice(str, Enum):
    """Which episodes `run` films."""

    none = "none"
    failures = "failures"
    all = "all"


MaxBatch = Annotated[
    Optional[int],
    typer.Option(metavar="N", min=1, help="Most requests in one forward pass. 1, as released, if absent."),
]
BatchInvariant = Annotated[
    bool, typer.Option("--batch-invariant", help="Passes of one shape: a chunk depends on no other request.")
]


@app.command("list")
def list_(
    what: Annotated[Optional[What], typer.Argument(help="suites, checkpoints or runs; all three by default.")] = None,
    folder: Annotated[Path, typer.Option("--runs", help="Where to look for runs.")] = Path("results/runs"),
    checkpoints: CheckpointFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what can be run, and what has been."""
    from evalkit import listing

    with explained():
        content = {}
        if what in (None, What.suites):
            content["suites"] = listing.suites()
        if what in (None, What.checkpoints):
            content["checkpoints"] = listing.checkpoints(checkpoints)
        if what in (None, What.runs):
            content["runs"] = listing.runs(folder)
        if as_json:
            typer.echo(json.dumps(content, indent=1))
        else:
            for kind, rows in content.items():
                listing.show(kind, rows, console(stderr=False))


@app.command()
def setup(
    suite: SuiteName,
    assets: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Use this copy of the suite's assets.")] = None,
    source: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Use the checkouts of upstream code in this folder.")
    ] = None,
) -> None:
    """Build a suite's isolated Python environment, and get its assets.

    Safe to run again: what is there already is kept.
    """
    from evalkit.setup.assets import assets_folder, download_assets, set_assets
    from evalkit.setup.environment import Environment
    from evalkit.setup.sources import checkouts, fetch_sources, use_source
    from evalkit.suite import load_suite

    err = console(stderr=True)
    with explained():
        loaded = load_suite(suite)
        if source is not None:
            use_source(loaded, source)
        if assets is not None:
            set_assets(loaded, assets)
        environment = Environment.of(loaded, suite)

        def say(text: str) -> None:
            err.print(text, highlight=False, soft_wrap=True)

        with err.status(f"setting up {loaded.name} ..."):
            built = environment.build(say)
            if loaded.assets and assets_folder(loaded) is None:
                set_assets(loaded, download_assets(loaded, say))
            fetch_sources(loaded, say)
            checkouts(loaded)
        where = environment.folder or "evalkit's own environment"
        err.print(f"{loaded.name} is {'ready' if built else 'ready already'}: {where}", highlight=False, soft_wrap=True)


@app.command()
def doctor(
    suite: Annotated[
        Optional[str], typer.Argument(metavar="[SUITE]", help="Look at one suite; at all by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out what works here, what is missing, and how to get it.

    With a SUITE, the exit code is 2 where that suite cannot run.
    """
    from dataclasses import asdict

    from evalkit.runner.doctor import examine, machine_checks
    from evalkit.locations import suite_folders

    with explained():
        found = {"machine": machine_checks()}
        with console(stderr=True).status("looking ..."):
            found |= {name: examine(name) for name in ([suite] if suite else suite_folders())}
        if as_json:
            typer.echo(json.dumps({name: [asdict(c) for c in checks] for name, checks in found.items()}, indent=1))
        else:
            shown = console(stderr=False)
            for name, checks in found.items():
                shown.print(name, style="bold", markup=False)
                for check in checks:
                    mark = "[green]✓[/green]" if check.ok else "[red]✗[/red]"
                    shown.print(f"  {mark} {check.what:<12} ", end="")
                    shown.print(check.seen, markup=False, highlight=False, soft_wrap=True)
        if suite and not all(check.ok for check in found[suite]):
            raise typer.Exit(FAILED)


@app.command()
def run(
    suite: SuiteName,
    checkpoint: Annotated[
        Optional[str],
        typer.Option(
            metavar="ID",
            help="A checkpoint (see `evalkit list`), a directory that holds one, or a hub id; parameters as "
            "ID:key=value,... The suite's default if absent.",
        ),
    ] = None,
    checkpoints: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="Scenes per task, in the protocol's order. As the protocol has it if absent."),
    ] = None,
    repeats: Annotated[
        Optional[int],
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
        Optional[int],
        typer.Option(metavar="S", help="Control steps executed of each chunk. Whole (sync, hold) or half if absent."),
    ] = None,
    delay: Annotated[
        Optional[str],
        typer.Option(
            metavar="D",
            help="Inference delay, in virtual time: control steps (3), 80ms, normal:80:15ms (seeded draws) or "
            "trace:FILE (recorded latencies).",
        ),
    ] = None,
    prefix: Annotated[
        Optional[int], typer.Option(metavar="C", min=0, help="Actions committed at each look, for prefix; D if absent.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="The run's folder. A new one under results/runs/ if absent.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out: finished episodes stay.")
    ] = False,
    video: Annotated[VideoChoice, typer.Option(help="Film episodes as mp4.")] = VideoChoice.none,
    shuffle: Annotated[
        Optional[int], typer.Option(metavar="SEED", help="Play episodes in a shuffled order. Changes no outcome.")
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
    with explained(progress):
        options = RunOptions(
            suite=suite,
            checkpoint=checkpoint,
            checkpoints=checkpoints,
            settings=_batching(max_batch, batch_invariant),
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
            patience_s=patience,
        )
        with nothing_on_standard_output(as_json), progress:
            folder = play(options, progress)
        summary = summarize(folder)
        report(summary, as_json)
        if summary.errors:
            raise typer.Exit(FAILED)


table_commands.add_to(app)


@app.command()
def serve(
    checkpoint: Annotated[str, typer.Option(metavar="ID", help="A checkpoint, as for `evalkit run`.")],
    suite: Annotated[
        Optional[str], typer.Option(metavar="SUITE", help="The suite it is to be asked about; its own if it has one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. Whoever can reach it may ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8000,
    checkpoints: CheckpointFile = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
) -> None:
    """Serve a checkpoint to other programs and machines, over the openpi WebSocket protocol.

    Any openpi client can ask it. evalkit itself does with --checkpoint remote:url=ws://HOST:PORT, and then sends along
    what the protocol lacks (the seed, the episode, the committed prefix): results equal those without a server.

    Examples:
        evalkit serve --checkpoint path/to/checkpoint --suite libero

        evalkit run libero --checkpoint remote:url=ws://127.0.0.1:8000 --split object --episodes 1
    """
    from evalkit.policies.checkpoint import find_checkpoint
    from evalkit.serving.server import serve as answer
    from evalkit.suite import load_suite

    with explained():
        found = find_checkpoint(checkpoint, checkpoints).having(_batching(max_batch, batch_invariant))
        loaded = load_suite(found.suite(suite))
        err = console(stderr=True)
        with err.status(f"loading {found.id} ..."):
            policy = found.build(loaded)
        try:
            answer(
                policy,
                identity={"suite": loaded.name, "action_size": loaded.action.size, "checkpoint": found.identity()},
                host=host,
                port=port,
                ready=lambda url: err.print(f"{found.id} for {loaded.name} at {url} (Ctrl-C ends it)", soft_wrap=True),
                log=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
            )
        finally:
            policy.close()


def _batching(max_batch: int | None, batch_invariant: bool) -> dict[str, Any]:
    return {**({"max_batch": max_batch} if max_batch else {}), **({"batch_invariant": True} if batch_invariant else {})}


def version(shown: bool) -> None:
    """Prints the version and ends, where asked to."""
    if shown:
        from evalkit.locations import own_version

        typer.echo(f"evalkit {own_version()}")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table."""


execution_commands.add_to(app)
verdict_commands.add_to(app)
planning_commands.add_to(app)
import_commands.add_to(app)
bench_commands.add_to(app)


def main() -> Any:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without our characters must not end a run
    return app()
