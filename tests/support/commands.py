"""The command line, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evalkit.cli import app


def invoke(*arguments: str | Path) -> Any:
    """Runs a command in this process; the result has exit_code, stdout and stderr."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def evalkit(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
        cwd=cwd,
    )


def refused(result: subprocess.CompletedProcess) -> str:
    """Asserts exit code 2 with one clear line on standard error and nothing on standard output; returns the line."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("evalkit: "), result.stderr
    return lines[0]
