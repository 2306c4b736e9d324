"""The entry point of the console script and of ``python -m evalkit``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C during its imports ends it as it does later."""
    try:
        _open_streams()
        from evalkit.cli import main as run_command

        run_command()
    except KeyboardInterrupt:
        print("evalkit: interrupted", file=sys.stderr)
        sys.exit(130)


def _open_streams() -> None:
    """Open the null device in place of closed standard streams, or the next file opened would receive their text.

    A closed standard output ends the process with exit code 2, because the result would be lost.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if 1 in closed:
        print(f"evalkit: standard output is closed; redirect it, for example to {os.devnull}", file=sys.stderr)
        sys.exit(2)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
