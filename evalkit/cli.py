"""The command line: parses and prints, nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.aggregate import Summary
    from evalkit.progress import LiveProgress, PlainProgress

app = typer.Typer(
    name="evalkit",
    help="Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table.",
    epilog="First steps:  evalkit setup metaworld  ·  evalkit run metaworld --checkpoint oracle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

FAILED = 2  # usage, infrastructure, not comparable
INTERRUPTED = 130


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


class FormatChoice(str, Enum):
    """How `table` prints."""

    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"


AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output, and nothing else there.")
]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name (see `evalkit list`), or its folder.")]


@app.command("list")
def list_(
    what: Annotated[Optional[What], typer.Argument(help="suites, checkpoints or runs; all three by default.")] = None,
    folder: Annotated[Path, typer.Option("--runs", help="Where to look for runs.")] = Path("results/runs"),
    as_json: AsJson = False,
) -> None:
    """Show what can be run, and what has been."""
    from evalkit import listing

    with _explained():
        kinds = [what] if what else list(What)
        content = {kind.value: getattr(listing, kind.value)(*([folder] if kind is What.runs else [])) for kind in kinds}
        if as_json:
            typer.echo(json.dumps(content, indent=1))
        else:
            for kind, rows in content.items():
                listing.show(kind, rows, _console(stderr=False))


@app.command()
def setup(
    suite: SuiteName,
    assets: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Use this copy of the suite's assets.")] = None,
    source: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Use this checkout of the suite's simulator.")
    ] = None,
) -> None:
    """Build a suite's isolated Python environment, and get its assets.

    Safe to run again: what is there already is kept.
    """
    from evalkit.environment import Environment, assets_folder, download_assets, set_assets
    from evalkit.errors import UsageError
    from evalkit.suite import load_suite

    console = _console(stderr=True)
    with _explained():
        loaded = load_suite(suite)
        if source is not None:
            raise UsageError(f"--source: {loaded.name} is installed from its package registry and takes no checkout")
        if assets is not None:
            set_assets(loaded, assets)
        environment = Environment.of(loaded, suite)
        with console.status(f"setting up {loaded.name} ..."):
            built = environment.build(lambda text: console.print(text, highlight=False, soft_wrap=True))
            if loaded.assets and assets_folder(loaded) is None:
                fetched = download_assets(loaded, lambda text: console.print(text, highlight=False, soft_wrap=True))
                set_assets(loaded, fetched)
        where = environment.folder or "evalkit's own environment"
        console.print(
            f"{loaded.name} is {'ready' if built else 'ready already'}: {where}", highlight=False, soft_wrap=True
        )


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

    from evalkit.doctor import examine, machine_checks
    from evalkit.resources import suite_folders

    with _explained():
        found = {"machine": machine_checks()}
        with _console(stderr=True).status("looking ..."):
            found |= {name: examine(name) for name in ([suite] if suite else suite_folders())}
        if as_json:
            typer.echo(json.dumps({name: [asdict(c) for c in checks] for name, checks in found.items()}, indent=1))
        else:
            console = _console(stderr=False)
            for name, checks in found.items():
                console.print(name, style="bold", markup=False)
                for check in checks:
                    mark = "[green]✓[/green]" if check.ok else "[red]✗[/red]"
                    console.print(f"  {mark} {check.what:<12} ", end="")
                    console.print(check.seen, markup=False, highlight=False, soft_wrap=True)
        if suite and not all(check.ok for check in found[suite]):
            raise typer.Exit(FAILED)


@app.command()
def run(
    suite: SuiteName,
    checkpoint: Annotated[
        Optional[str],
        typer.Option(
            metavar="ID", help="A checkpoint (see `evalkit list`), or ID:key=value,... The suite's default if absent."
        ),
    ] = None,
    split: Annotated[Optional[list[str]], typer.Option(metavar="S", help="Only this split. Repeatable.")] = None,
    task: Annotated[
        Optional[list[str]],
        typer.Option(metavar="T", help="Only this task, by name or number in its split. Repeatable."),
    ] = None,
    episodes: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="Scenes per task, in the protocol's order. As the protocol has it if absent."),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Attempts at each scene.")] = 1,
    workers: Annotated[
        Optional[int], typer.Option(metavar="N", min=1, help="Simulator processes. One per core if absent.")
    ] = None,
    execution: Annotated[
        str, typer.Option(metavar="E", help="How chunks become control steps: sync (the world waits).")
    ] = "sync",
    horizon: Annotated[
        Optional[int],
        typer.Option(metavar="S", help="Control steps executed of each chunk. The whole chunk if absent."),
    ] = None,
    delay: Annotated[
        int, typer.Option(metavar="D", min=0, help="Inference delay in control steps; sync has none.")
    ] = 0,
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
    from evalkit.aggregate import summarize
    from evalkit.errors import UsageError
    from evalkit.run import RunOptions, play

    progress = _progress(suite)
    with _explained(progress):
        if delay:
            raise UsageError(
                f"--delay {delay}: with --execution {execution} the world waits for the policy, so there is none"
            )
        options = RunOptions(
            suite=suite,
            checkpoint=checkpoint,
            splits=split or (),
            tasks=task or (),
            episodes=episodes,
            repeats=repeats,
            workers=workers,
            execution=execution,
            horizon=horizon,
            out=out,
            resume=resume,
            video=video.value,
            shuffle=shuffle,
            patience_s=patience,
        )
        with progress:
            folder = play(options, progress)
        summary = summarize(folder)
        _report(summary, as_json)
        if summary.errors:
            raise typer.Exit(FAILED)


@app.command()
def table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    form: Annotated[
        Optional[FormatChoice], typer.Option("--format", help="Print for other programs and papers.")
    ] = None,
) -> None:
    """Print success rates with 95 % intervals, per task and split, and the suite's headline."""
    from evalkit.aggregate import summarize
    from evalkit.report import tables, terminal

    with _explained():
        summaries = [summarize(run) for run in runs]
        if form is None:
            for summary in summaries:
                terminal.show(summary, _console(stderr=False))
        else:
            typer.echo(tables.render(summaries, form.value))


def version(shown: bool) -> None:
    """Prints the version and ends, where asked to."""
    if shown:
        from evalkit.resources import own_version

        typer.echo(f"evalkit {own_version()}")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table."""


def _report(summary: Summary, as_json: bool) -> None:
    from evalkit.report import terminal

    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=1))
        return
    console = _console(stderr=False)
    terminal.show(summary, console)
    console.print(f"\nrun: {summary.folder}", highlight=False, markup=False, soft_wrap=True)
    videos = len(list(summary.folder.glob("videos/**/*.mp4")))
    if videos:
        where = f"videos: {summary.folder / 'videos'} ({videos})"
        console.print(where, highlight=False, markup=False, soft_wrap=True)


def _progress(title: str) -> LiveProgress | PlainProgress:
    from evalkit.progress import LiveProgress, PlainProgress

    console = _console(stderr=True)
    return LiveProgress(console, title) if console.is_terminal else PlainProgress(console, title)


def _console(stderr: bool) -> Console:
    from evalkit.report.terminal import console

    return console(stderr)


@contextlib.contextmanager
def _explained(progress: LiveProgress | PlainProgress | None = None) -> Iterator[None]:
    """Turns an EvalkitError into one line on standard error and exit code 2."""
    from evalkit.errors import EvalkitError

    try:
        yield
    except EvalkitError as error:
        print(f"evalkit: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        hint = f"; continue with --resume --out {progress.folder}" if progress and progress.folder else ""
        print(f"evalkit: interrupted{hint}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has gone; what was run is on disk
        _discard_output()
        raise typer.Exit(FAILED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"evalkit: {where}{error.strerror or error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception:  # a defect of ours: 1 would mean a verdict
        traceback.print_exc()
        raise typer.Exit(FAILED) from None


def _discard_output() -> None:
    """Points standard output at nothing, so that flushing it at the end does not fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> Any:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without our characters must not end a run
    return app()
