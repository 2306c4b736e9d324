"""The messages between host and worker, as frozen dataclasses.

    from the host           answer of the worker
    :class:`Configure`      :class:`Ready`
    :class:`ProbeTasks`     :class:`Probed`
    :class:`RunEpisode`     :class:`EpisodeDone`, after one :class:`InferenceRequest` per inference
    :class:`ReplayEpisode`  :class:`Replayed`, after its :class:`Frame` messages
    :class:`Chunk`          none: it answers an InferenceRequest
    :class:`Stop`           none: the worker ends

Configure comes first and once. Each message is answered before the next. :class:`Failed` may replace any answer.

On the wire a message is a map of its fields and its class name under ``type`` (:mod:`evalkit.worker.wire`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from evalkit.episode import Episode
from evalkit.execution import Execution, Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.worker.wire import Channel


@dataclass(frozen=True)
class Configure:
    """Host to worker, once: the settings of the simulator and of the execution.

    Attributes:
        suite: ``suite.yaml`` as plain data.
        folder: the suite's folder.
        observation_spec: the policy's inputs.
        execution: the way from chunks to control steps.
        video_camera: the camera of the run's videos, or None.
        assets: the suite's asset folder, or None.
        sources: the suite's checkouts, by name.
        versions: the distributions whose versions the worker reports.
    """

    suite: Mapping[str, Any]
    folder: str
    observation_spec: ObservationSpec
    execution: Execution
    video_camera: str | None
    assets: str | None
    sources: Mapping[str, str]
    versions: Sequence[str]


@dataclass(frozen=True)
class ProbeTasks:
    """Host to worker: check that these (split, task) pairs can run."""

    tasks: Sequence[Sequence[str]]


@dataclass(frozen=True)
class RunEpisode:
    """Host to worker: play one episode, and return its actions too if ``keep_actions``."""

    episode: Episode
    keep_actions: bool


@dataclass(frozen=True)
class ReplayEpisode:
    """Host to worker: execute recorded actions, each (A,), and send a frame every ``every`` control steps."""

    episode: Episode
    actions: Sequence[np.ndarray]
    every: int


@dataclass(frozen=True)
class Chunk:
    """Host to worker: the answer to inference request ``request``, as (T, A) in the suite's dtype of actions."""

    request: int
    actions: np.ndarray


@dataclass(frozen=True)
class Stop:
    """Host to worker: end."""


@dataclass(frozen=True)
class Ready:
    """Worker to host: ready to play, with the versions of its Python and of the listed distributions."""

    python: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Probed:
    """Worker to host: the suite's :class:`evalkit.adapter.Probe`."""

    metadata: Mapping[str, Any]
    problems: Sequence[str]
    incomparable: Sequence[str]


@dataclass(frozen=True)
class InferenceRequest:
    """Worker to host: infer a chunk from this observation.

    Attributes:
        request: its number in this worker, from 1.
        step: the control step before which the observation was taken.
        observation: the observation.
        prefix: the part of the running chunk that the reply continues, or None.
    """

    request: int
    step: int
    observation: Observation
    prefix: Prefix | None


@dataclass(frozen=True)
class Frame:
    """Worker to host: one (H, W, 3) uint8 RGB frame of a replay."""

    image: np.ndarray


@dataclass(frozen=True)
class Replayed:
    """Worker to host: end of a replay, with the digest of its actions and final state."""

    digest: str


@dataclass(frozen=True)
class EpisodeDone:
    """Worker to host: an episode's outcome. The fields up to ``digest`` are those of a record.

    Attributes:
        wall_s: seconds in all.
        reset_s: seconds to set the scene, including the construction of the simulator the first time.
        observe_s: seconds to render, pack and send observations.
        policy_s: seconds of waiting for chunks.
        actions: (steps, A) in the suite's dtype of actions if ``RunEpisode.keep_actions``, else None.
    """

    success: bool
    steps: int
    inferences: int
    clipped_steps: int
    metrics: dict[str, float]
    subtasks: list[list[Any]]
    execution_stats: dict[str, float]
    timeline: dict[str, Any] | None
    digest: str
    wall_s: float
    reset_s: float
    observe_s: float
    policy_s: float
    actions: np.ndarray | None


@dataclass(frozen=True)
class Failed:
    """Worker to host: the last message could not be carried out. ``message`` is one line for the user."""

    kind: Literal["simulator", "policy", "crash"]
    message: str


HostMessage: TypeAlias = Configure | ProbeTasks | RunEpisode | ReplayEpisode | Chunk | Stop
WorkerMessage: TypeAlias = Ready | Probed | InferenceRequest | Frame | Replayed | EpisodeDone | Failed
Message: TypeAlias = HostMessage | WorkerMessage

_TYPES: Mapping[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(Configure, ProbeTasks, RunEpisode, ReplayEpisode, Chunk, Stop),
        *(Ready, Probed, InferenceRequest, Frame, Replayed, EpisodeDone, Failed),
    )
}
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "episode": Episode.from_dict,
    "observation_spec": ObservationSpec.from_dict,
    "execution": Execution.from_dict,
    "observation": Observation.from_message,
    "prefix": lambda prefix: None if prefix is None else Prefix(**prefix),
}


def send(channel: Channel, message: Message) -> None:
    """Send one message. Raises Closed if the other side has gone."""
    channel.send(to_wire(message))


def receive(channel: Channel) -> Message:
    """Wait for one message.

    Raises:
        Closed: the other side has gone.
        ValueError: the bytes are not one of these messages.
    """
    return from_wire(channel.receive())


def to_wire(message: Message) -> dict[str, Any]:
    """Return a message as plain values and arrays."""
    plain = {field.name: _plain(getattr(message, field.name)) for field in fields(message)}
    return {"type": type(message).__name__, **plain}


def from_wire(message: Mapping[str, Any]) -> Message:
    """Return the message that :func:`to_wire` wrote. Raises ValueError for anything else."""
    given = dict(message)
    kind = _TYPES.get(given.pop("type", ""))
    if kind is None:
        raise ValueError(f"unknown message type {message.get('type')!r}")
    try:
        return kind(**{name: _READERS[name](value) if name in _READERS else value for name, value in given.items()})
    except (TypeError, KeyError) as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from error


def _plain(value: Any) -> Any:
    match value:
        case Episode() | ObservationSpec() | Execution():
            return value.to_dict()
        case Observation():
            return value.to_message()
        case Prefix():
            return asdict(value)
        case _:
            return value
