"""Kills at random moments: of the host, of workers, of stopped ones; then the run is resumed to its end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from evalkit.records.journal import read_journal
from evalkit.testing import canonical
from support.faults.trials import IDENTITY, Trial, left_behind, processes_of
from support.paths import POINTMASS

ARGUMENTS = ["run", POINTMASS, "--checkpoint", "oracle-noisy:noise=0.7", "--workers", "2"]
LATEST_S = 2.5  # a moment is at most so many seconds after the start of the command
FAULTS_PER_RUN = 4


def trials(seed: int, count: int, folder: Path) -> Iterator[Trial]:
    """Yield runs with ``count`` faults in all, killed and resumed up to four times each."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        faults = [chance.choice(list(FAULTS)) for _ in range(min(FAULTS_PER_RUN, count - made))]
        moments = [chance.uniform(0.05, LATEST_S) for _ in faults]
        run = partial(_run, folder / str(made), faults, moments)
        yield Trial("kills", ", ".join(faults), run, len(faults))
        made += len(faults)


def _run(folder: Path, faults: Sequence[str], moments: Sequence[float]) -> str | None:
    whole, out = folder.parent / "whole", folder / "run"
    if not whole.exists() and (problem := _to_the_end(whole, "reference")):
        return f"without a fault: {problem}"
    for fault, moment in zip(faults, moments, strict=True):
        identity = uuid.uuid4().hex
        before = len(_lines(out))
        with _started(out, identity) as host:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.wait(moment)
            FAULTS[fault](host, processes_of(identity))
            if host.poll() is None and fault == "a worker":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    host.wait(2)
                host.kill()
            host.communicate(timeout=30)
        if left := left_behind(identity):
            for process in left:
                os.kill(process, signal.SIGKILL)
            return f"{fault}: {len(left)} processes left behind"
        if len(_lines(out)) < before:
            return f"{fault}: records were lost"
    if problem := _to_the_end(out, uuid.uuid4().hex):
        return problem
    if canonical(read_journal(out).values()) != canonical(read_journal(whole).values()):
        return "the journal differs from that of a run without faults"
    return None


def _to_the_end(out: Path, identity: str) -> str | None:
    """Play the rest of the run; an episode whose worker was killed twice is an error, and is played by the next."""
    for _ in range(3):
        with _started(out, identity) as host:
            _, errors = host.communicate(timeout=120)
        if host.returncode == 0 or "Traceback" in errors:
            break
    if host.returncode != 0:
        return f"exit code {host.returncode}: {errors[-300:]}"
    return f"{len(processes_of(identity))} processes left behind" if left_behind(identity) else None


def _started(out: Path, identity: str) -> subprocess.Popen[str]:
    resume = ["--resume"] if (out / "manifest.json").exists() else []
    command = [sys.executable, "-m", "evalkit", *ARGUMENTS, "--out", str(out), *resume]
    environment = {**os.environ, IDENTITY: identity, "POINTMASS_DELAY": "0.003"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _lines(out: Path) -> list[bytes]:
    journal = out / "journal.jsonl"
    return journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []


def _kill_host(host: subprocess.Popen[str], _: Sequence[int]) -> None:
    host.kill()


def _stop_and_kill_host(host: subprocess.Popen[str], _: Sequence[int]) -> None:
    host.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    host.kill()


def _kill_worker(host: subprocess.Popen[str], processes: Sequence[int]) -> None:
    for worker in _workers(host, processes)[:1]:
        _signal(worker, signal.SIGKILL)


def _stop_workers_and_kill_host(host: subprocess.Popen[str], processes: Sequence[int]) -> None:
    for worker in _workers(host, processes):
        _signal(worker, signal.SIGSTOP)
    time.sleep(0.05)
    host.kill()


def _kill_all(host: subprocess.Popen[str], processes: Sequence[int]) -> None:
    for process in [host.pid, *_workers(host, processes)]:
        _signal(process, signal.SIGKILL)


def _end(host: subprocess.Popen[str], _: Sequence[int], number: signal.Signals) -> None:
    host.send_signal(number)


def _workers(host: subprocess.Popen[str], processes: Sequence[int]) -> list[int]:
    found = []
    for process in processes:
        with contextlib.suppress(OSError):
            if process != host.pid and b"worker" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return sorted(found)


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


FAULTS = {
    "the host": _kill_host,
    "the stopped host": _stop_and_kill_host,
    "a worker": _kill_worker,
    "the host of stopped workers": _stop_workers_and_kill_host,
    "all at once": _kill_all,
    "Ctrl-C": partial(_end, number=signal.SIGINT),
    "SIGTERM": partial(_end, number=signal.SIGTERM),
}
