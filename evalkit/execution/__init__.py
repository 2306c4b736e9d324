"""How action chunks become control steps: what a run says of it, and the interface that the worker's loop drives.

Words, as papers use them: a chunk has H actions; s of them are executed before the policy is asked again (the execution
horizon); d control steps pass between an observation and the chunk made from it (the inference delay); of the running
chunk, c actions are committed when the policy is asked (the action prefix).

At every control step the worker asks its executor, in this order:

1. ``due(step)``: must a reply be in hand now? Then the worker waits for it and calls ``receive``.
2. ``asks(step)``: is this a trigger step? Then the worker looks, and sends the observation with what ``ask`` returns.
3. ``due(step)`` again, for a policy that takes no time.
4. ``act(step)``: the action to execute.

Between an ask and the step at which it is due the world goes on, in virtual time and in real time alike.

``asks(step + 1)`` is also called before ``step`` is executed, so that a simulator knows when an image will be needed:
it must not depend on anything that happens during the step. Steps count from 0 at the first step of the episode. Where
an episode is a chain of sub-tasks, ``restart(step)`` is called before the first step of each but the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from evalkit.execution.delay import Delay

Name = Literal["sync", "hold", "naive", "prefix", "rtc", "ensemble", "queue"]
NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Prefix:
    """What the running chunk holds in store when a policy is asked, for policies that continue it.

    Attributes:
        actions: (K, A) float32, the running chunk's actions from the step of the ask on.
        committed: how many of them are executed whatever the reply; at most K.
        kind: ``prefix``: the reply begins with the committed actions; ``rtc``: it is guided towards all of them.
    """

    actions: np.ndarray
    committed: int
    kind: Literal["prefix", "rtc"]


class Move(NamedTuple):
    """What is done at a step: an action (A,), or None where there is none; the step of the observation behind it."""

    action: np.ndarray | None
    source_step: int | None


class Executor(Protocol):
    """One episode's execution state. At most one ask is under way at a time."""

    def wants_inference(self, step: int) -> bool:
        """Whether the policy is asked with the observation of the instant before ``step``."""

    def start_inference(self, step: int) -> Prefix | None:
        """Notes that it was asked; returns what the reply is to continue."""

    def reply_due(self, step: int) -> bool:
        """Whether the reply to the last ask must be received before ``step`` can be executed."""

    def receive(self, chunk: np.ndarray) -> None:
        """Takes the reply to the last ask: (H, A) float32."""

    def act(self, step: int) -> Move:
        """What to do at ``step``."""

    def restart(self, step: int) -> None:
        """Another sub-task begins with ``step``: the running chunk and an ask under way are for the last one."""


@dataclass(frozen=True)
class Execution:
    """How a run executes chunks: a name and its parameters, as the manifest records them.

    Attributes:
        name: one of :data:`evalkit.execution.strategies.EXECUTORS`.
        horizon: control steps executed of each chunk (s), at most H.
        delay: inference delay (d).
        prefix: committed actions (c), for ``prefix``.
        parameters: what else the execution has: ``decay`` of ``ensemble``, ``blend`` of ``queue``.
    """

    name: Name
    horizon: int
    delay: Delay = field(default_factory=Delay)
    prefix: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"unknown execution {self.name!r}; there are: {', '.join(NAMES)}")
        if self.horizon < 1:
            raise ValueError(f"the execution horizon must be 1 or more, got {self.horizon}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**asdict(self), "delay": self.delay.to_dict(), "parameters": dict(self.parameters)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Execution:
        """The inverse of :meth:`to_dict`."""
        return cls(
            fields["name"],
            int(fields["horizon"]),
            Delay.from_dict(fields["delay"]),
            fields["prefix"],
            dict(fields["parameters"]),
        )
