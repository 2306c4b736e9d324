"""The policy interface: observations in, action chunks out. This file alone is enough to add a policy.

A policy runs in the host process. It describes itself once (:class:`Spec`) and then receives batches of requests from
every worker::

    policy = build(suite, parameters)      # a factory named in checkpoints.yaml as "module:function"
    policy.spec
    policy.act([request, ...])             # one chunk per request
    policy.close()

A policy that samples must derive its random numbers from ``request.seed`` or from the observation, and from nothing
else, and must process every row of a batch independently. A request's chunk then depends neither on the other requests
of the batch, nor on the order of episodes, nor on the number of workers. A policy that cannot guarantee this sets
``batch_invariant=False`` in its spec, and the run records it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evalkit.episode import Episode
from evalkit.execution import Prefix
from evalkit.files import check_plain
from evalkit.observation import Observation, ObservationSpec

MAX_CHUNK_SIZE = 10_000  # control steps, minutes of any robot


@dataclass(frozen=True)
class Spec:
    """The properties of a policy.

    Attributes:
        observation_spec: the cameras and state vectors that it reads.
        chunk_size: length T of its action chunks, 1 to :data:`MAX_CHUNK_SIZE`.
        metadata: JSON values that identify its weights and code (hashes, versions, dtype, ...), for the manifest. The
            value under ``where`` (an address, say) is recorded, but may differ when a run is resumed.
        batch_invariant: True if a request's chunk is bit-identical whatever other requests its batch has.
        supported_prefixes: kinds of prefix that it continues (:class:`evalkit.execution.Prefix`).
    """

    observation_spec: ObservationSpec
    chunk_size: int
    metadata: dict[str, Any]
    batch_invariant: bool = True
    supported_prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a chunk size out of range, or metadata that cannot be recorded."""
        if not 1 <= self.chunk_size <= MAX_CHUNK_SIZE:
            raise ValueError(f"chunk_size {self.chunk_size}: must be 1 to {MAX_CHUNK_SIZE}")
        try:
            check_plain(self.metadata)
        except ValueError as error:
            raise ValueError(f"metadata: {error}") from error


@dataclass(frozen=True)
class Request:
    """The input of one inference.

    Attributes:
        episode: the episode that the request belongs to.
        step: the control step before which the observation was taken, from 0.
        observation: exactly the data that the policy's spec names.
        prefix: the remaining actions of the running chunk, which the reply must continue; or None.
    """

    episode: Episode
    step: int
    observation: Observation
    prefix: Prefix | None = None

    @property
    def seed(self) -> int:
        """A seed in [0, 2³²) that depends on the episode and the step alone."""
        summary = hashlib.sha256(f"{self.episode.id}@{self.step}".encode()).digest()
        return int.from_bytes(summary[:4], "big")


class Policy(Protocol):
    """A function from observations to action chunks, with its description."""

    @property
    def spec(self) -> Spec:
        """The properties of this policy, constant over its lifetime."""

    def act(self, requests: Sequence[Request]) -> Sequence[np.ndarray]:
        """Return one chunk for each request, in order: (T, A) float32 or float64 each, in the suite's action space.

        The host converts a chunk to the suite's ``action.dtype``.
        Out-of-bounds values are clipped, refused or executed, as the suite's protocol says. NaN is refused.
        """

    def close(self) -> None:
        """Release the policy's resources. Called once."""


@runtime_checkable
class PolicyWarnings(Protocol):
    """A policy that reports events during a run, such as a batch that had to be made smaller."""

    def warnings(self) -> list[str]:
        """Return one line for each event since the last call. Called after every ``act``."""
