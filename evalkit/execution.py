"""How action chunks become control steps. The executor lives in the worker, beside the simulator.

At every control step the worker's loop asks its executor, in this order:

1. ``asks(step)``: is this a trigger step? Then the worker looks, and sends the observation to the policy.
2. ``due(step)``: must the reply be in hand now? Then the worker waits for it and calls ``receive``. An asynchronous
   executor says no for the first ``d`` steps after a trigger and goes on with the old chunk meanwhile.
3. ``act(step)``: the action to execute.

``asks(step + 1)`` is also called before ``step`` is executed, so that a simulator knows when an image will be needed:
it must not depend on anything that happens during the step. Steps count from 0 at the first step of the episode. Where
an episode is a chain of sub-tasks, ``restart(step)`` is called before the first step of each but the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Executor(Protocol):
    """One episode's execution state."""

    def asks(self, step: int) -> bool:
        """Whether the policy is asked with the observation of the instant before ``step``."""

    def prefix(self, step: int) -> np.ndarray | None:
        """The committed actions (K, A) that the reply to the ask at ``step`` must continue, or None."""

    def due(self, step: int) -> bool:
        """Whether the reply to the last ask must be received before ``step`` can be executed."""

    def receive(self, chunk: np.ndarray) -> None:
        """Takes the reply to the last ask: (T, A) float32."""

    def act(self, step: int) -> np.ndarray:
        """The action (A,) for ``step``."""

    def restart(self, step: int) -> None:
        """Forgets the running chunk: another sub-task begins with ``step``, which is a trigger step."""


@dataclass(frozen=True)
class Execution:
    """How a run executes chunks: a name and its parameters, as the manifest records them.

    Attributes:
        name: ``"sync"``: the world waits while the policy thinks, and each chunk is executed for ``horizon`` steps: the
            published protocol of every benchmark here.
        horizon: control steps executed of each chunk (s), at most the chunk's length T.
    """

    name: str
    horizon: int

    def __post_init__(self) -> None:
        if self.name not in EXECUTIONS:
            raise ValueError(f"unknown execution {self.name!r}; there are: {', '.join(EXECUTIONS)}")
        if self.horizon < 1:
            raise ValueError(f"the execution horizon must be 1 or more, got {self.horizon}")

    def executor(self) -> Executor:
        """A fresh executor for one episode."""
        executor: Executor = EXECUTIONS[self.name](self.horizon)
        return executor

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {"name": self.name, "horizon": self.horizon}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Execution:
        """The inverse of :meth:`to_dict`."""
        return cls(str(fields["name"]), int(fields["horizon"]))


class Synchronous:
    """The world waits for the policy; each chunk's first ``horizon`` actions are executed in order."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._began = 0
        self._chunk: np.ndarray | None = None

    def asks(self, step: int) -> bool:
        """At the first step of a sub-task, and when the horizon of the running chunk is used up."""
        return (step - self._began) % self._horizon == 0

    def prefix(self, step: int) -> None:
        """Synchronous execution commits to nothing."""
        return None

    def due(self, step: int) -> bool:
        """At once: the world waits."""
        return self.asks(step)

    def receive(self, chunk: np.ndarray) -> None:
        """The new chunk replaces the old one."""
        if len(chunk) < self._horizon:
            raise ValueError(f"an execution horizon of {self._horizon} needs chunks that long, got {len(chunk)}")
        self._chunk = chunk

    def act(self, step: int) -> np.ndarray:
        """Step by step through the chunk."""
        assert self._chunk is not None, "act before receive"
        action: np.ndarray = self._chunk[(step - self._began) % self._horizon]
        return action

    def restart(self, step: int) -> None:
        """Counts the horizon from here."""
        self._began, self._chunk = step, None


EXECUTIONS: Mapping[str, type[Synchronous]] = {"sync": Synchronous}
