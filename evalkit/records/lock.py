"""The lock of a run folder: one process at a time, and no leftovers of a run that never began."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import RunExists, UsageError
from evalkit.locations import naming
from evalkit.records.folder import RunFolder
from evalkit.records.manifest import run_exists_message


@contextmanager
def lock_run_folder(out: Path, resume: bool) -> Iterator[RunFolder]:
    """Hold ``out`` for this process, for a new run or (``resume``) for an existing one.

    A new folder in which no manifest was written is removed at the end.

    Raises:
        RunExists: the folder holds a run (without ``resume``), or another process is at work in it.
        UsageError: the folder cannot be written, holds something else, or (with ``resume``) holds no run.
    """
    folder = RunFolder(out)
    if resume and not folder.is_run:
        raise UsageError(f"--resume: {out} holds no run; leave --resume out to begin one there")
    try:
        if not resume:
            check_free(folder)
        existed = out.exists()
        folder.logs.mkdir(parents=True, exist_ok=True)
        lock = folder.lock.open("w")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = folder.lock.stat().st_ino == os.fstat(lock.fileno()).st_ino  # not a lock that was just removed
        except OSError as error:
            raise RunExists(f"{out}: another evalkit process is at work there") from error
        if not ours:
            raise RunExists(f"{out}: another evalkit process is at work there")
        if not resume:
            _clear(folder)
        try:
            yield folder
        finally:
            if not folder.manifest.exists():
                shutil.rmtree(folder.logs, ignore_errors=True)
                folder.lock.unlink(missing_ok=True)
                if not existed:
                    with contextlib.suppress(OSError):
                        out.rmdir()


def check_free(folder: RunFolder) -> None:
    """Check that a new run can begin in a folder: it has nothing, or what a process left that was killed at its start.

    Raises:
        RunExists: the folder holds a run, or another process is at work in it.
        UsageError: the folder holds something else.
    """
    if folder.manifest.exists():
        raise RunExists(run_exists_message(folder.root))
    left_by_a_killed_process = {folder.logs, folder.lock, *folder.manifest_drafts()}
    if folder.root.is_dir() and set(folder.root.iterdir()) - left_by_a_killed_process:
        if _is_held(folder.lock):  # a journal whose manifest is about to be written
            raise RunExists(f"{folder.root}: another evalkit process is at work there")
        raise UsageError(f"--out {folder.root}: exists and is not empty; name a new folder")


def _clear(folder: RunFolder) -> None:
    """Remove what a killed process left, so that nothing of it gets into the new run."""
    with naming(folder.root):
        for path in [*folder.manifest_drafts(), *folder.logs.iterdir()]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_held(lock: Path) -> bool:
    """Return True if another process holds the lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
