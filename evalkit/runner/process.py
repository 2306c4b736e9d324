"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from evalkit.descendants import MARK, Guard, kill_group, kill_marked
from evalkit.errors import EnvironmentProblem, WorkerLost, excerpt
from evalkit.execution import Execution
from evalkit.observation import ObservationSpec
from evalkit.records.folder import RunFolder
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite
from evalkit.worker import messages
from evalkit.worker.messages import Configure, Failed, Probed, ProbeTasks, Ready, Stop
from evalkit.worker.wire import Channel, Closed, TimedOut

if TYPE_CHECKING:
    from evalkit.runner.resolve import ResolvedRun

_Expected = TypeVar("_Expected", Ready, Probed)
_MAX_REASON = 1000  # characters of a suite's own report of missing parts
_STOP_TIMEOUT_S = 3.0  # time that workers get to end by themselves


@dataclass(frozen=True)
class WorkerConfig:
    """The settings that every worker of a run starts with.

    Attributes:
        installed: the suite, its environment, assets and sources.
        observation_spec: the policy's inputs.
        execution: the way from chunks to control steps.
        video_camera: the camera of the run's videos, or None.
        folder: the run's folder, for the logs.
        worker_timeout_s: seconds of silence after which a worker counts as hung.
    """

    installed: InstalledSuite
    observation_spec: ObservationSpec
    execution: Execution
    video_camera: str | None
    folder: RunFolder
    worker_timeout_s: float = 300.0

    @classmethod
    def of(cls, run: ResolvedRun) -> WorkerConfig:
        """Return the settings of a run's workers."""
        spec = run.candidate.policy.spec.observation_spec
        return cls(run.installed, spec, run.execution, run.video_camera, run.folder, run.worker_timeout_s)

    @property
    def suite(self) -> Suite:
        """The suite."""
        return self.installed.suite

    @property
    def renders(self) -> bool:
        """True if the workers render images, for the policy or for videos."""
        return bool(self.observation_spec.cameras) or self.video_camera is not None

    @property
    def frame_every(self) -> int:
        """Control steps between two frames of a video; 0 without videos."""
        if self.video_camera is None or self.suite.video is None:
            return 0
        return max(1, round(self.suite.control_hz / self.suite.video.fps))

    def message(self) -> Configure:
        """Return a worker's first message."""
        return Configure(
            suite=self.suite.to_message(),
            folder=str(self.suite.folder),
            observation_spec=self.observation_spec,
            execution=self.execution,
            video_camera=self.video_camera,
            assets=str(self.installed.assets) if self.installed.assets else None,
            sources={name: str(checkout.folder) for name, checkout in self.installed.sources.items()},
            versions=self.suite.environment.versions,
        )


class WorkerProcess:
    """One worker: a process in the suite's environment, and the channel to it.

    ``number`` names its log file. A worker's replacement takes over its number and appends to its log.
    """

    def __init__(self, config: WorkerConfig, number: int, guard: Guard) -> None:
        """Start the process and send its configuration; :meth:`wait_ready` receives the reply."""
        self.number = number
        self._config, self._guard, self._mark = config, guard, guard.mark()
        self._suite = config.suite.name
        self._log = config.folder.worker_log(number)
        self._worker_timeout_s = config.worker_timeout_s
        config.folder.logs.mkdir(parents=True, exist_ok=True)
        environment = config.installed.environment
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                environment.worker_command(str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment.variables(config.suite, config.renders), MARK: self._mark},
                start_new_session=True,  # Ctrl-C is for the host, which then stops its workers
            )
        ours.settimeout(config.worker_timeout_s)
        self.channel = Channel(ours)
        with contextlib.suppress(Closed):  # wait_ready then raises, with the reason
            messages.send(self.channel, config.message())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_ready(self) -> Ready:
        """Wait until the worker is configured, and return its Ready message.

        Raises:
            EnvironmentProblem: the worker could not start or could not load the suite.
        """
        return self._expect(Ready)

    def probe(self, tasks: list[tuple[str, str]]) -> Probed:
        """Let the suite check (split, task) pairs, and return its findings. Raises EnvironmentProblem if that fails."""
        with contextlib.suppress(Closed):  # _expect then raises, with the reason
            messages.send(self.channel, ProbeTasks([list(t) for t in tasks]))
        return self._expect(Probed)

    def describe_loss(self, error: Closed) -> str:
        """Return one line on the end of the connection; equal causes give equal lines."""
        if isinstance(error, TimedOut):
            return f"the worker sent nothing for {self._worker_timeout_s:g} s"
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection"
        return f"the worker ended ({_signal_text(-status) if status < 0 else f'exit status {status}'})"

    def last_log_line(self) -> str:
        """Return the last line that this process printed, or an empty string."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._log_begins)
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        return excerpt(lines[-1], 200) if lines else ""

    def request_stop(self) -> None:
        """Request the worker to end by itself."""
        with contextlib.suppress(Closed):
            messages.send(self.channel, Stop())

    def wait_ended(self, deadline: float) -> None:
        """Wait for the process to end, at most until ``deadline`` (``time.monotonic``)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End the process at once, with every process that it has started."""
        self.channel.close()
        kill_group(self._process.pid)
        kill_marked(self._mark)
        self._process.wait()

    def replacement(self) -> WorkerProcess:
        """Start and return the worker that takes the place of this one."""
        return WorkerProcess(self._config, self.number, self._guard)

    def _expect(self, kind: type[_Expected]) -> _Expected:
        """Wait for a message of one kind. Raises EnvironmentProblem for any other, or if the worker has gone."""
        try:
            message = messages.receive(self.channel)
        except Closed as error:
            loss = f"{self._suite}: {self.describe_loss(error)}"
            raise WorkerLost(f"{loss}: {self.last_log_line()}" if self.last_log_line() else loss) from error
        except ValueError as error:
            raise EnvironmentProblem(
                f"{self._suite}: the worker sent an unreadable message ({excerpt(error)})"
            ) from error
        if isinstance(message, Failed):
            raise EnvironmentProblem(f"{self._suite}: {excerpt(message.message, _MAX_REASON)}")
        if not isinstance(message, kind):
            sent = type(message).__name__
            raise EnvironmentProblem(f"{self._suite}: the worker sent {sent} instead of {kind.__name__}")
        return message


def _signal_text(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


@contextmanager
def start_workers(config: WorkerConfig, count: int) -> Iterator[list[WorkerProcess]]:
    """Start ``count`` workers in parallel. At the end, request them to stop and kill those that do not.

    A caller that replaces a worker puts the replacement into the list.
    """
    workers: list[WorkerProcess] = []
    with Guard() as guard:
        try:
            for number in range(count):
                workers.append(WorkerProcess(config, number, guard))
            yield workers
        finally:
            for worker in workers:
                worker.request_stop()
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            for worker in workers:
                worker.wait_ended(deadline)
                worker.kill()
