"""The openpi protocol, by which policies are served over a WebSocket, and evalkit's extension of it.

Messages are msgpack maps, and arrays in them are raw bytes with a dtype and a shape (openpi's ``msgpack_numpy``). On
connecting, the server sends its metadata. Then the client sends an observation, and the server answers with a map that
has ``"actions"``, (T, A); one at a time on each connection. Where the server fails it sends its traceback as a text
frame and closes. ``GET /healthz`` answers 200. Nothing on the wire can run code: object arrays are refused both ways.

An evalkit server says in its metadata, under ``"evalkit"``, what it serves (:class:`Offer`). A client that understands
this sends with each observation, under ``"evalkit"`` as well, the episode, the step, the committed prefix, and whether
an episode begins here: then the served policy is asked what it would be asked in the client's process, seeds included.
A client that does not is served all the same, and so is an evalkit client by a server without the extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evalkit.documents import parse
from evalkit.episode import Episode
from evalkit.errors import PolicyProblem, UsageError
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policy import Request

MOST_BYTES = 1 << 30  # of one message; openpi itself sets no bound
EXTENSION = "evalkit"  # the key of the extension, in the metadata and in observations
VERSION = 1
EXTENSIONS = ("seed", "reset", "prefix")  # what a server without the extension does not take
IMAGE, STATE, PROMPT, ORACLE_PLAN = (
    "image/",
    "state/",
    "prompt",
    "oracle_plan",
)  # keys and prefixes of keys of an observation
RESET = "reset"  # a client without the extension may send it, True, to begin an episode
ACTIONS = "actions"

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_KINDS = "biufSU"  # dtypes that are carried: of a fixed size and meaning everywhere
_VALUES: Mapping[str, tuple[type, ...]] = {"b": (bool,), "f": (int, float), "S": (bytes,), "U": (str,)}


def pack(message: Any) -> bytes:
    """A message as bytes.

    Raises:
        TypeError: it holds something that the protocol does not carry (objects, records, complex numbers, dates).
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (OverflowError, ValueError) as error:
        raise TypeError(f"a message cannot be packed: {error}") from error
    return packed


def unpack(data: bytes) -> Any:
    """The inverse of :func:`pack`; arrays come back read-only. Raises ValueError for anything malformed."""
    try:
        return msgpack.unpackb(data, object_hook=_decode)
    except Exception as error:  # of msgpack's and numpy's many kinds
        raise ValueError(str(error) or type(error).__name__) from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _check_carried(value.dtype)
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _check_carried(value.dtype)
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} is not carried")


def _decode(fields: dict[Any, Any]) -> Any:
    if _ARRAY not in fields and _SCALAR not in fields:
        return fields
    data, dtype, shape = fields.get(b"data"), fields.get(b"dtype"), fields.get(b"shape")
    if not isinstance(dtype, str):
        raise ValueError("an array without a dtype")
    kind = np.dtype(dtype)
    _check_carried(kind)
    if _SCALAR in fields:
        if not isinstance(data, _VALUES.get(kind.kind, (int,))):
            raise ValueError(f"{type(data).__name__} for a {kind.name}")
        return kind.type(data)
    if not isinstance(data, bytes) or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without data or a shape")
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes are not a {kind.name} array of shape {tuple(shape)}")
    return np.ndarray(shape, kind, data)


def _check_carried(dtype: np.dtype) -> None:
    if dtype.kind not in _KINDS or dtype.itemsize == 0 or (dtype.kind == "f" and dtype.itemsize > 8):
        raise TypeError(f"arrays of {dtype} are not carried")


def jsonable(value: Any) -> Any:
    """What of a server's metadata can stand in a manifest: JSON values; a long array is its dtype and shape."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist()) if value.size <= 64 else f"{value.dtype} {value.shape}"
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else f"{type(value).__name__}"


class ServerMetadata(BaseModel):
    """What an evalkit server serves, as its metadata say it under ``"evalkit"``.

    Attributes:
        version: of the extension.
        suite: the suite whose observations the policy takes and whose actions it returns.
        action_size: A, the length of one action.
        needs: what the policy looks at.
        chunk_size: T, the length of its action chunks.
        batch_invariant: whether a reply is the same bits whatever other requests the server has at that moment.
        continues: kinds of prefix that the policy takes into account.
        facts: what identifies its weights and code.
        checkpoint: which checkpoint it is, and its parameters.
        extensions: what of a request the server takes besides the observation.
        keys: what an observation holds: key → what it is.
    """

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    suite: str
    action_size: int = Field(gt=0)
    observation_spec: ObservationSpec
    chunk_size: int = Field(gt=0)
    batch_invariant: bool = False
    supported_prefixes: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    checkpoint: dict[str, Any] = {}
    extensions: list[str] = list(EXTENSIONS)
    keys: dict[str, str] = {}

    @classmethod
    def found_in(cls, metadata: Mapping[str, Any], where: str) -> ServerMetadata | None:
        """A server's offer; None where it does not speak the extension. Raises PolicyProblem for one that is broken."""
        if EXTENSION not in metadata:
            return None
        try:
            offer = parse(cls, metadata[EXTENSION], f"{where}: metadata: {EXTENSION}")
        except UsageError as error:
            raise PolicyProblem(str(error)) from error
        if offer.version != VERSION:
            raise PolicyProblem(
                f"{where}: it speaks version {offer.version} of evalkit's extension and this evalkit speaks {VERSION}; "
                "use the same evalkit on both sides"
            )
        return offer


def keys_of(observation_spec: ObservationSpec) -> dict[str, str]:
    """What an observation message must hold for a policy: key → what it is."""
    keys = {PROMPT: "the task in words"}
    keys |= {
        IMAGE + camera: "uint8 (H, W, 3) RGB, as the suite's simulator gives it" for camera in observation_spec.cameras
    }
    keys |= {STATE + name: "(N,) float, as the suite gives it" for name in observation_spec.state}
    return (
        {**keys, ORACLE_PLAN: "(T, A) float, what the suite's expert plans"} if observation_spec.oracle_steps else keys
    )


def message_of(request: Request) -> dict[str, Any]:
    """A request as an observation message with the extension."""
    seen = request.observation
    return {
        PROMPT: seen.instruction,
        **{IMAGE + camera: image for camera, image in seen.images.items()},
        **{STATE + name: vector for name, vector in seen.state.items()},
        **({} if seen.oracle_plan is None else {ORACLE_PLAN: seen.oracle_plan}),
        EXTENSION: {
            "episode": request.episode.to_dict(),
            "step": request.step,
            "prefix": asdict(request.prefix) if request.prefix else None,
            "reset": request.step == 0,  # every execution asks before an episode's first step
        },
    }


def request_of(message: Mapping[str, Any], observation_spec: ObservationSpec) -> Request:
    """The inverse of :func:`message_of`. Raises ValueError that says what is missing or is not what it must be."""
    context = message[EXTENSION]
    if not isinstance(context, dict) or not isinstance(context.get("episode"), dict):
        raise ValueError(f"{EXTENSION!r} must be a map with the episode, the step and the prefix")
    step, prefix = context.get("step"), context.get("prefix")
    try:
        episode = Episode.from_dict(context["episode"])
    except TypeError as error:
        raise ValueError(f"{EXTENSION}.episode: {error}") from error
    names, numbers = (episode.suite, *episode.task_key), (episode.scene, episode.seed, episode.repeat)
    if not all(isinstance(name, str) for name in names) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{EXTENSION}.episode: names must be text and numbers integers")
    if type(step) is not int or step < 0:
        raise ValueError(f"{EXTENSION}.step must be 0 or more, not {step!r}")
    return Request(
        episode, step, observation_of(message, observation_spec), None if prefix is None else _prefix_of(prefix)
    )


def _prefix_of(fields: Any) -> Prefix:
    """Raises ValueError that says what is wrong with it."""
    form = f"{EXTENSION}.prefix must be nothing, or a map with actions (K, A) float32, committed (0 to K) and kind"
    if not isinstance(fields, dict) or set(fields) != {"actions", "committed", "kind"}:
        raise ValueError(form)
    actions, committed, kind = fields["actions"], fields["committed"], fields["kind"]
    if not (isinstance(actions, np.ndarray) and actions.ndim == 2 and actions.dtype == np.float32):
        raise ValueError(form)
    if kind not in ("prefix", "rtc") or type(committed) is not int or not 0 <= committed <= len(actions):
        raise ValueError(form)
    return Prefix(actions, committed, kind)


def observation_of(message: Mapping[str, Any], observation_spec: ObservationSpec) -> Observation:
    """What a policy sees in a message. Raises ValueError that says what is missing or is not what it must be."""
    keys = keys_of(observation_spec)
    for key in keys:
        if key not in message:
            takes = "; ".join(f"{name}: {what}" for name, what in keys.items())
            raise ValueError(f"the observation has no {key!r}; this policy takes {takes}")
    if not isinstance(message[PROMPT], str):
        raise ValueError(f"{PROMPT!r} must be text, not {type(message[PROMPT]).__name__}")
    return Observation(
        str(message[PROMPT]),
        {camera: _image(message[IMAGE + camera], IMAGE + camera) for camera in observation_spec.cameras},
        {name: _numbers(message[STATE + name], STATE + name, 1).astype(np.float64) for name in observation_spec.state},
        _numbers(message[ORACLE_PLAN], ORACLE_PLAN, 2).astype(np.float32) if observation_spec.oracle_steps else None,
    )


def _image(value: Any, key: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ValueError(f"{key!r} must be uint8 (H, W, 3), not {_kind(value)}")
    return value


def _numbers(value: Any, key: str, dimensions: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != dimensions or value.dtype.kind not in "fiu":
        raise ValueError(f"{key!r} must be {dimensions}-dimensional numbers, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
