"""No process is left behind, however a run ends: neither a worker nor a child of its simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes import gone, running
from support.runs import changed_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="marked processes are found through /proc"),
]

# Each worker starts a child in its own group and one in another session, and records all three.
HAS_CHILDREN = """
import subprocess
children = [subprocess.Popen(["sleep", "600"], start_new_session=apart) for apart in (False, True)]
with Path(os.environ["POINTMASS_PIDS"]).open("a") as pids:
    pids.write("".join(f"{pid}\\n" for pid in (os.getpid(), *(child.pid for child in children))))

def build("""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    return changed_adapter(tmp_path, "def build(", HAS_CHILDREN)


@contextmanager
def host(suite: str, tmp_path: Path, *options: str, workers: int = 2, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a run; yields it when all of its workers have recorded their processes."""
    pids = tmp_path / "pids"
    command = [sys.executable, "-m", "evalkit", "run", suite, "--workers", str(workers), "--out", str(tmp_path / "run")]
    variables = {**os.environ, "POINTMASS_PIDS": str(pids), **env}
    process = subprocess.Popen([*command, *options], env=variables, stderr=subprocess.DEVNULL)
    try:
        while not (pids.exists() and len(pids.read_text().split()) >= 3 * workers):
            assert process.poll() is None, "it ended too soon"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def recorded(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda process: None, 0),
        (lambda process: process.send_signal(signal.SIGINT), 130),
        (lambda process: process.send_signal(signal.SIGTERM), None),
        (lambda process: process.kill(), -9),
    ],
    ids=["its end", "Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_none_is_left_after(
    end: Callable[[subprocess.Popen[bytes]], None], status: int | None, suite: str, tmp_path: Path
) -> None:
    delay = "0" if status == 0 else "0.05"
    with host(suite, tmp_path, "--checkpoint", "zero", POINTMASS_DELAY=delay) as process:
        assert status == 0 or all(map(running, recorded(tmp_path)))
        end(process)
        ended = process.wait(timeout=60)
    assert (ended == status if status is not None else ended != 0) and gone(recorded(tmp_path))


@pytest.mark.parametrize("state", ["in a long call", "stopped"])
def test_a_worker_that_does_not_listen_goes_with_a_killed_host(state: str, suite: str, tmp_path: Path) -> None:
    options = ("--checkpoint", "zero", "--task", "hangs") if state == "in a long call" else ("--checkpoint", "zero")
    with host(suite, tmp_path, *options, workers=1, POINTMASS_DELAY="0.01") as process:
        worker = recorded(tmp_path)[0]
        time.sleep(1)
        if state == "stopped":
            os.kill(worker, signal.SIGSTOP)
        process.kill()
    assert gone(recorded(tmp_path))


def test_the_children_of_a_worker_that_died_go_while_the_run_goes_on(suite: str, tmp_path: Path) -> None:
    options = ("--checkpoint", "zero", "--task", "dies", "--task", "up")
    with host(suite, tmp_path, *options, workers=1, POINTMASS_DELAY="0.02") as process:
        first = recorded(tmp_path)[:3]
        while len(recorded(tmp_path)) < 6:
            assert process.poll() is None
            time.sleep(0.02)
        assert gone(first) and all(map(running, recorded(tmp_path)[-2:]))
    assert gone(recorded(tmp_path))
