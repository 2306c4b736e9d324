"""A run's folder: claimed by one process at a time, and taken away again where nothing came of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import RunExists, UsageError
from evalkit.records.manifest import FILE as MANIFEST
from evalkit.records.manifest import exists_already

LOGS = "logs"
_LOCK = ".lock"
_LEFTOVERS = {LOGS, _LOCK}  # what a process that was killed before its manifest may leave


@contextmanager
def lock_run_folder(out: Path, resume: bool) -> Iterator[None]:
    """Holds ``out`` for this process, for a new run or (``resume``) for one that is there.

    A new folder in which no manifest was written is removed at the end.

    Raises:
        RunExists: it holds a run (without ``resume``), or another process is at work in it.
        UsageError: it cannot be written, holds something else, or (with ``resume``) holds no run.
    """
    if resume and not (out / MANIFEST).is_file():
        raise UsageError(f"--resume: {out} holds no run; leave --resume out to begin one there")
    try:
        if not resume:
            _refuse_existing(out)
        existed = out.exists()
        (out / LOGS).mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("w")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = (out / _LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino  # not one that was just taken away
        except OSError as error:
            raise RunExists(f"{out}: another evalkit process is at work there") from error
        if not ours:
            raise RunExists(f"{out}: another evalkit process is at work there")
        try:
            yield
        finally:
            if not (out / MANIFEST).exists():
                shutil.rmtree(out / LOGS, ignore_errors=True)
                (out / _LOCK).unlink(missing_ok=True)
                if not existed:
                    with contextlib.suppress(OSError):
                        out.rmdir()


def _refuse_existing(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise RunExists(exists_already(out))
    if out.is_dir() and {p.name for p in out.iterdir()} - _LEFTOVERS:
        raise UsageError(f"--out {out}: exists and is not empty; name a new folder")
