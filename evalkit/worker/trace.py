"""What happened in one episode, as the worker sees it: for the record, for a replay, and for a timeline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evalkit.execution import Move


class Trace:
    """The executed actions and where they came from.

    Attributes:
        actions: every executed action, (A,) float32.
        asks: (step of the ask, step at which its reply was received), the second None for one that was never used.
        clipped: steps whose action was beyond the action space and was clipped, as the protocol says.
        reset_s: seconds of real time that it took to set the scene, building the simulator where it had to be built.
        look_s: seconds that looking took: rendering, packing and sending observations.
        policy_s: seconds that the simulator waited for the policy.
    """

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        """Nothing has happened. ``groups``: which numbers of an action belong together (position, gripper, ...)."""
        self.actions: list[np.ndarray] = []
        self.requests: list[tuple[int, int | None]] = []
        self.clipped = 0
        self.reset_s = self.observe_s = self.policy_s = 0.0
        self._groups = groups
        self._sources: list[int | None] = []

    def requested(self, step: int) -> None:
        """The policy was asked before ``step``."""
        self.requests.append((step, None))

    def received(self, step: int) -> None:
        """The reply to the last ask was received before ``step``."""
        self.requests[-1] = (self.requests[-1][0], step)

    def executed(self, action: np.ndarray, move: Move) -> None:
        """``action`` was executed, on behalf of ``move``."""
        self.actions.append(action)
        self._sources.append(move.source_step if move.action is not None else None)

    def digest(self, state: np.ndarray) -> str:
        """SHA-256 over the actions (float32) and the final state (float64), as hex.

        Equal digests mean that the same thing happened, bit for bit.
        """
        summary = hashlib.sha256()
        for action in self.actions:
            summary.update(np.ascontiguousarray(action, np.float32).tobytes())
        summary.update(np.ascontiguousarray(state, np.float64).tobytes())
        return summary.hexdigest()

    def execution_stats(self) -> dict[str, float]:
        """How the chunks were executed, in numbers.

        ``held``: steps without an action; ``age`` and ``oldest``: mean and greatest number of steps between the
        observation behind an action and its execution; ``switches``: places where one chunk follows another without a
        pause; ``jump_<group>``: mean distance of the actions on both sides of a switch, by group of the action's
        numbers; ``flips``: switches at which the gripper's command changes its sign.
        """
        ages = [step - source for step, source in enumerate(self._sources) if source is not None]
        pairs = zip(self._sources, self._sources[1:], strict=False)
        switches = [i for i, (a, b) in enumerate(pairs, start=1) if a is not None and b is not None and a != b]
        found: dict[str, float] = {
            "idle_steps": self._sources.count(None),
            "action_age_mean": round(float(np.mean(ages)), 6) if ages else 0.0,
            "action_age_max": max(ages, default=0),
            "switches": len(switches),
        }
        if not switches:
            return found
        before = np.stack([self.actions[i - 1] for i in switches]).astype(np.float64)
        after = np.stack([self.actions[i] for i in switches]).astype(np.float64)
        for name, columns in self._groups.items():
            far = np.linalg.norm((after - before)[:, list(columns)], axis=1)
            found[f"chunk_jump_{name}"] = round(float(far.mean()), 6)
        if "gripper" in self._groups:
            columns = list(self._groups["gripper"])
            found["gripper_reversals"] = int(
                (np.sign(before[:, columns]) != np.sign(after[:, columns])).any(axis=1).sum()
            )
        return found

    def timeline(self) -> dict[str, Any]:
        """Every ask with the step of its arrival, and which ask drove how many steps (None: the robot held)."""
        runs: list[list[int | None]] = []
        for source in self._sources:
            if runs and runs[-1][0] == source:
                runs[-1][1] = (runs[-1][1] or 0) + 1
            else:
                runs.append([source, 1])
        return {"requests": [list(ask) for ask in self.requests], "segments": runs}
