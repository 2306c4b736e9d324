"""Processes that must not outlive their starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import gone, running

from evalkit.descendants import MARK, Guard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="marked processes are found through /proc"),
]

FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep)
own_session = subprocess.Popen(sleep, start_new_session=True)
print(os.getpid(), child.pid, own_session.pid, flush=True)
time.sleep(600)
"""


def family(guard: Guard) -> list[int]:
    """Starts a process with a child in its group and a child in a session of its own; returns their ids."""
    command = [sys.executable, "-c", FAMILY]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, MARK: guard.mark()}, text=True)
    assert parent.stdout is not None
    return [int(pid) for pid in parent.stdout.readline().split()]


def test_nothing_is_left_at_the_end_and_others_are_left_alone() -> None:
    with Guard() as other:
        stranger = family(other)
        with Guard() as guard:
            ours = family(guard)
            assert len(ours) == 3 and all(map(running, ours))
        assert gone(ours) and all(map(running, stranger))
    assert gone(stranger)


HOST = """
import sys
sys.path.insert(0, {tests!r})
from test_descendants import family
from evalkit.descendants import Guard
import time
with Guard() as guard:
    print(*family(guard), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_nothing_is_left_when_the_host_is_killed(number: signal.Signals) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST.format(tests=str(Path(__file__).parent))], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    pids = [int(pid) for pid in host.stdout.readline().split()]
    assert len(pids) == 3 and all(map(running, pids))
    host.send_signal(number)
    if number is signal.SIGSTOP:
        assert all(map(running, pids)), "a stopped host may go on"
        host.kill()
    host.wait()
    assert gone(pids)
