"""A trial of one fault, and the rules by which a command's end is judged."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from support.commands import CommandResult, invoke

LONGEST_S = 60.0  # a command that takes longer hangs
IDENTITY = "FAULTS_IDENTITY"


@dataclass(frozen=True)
class Trial:
    """One fault.

    Attributes:
        kind: the row of the table that counts it.
        name: the fault, for people.
        run: the trial; returns None if evalkit held, else a line about the end that it came to.
        faults: the number of faults in it.
    """

    kind: str
    name: str
    run: Callable[[], str | None]
    faults: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


class Hang(BaseException):
    """The end of a trial that takes too long; nothing but a trial catches it."""


class Skip(Exception):
    """A trial that this machine cannot make; the message is the reason."""


def hold(trials: Iterable[Trial]) -> None:
    """Run trials in a test: fail with the list of those in which evalkit did not hold."""
    made, broken, skipped = 0, [], []
    for trial in trials:
        try:
            problem = trial.run()
        except Skip as reason:
            skipped.append(str(reason))
            continue
        made += 1
        if problem:
            broken.append(f"{trial}: {problem}")
    if not made:
        pytest.skip("; ".join(sorted(set(skipped))) or "no trials")
    assert not broken, "\n".join(broken)


def command(*arguments: object, seconds: float = LONGEST_S, **env: str) -> CommandResult:
    """Run a command in this process; an exception that escapes becomes a traceback on its standard error."""
    try:
        with time_limit(seconds):
            return invoke(*arguments, env=env or None)
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        return CommandResult(1, "", f"Traceback: {type(error).__name__}: {error}")


def problem_of(result: CommandResult, *codes: int) -> str | None:
    """Return the way in which a command's end breaks the rules, or None.

    The rules: one of the exit codes ``codes``; with 2, a last line that says why, from evalkit or from the parser of
    options, short and without control characters; never a traceback.
    """
    if "Traceback" in result.stderr or "Traceback" in result.stdout:
        return "traceback: " + " ".join(result.stderr.split())[-300:]
    if "internal error" in result.stderr:
        return " ".join(result.stderr.split())[-300:]
    if result.exit_code not in codes:
        return f"exit code {result.exit_code}: {' '.join((result.stderr or result.stdout).split())[-300:]}"
    if result.exit_code != 2:
        return None
    lines = result.stderr.strip().splitlines()
    refusals = [line for line in lines if line.startswith("evalkit: ")]
    if "Usage: " in result.stderr + result.stdout:  # the command alone: its help
        return None
    if len(refusals) != 1 or lines[-1] != refusals[0]:
        return f"no single last line: {result.stderr[-300:]!r}"
    if len(refusals[0]) > 2100 or re.search(r"[\x00-\x1f\x7f-\x9f]", refusals[0]):
        return f"a line of {len(refusals[0])} characters: {refusals[0][:200]!r}"
    return None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang in the main thread after so many seconds, also out of a system call that waits."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"hangs: more than {seconds:g} s")

    before: Any = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Make ``folder`` the working folder for a while."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def processes_of(identity: str) -> list[int]:
    """Return the running processes that have ``FAULTS_IDENTITY=identity`` in their environment, on Linux."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{IDENTITY}={identity}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found


def left_behind(identity: str, seconds: float = 4.0) -> list[int]:
    """Return those of :func:`processes_of` that still run after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(identity)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
