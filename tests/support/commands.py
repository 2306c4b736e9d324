"""The command line, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from typer.testing import CliRunner

from evalkit.cli import app


@dataclass(frozen=True)
class CommandResult:
    """The outcome of one command: its exit code and its two streams."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(*arguments: object, env: Mapping[str, str] | None = None) -> CommandResult:
    """Run a command in this process."""
    variables = {"COLUMNS": "120", **(env or {})}
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=variables, catch_exceptions=False)
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def evalkit(*arguments: object, env: Mapping[str, str] | None = None) -> CommandResult:
    """Run a command in a process of its own, for tests of streams, signals and start-up."""
    result = subprocess.run(
        [sys.executable, "-m", "evalkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )
    return CommandResult(result.returncode, result.stdout, result.stderr)


def refused(result: CommandResult) -> str:
    """Assert exit code 2, one clear line on standard error and nothing on standard output; return the line."""
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("evalkit: "), result.stderr
    return lines[0]
