"""The course of one episode in the worker: the data of its record, its replay and its timeline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evalkit.execution import Move


class Trace:
    """The executed actions and their sources.

    Attributes:
        actions: every executed action, (A,) in the suite's dtype of actions.
        requests: (step of the observation, step at which the reply was received) of every inference; the second is
            None if the reply was never used.
        clipped: number of steps whose action was out of bounds and was clipped, as the protocol says.
        reset_s: seconds of real time for the reset, including the construction of the simulator if there was none.
        observe_s: seconds of real time for observations: rendering, packing and sending.
        policy_s: seconds of real time for which the simulator waited for the policy.
    """

    def __init__(self, groups: Mapping[str, Sequence[int]], dtype: str = "float32") -> None:
        """Create an empty trace.

        Args:
            groups: name (position, gripper, ...) → indices of the action's components that belong to it.
            dtype: the suite's dtype of actions.
        """
        self._dtype = np.dtype(dtype)
        self.actions: list[np.ndarray] = []
        self.requests: list[tuple[int, int | None]] = []
        self.clipped = 0
        self.reset_s = self.observe_s = self.policy_s = 0.0
        self._groups = groups
        self._sources: list[int | None] = []

    def requested(self, step: int) -> None:
        """Record that an inference started before ``step``."""
        self.requests.append((step, None))

    def received(self, step: int) -> None:
        """Record that the reply to the last inference was received before ``step``."""
        self.requests[-1] = (self.requests[-1][0], step)

    def executed(self, action: np.ndarray, move: Move) -> None:
        """Record that ``action`` was executed for ``move``."""
        self.actions.append(action)
        self._sources.append(move.source_step if move.action is not None else None)

    def digest(self, state: np.ndarray) -> str:
        """Return the SHA-256 over the executed actions and the final physics state (float64), as hex.

        The actions are those bytes that the simulator received: float32 or float64, as the suite says.
        Equal digests mean bit-identical episodes.
        """
        summary = hashlib.sha256()
        for action in self.actions:
            summary.update(np.ascontiguousarray(action, self._dtype).tobytes())
        summary.update(np.ascontiguousarray(state, np.float64).tobytes())
        return summary.hexdigest()

    def execution_stats(self) -> dict[str, float]:
        """Return statistics of the execution of the chunks.

        ``idle_steps``: steps without an action. ``action_age_mean`` and ``action_age_max``: mean and greatest number of
        steps between the observation behind an action and its execution. ``switches``: places at which one chunk
        follows another without a pause. ``chunk_jump_<group>``: mean distance between the actions on both sides of a
        switch, by group of action components. ``gripper_reversals``: switches at which the gripper's command changes
        its sign.
        """
        ages = [step - source for step, source in enumerate(self._sources) if source is not None]
        pairs = zip(self._sources, self._sources[1:], strict=False)
        switches = [i for i, (a, b) in enumerate(pairs, start=1) if a is not None and b is not None and a != b]
        stats: dict[str, float] = {
            "idle_steps": self._sources.count(None),
            "action_age_mean": round(float(np.mean(ages)), 6) if ages else 0.0,
            "action_age_max": max(ages, default=0),
            "switches": len(switches),
        }
        if not switches:
            return stats
        before = np.stack([self.actions[i - 1] for i in switches]).astype(np.float64)
        after = np.stack([self.actions[i] for i in switches]).astype(np.float64)
        for name, columns in self._groups.items():
            distances = np.linalg.norm((after - before)[:, list(columns)], axis=1)
            stats[f"chunk_jump_{name}"] = round(float(distances.mean()), 6)
        if "gripper" in self._groups:
            columns = list(self._groups["gripper"])
            stats["gripper_reversals"] = int(
                (np.sign(before[:, columns]) != np.sign(after[:, columns])).any(axis=1).sum()
            )
        return stats

    def timeline(self) -> dict[str, Any]:
        """Return every inference with the step of its reply, and the runs of steps with one source.

        ``segments`` holds [step of the observation, number of steps]; the first is None while the robot idles.
        """
        runs: list[list[int | None]] = []
        for source in self._sources:
            if runs and runs[-1][0] == source:
                runs[-1][1] = (runs[-1][1] or 0) + 1
            else:
                runs.append([source, 1])
        return {"requests": [list(request) for request in self.requests], "segments": runs}
