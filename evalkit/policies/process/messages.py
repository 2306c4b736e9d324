"""The messages between evalkit and a policy's process, on the worker's wire format.

    from the host     answer of the policy's process
    Build             Built
    Act               Chunks
    Stop              none: the process ends

``Failed`` may replace any answer. Each message is answered before the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evalkit import errors
from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policy import Request, Spec
from evalkit.suite import Suite


def build(suite: Suite, policy: str, beside: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first message: build this policy for this suite.

    Args:
        suite: the suite.
        policy: the factory, ``module:name``.
        beside: the folder of the checkpoint file that names it, or None.
        parameters: its parameters as JSON values.
    """
    return {
        "type": "Build",
        "suite": suite.to_message(),
        "folder": str(suite.folder),
        "reference": suite.reference,
        "policy": policy,
        "beside": beside,
        "parameters": dict(parameters),
    }


def built(spec: Spec) -> dict[str, Any]:
    """Return the answer to Build."""
    return {"type": "Built", **asdict(spec), "observation_spec": spec.observation_spec.to_dict()}


def spec_of(message: Mapping[str, Any]) -> Spec:
    """Return the spec in a Built message."""
    return Spec(
        observation_spec=ObservationSpec.from_dict(message["observation_spec"]),
        chunk_size=int(message["chunk_size"]),
        metadata=dict(message["metadata"]),
        batch_invariant=bool(message["batch_invariant"]),
        supported_prefixes=tuple(message["supported_prefixes"]),
    )


def act(requests: Sequence[Request]) -> dict[str, Any]:
    """Return the message that asks for a chunk per request."""
    return {
        "type": "Act",
        "requests": [
            {
                "episode": request.episode.to_dict(),
                "step": request.step,
                "observation": request.observation.to_message(),
                "prefix": None if request.prefix is None else asdict(request.prefix),
            }
            for request in requests
        ],
    }


def requests_of(message: Mapping[str, Any]) -> list[Request]:
    """Return the requests in an Act message."""
    return [
        Request(
            Episode.from_dict(fields["episode"]),
            fields["step"],
            Observation.from_message(fields["observation"]),
            None if fields["prefix"] is None else Prefix(**fields["prefix"]),
        )
        for fields in message["requests"]
    ]


def chunks(answers: Sequence[np.ndarray], warnings: Sequence[str]) -> dict[str, Any]:
    """Return the answer to Act: one chunk per request, and the policy's warnings since the last one."""
    return {"type": "Chunks", "chunks": list(answers), "warnings": list(warnings)}


def failed(error: BaseException) -> dict[str, Any]:
    """Return the message for an error: its class in evalkit's tree, or PolicyProblem, and one line."""
    known = type(error).__name__ if isinstance(error, EvalkitError) else PolicyProblem.__name__
    text = str(error) if isinstance(error, EvalkitError) else f"{type(error).__name__}: {error}"
    return {"type": "Failed", "error": known, "message": " ".join(text.split())}


def error_of(message: Mapping[str, Any]) -> EvalkitError:
    """Return the error in a Failed message."""
    kind = getattr(errors, str(message["error"]), PolicyProblem)
    return kind(str(message["message"])) if issubclass(kind, EvalkitError) else PolicyProblem(str(message["message"]))
