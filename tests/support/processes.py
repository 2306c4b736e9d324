"""Runs in processes of their own, and killed on the way."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


def kill_and_resume(arguments: Sequence[str], out: Path, episodes: int, seed: int, **env: str) -> None:
    """Runs `evalkit run` to its end, killed twice on the way with SIGKILL, each at a random moment.

    Moments are counted in episodes recorded, so that a fast and a slow machine are killed in the middle alike: when up
    to a third of ``episodes`` (all there are) have been added, and a moment later.
    """
    chance = random.Random(seed)
    for _ in range(2):
        with _started(arguments, out, env) as process:
            goal = _recorded(out) + chance.randint(1, episodes // 3)
            while _recorded(out) < goal and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            ended = process.poll()
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            assert ended is None, f"it ended before it was killed: {errors.decode()}"
            assert _recorded(out) < episodes
    with _started(arguments, out, env) as process:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _started(arguments: Sequence[str], out: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    resume = ["--resume"] if (out / "manifest.json").exists() else []
    command = [sys.executable, "-m", "evalkit", "run", *arguments, "--out", str(out), *resume]
    return subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _recorded(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def running(pid: int) -> bool:
    """Returns True unless the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: Iterable[int], within_s: float = 4.0) -> bool:
    """Returns True if all processes end in time."""
    pids, deadline = list(pids), time.monotonic() + within_s
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(running(pid) for pid in pids)
