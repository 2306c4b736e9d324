"""A policy in another process or on another machine, queried over the openpi protocol.

An evalkit server (``evalkit serve``) describes its policy and accepts the whole request: a run through it is
bit-identical to a run of its policy in this process. Any other openpi server accepts an observation in a layout of its
own, which the parameters describe, and no seed, so evalkit cannot reproduce its samples. The protocol is described in
:mod:`evalkit.serving.protocol`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, field_validator, model_validator

from evalkit.documents import Section
from evalkit.errors import EnvironmentProblem, PolicyProblem, UsageError, excerpt
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.rotations import axis_angle
from evalkit.policy import MAX_CHUNK_SIZE, Request, Spec
from evalkit.serving import protocol
from evalkit.serving.client import ConnectionPool
from evalkit.serving.protocol import ACTIONS, EXTENSIONS, PROMPT, ServerMetadata, encode_request, jsonable, pack, unpack
from evalkit.suite import Suite

API_KEY = "EVALKIT_REMOTE_API_KEY"
_AXIS_ANGLE = re.compile(r"^axis_angle\((.+)\)$")
_Result = TypeVar("_Result")


class RemoteParameters(Section):
    """The address of a server and, for one that is not evalkit's, the layout of its observations and replies."""

    # Excluded fields are not in the manifest's parameters: the address is in the metadata, without its secret parts,
    # and timeouts change no outcome.
    url: str = Field(exclude=True, description="ws://HOST:PORT, wss://HOST or HOST:PORT")
    connect_s: float = Field(
        30, gt=0, exclude=True, description="seconds to wait for the server, at first and after a loss"
    )
    timeout_s: float = Field(
        120, gt=0, exclude=True, description="seconds to wait for one reply, with queueing and resending"
    )
    images: dict[str, str] | None = Field(None, description="key of the message → camera of the suite")
    state: dict[str, Annotated[list[str], Field(min_length=1)]] | None = Field(
        None, description="key → state vectors of the suite, concatenated; axis_angle(NAME) converts a quaternion"
    )
    prompt: str = Field(PROMPT, description="key of the instruction")
    flip: bool | None = Field(None, description="flip the images along both axes; false by default")
    resize: int | None = Field(
        None,
        gt=0,
        le=10_000,
        description="scale the images into a square with sides of so many pixels, padded with zeros",
    )
    actions: str = Field(ACTIONS, description="key of the actions in the reply")
    chunk: int | None = Field(None, ge=1, le=MAX_CHUNK_SIZE, description="T, the number of steps to use of each reply")
    columns: int | None = Field(None, ge=1, description="A, if the server returns more columns: the first are used")

    @model_validator(mode="before")
    @classmethod
    def _refuse_api_key(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "api_key" in fields:
            raise ValueError(f"api_key is not a parameter, because the manifest would show it; set {API_KEY} instead")
        return fields

    @property
    def display_url(self) -> str:
        """The address without its query, which may be secret."""
        return self.url.partition("?")[0]

    @field_validator("url")
    @classmethod
    def _complete_url(cls, url: str) -> str:
        full = url if "://" in url else f"ws://{url}"
        try:
            parts = urlsplit(full)
            valid = parts.scheme in ("ws", "wss") and parts.hostname and not parts.fragment
            has_port = parts.port is not None or "://" in url
        except ValueError:
            valid = has_port = False
        if not valid or not has_port or re.search(r"\s", full):
            raise ValueError("it must be ws://HOST:PORT, wss://HOST:PORT or HOST:PORT")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"it must not hold a password, because the manifest would show it; set {API_KEY} instead")
        return full


_LAYOUT_FIELDS = {"images", "state", "prompt", "flip", "resize", "actions", "columns"}  # not for evalkit servers


@dataclass(frozen=True)
class Layout:
    """The observation message of a server without the extension, with the fields of :class:`RemoteParameters`."""

    images: Mapping[str, str]
    state: Mapping[str, Sequence[str]]
    prompt: str
    flip: bool
    resize: int | None

    @classmethod
    def from_parameters(cls, suite: Suite, parameters: RemoteParameters) -> Layout:
        """Return the layout that the parameters describe.

        Raises:
            UsageError: they describe none, or convert a state vector that is not a quaternion.
            EnvironmentProblem: resizing needs a library that is not installed.
        """
        if parameters.images is None and parameters.state is None:
            images = {"observation/image": next(iter(suite.cameras))} if suite.cameras else {}
            example = f"{{images: {images}, state: {{observation/state: [{', '.join(suite.state)}]}}, chunk: 10}}"
            raise UsageError(
                f"{parameters.display_url}: it is not an evalkit server: describe its observations by the parameters "
                f"images and state of a checkpoint in a file for --checkpoint-file, for example {example}".replace(
                    "'", ""
                )
            )
        layout = cls(
            parameters.images or {}, parameters.state or {}, parameters.prompt, bool(parameters.flip), parameters.resize
        )
        if layout.resize and importlib.util.find_spec("PIL") is None:
            raise EnvironmentProblem(
                f"{parameters.display_url}: resizing images for it needs Pillow: pip install pillow"
            )
        for term in (term for terms in layout.state.values() for term in terms):
            vector = suite.state.get(_vector_name(term))
            if _AXIS_ANGLE.fullmatch(term) and vector and vector.size != 4:
                raise UsageError(
                    f"{parameters.display_url}: {term} needs a quaternion x, y, z, w, and {_vector_name(term)} has "
                    f"{vector.size} numbers"
                )
        return layout

    @property
    def observation_spec(self) -> ObservationSpec:
        """The cameras and state vectors of a message."""
        state = (_vector_name(term) for terms in self.state.values() for term in terms)
        return ObservationSpec(tuple(dict.fromkeys(self.images.values())), tuple(dict.fromkeys(state)))

    def message(self, observation: Observation) -> dict[str, Any]:
        """Return the observation in this layout."""
        images = {key: self._image(observation.images[camera]) for key, camera in self.images.items()}
        state = {
            key: np.concatenate([_state_values(term, observation.state) for term in terms])
            for key, terms in self.state.items()
        }
        return {**images, **state, self.prompt: observation.instruction}

    def _image(self, image: np.ndarray) -> np.ndarray:
        flipped = np.ascontiguousarray(image[::-1, ::-1]) if self.flip else image
        return flipped if self.resize is None else resize_with_pad(flipped, self.resize)


def resize_with_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Scale a (H, W, 3) uint8 image into a square with sides of ``size`` pixels, as openpi's function of this name."""
    from PIL import Image

    height, width = image.shape[:2]
    if height == width == size:
        return image
    ratio = max(width, height) / size
    inner = Image.fromarray(image).resize((int(width / ratio), int(height / ratio)), resample=Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size))
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(square)


def _vector_name(term: str) -> str:
    return _AXIS_ANGLE.sub(r"\1", term)


def _state_values(term: str, state: Mapping[str, np.ndarray]) -> np.ndarray:
    return axis_angle(state[_vector_name(term)]) if _AXIS_ANGLE.fullmatch(term) else state[term]


class Remote:
    """A policy behind a server, with as many connections as there are concurrent requests."""

    def __init__(self, suite: Suite, parameters: RemoteParameters) -> None:
        """Connect to the server.

        Raises:
            UsageError: a parameter is missing or does not apply to this server, or it serves another suite.
            EnvironmentProblem: no server answers.
            PolicyProblem: the server does not use the protocol.
        """
        self._suite, self._parameters = suite, parameters
        self._url = parameters.display_url
        self._connections = ConnectionPool(
            parameters.url, parameters.connect_s, parameters.timeout_s, os.environ.get(API_KEY)
        )
        self._numbers, self._numbers_replies = itertools.count(1), False
        self._loop = asyncio.new_event_loop()  # in its own thread, so that pings are answered at any time
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._wait_for(self._connections.open(1))
            server = ServerMetadata.from_metadata(self._connections.metadata, self._url)
            self.spec = self._plain_spec() if server is None else self._evalkit_spec(server)
        except BaseException:
            self.close()
            raise

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return one (T, A) chunk per request, in the suite's dtype of actions; the requests are sent concurrently.

        Raises:
            EnvironmentProblem: the connection was lost and could not be reopened.
            PolicyProblem: the server failed, was too slow or was replaced by another, or its reply is not a chunk.
        """
        numbers = [next(self._numbers) for _ in requests]
        messages = [self._message(request) for request in requests]
        for number, message in zip(numbers, messages, strict=True):
            if protocol.EXTENSION_KEY in message:
                message[protocol.EXTENSION_KEY][protocol.NUMBER] = number
        replies = self._wait_for(self._connections.exchange([pack(message) for message in messages]))
        return [self._chunk(reply, number) for reply, number in zip(replies, numbers, strict=True)]

    def warnings(self) -> list[str]:
        """Return the connections' warnings since the last call."""
        warnings, self._connections.warnings = self._connections.warnings, []
        return warnings

    def close(self) -> None:
        """Close the connections and end their thread."""
        if self._loop.is_closed():
            return
        self._wait_for(self._connections.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _evalkit_spec(self, server: ServerMetadata) -> Spec:
        """Return the spec for an evalkit server."""
        size, parameters = self._suite.action.size, self._parameters
        if (server.suite, server.action_size) != (self._suite.name, size):
            raise UsageError(
                f"{self._url}: it serves a policy for {excerpt(server.suite, 60)} (actions of {server.action_size}), "
                f"and this run is of {self._suite.name} (actions of {size}): serve one for {self._suite.name}, or run "
                "the other suite"
            )
        if server.action_dtype != self._suite.action.dtype:
            raise UsageError(
                f"{self._url}: its actions are {server.action_dtype}, and those of {self._suite.name} here are "
                f"{self._suite.action.dtype}; use the same evalkit on both sides"
            )
        unused = sorted(_LAYOUT_FIELDS & parameters.model_fields_set)
        if unused:
            raise UsageError(
                f"{self._url}: it is an evalkit server, which describes its observations itself: remove {unused[0]}"
            )
        if parameters.chunk not in (None, server.chunk_size):
            raise UsageError(
                f"{self._url}: its chunks are {server.chunk_size} steps: remove chunk={parameters.chunk}, "
                "and use --horizon to execute fewer of them"
            )
        self._message, self._steps, self._numbers_replies = encode_request, server.chunk_size, server.numbers_replies
        identity = {
            "suite": server.suite,
            "metadata": jsonable(server.metadata),
            "checkpoint": jsonable(server.checkpoint),
        }
        metadata = {**self._metadata(server), "server": identity}
        return Spec(
            server.observation_spec, server.chunk_size, metadata, server.batch_invariant, server.supported_prefixes
        )

    def _plain_spec(self) -> Spec:
        """Return the spec for a server without the extension."""
        parameters, size = self._parameters, self._suite.action.size
        if parameters.columns not in (None, size):
            raise UsageError(f"{self._url}: columns={parameters.columns}: an action of {self._suite.name} has {size}")
        layout = Layout.from_parameters(self._suite, parameters)
        if parameters.chunk is None:
            raise UsageError(
                f"{self._url}: its metadata lacks the length of its action chunks: set the number of steps to use of "
                f"each, for example --checkpoint remote:url={self._url},chunk=10"
            )
        self._message, self._steps = lambda request: layout.message(request.observation), parameters.chunk
        metadata = {**self._metadata(None), "layout": asdict(layout), "metadata": jsonable(self._connections.metadata)}
        return Spec(layout.observation_spec, parameters.chunk, metadata, batch_invariant=False)

    def _metadata(self, server: ServerMetadata | None) -> dict[str, Any]:
        unsupported = [name for name in EXTENSIONS if not server or name not in server.extensions]
        return {"where": self._url, "extension": server is not None, "unsupported": unsupported}

    def _chunk(self, reply: str | bytes, number: int) -> np.ndarray:
        """Return the actions in the reply to a request, (T, A) in the suite's dtype.

        Raises:
            PolicyProblem: there are none.
        """
        if isinstance(reply, str):
            last = (reply[-10_000:].strip().splitlines() or ["it gives no reason"])[-1]
            raise PolicyProblem(f"{self._url}: the policy failed there: {excerpt(last)}")
        try:
            fields = unpack(reply)
        except ValueError as error:
            raise PolicyProblem(f"{self._url}: its reply is not openpi's msgpack: {excerpt(error)}") from error
        if self._numbers_replies and isinstance(fields, dict) and protocol.number_of(fields) != number:
            found = protocol.number_of(fields)
            raise PolicyProblem(f"{self._url}: it answered request {found} instead of {number}: restart the server")
        key = self._parameters.actions
        if not isinstance(fields, dict) or key not in fields:
            names = excerpt(", ".join(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__)
            raise PolicyProblem(
                f"{self._url}: its reply has no {key!r}, only: {names or 'nothing'}; set its key with actions=KEY"
            )
        actions, size = fields[key], self._suite.action.size
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind not in "fiu":
            kind = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
            raise PolicyProblem(
                f"{self._url}: its {key!r} are {excerpt(kind)}, not a chunk of {self._steps} actions of {size} numbers"
            )
        if not self.spec.metadata["extension"]:
            actions = actions[: self._steps, : self._parameters.columns]
        if actions.shape != (self._steps, size):
            raise PolicyProblem(
                f"{self._url}: its chunk is {fields[key].shape}, not ({self._steps}, {size}) as chunk and the actions "
                f"of {self._suite.name} require; if it has more columns, columns={size} uses the first"
            )
        chunk: np.ndarray = actions.astype(self._suite.action.dtype)
        return chunk

    def _wait_for(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # after an interrupt, nothing may reconnect in the background
