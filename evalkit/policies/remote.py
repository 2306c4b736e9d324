"""A policy in another process or on another machine, asked over the openpi protocol (:mod:`evalkit.serving.protocol`).

An evalkit server (``evalkit serve``) says what it needs and takes the whole request: a run through it is the run that
its policy would have in this process, bit for bit. Any other openpi server takes an observation in a layout of its own,
which the parameters describe, and no seed: what it samples is not evalkit's to repeat.
"""

from __future__ import annotations

import asyncio
import importlib.util
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
from evalkit.errors import EnvironmentProblem, PolicyProblem, UsageError
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.rotations import axis_angle
from evalkit.policy import Request, Spec
from evalkit.serving.client import ConnectionPool
from evalkit.serving.protocol import ACTIONS, EXTENSIONS, PROMPT, ServerMetadata, jsonable, message_of, pack, unpack
from evalkit.suite import Suite

API_KEY = "EVALKIT_REMOTE_API_KEY"
_AXIS_ANGLE = re.compile(r"^axis_angle\((.+)\)$")
_Result = TypeVar("_Result")


class RemoteParameters(Section):
    """Where the server is, and for one that is not evalkit's, what it takes and returns."""

    # Not dumped, so not in the manifest's parameters: the address stands among the facts, without what may be secret in
    # it, and patience changes no outcome.
    url: str = Field(exclude=True, description="ws://HOST:PORT, wss://HOST or HOST:PORT")
    connect_s: float = Field(30, gt=0, exclude=True, description="how long to wait for the server to appear or return")
    timeout_s: float = Field(120, gt=0, exclude=True, description="how long to wait for one reply, queueing included")
    images: dict[str, str] | None = Field(None, description="key of the message → camera of the suite")
    state: dict[str, Annotated[list[str], Field(min_length=1)]] | None = Field(
        None, description="key → state vectors of the suite, one after the other; axis_angle(NAME) turns one"
    )
    prompt: str = Field(PROMPT, description="key of the instruction")
    flip: bool | None = Field(None, description="turn the images by both axes; no where absent")
    resize: int | None = Field(None, gt=0, description="scale the images into a square of so many pixels, zeros around")
    actions: str = Field(ACTIONS, description="key of the actions in the reply")
    chunk: int | None = Field(None, ge=1, description="T, how many steps to use of each reply")
    columns: int | None = Field(None, ge=1, description="A, where the server returns more columns: the first are used")

    @model_validator(mode="before")
    @classmethod
    def _no_key(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "api_key" in fields:
            raise ValueError(f"api_key is not a parameter, which the manifest would show; set {API_KEY} instead")
        return fields

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        return self.url.partition("?")[0]

    @field_validator("url")
    @classmethod
    def _whole(cls, url: str) -> str:
        whole = url if "://" in url else f"ws://{url}"
        try:
            parts = urlsplit(whole)
            known = parts.scheme in ("ws", "wss") and parts.hostname and not parts.fragment
            complete = parts.port is not None or "://" in url
        except ValueError:
            known = complete = False
        if not known or not complete or re.search(r"\s", whole):
            raise ValueError("it must be ws://HOST:PORT, wss://HOST:PORT or HOST:PORT")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"it must not hold a password, which the manifest would show; set {API_KEY} instead")
        return whole


_LAYOUT = {"images", "state", "prompt", "flip", "resize", "actions", "columns"}  # what an evalkit server needs not


@dataclass(frozen=True)
class Layout:
    """What a server without the extension takes. The fields are those of :class:`RemoteParameters`."""

    images: Mapping[str, str]
    state: Mapping[str, Sequence[str]]
    prompt: str
    flip: bool
    resize: int | None

    @classmethod
    def of(cls, suite: Suite, given: RemoteParameters) -> Layout:
        """The layout that the parameters say. Raises UsageError where they say none."""
        if given.images is None and given.state is None:
            images = {"observation/image": next(iter(suite.cameras))} if suite.cameras else {}
            example = f"{{images: {images}, state: {{observation/state: [{', '.join(suite.state)}]}}, chunk: 10}}"
            raise UsageError(
                f"{given.shown}: it is not an evalkit server: say what it takes by the parameters images and state of "
                f"a checkpoint in a file for --checkpoint-file, for example {example}".replace("'", "")
            )
        layout = cls(given.images or {}, given.state or {}, given.prompt, bool(given.flip), given.resize)
        if layout.resize and importlib.util.find_spec("PIL") is None:
            raise EnvironmentProblem(f"{given.shown}: resizing images for it needs Pillow: pip install pillow")
        for term in (term for terms in layout.state.values() for term in terms):
            vector = suite.state.get(_name_of(term))
            if _AXIS_ANGLE.fullmatch(term) and vector and vector.size != 4:
                raise UsageError(
                    f"{given.shown}: {term} needs a quaternion x, y, z, w, and that has {vector.size} numbers"
                )
        return layout

    @property
    def observation_spec(self) -> ObservationSpec:
        """What has to be looked at for a message."""
        state = (_name_of(term) for terms in self.state.values() for term in terms)
        return ObservationSpec(tuple(dict.fromkeys(self.images.values())), tuple(dict.fromkeys(state)))

    def message(self, seen: Observation) -> dict[str, Any]:
        """The observation as the server takes it."""
        images = {key: self._image(seen.images[camera]) for key, camera in self.images.items()}
        state = {key: np.concatenate([_term(term, seen.state) for term in terms]) for key, terms in self.state.items()}
        return {**images, **state, self.prompt: seen.instruction}

    def _image(self, image: np.ndarray) -> np.ndarray:
        turned = np.ascontiguousarray(image[::-1, ::-1]) if self.flip else image
        return turned if self.resize is None else resized(turned, self.resize)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The (H, W, 3) uint8 image scaled into a square of ``size`` pixels, zeros around: openpi's resize_with_pad."""
    from PIL import Image

    height, width = image.shape[:2]
    if height == width == size:
        return image
    ratio = max(width, height) / size
    inner = Image.fromarray(image).resize((int(width / ratio), int(height / ratio)), resample=Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size))
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(square)


def _name_of(term: str) -> str:
    return _AXIS_ANGLE.sub(r"\1", term)


def _term(term: str, state: Mapping[str, np.ndarray]) -> np.ndarray:
    return axis_angle(state[_name_of(term)]) if _AXIS_ANGLE.fullmatch(term) else state[term]


class Remote:
    """The client. It connects when it is built, and asks over as many connections as there are requests at once."""

    def __init__(self, suite: Suite, parameters: RemoteParameters) -> None:
        """Connects.

        Raises:
            UsageError: a parameter is missing or of no use to this server, or it serves another suite.
            EnvironmentProblem: no server answers.
            PolicyProblem: what answers does not speak the protocol.
        """
        self._suite, self._parameters = suite, parameters
        self._url = parameters.shown
        self._link = ConnectionPool(parameters.url, parameters.connect_s, parameters.timeout_s, os.environ.get(API_KEY))
        self._loop = asyncio.new_event_loop()  # in its own thread: a server that pings is answered at any time
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._call(self._link.open(1))
            offer = ServerMetadata.found_in(self._link.metadata, self._url)
            self.spec = self._plain() if offer is None else self._negotiated(offer)
        except BaseException:
            self.close()
            raise

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """One (T, A) float32 chunk per request: all are sent, then all are collected.

        Raises:
            EnvironmentProblem: the server went away and did not come back.
            PolicyProblem: it failed, took too long, came back as another one, or its reply is not a chunk.
        """
        messages = [pack(self._message(request)) for request in requests]
        return [self._chunk(reply) for reply in self._call(self._link.exchange(messages))]

    def warnings(self) -> list[str]:
        """What happened to the connections since the last call."""
        said, self._link.warnings = self._link.warnings, []
        return said

    def close(self) -> None:
        """Disconnects."""
        if self._loop.is_closed():
            return
        self._call(self._link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _negotiated(self, offer: ServerMetadata) -> Spec:
        """The spec for an evalkit server."""
        size, given = self._suite.action.size, self._parameters
        if (offer.suite, offer.action_size) != (self._suite.name, size):
            raise UsageError(
                f"{self._url}: it serves a policy for {offer.suite} (actions of {offer.action_size}), and this run is "
                f"of {self._suite.name} (actions of {size}): serve one for {self._suite.name}, or run {offer.suite}"
            )
        idle = sorted(_LAYOUT & given.model_fields_set)
        if idle:
            raise UsageError(
                f"{self._url}: it is an evalkit server, which says itself what it takes: leave out {idle[0]}"
            )
        if given.chunk not in (None, offer.chunk_size):
            raise UsageError(
                f"{self._url}: its chunks are {offer.chunk_size} steps: leave out chunk={given.chunk}, "
                "and say --horizon to execute fewer of them"
            )
        self._message, self._steps = message_of, offer.chunk_size
        server = {"suite": offer.suite, "metadata": jsonable(offer.metadata), "checkpoint": jsonable(offer.checkpoint)}
        metadata = {**self._metadata(offer), "server": server}
        return Spec(offer.observation_spec, offer.chunk_size, metadata, offer.batch_invariant, offer.supported_prefixes)

    def _plain(self) -> Spec:
        """The spec for any other server."""
        given, size = self._parameters, self._suite.action.size
        if given.columns not in (None, size):
            raise UsageError(f"{self._url}: columns={given.columns}: an action of {self._suite.name} has {size}")
        layout = Layout.of(self._suite, given)
        if given.chunk is None:
            raise UsageError(
                f"{self._url}: it does not say how long its action chunks are: say how many steps to use of each, "
                f"for example --checkpoint remote:url={self._url},chunk=10"
            )
        self._message, self._steps = lambda request: layout.message(request.observation), given.chunk
        metadata = {**self._metadata(None), "layout": asdict(layout), "metadata": jsonable(self._link.metadata)}
        return Spec(
            layout.observation_spec, given.chunk, metadata, batch_invariant=False
        )  # nor does it promise anything else

    def _metadata(self, offer: ServerMetadata | None) -> dict[str, Any]:
        lost = [name for name in EXTENSIONS if not offer or name not in offer.extensions]
        return {"where": self._url, "extension": offer is not None, "lost": lost}

    def _chunk(self, reply: str | bytes) -> np.ndarray:
        """The actions in a reply, (T, A) float32. Raises PolicyProblem where there are none."""
        if isinstance(reply, str):
            last = (reply.strip().splitlines() or ["it does not say why"])[-1]
            raise PolicyProblem(f"{self._url}: the policy failed there: {last}")
        try:
            fields = unpack(reply)
        except ValueError as error:
            raise PolicyProblem(f"{self._url}: its reply is not openpi's msgpack: {error}") from error
        key = self._parameters.actions
        if not isinstance(fields, dict) or key not in fields:
            got = ", ".join(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
            raise PolicyProblem(
                f"{self._url}: its reply has no {key!r}, only: {got or 'nothing'}; name it by actions=KEY"
            )
        actions, size = fields[key], self._suite.action.size
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind not in "fiu":
            got = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
            raise PolicyProblem(
                f"{self._url}: its {key!r} are {got}, not a chunk of {self._steps} actions of {size} numbers"
            )
        if not self.spec.metadata["extension"]:
            actions = actions[: self._steps, : self._parameters.columns]
        if actions.shape != (self._steps, size):
            raise PolicyProblem(
                f"{self._url}: its chunk is {fields[key].shape}, not ({self._steps}, {size}) as chunk and the actions "
                f"of {self._suite.name} have it; of more columns, columns={size} uses the first"
            )
        chunk: np.ndarray = actions.astype(np.float32)
        return chunk

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # an interrupt leaves nothing behind that would connect again
