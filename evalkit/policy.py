"""The policy's side of evalkit: observations in, action chunks out. Someone who adds a policy reads this file alone.

A policy runs in the host process. It says once what it needs (:class:`Spec`), then is asked with batches of requests
from every worker::

    policy = build(suite, parameters)      # a factory named in checkpoints.yaml as "module:function"
    policy.spec
    policy.act([request, ...])             # one chunk per request
    policy.close()

A policy that samples draws from ``request.seed``, or from what it is shown, and nothing else, and treats every row of
a batch by itself: then a request's chunk does not depend on what else was in the batch, on the order of episodes or on
the number of workers. One that cannot promise that says so in its spec, and so does the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evalkit.episode import Episode
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec


@dataclass(frozen=True)
class Spec:
    """What a policy is.

    Attributes:
        needs: what it looks at.
        chunk: length T of the action chunks it returns.
        facts: what identifies its weights and code (hashes, versions, dtype, ...), for the manifest; JSON values. What
            stands under ``where`` (an address, say) is recorded, and may differ when a run is resumed.
        batch_invariant: whether a request's chunk is the same bits whatever else is in its batch.
        continues: kinds of prefix that it takes into account (:class:`evalkit.execution.Prefix`).
    """

    observation_spec: ObservationSpec
    chunk_size: int
    metadata: dict[str, Any]
    batch_invariant: bool = True
    supported_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One question to a policy.

    Attributes:
        episode: the episode it belongs to.
        step: the control step before which the observation was taken, from 0.
        observation: exactly what the policy's spec needs.
        prefix: what the running chunk holds in store, which the reply is to continue; or None.
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
    """Turns observations into action chunks."""

    @property
    def spec(self) -> Spec:
        """What this policy is; the same for its whole life."""

    def act(self, requests: Sequence[Request]) -> Sequence[np.ndarray]:
        """One chunk for each request, in order: (T, A) float32 each, in the suite's action space.

        Values beyond the action space are clipped, refused or executed, as the suite's protocol says; NaN is refused.
        """

    def close(self) -> None:
        """Releases the policy. Called once."""


@runtime_checkable
class PolicyWarnings(Protocol):
    """A policy that has things to say while a run goes on, such as that its batches had to become smaller."""

    def warnings(self) -> list[str]:
        """One line for each thing that has happened since the last call; asked after every ``act``."""
