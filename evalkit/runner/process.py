"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EnvironmentProblem, WorkerLost
from evalkit.execution import Execution
from evalkit.locations import package_folder
from evalkit.observation import ObservationSpec
from evalkit.setup.environment import Environment
from evalkit.setup.sources import Checkout
from evalkit.suite import Suite
from evalkit.worker.wire import Channel, Closed, TimedOut

_LEAVE_S = 3.0  # how long workers may take to end by themselves


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker is started with; the same for every worker of a run.

    Attributes:
        suite: the suite.
        environment: where it runs.
        needs: what the policy looks at.
        execution: how chunks become control steps.
        film: the camera of the run's videos, or None.
        assets: the suite's asset folder, or None.
        sources: the suite's checkouts of upstream code.
        logs: folder for what the simulators print.
        patience_s: a worker that owes a message for so long has hung.
    """

    suite: Suite
    environment: Environment
    observation_spec: ObservationSpec
    execution: Execution
    video_camera: str | None
    assets: Path | None
    sources: Mapping[str, Checkout]
    logs: Path
    worker_timeout_s: float = 300.0

    @property
    def renders(self) -> bool:
        """Whether workers will be asked for images."""
        return bool(self.observation_spec.cameras) or self.video_camera is not None

    def message(self) -> dict[str, Any]:
        """The worker's first message."""
        return {
            "type": "configure",
            "suite": self.suite.to_message(),
            "folder": str(self.environment.source),
            "observation_spec": self.observation_spec.to_dict(),
            "execution": self.execution.to_dict(),
            "video_camera": self.video_camera,
            "assets": str(self.assets) if self.assets else None,
            "sources": {name: str(checkout.folder) for name, checkout in self.sources.items()},
            "versions": self.suite.environment.versions,
        }


class WorkerProcess:
    """One worker: a process in the suite's environment and the channel to it.

    ``number`` names its log file; a replacement for a dead worker takes its number and goes on in its log.
    """

    def __init__(self, config: WorkerConfig, number: int) -> None:
        """Starts the process and sends its configuration; the reply is for :meth:`greet`."""
        self.number = number
        self._suite = config.suite.name
        self._log = config.logs / f"worker-{number}.log"
        self._worker_timeout_s = config.worker_timeout_s
        config.logs.mkdir(parents=True, exist_ok=True)
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(config.environment.python),
                    "-I",
                    str(package_folder() / "worker" / "_bootstrap.py"),
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=config.environment.variables(config.suite, config.renders),
                start_new_session=True,  # Ctrl-C is for the host, which then stops its workers
            )
        ours.settimeout(config.worker_timeout_s)
        self.channel = Channel(ours)
        with contextlib.suppress(Closed):  # then greet finds it gone and says why
            self.channel.send(config.message())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_ready(self) -> dict[str, Any]:
        """Waits for the worker to be configured; returns its ``ready`` message.

        Raises:
            EnvironmentProblem: it could not start or could not load the suite.
        """
        return self._expect("ready")

    def probe(self, tasks: list[tuple[str, str]]) -> Mapping[str, Any]:
        """Asks the suite what it finds; returns its ``probed`` message. Raises EnvironmentProblem where that fails."""
        with contextlib.suppress(Closed):  # then _expect finds it gone and says why
            self.channel.send({"type": "probe", "tasks": [list(t) for t in tasks]})
        return self._expect("probed")

    def why(self, error: Closed) -> str:
        """One line on a worker that cannot be heard any more, the same wherever and whenever it happens."""
        if isinstance(error, TimedOut):
            return f"the worker said nothing for {self._worker_timeout_s:g} s"
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection"
        return f"the worker ended ({_signal(-status) if status < 0 else f'exit status {status}'})"

    def last_log_line(self) -> str:
        """The last line that this process printed, or nothing."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._log_begins)
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        return lines[-1][:200] if lines else ""

    def request_stop(self) -> None:
        """Asks the worker to end by itself."""
        with contextlib.suppress(Closed):
            self.channel.send({"type": "stop"})

    def ended(self, deadline: float) -> bool:
        """Waits until ``deadline`` (``time.monotonic``) for the process to end; says whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return self._process.poll() is not None

    def kill(self) -> None:
        """Ends the process at once."""
        self.channel.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _expect(self, kind: str) -> dict[str, Any]:
        try:
            message = self.channel.receive()
        except Closed as error:
            why = f"{self._suite}: {self.why(error)}"
            raise WorkerLost(f"{why}: {self.last_log_line()}" if self.last_log_line() else why) from error
        except ValueError as error:
            raise EnvironmentProblem(f"{self._suite}: the worker sent something unreadable ({error})") from error
        if message["type"] == "failed":
            raise EnvironmentProblem(f"{self._suite}: {message['message']}")
        if message["type"] != kind:
            raise EnvironmentProblem(f"{self._suite}: the worker answered {message['type']!r} where {kind!r} was due")
        return message


def _signal(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


@contextmanager
def started(config: WorkerConfig, count: int) -> Iterator[list[WorkerProcess]]:
    """So many workers, all starting at once; at the end they are asked to leave, and killed where they do not.

    Whoever replaces a worker in the list hands the replacement to this care.
    """
    workers: list[WorkerProcess] = []
    try:
        for number in range(count):
            workers.append(WorkerProcess(config, number))
        yield workers
    finally:
        for worker in workers:
            worker.request_stop()
        deadline = time.monotonic() + _LEAVE_S
        for worker in workers:
            worker.ended(deadline)
            worker.kill()
