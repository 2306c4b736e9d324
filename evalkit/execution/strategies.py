"""The executions, one small class each. :mod:`evalkit.execution` defines the symbols and the order of calls.

Rules common to all: one inference at a time. The first chunk of an episode has no delay: the episode begins when it has
arrived. At a step without an action the robot executes the suite's idle action, and the step counts as idle. At a new
sub-task the running chunk and any pending reply are discarded, and the robot idles until the new chunk arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evalkit.execution import Execution, Executor, Move, Prefix


class Naive:
    """Asynchronous inference: the simulation continues during inference, and a new chunk is entered at its step d.

    Source: the naive asynchronous baseline of Black et al., "Real-Time Execution of Action Chunking Flow Policies"
    (2025). With d = 0 it is synchronous execution.
    """

    def __init__(self, execution: Execution, key: str, control_hz: float) -> None:
        self._execution, self._key, self._hz = execution, key, control_hz
        self._next_inference = 0
        self._pending: int | None = None  # step of the inference whose reply is pending
        self._arrival = 0  # step at which the reply to the last inference arrives
        self._first = True  # no inference has started in this episode
        self._chunks: list[tuple[int, np.ndarray]] = []  # (step of the observation, chunk), the running one last

    def wants_inference(self, step: int) -> bool:
        """Return True every s steps, or as soon as the pending reply has arrived if that is later."""
        return step >= self._next_inference and (self._pending is None or self._arrival <= step)

    def start_inference(self, step: int) -> Prefix | None:
        """Draw the delay of this inference."""
        self._pending = step
        self._arrival = step + (0 if self._first else self._execution.delay.draw(f"{self._key}@{step}", self._hz))
        self._first = False
        self._next_inference = step + self._execution.horizon
        return self._prefix(step)

    def reply_due(self, step: int) -> bool:
        """Return True from the step on at which the pending reply arrives."""
        return self._pending is not None and self._arrival <= step

    def receive(self, chunk: np.ndarray) -> None:
        """Make the new chunk the running one. Raises ValueError if it is shorter than the execution horizon."""
        assert self._pending is not None, "receive before start_inference"
        if len(chunk) < self._execution.horizon:
            raise ValueError(
                f"an execution horizon of {self._execution.horizon} needs chunks that long, got {len(chunk)}"
            )
        self._chunks = [*self._retained(), (self._pending, chunk)]
        self._pending = None

    def act(self, step: int) -> Move:
        """Return the running chunk's action for ``step``."""
        if not self._chunks:
            return Move(None, None)
        source, chunk = self._chunks[-1]
        return Move(chunk[step - source], source) if step - source < len(chunk) else Move(None, None)

    def restart(self, step: int) -> None:
        """Discard every chunk and the pending inference."""
        self._chunks, self._pending, self._next_inference = [], None, step

    def execution_stats(self) -> dict[str, float]:
        """Return no further statistics."""
        return {}

    def _prefix(self, step: int) -> Prefix | None:
        """Return the prefix that is sent with the observation."""
        return None

    def _retained(self) -> list[tuple[int, np.ndarray]]:
        """Return the older chunks that are still needed when a new one arrives."""
        return []

    def _remaining(self, step: int) -> np.ndarray | None:
        """Return the running chunk's actions from ``step`` on, or None if there are none."""
        if not self._chunks:
            return None
        source, chunk = self._chunks[-1]
        return chunk[step - source :] if step - source < len(chunk) else None


class Synchronous(Naive):
    """Synchronous execution: the simulator waits for the policy, and s actions of each chunk are executed.

    Source: every benchmark's published protocol.
    """


class Hold(Naive):
    """Stop and think: the robot idles until the chunk arrives, then executes it from its step 0."""

    def start_inference(self, step: int) -> Prefix | None:
        """Count the horizon from the arrival of the chunk."""
        prefix = super().start_inference(step)
        self._next_inference = self._arrival + self._execution.horizon
        return prefix

    def act(self, step: int) -> Move:
        """Return no action during an inference."""
        if self._pending is not None or not self._chunks:
            return Move(None, None)
        source, chunk = self._chunks[-1]
        index = step - self._arrival
        return Move(chunk[index], source) if index < len(chunk) else Move(None, None)


class Committing(Naive):
    """Naive execution that commits actions of the running chunk at each inference, and counts the late chunks.

    A chunk is late if it arrives after the actions committed for it have ended. The robot then executes the rest of the
    running chunk, idles if that has ended too, and enters the late chunk at the step of its arrival. An inference
    without a running chunk, at the start of an episode or sub-task, commits nothing and has no late chunk.
    """

    def __init__(self, execution: Execution, key: str, control_hz: float) -> None:
        super().__init__(execution, key, control_hz)
        self._committed: int | None = None  # actions committed for the pending inference; None without a running chunk
        self._late_chunks = 0

    def start_inference(self, step: int) -> Prefix | None:
        """Remember the number of committed actions."""
        prefix = super().start_inference(step)
        remaining = prefix.committed if prefix else 0  # 0 after a chunk so late that the running one has ended
        self._committed = remaining if self._chunks else None
        return prefix

    def receive(self, chunk: np.ndarray) -> None:
        """Count the chunk if it is late. Raises ValueError if it is shorter than the execution horizon."""
        assert self._pending is not None, "receive before start_inference"
        self._late_chunks += self._committed is not None and self._arrival - self._pending > self._committed
        super().receive(chunk)

    def execution_stats(self) -> dict[str, float]:
        """Return the number of late chunks."""
        return {"late_chunks": self._late_chunks}


class PrefixConditioned(Committing):
    """Prefix conditioning: the next c actions of the running chunk are committed, and the policy continues them.

    They are executed whatever the reply, and the new chunk is entered after them. A policy that was trained with
    prefixes returns them unchanged, so entering its chunk at step d or at step c makes no difference. Source:
    Xiaomi-Robotics-0 (arXiv:2602.12684).
    """

    def act(self, step: int) -> Move:
        """Return the committed actions of the previous chunk, then those of the new one."""
        if len(self._chunks) > 1:
            (old_source, old_chunk), (source, _) = self._chunks[-2:]
            if step < source + (self._execution.prefix or 0) and step - old_source < len(old_chunk):
                return Move(old_chunk[step - old_source], old_source)
        return super().act(step)

    def _prefix(self, step: int) -> Prefix | None:
        remaining = self._remaining(step)
        if remaining is None or not self._execution.prefix:
            return None
        actions = remaining[: self._execution.prefix]
        return Prefix(actions, len(actions), "prefix")

    def _retained(self) -> list[tuple[int, np.ndarray]]:
        return self._chunks[-1:]


class RealTimeChunking(Committing):
    """Real-time chunking at inference time: the new chunk is guided towards the rest of the running one.

    The actions that are executed during inference are frozen. The guidance towards the others has a weight that falls
    to 0 at H - s. Guiding is the policy's part. The number of frozen actions is a forecast of the delay: the largest
    delay of this episode so far, at first the nominal one (Algorithm 1 takes the maximum of a buffer of past delays),
    or the quantile of the delay model that the parameter ``quantile`` names. Source: Black et al. (2025), as for
    :class:`Naive`.
    """

    def __init__(self, execution: Execution, key: str, control_hz: float) -> None:
        super().__init__(execution, key, control_hz)
        quantile = execution.parameters.get("quantile")
        self._follows_delays = quantile is None
        delay = execution.delay
        self._forecast = delay.nominal(control_hz) if quantile is None else delay.quantile(quantile, control_hz)

    def receive(self, chunk: np.ndarray) -> None:
        """Raise the forecast to this chunk's delay. Raises ValueError if it is shorter than the execution horizon."""
        assert self._pending is not None, "receive before start_inference"
        if self._follows_delays:
            self._forecast = max(self._forecast, self._arrival - self._pending)
        super().receive(chunk)

    def _prefix(self, step: int) -> Prefix | None:
        remaining = self._remaining(step)
        if remaining is None:
            return None
        return Prefix(remaining, min(self._forecast, len(remaining)), "rtc")


class Ensemble(Naive):
    """Temporal ensembling: the weighted mean of every chunk that has an action for the step.

    Weights are exp(-m · i) with i = 0 for the oldest. Source: ACT (Zhao et al. 2023), whose m is 0.01.
    """

    def act(self, step: int) -> Move:
        """Return the weighted mean over the chunks."""
        available = [(source, chunk[step - source]) for source, chunk in self._chunks if step - source < len(chunk)]
        if not available:
            return Move(None, None)
        weights = np.exp(-self._execution.parameters["decay"] * np.arange(len(available)))
        mean = np.average(np.stack([action for _, action in available]).astype(np.float64), axis=0, weights=weights)
        return Move(mean.astype(available[-1][1].dtype), available[-1][0])

    def _retained(self) -> list[tuple[int, np.ndarray]]:
        return [(source, chunk) for source, chunk in self._chunks if source + len(chunk) > self._arrival]


class Queue(Naive):
    """Action queue: refilled when half empty, with old and new actions blended in the overlap.

    Source: LeRobot's asynchronous inference. Inference starts when the queue is half empty (s = H / 2), past actions of
    the reply are dropped, and the overlap becomes 0.3 old + 0.7 new.
    """

    def receive(self, chunk: np.ndarray) -> None:
        """Blend the rest of the queue into the new chunk. Raises ValueError if it is shorter than the horizon."""
        assert self._pending is not None, "receive before start_inference"
        remaining = self._remaining(self._arrival)
        blended = np.array(chunk)
        if remaining is not None:
            first = self._arrival - self._pending
            overlap = max(0, min(len(remaining), len(chunk) - first))
            blend, new = self._execution.parameters["blend"], blended[first : first + overlap].astype(np.float64)
            blended[first : first + overlap] = blend * new + (1 - blend) * remaining[:overlap].astype(np.float64)
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
PARAMETERS: Mapping[str, Mapping[str, float | None]] = {  # with their defaults; None: the execution's own rule applies
    "prefix": {"quantile": None},
    "rtc": {"quantile": None},
    "ensemble": {"decay": 0.01},
    "queue": {"blend": 0.7},
}


def build_executor(execution: Execution, key: str = "", control_hz: float = 1.0) -> Executor:
    """Return a new executor for one episode.

    Args:
        execution: the run's execution.
        key: the episode's id, which determines the drawn delays.
        control_hz: control steps per second of virtual time.
    """
    return EXECUTORS[execution.name](execution, key, control_hz)
