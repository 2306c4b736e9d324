"""The simulator's side of a suite. Someone who adds a suite reads this file alone.

A suite is a folder with three files:

``suite.yaml``
    The protocol as data; every key is in ``docs/suite-yaml.md``. Settings that only the adapter reads go under the key
    ``adapter``, for the suite and for each split.
``requirements.txt``
    The pinned packages of the suite's Python environment, dependencies included (``pip install --no-deps``). The file
    must pin numpy and msgpack, which evalkit's side of the worker imports. Without the file, the suite runs in
    evalkit's own environment.
``adapter.py``
    A module with two functions::

        def build(setup: Setup) -> Adapter: ...
        def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe: ...

The module runs in a worker process, in the suite's environment. Besides its simulator it may import the standard
library, numpy and ``evalkit.adapter``, ``evalkit.episode``, ``evalkit.observation``, and for MuJoCo ``evalkit.gl``. It
imports neighbouring modules relatively (``from . import scenes``). The worker drives the adapter like this::

    adapter.reset(episode)
    adapter.observe(observation_spec)       # only at steps at which the policy infers
    adapter.step(action, observe=...)       # until it returns True, or for the protocol's max_steps
    adapter.subtask_done()                  # of a SubtaskChain, after each step
    adapter.outcome()

``evalkit.testing.AdapterConformance`` tests an adapter against this contract.
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
    """The simulator cannot proceed (a missing asset, no GL, ...). The message says what to do."""


@dataclass(frozen=True)
class ActionSpace:
    """The actions of one control step: (size,), each dimension within [low, high] (units: see ``suite.yaml``).

    If it is not ``bounded``, the simulator also executes actions beyond the bounds, which are then the usual range. The
    worker passes actions in ``dtype``, float32 or float64.
    """

    size: int
    low: float
    high: float
    bounded: bool = True
    dtype: str = "float32"

    def check(self, action: np.ndarray) -> None:
        """Raise ActionError unless ``action`` is a finite (size,) vector within bounds."""
        if action.shape != (self.size,):
            raise ActionError(f"an action must have shape ({self.size},), got {tuple(action.shape)}")
        if not np.isfinite(action).all():
            raise ActionError(f"an action must be finite, got {action.tolist()}")
        if self.bounded and ((action < self.low).any() or (action > self.high).any()):
            raise ActionError(f"an action must be within [{self.low:g}, {self.high:g}], got {action.tolist()}")


@dataclass(frozen=True)
class Setup:
    """The input of ``build`` and ``probe``, fixed for the life of the worker.

    Attributes:
        suite: ``suite.yaml`` as plain data, already validated by the host.
        observation_spec: the content of every observation; with no camera in it, an adapter must not need GL.
        video_camera: the camera of ``render_frame``, or None if no video is recorded.
        assets: the suite's asset folder, or None if the suite needs none.
        sources: the folders of the checkouts that ``suite.yaml`` names, by name.
    """

    suite: Mapping[str, Any]
    observation_spec: ObservationSpec = field(default_factory=ObservationSpec)
    video_camera: str | None = None
    assets: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def renders(self) -> bool:
        """True if any image will be rendered."""
        return bool(self.observation_spec.cameras) or self.video_camera is not None

    @property
    def action_space(self) -> ActionSpace:
        """The suite's action space."""
        action = self.suite["action"]
        bounds = float(action["low"]), float(action["high"])
        bounded = action["out_of_bounds"] != "execute"
        return ActionSpace(int(action["size"]), *bounds, bounded, action.get("dtype", "float32"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The adapter's own settings: the section ``adapter`` of ``suite.yaml``."""
        section: Mapping[str, Any] = self.suite["adapter"]
        return section

    def split_settings(self, name: str) -> Mapping[str, Any]:
        """Return the adapter's own settings of a split: the section ``adapter`` inside the split."""
        section: Mapping[str, Any] = self.split(name)["adapter"]
        return section

    def split(self, name: str) -> Mapping[str, Any]:
        """Return a split's section of ``suite.yaml``."""
        section: Mapping[str, Any] = self.suite["splits"][name]
        return section

    def instruction(self, split: str, task: str) -> str:
        """Return a task's instruction, as the suite gives it."""
        return str(self.split(split)["tasks"][task])


@dataclass(frozen=True)
class Outcome:
    """The outcome of an episode.

    Attributes:
        success: True if the task was solved under the suite's rule; of a chain, if all its sub-tasks were.
        metrics: further numbers of the suite, by name.
        subtasks: the sub-tasks of a chain that were attempted, in order: (name, solved).
    """

    success: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    subtasks: Sequence[tuple[str, bool]] = ()


@dataclass(frozen=True)
class Probe:
    """The state of a suite's environment before the first episode.

    Attributes:
        metadata: facts that could change an outcome or an image (asset digest, stand-ins, GL renderer, ...), as JSON
            values.
        problems: one line for each missing thing and the way to get it; empty if the episodes can run.
        incomparable: reasons not to compare results made here with published ones; empty if there are none.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()
    incomparable: Sequence[str] = ()


@runtime_checkable
class Adapter(Protocol):
    """A simulator that plays episodes. A worker process has one and reuses it from episode to episode."""

    def reset(self, episode: Episode) -> None:
        """Put the simulator at the episode's first control step, after the protocol's waiting steps.

        The state afterwards depends on ``episode`` alone, bit for bit: not on earlier episodes or on rendering.
        Raises SimulatorError if the scene cannot be built.
        """

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """Execute one control step.

        Args:
            action: (A,) within the action space, in its dtype.
            observe: True if ``observe`` will be called right after this step. A simulator that takes its images
                inside the step renders only then; the physics is bit-identical either way.

        Returns:
            True when the episode is over (solved or lost); the caller stops at ``max_steps`` by itself.

        Raises:
            ActionError: the action's shape, range or finiteness is wrong; nothing was executed.
        """

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """Return the cameras and state vectors of this instant that ``observation_spec`` names. Changes no state.

        The worker adds the oracle's plan, from ``plan``.
        """

    def outcome(self) -> Outcome:
        """Return the outcome of the episode as it stands."""

    def state(self) -> np.ndarray:
        """Return the complete physics state, (N,) float64, for digests and tests: equal bits mean equal futures."""

    def close(self) -> None:
        """Release the simulator. Called once."""


@runtime_checkable
class OraclePlanner(Protocol):
    """An adapter with an oracle: a scripted policy with privileged state, which the ``oracle`` checkpoints follow."""

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """Return the oracle's actions for the next ``steps`` control steps from here, (steps, A).

        The worker converts them to the action space's dtype before it executes them, so float32 is always exact.
        Planned with privileged state, in closed loop, on a saved simulator state that is restored bit for bit.
        Every action is within the action space. Raises SimulatorError for a task that the oracle does not know.

        Args:
            steps: length of the plan.
            committed: (K, A) actions, in the action space's dtype, that will be executed first in any case. The plan
                begins with them, and the oracle continues from the state that they lead to.
        """


@runtime_checkable
class SubtaskChain(Protocol):
    """An adapter whose episodes are chains of sub-tasks, each with an instruction of its own."""

    def subtask_done(self) -> bool:
        """Return True if the last step solved a sub-task and the next one begins here.

        The worker then drops the rest of the running chunk and requests the next one at once, so ``observe`` must work
        after such a step, although the step had ``observe=False``.
        """


@runtime_checkable
class FrameRenderer(Protocol):
    """An adapter whose episodes can be made into videos."""

    def render_frame(self, camera: str) -> np.ndarray:
        """Return one (H, W, 3) uint8 RGB frame of this instant, for people to watch. Changes no state."""
