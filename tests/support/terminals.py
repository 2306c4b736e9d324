"""Commands whose standard input and standard error are a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence


def on_a_terminal(
    arguments: Sequence[str], prompt: bytes, typed: bytes, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run evalkit and answer a prompt; return its exit code, its standard output and the text on the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "evalkit", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, **environment}
    ) as process:
        os.close(theirs)
        shown = b""
        answered = False
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed
                part = b""
            if not part:
                break
            shown += part
            if prompt in shown and not answered:
                answered = True
                os.write(ours, typed)
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    os.close(ours)
    return process.returncode, printed, shown.decode(errors="replace")
