"""The process that watches another one: it kills the marked processes once its standard input ends.

Run by path, ``python -I -S _watcher.py MARK``, in every run: it imports nothing that takes time.
``evalkit.descendants`` uses the functions.
"""

import os
import signal
import sys
import time

MARK = "EVALKIT_MARK"  # environment variable with the mark
_PATIENCE_S = 3.0  # killed processes may take a moment to disappear


def kill_marked(mark: str) -> None:
    """Kill every process whose mark begins with ``mark``, and those that they start meanwhile."""
    deadline = time.monotonic() + _PATIENCE_S
    while _kill_once(mark) and time.monotonic() < deadline:
        time.sleep(0.01)


def _kill_once(mark: str) -> bool:
    """Kill the marked processes that run now. Return True if there were any."""
    found = False
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdecimal() and int(name) != os.getpid() and _is_marked(name, mark):
            found = True
            try:
                os.kill(int(name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
    return found


def _is_marked(process: str, mark: str) -> bool:
    """Return True if a process runs with the mark; an ended one that was not waited for has no environment."""
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return f"\0{MARK}={mark}".encode() in b"\0" + file.read()
    except OSError:
        return False


if __name__ == "__main__":
    try:
        while os.read(0, 1):
            pass
    except KeyboardInterrupt:
        pass
    kill_marked(sys.argv[1])
