"""A policy whose code runs in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from evalkit.descendants import MARK, Guard, kill_group, kill_marked
from evalkit.errors import PolicyProblem, excerpt
from evalkit.policies.process import messages
from evalkit.policy import Request, Spec
from evalkit.setup.environment import Environment, neutral_variables
from evalkit.worker.wire import Channel, Closed, TimedOut

_BUILD_TIMEOUT_S = 1800.0  # weights may come from a slow disk
_STOP_TIMEOUT_S = 5.0


class PolicyProcess:
    """A policy in the Python environment of its family, with the interface of :class:`evalkit.policy.Policy`.

    A process that ends or stops answering is replaced once, and asked again: chunks depend on the requests alone. Its
    code cannot take the journal with it.

    Attributes:
        spec: the policy's spec, as its process reported it.
    """

    def __init__(
        self,
        environment: Environment,
        build: Mapping[str, Any],
        timeout_s: float = 300.0,
    ) -> None:
        """Start the process and build the policy.

        Args:
            environment: the family's environment, which is built.
            build: the message that names suite, policy and parameters (:func:`messages.build`).
            timeout_s: seconds without an answer to requests after which the process counts as hung.

        Raises:
            EvalkitError: the policy's own error, or PolicyProblem if its process ended.
        """
        self._environment, self._build, self._timeout_s = environment, build, timeout_s
        self._warnings: list[str] = []
        self._guard = Guard()
        self._guard.__enter__()
        try:
            self.spec: Spec = self._start()
        except BaseException:
            self._kill()
            self._guard.__exit__()
            raise

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return one chunk per request.

        Raises:
            EvalkitError: the policy's own error, or PolicyProblem if its process ended twice.
        """
        message = messages.act(requests)
        try:
            answer = self._ask(message)
        except Closed as error:
            reason = self._describe(error)
            self._kill()
            self._warnings.append(f"{reason}: started it again")
            self._restart(reason)
            try:
                answer = self._ask(message)
            except Closed as again:
                self._fail(again, f"{reason}, and again after a new start")
        self._warnings += answer["warnings"]
        return list(answer["chunks"])

    def warnings(self) -> list[str]:
        """Return one line for each event since the last call (:class:`evalkit.policy.PolicyWarnings`)."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def close(self) -> None:
        """Stop the process."""
        with contextlib.suppress(Closed):
            self._channel.send({"type": "Stop"})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        self._kill()
        self._guard.__exit__()

    def _start(self) -> Spec:
        ours, theirs = socket.socketpair()
        self._mark = self._guard.mark()
        with theirs:
            self._process = subprocess.Popen(
                self._environment.command("policies.process.child", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env={**neutral_variables(), MARK: self._mark},
                start_new_session=True,  # Ctrl-C is for the host
            )
        self._channel = Channel(ours)
        ours.settimeout(_BUILD_TIMEOUT_S)
        try:
            spec = messages.spec_of(self._ask(dict(self._build)))
        except Closed as error:
            self._fail(error, f"{self._describe(error)} while it built the policy")
        ours.settimeout(self._timeout_s)
        return spec

    def _restart(self, reason: str) -> None:
        spec = self._start()
        if spec != self.spec:
            self._kill()
            raise PolicyProblem(f"{reason}, and the policy that was built again is another one")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._channel.send(message)
        try:
            answer = self._channel.receive()
        except ValueError as error:
            raise PolicyProblem(f"its process sent an unreadable message ({excerpt(error)})") from error
        if answer.get("type") == "Failed":
            raise messages.error_of(answer)
        return answer

    def _fail(self, error: Closed, text: str) -> NoReturn:
        self._kill()
        raise PolicyProblem(f"{text}; finished episodes are safe: continue with --resume") from error

    def _describe(self, error: Closed) -> str:
        if isinstance(error, TimedOut):
            return "the policy's process did not answer in time"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(5)
            if status < 0:
                name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
                memory = " (out of memory?)" if -status == signal.SIGKILL else ""
                return f"the policy's process was killed by {name}{memory}"
            return f"the policy's process ended (exit status {status})"
        return "the policy's process closed its connection"

    def _kill(self) -> None:
        self._channel.close()
        kill_group(self._process.pid)
        kill_marked(self._mark)
        self._process.wait()
