"""Processes that must not outlive this one: workers and installers, with everything that they start in turn.

Each is started with a mark in its environment variables, which its own children inherit, in whatever process group or
session they are. A guard finds them by the mark and kills them. A small process of its own does the same if this one is
killed: it notices the end of its standard input. This needs Linux; elsewhere only process groups are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit import _watcher
from evalkit._watcher import MARK, kill_marked

__all__ = ["MARK", "Guard", "kill_group", "kill_marked", "run"]


class Guard:
    """A context in which marked processes may be started; at its end, and at the end of this process, none is left."""

    def __init__(self) -> None:
        """Make a mark. Nothing is started before the context is entered."""
        self._mark = uuid.uuid4().hex
        self._count = 0
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guard:
        """Start the process that watches this one."""
        if sys.platform == "linux":
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", _watcher.__file__, self._mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, and end the watcher."""
        kill_marked(self._mark)
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.kill()
            self._watcher.stdin.close()
            self._watcher.wait()

    def mark(self) -> str:
        """Return a new mark, for one process and its descendants: the value of :data:`MARK` in its environment."""
        self._count += 1
        return f"{self._mark}.{self._count}."


def run(command: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command as :func:`subprocess.run` does; neither it nor a process that it started outlives this one.

    Args:
        command: the program and its arguments.
        env: its environment variables, without the mark.
        **options: further arguments of :func:`subprocess.run`.
    """
    with Guard() as guard:
        return subprocess.run(command, env={**env, MARK: guard.mark()}, **options)


def kill_group(leader: int) -> None:
    """Kill the process group that ``leader`` began, whether or not ``leader`` itself still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
