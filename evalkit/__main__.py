"""The entry point of ``evalkit`` and of ``python -m evalkit``.

The exit code 1 is a verdict (REGRESSION). Python ends with 1 after any error that nobody catches, and so does the
library of the command line after a closed pipe. Therefore everything is caught here, from the first import on.
"""

from __future__ import annotations

import contextlib
import os
import sys

_FAILED, _INTERRUPTED = 2, 130


def main() -> None:
    """Run the command line and exit."""
    try:
        _open_standard_streams()
        from evalkit.cli import main as run

        run()
    except KeyboardInterrupt:
        _end("interrupted", _INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # an import that fails, say
        if os.environ.get("EVALKIT_TRACEBACK"):
            raise SystemExit(_traceback()) from None
        _end(f"cannot start: {type(error).__name__}: {error}; EVALKIT_TRACEBACK=1 shows the traceback", _FAILED)


def _open_standard_streams() -> None:
    """Open the null device in place of closed standard streams, so that no file of a run gets their numbers."""
    if sys.stdout is None and "--json" in sys.argv:
        _end("--json: standard output is closed", _FAILED)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:  # print would take standard output in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def _traceback() -> int:
    import traceback

    traceback.print_exc()
    return _FAILED


def _end(message: str, code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(f"evalkit: {' '.join(message.split())}\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
