"""Execution of action chunks as control steps: a run's execution as data, and the interface of the worker's loop.

Symbols, as papers use them: a chunk has H actions, of which s are executed before the next inference starts (the
execution horizon). The inference delay d is the number of control steps between an observation and the arrival of the
chunk made from it. The action prefix is the c actions of the running chunk that are committed when inference starts.

At every control step the worker calls its executor in this order:

1. ``reply_due(step)``: if True, the worker waits for the pending reply and passes it to ``receive``.
2. ``wants_inference(step)``: if True, the worker observes, and sends the observation with the prefix that
   ``start_inference`` returns.
3. ``reply_due(step)`` again, for an inference without delay.
4. ``act(step)``: returns the action to execute.

The simulation continues between the start of an inference and the step at which its reply is due, in virtual time and
in real time alike.

``wants_inference(step + 1)`` is also called before ``step`` is executed, to tell the simulator that an image will be
needed. Its value must not depend on anything that happens during the step. Steps count from 0 at the first step of the
episode. In an episode that is a chain of sub-tasks, ``restart(step)`` is called before the first step of every sub-task
but the first.
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
    """The remaining actions of the running chunk at the start of an inference, for policies that continue it.

    Attributes:
        actions: (K, A) in the suite's dtype, the running chunk's actions from the step of the observation on.
        committed: number of them to be executed before the reply arrives, at most K; all are, whatever the reply,
            with the kind ``prefix``.
        kind: ``prefix``: the reply begins with the committed actions; ``rtc``: the reply is guided towards all of them.
    """

    actions: np.ndarray
    committed: int
    kind: Literal["prefix", "rtc"]


class Move(NamedTuple):
    """The action (A,) of one step, and the step of the observation behind it; both None if no action is available."""

    action: np.ndarray | None
    source_step: int | None


class Executor(Protocol):
    """One episode's execution state. At most one inference is pending at a time."""

    def wants_inference(self, step: int) -> bool:
        """Return True if an inference starts from the observation taken immediately before ``step``."""

    def start_inference(self, step: int) -> Prefix | None:
        """Register the start of an inference; return the prefix that the reply must continue, or None."""

    def reply_due(self, step: int) -> bool:
        """Return True if the pending reply must be received before ``step`` is executed."""

    def receive(self, chunk: np.ndarray) -> None:
        """Accept the pending reply: (H, A) in the suite's dtype of actions, which every move then has."""

    def act(self, step: int) -> Move:
        """Return the move of ``step``."""

    def restart(self, step: int) -> None:
        """Discard the running chunk and the pending inference: a new sub-task begins with ``step``."""

    def execution_stats(self) -> dict[str, float]:
        """Return the statistics of this episode that only this execution has."""


@dataclass(frozen=True)
class Execution:
    """A run's execution of chunks: a name and its parameters, as the manifest records them.

    Attributes:
        name: one of :data:`NAMES`.
        horizon: control steps executed of each chunk (s), at most H.
        delay: inference delay (d).
        prefix: committed actions (c), for ``prefix``.
        parameters: further parameters: ``decay`` of ``ensemble``, ``blend`` of ``queue``, and ``quantile`` of ``rtc``
            if it was given: the share of the delays that the committed actions cover.

    Raises:
        ValueError: the name is unknown, or the horizon is less than 1.
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
        """Return the fields as plain JSON values."""
        return {**asdict(self), "delay": self.delay.to_dict(), "parameters": dict(self.parameters)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Execution:
        """Return the execution that :meth:`to_dict` wrote."""
        return cls(
            fields["name"],
            int(fields["horizon"]),
            Delay.from_dict(fields["delay"]),
            fields["prefix"],
            dict(fields["parameters"]),
        )
