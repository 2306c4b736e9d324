"""The commands' output (progress, tables, errors in one line) and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.analysis.summary import Summary
    from evalkit.policies.trust import Trust
    from evalkit.runner.progress import LiveProgress, PlainProgress

FAILED = 2  # usage, infrastructure, not comparable
INTERRUPTED = 130
_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # of click, or of the copy of it in typer
_MAX_MESSAGE = 2000  # characters of an error's line; parts from elsewhere are shorter
TRACEBACK = "EVALKIT_TRACEBACK"  # environment variable; if set, a defect of evalkit is shown with its traceback


def report(summary: Summary, as_json: bool) -> None:
    """Print a run's table, or its JSON document."""
    from evalkit.records.folder import RunFolder
    from evalkit.report import terminal

    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=1))
        return
    out = console(stderr=False)
    terminal.show(summary, out)
    out.print(f"\nrun: {summary.folder}", highlight=False, markup=False, soft_wrap=True)
    folder = RunFolder(summary.folder).videos
    count = len(list(folder.rglob("*.mp4")))
    if count:
        out.print(f"videos: {folder} ({count})", highlight=False, markup=False, soft_wrap=True)


def progress_for(title: str) -> LiveProgress | PlainProgress:
    """Return a live display on a terminal, plain lines elsewhere."""
    from evalkit.runner.progress import LiveProgress, PlainProgress

    errors = console(stderr=True)
    return LiveProgress(errors, title) if errors.is_terminal else PlainProgress(errors, title)


def console(stderr: bool) -> Console:
    """Return a console for output to people, on standard output or standard error."""
    from evalkit.report import terminal

    return terminal.console(stderr)


@contextlib.contextmanager
def report_errors(progress: LiveProgress | PlainProgress | None = None) -> Iterator[None]:
    """Turn an EvalkitError into one line on standard error and exit code 2."""
    from evalkit.errors import EvalkitError

    try:
        yield
    except EvalkitError as error:
        print(f"evalkit: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        hint = f"; continue with --resume --out {progress.folder}" if progress and progress.folder else ""
        print(f"evalkit: interrupted{hint}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of the output has gone; the results are on disk
        _discard_output()
        raise typer.Exit(FAILED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"evalkit: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except UnicodeEncodeError as error:  # a name of other bytes than UTF-8 cannot be recorded
        print(f"evalkit: {one_line(ascii(error.object))}: is not text in UTF-8", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except MemoryError:
        print("evalkit: out of memory", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except _USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise  # which shows the help
        print(f"evalkit: {one_line(_usage_message(error))}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except Exception as error:
        raise typer.Exit(explain_defect(error)) from None


def explain_defect(error: Exception) -> int:
    """Print one line on an error that nobody expected, and return the exit code: 1 would mean a verdict."""
    from evalkit.errors import excerpt

    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
        return FAILED
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}evalkit{os.sep}" in frame.filename] or frames
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    message = excerpt(error)
    print(
        f"evalkit: internal error: {type(error).__name__}: {message}{place}; {TRACEBACK}=1 shows the traceback",
        file=sys.stderr,
    )
    return FAILED


def trust_of(yes: bool, lock: Path | None, progress: LiveProgress | PlainProgress | None = None) -> Trust:
    """Return the way to an answer about a checkpoint's code: the options', else the user's on a terminal."""
    from evalkit.policies.trust import Trust

    can_ask = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return Trust(
        yes=yes,
        lock=lock,
        ask=_ask if can_ask else None,
        note=lambda text: print(text, file=sys.stderr),
        undisturbed=progress.suspended if progress else contextlib.nullcontext,
    )


def _ask(question: str) -> bool:
    """Return True if the user answers yes; anything else, the end of the input included, is no."""
    print(f"\n{question}", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def _usage_message(error: Any) -> str:
    """Return the message on options that the parser refuses, with the command that explains them."""
    command = error.ctx.command_path.replace("python -m evalkit", "evalkit") if error.ctx else "evalkit"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`"


@contextlib.contextmanager
def stdout_to_stderr(enabled: bool) -> Iterator[None]:
    """Redirect the output of a policy, its libraries and their processes to standard error, if ``enabled``."""
    if not enabled:
        yield
        return
    sys.stdout.flush()
    original = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(original, 1)
        os.close(original)


def _discard_output() -> None:
    """Redirect standard output to the null device, so that flushing it at exit does not fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def no_verdict(kind: str, error: Exception) -> str:
    """Return the JSON document of a comparison or gate without a verdict."""
    return json.dumps({"verdict": kind, "reason": one_line(error)}, indent=1)


def one_line(error: Exception | str) -> str:
    """Return an error's message on one line, without control characters."""
    from evalkit.errors import excerpt

    return excerpt(error, _MAX_MESSAGE)
