"""The simulator's side of a suite. Someone who adds a suite reads this file alone.

A suite is a folder with ``suite.yaml`` (the protocol as data), ``requirements.txt`` (the pinned closure of its Python
environment) and ``adapter.py``, a module with two functions::

    def build(setup: Setup) -> Adapter: ...
    def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe: ...

The module runs in a worker process, in the suite's own environment: besides its simulator it may import the standard
library, numpy and ``evalkit.adapter``, ``evalkit.episode``, ``evalkit.observation``, and for MuJoCo ``evalkit.gl``. The
worker drives it like this::

    adapter.reset(episode)
    adapter.look(needs)                     # only at the steps where a policy is asked
    adapter.step(action, observe=...)       # until it returns True, or the protocol's max_steps
    adapter.turned()                        # of a suite with chains, after each step
    adapter.judge()

``evalkit.testing.AdapterConformance`` holds an adapter to this contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec


class ActionError(ValueError):
    """A policy's action cannot be executed: wrong shape, not finite, or outside the action space."""


class SimulatorError(RuntimeError):
    """The simulator cannot do what was asked (a missing asset, no GL, ...). The message says what to do."""


@dataclass(frozen=True)
class ActionSpace:
    """The actions one control step takes: (size,) float32, each within [low, high] (units: see ``suite.yaml``).

    Where it is not ``bounded``, the simulator also executes what is beyond; the bounds are then what is usual.
    """

    size: int
    low: float
    high: float
    bounded: bool = True

    def check(self, action: np.ndarray) -> None:
        """Raises ActionError unless ``action`` is a finite (size,) vector within bounds."""
        if action.shape != (self.size,):
            raise ActionError(f"an action must have shape ({self.size},), got {tuple(action.shape)}")
        if not np.isfinite(action).all():
            raise ActionError(f"an action must be finite, got {action.tolist()}")
        if self.bounded and ((action < self.low).any() or (action > self.high).any()):
            raise ActionError(f"an action must be within [{self.low:g}, {self.high:g}], got {action.tolist()}")


@dataclass(frozen=True)
class Setup:
    """What an adapter is built with. Frozen for the life of the worker.

    Attributes:
        suite: ``suite.yaml`` as plain data (already validated by the host).
        needs: what will be looked at: with no camera in it, an adapter must not need GL.
        film: the camera that ``film`` will be asked for, or None where no video is recorded.
        assets: the suite's asset folder, or None where the suite carries its own.
        sources: the checkouts of upstream code that ``suite.yaml`` names, by name.
    """

    suite: Mapping[str, Any]
    observation_spec: ObservationSpec = field(default_factory=ObservationSpec)
    video_camera: str | None = None
    assets: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def renders(self) -> bool:
        """True where any image will be asked for."""
        return bool(self.observation_spec.cameras) or self.video_camera is not None

    @property
    def action_space(self) -> ActionSpace:
        """The suite's action space."""
        action = self.suite["action"]
        bounds = float(action["low"]), float(action["high"])
        return ActionSpace(int(action["size"]), *bounds, bounded=action["out_of_bounds"] != "execute")

    def split(self, name: str) -> Mapping[str, Any]:
        """One split's section of ``suite.yaml``."""
        section: Mapping[str, Any] = self.suite["splits"][name]
        return section

    def instruction(self, split: str, task: str) -> str:
        """A task's instruction, as the suite gives it."""
        return str(self.split(split)["tasks"][task])


@dataclass(frozen=True)
class Outcome:
    """The verdict on a finished episode.

    Attributes:
        success: whether the task was solved under the suite's rule; of a chain, whether all of it was.
        metrics: further numbers of the suite, by name.
        parts: the sub-tasks of a chain that were attempted, in order: (name, whether it was solved).
    """

    success: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    subtasks: Sequence[tuple[str, bool]] = ()


@dataclass(frozen=True)
class Probe:
    """What a suite finds in its environment before the first episode.

    Attributes:
        facts: what could change an outcome or an image (asset digest, stand-ins, GL renderer, ...), as JSON values.
        problems: one line for each thing that is missing and how to get it; empty where the episodes can run.
        incomparable: why results made here must not be held against published ones; empty where they may.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()
    incomparable: Sequence[str] = ()


@runtime_checkable
class Adapter(Protocol):
    """A simulator that plays episodes. One per worker process; it is re-used from episode to episode."""

    def reset(self, episode: Episode) -> None:
        """Puts the simulator at the episode's first control step, the protocol's waiting steps already taken.

        The state afterwards depends on ``episode`` alone, bit for bit: not on earlier episodes or on what is rendered.
        Raises SimulatorError where the scene cannot be built.
        """

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """Executes one control step.

        Args:
            action: (A,) float32 within the action space.
            observe: True where ``look`` will be called right after this step. A simulator that takes its images
                inside the step renders only then; the physics is bit-identical either way.

        Returns:
            True when the episode is over (solved or lost); the caller stops at ``max_steps`` by itself.

        Raises:
            ActionError: the action's shape, range or finiteness is wrong; nothing was executed.
        """

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """The cameras and state vectors of this instant that ``needs`` names, and no others. Changes no state.

        The expert's plan is the worker's to add, from ``demonstrate``.
        """

    def outcome(self) -> Outcome:
        """The verdict on the episode as it stands."""

    def state(self) -> np.ndarray:
        """The complete physics state, (N,) float64: equal bits mean equal futures. For digests and tests."""

    def close(self) -> None:
        """Releases the simulator. Called once."""


@runtime_checkable
class OraclePlanner(Protocol):
    """An adapter that also has a scripted expert, which is what the ``oracle`` checkpoints ask for."""

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """What the expert would do for the next ``steps`` control steps from here, as (steps, A) float32.

        Planned with privileged state, in closed loop, on a saved simulator state that is restored bit for bit.
        Every action is within the action space. Raises SimulatorError for a task the expert does not know.

        Args:
            steps: length of the plan.
            committed: (K, A) float32 actions that are executed first in any case: the plan begins with them, and the
                expert goes on from where they lead.
        """


@runtime_checkable
class SubtaskChain(Protocol):
    """An adapter whose episodes are chains of sub-tasks, each with an instruction of its own."""

    def subtask_done(self) -> bool:
        """Whether the last step solved a sub-task and the next one begins here.

        What is left of the running chunk is then thrown away and the policy asked at once, so ``look`` must work after
        such a step although it was made with ``observe=False``.
        """


@runtime_checkable
class FrameRenderer(Protocol):
    """An adapter whose episodes can be made into videos."""

    def render_frame(self, camera: str) -> np.ndarray:
        """One (H, W, 3) uint8 RGB frame of this instant, for people to watch. Changes no state."""
