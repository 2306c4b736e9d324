"""The executions, a small class each. See :mod:`evalkit.execution` for the words and the order of calls.

What all of them share: one inference at a time; the first chunk of an episode is free (the episode begins when it is
there); where there is no action for a step, the robot holds still and the step counts as held; at a new sub-task the
running chunk is thrown away, a reply under way is not used, and the robot holds until the new chunk arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evalkit.execution import Execution, Executor, Move, Prefix


class Naive:
    """The world goes on while the policy thinks; a new chunk is entered at its step d (asynchronous inference).

    Source: the naive asynchronous baseline of Black et al., "Real-Time Execution of Action Chunking Flow Policies"
    (2025). With d = 0 it is synchronous execution.
    """

    def __init__(self, execution: Execution, key: str, control_hz: float) -> None:
        self._execution, self._key, self._hz = execution, key, control_hz
        self._next = 0  # the step of the next ask
        self._asked: int | None = None  # of the ask under way
        self._arrives = 0
        self._fresh = True  # no chunk has been asked for in this episode
        self._chunks: list[tuple[int, np.ndarray]] = []  # (step of its ask, chunk), the running one last

    def wants_inference(self, step: int) -> bool:
        """Every s steps, or as soon as the reply before it has arrived."""
        return step >= self._next and (self._asked is None or self._arrives <= step)

    def start_inference(self, step: int) -> Prefix | None:
        """Draws the delay of this inference."""
        self._asked = step
        self._arrives = step + (0 if self._fresh else self._execution.delay.draw(f"{self._key}@{step}", self._hz))
        self._fresh = False
        self._next = step + self._execution.horizon
        return self._prefix(step)

    def reply_due(self, step: int) -> bool:
        """From the step on at which the reply arrives."""
        return self._asked is not None and self._arrives <= step

    def receive(self, chunk: np.ndarray) -> None:
        """The new chunk is the running one from now on."""
        assert self._asked is not None, "receive before ask"
        if len(chunk) < self._execution.horizon:
            raise ValueError(
                f"an execution horizon of {self._execution.horizon} needs chunks that long, got {len(chunk)}"
            )
        self._chunks = [*self._kept(), (self._asked, chunk)]
        self._asked = None

    def act(self, step: int) -> Move:
        """The running chunk's action for this instant."""
        if not self._chunks:
            return Move(None, None)
        asked, chunk = self._chunks[-1]
        return Move(chunk[step - asked], asked) if step - asked < len(chunk) else Move(None, None)

    def restart(self, step: int) -> None:
        """All that is there or under way is for another sub-task."""
        self._chunks, self._asked, self._next = [], None, step

    def _prefix(self, step: int) -> Prefix | None:
        """What goes with an ask."""
        return None

    def _kept(self) -> list[tuple[int, np.ndarray]]:
        """Older chunks that still matter when a new one arrives."""
        return []

    def _left(self, step: int) -> np.ndarray | None:
        """The running chunk's actions from ``step`` on, or None."""
        if not self._chunks:
            return None
        asked, chunk = self._chunks[-1]
        return chunk[step - asked :] if step - asked < len(chunk) else None


class Synchronous(Naive):
    """The world waits for the policy; of each chunk s actions are executed: every benchmark's published protocol."""


class Hold(Naive):
    """Stop and think: the world goes on, the robot holds still until the chunk arrives, and starts it at its step 0."""

    def start_inference(self, step: int) -> Prefix | None:
        """The horizon counts from the arrival."""
        prefix = super().start_inference(step)
        self._next = self._arrives + self._execution.horizon
        return prefix

    def act(self, step: int) -> Move:
        """Nothing while the policy thinks."""
        if self._asked is not None or not self._chunks:
            return Move(None, None)
        asked, chunk = self._chunks[-1]
        index = step - self._arrives
        return Move(chunk[index], asked) if index < len(chunk) else Move(None, None)


class PrefixConditioned(Naive):
    """Prefix conditioning: the next c actions of the running chunk are committed, and the policy continues them.

    They are executed whatever the reply; the new chunk is entered after them. A policy that was trained for it returns
    them unchanged, so that entering at step d or at step c is the same. Source: Xiaomi-Robotics-0 (arXiv:2602.12684).
    """

    def act(self, step: int) -> Move:
        """The committed actions of the chunk before, then the new chunk's."""
        if len(self._chunks) > 1:
            (before, old), (asked, _) = self._chunks[-2:]
            if step < asked + (self._execution.prefix or 0) and step - before < len(old):
                return Move(old[step - before], before)
        return super().act(step)

    def _prefix(self, step: int) -> Prefix | None:
        left = self._left(step)
        if left is None or not self._execution.prefix:
            return None
        actions = left[: self._execution.prefix]
        return Prefix(actions, len(actions), "prefix")

    def _kept(self) -> list[tuple[int, np.ndarray]]:
        return self._chunks[-1:]


class RealTimeChunking(Naive):
    """Inference-time real-time chunking: the policy is guided towards what the running chunk would do.

    The first d actions are executed while it thinks, so they are frozen; the rest pull with a weight that falls to 0 at
    H - s. Source: Black et al. (2025), as for :class:`Naive`. How a policy is guided is the policy's.
    """

    def _prefix(self, step: int) -> Prefix | None:
        left = self._left(step)
        if left is None:
            return None
        return Prefix(left, min(self._execution.delay.typical(self._hz), len(left)), "rtc")


class Ensemble(Naive):
    """Temporal ensembling: the weighted mean of every chunk that has an action for this instant.

    Weights are exp(-m · i) with i = 0 for the oldest. Source: ACT (Zhao et al. 2023), whose m is 0.01.
    """

    def act(self, step: int) -> Move:
        """The mean over chunks."""
        there = [(asked, chunk[step - asked]) for asked, chunk in self._chunks if step - asked < len(chunk)]
        if not there:
            return Move(None, None)
        weights = np.exp(-self._execution.parameters["decay"] * np.arange(len(there)))
        mean = np.average(np.stack([action for _, action in there]).astype(np.float64), axis=0, weights=weights)
        return Move(mean.astype(np.float32), there[-1][0])

    def _kept(self) -> list[tuple[int, np.ndarray]]:
        return [(asked, chunk) for asked, chunk in self._chunks if asked + len(chunk) > self._arrives]


class Queue(Naive):
    """A queue of actions, refilled when it runs low; where old and new overlap they are blended.

    Source: LeRobot's asynchronous inference: the policy is asked when the queue is half empty (s = H / 2), past actions
    of the reply are dropped, and the overlap becomes 0.3 old + 0.7 new.
    """

    def receive(self, chunk: np.ndarray) -> None:
        """Blends what is left of the queue into the new chunk."""
        assert self._asked is not None, "receive before ask"
        left = self._left(self._arrives)
        blended = np.array(chunk, np.float32)
        if left is not None:
            first = self._arrives - self._asked
            both = max(0, min(len(left), len(chunk) - first))
            share, new = self._execution.parameters["blend"], blended[first : first + both].astype(np.float64)
            blended[first : first + both] = share * new + (1 - share) * left[:both].astype(np.float64)
        super().receive(blended)


EXECUTORS: Mapping[str, type[Naive]] = {
    "sync": Synchronous,
    "hold": Hold,
    "naive": Naive,
    "prefix": PrefixConditioned,
    "rtc": RealTimeChunking,
    "ensemble": Ensemble,
    "queue": Queue,
}
PARAMETERS: Mapping[str, Mapping[str, float]] = {"ensemble": {"decay": 0.01}, "queue": {"blend": 0.7}}


def build_executor(execution: Execution, key: str = "", control_hz: float = 1.0) -> Executor:
    """Return a fresh executor for one episode.

    Args:
        execution: the run's execution.
        key: the episode's id, which decides delays that are drawn.
        control_hz: control steps per second of virtual time.
    """
    return EXECUTORS[execution.name](execution, key, control_hz)
