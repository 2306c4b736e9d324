"""The worker's loop around an executor alone, without a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.execution import Execution, Move, Prefix
from evalkit.execution.strategies import build_executor

HZ = 10.0


@dataclass
class Played:
    """The course of an executor; the actions of chunks are (source step, index), so every action names its source."""

    moves: list[Move] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    arrivals: dict[int, int] = field(default_factory=dict)
    prefixes: dict[int, Prefix | None] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> list[tuple[int, int] | None]:
        """The (step of the observation, index in its chunk) of every step's action."""
        return [None if m.action is None else (int(m.action[0]), int(m.action[1])) for m in self.moves]


def play(
    execution: Execution, length: int, turns: Sequence[int] = (), chunk: int = 10, key: str = "e", hz: float = HZ
) -> Played:
    """Run the worker's loop over ``length`` steps; sub-tasks begin at ``turns``."""
    executor, seen, pending = build_executor(execution, key, hz), Played(), -1
    for step in range(length):
        if step in turns:
            executor.restart(step)
            if pending >= 0:
                seen.dropped.add(pending)
            pending = -1
        expected = executor.wants_inference(step)
        for _ in range(2):
            if executor.reply_due(step):
                executor.receive(np.stack([np.full(chunk, pending), np.arange(chunk)], axis=1).astype(np.float32))
                seen.arrivals[pending], pending = step, -1
            if executor.wants_inference(step) and step not in seen.prefixes:
                assert expected, "wants_inference did not announce this inference"
                seen.prefixes[step] = executor.start_inference(step)
                seen.requests.append(step)
                pending = step
        seen.moves.append(executor.act(step))
    seen.stats = executor.execution_stats()
    return seen
