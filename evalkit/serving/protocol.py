"""The openpi protocol, which serves a policy over a WebSocket, and evalkit's extension of it.

Messages are msgpack maps, and arrays in them are raw bytes with a dtype and a shape (openpi's ``msgpack_numpy``). On
connection the server sends its metadata. The client then sends one observation at a time on each connection, and the
server replies with a map that has ``"actions"``, (T, A). A server that fails sends its traceback as a text frame and
closes the connection. ``GET /healthz`` returns 200. No message can run code: object arrays are refused both ways.

An evalkit server describes its policy in its metadata, under ``"evalkit"`` (:class:`ServerMetadata`). A client with the
extension sends four fields under ``"evalkit"`` with each observation: the episode, the step, the action prefix, and a
flag for the first request of an episode. The served policy then receives the same request as in the client's process,
seed included. A fifth field numbers the request, and the reply repeats the number, so that no reply is taken for that
to another request. Both ends also work with a peer that lacks the extension.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evalkit.documents import parse
from evalkit.episode import Episode
from evalkit.errors import PolicyProblem, UsageError, excerpt
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policy import MAX_CHUNK_SIZE, Request
from evalkit.serving.bounds import MAX_DIMENSIONS, check_bounds

EXTENSION_KEY = "evalkit"  # in the metadata and in observations
VERSION = 1
EXTENSIONS = ("seed", "reset", "prefix")  # parts of a request that a server without the extension ignores
NUMBER = "request"  # under the extension's key: a client's number of a request, which the reply repeats
IMAGE, STATE = "image/", "state/"  # an observation's keys begin with these
PROMPT, ORACLE_PLAN = "prompt", "oracle_plan"
RESET = "reset"  # a client without the extension may send it, True, to begin an episode
ACTIONS = "actions"

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_MAX_DTYPE = 16  # characters; numpy reads a longer text as a list of fields
_DTYPE_KINDS = "biufSU"  # the supported dtypes: those with the same size and meaning on every machine
_SCALAR_TYPES: Mapping[str, tuple[type, ...]] = {"b": (bool,), "f": (int, float), "S": (bytes,), "U": (str,)}


def pack(message: Any) -> bytes:
    """Return a message as bytes.

    Raises:
        TypeError: it holds an unsupported value (an object, a record, a complex number, a date).
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (OverflowError, ValueError) as error:
        raise TypeError(f"a message cannot be packed: {error}") from error
    return packed


def unpack(data: bytes) -> Any:
    """Return the message that :func:`pack` wrote, with read-only arrays.

    Raises:
        ValueError: the bytes are malformed, or exceed a bound (:mod:`evalkit.serving.bounds`).
    """
    try:
        check_bounds(data)
        return msgpack.unpackb(data, object_hook=_decode)
    except Exception as error:  # msgpack and numpy raise many kinds
        raise ValueError(str(error) or type(error).__name__) from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _check_dtype(value.dtype)
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _check_dtype(value.dtype)
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} is not supported")


def _decode(fields: dict[Any, Any]) -> Any:
    if _ARRAY not in fields and _SCALAR not in fields:
        return fields
    data, dtype, shape = fields.get(b"data"), fields.get(b"dtype"), fields.get(b"shape")
    if not isinstance(dtype, str) or len(dtype) > _MAX_DTYPE:
        raise ValueError("an array without a dtype")
    if isinstance(shape, list) and len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are accepted")
    parsed = np.dtype(dtype)
    _check_dtype(parsed)
    if _SCALAR in fields:
        if not isinstance(data, _SCALAR_TYPES.get(parsed.kind, (int,))):
            raise ValueError(f"{type(data).__name__} for a {parsed.name}")
        return parsed.type(data)
    if not isinstance(data, bytes) or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without data or a shape")
    if len(data) != math.prod(shape) * parsed.itemsize:
        raise ValueError(f"{len(data)} bytes are not a {parsed.name} array of shape {tuple(shape)}")
    return np.ndarray(shape, parsed, data)


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in _DTYPE_KINDS or dtype.itemsize == 0 or (dtype.kind == "f" and dtype.itemsize > 8):
        raise TypeError(f"arrays of {dtype} are not supported")


def jsonable(value: Any) -> Any:
    """Return a server's metadata as JSON values for the manifest.

    A long array becomes its dtype and shape. A text that is long or has control characters becomes its excerpt and its
    SHA-256, which still tells two of them apart.
    """
    if isinstance(value, Mapping):
        return {jsonable(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, str):
        shown = excerpt(value)
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
        return value if shown == value else f"{shown} (sha256 {digest[:16]})"
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist()) if value.size <= 64 else f"{value.dtype} {value.shape}"
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | None) else f"{type(value).__name__}"


class ServerMetadata(BaseModel):
    """The description of an evalkit server's policy, under ``"evalkit"`` in the server's metadata.

    Attributes:
        version: version of the extension.
        suite: the suite whose observations the policy takes and whose actions it returns.
        action_size: A, the length of one action.
        action_dtype: the suite's dtype of actions, which prefixes and plans in requests have.
        observation_spec: the cameras and state vectors that the policy reads.
        chunk_size: T, the length of its action chunks.
        batch_invariant: True if a reply is bit-identical whatever other requests the server has at the time.
        supported_prefixes: kinds of prefix that the policy continues.
        metadata: values that identify its weights and code.
        checkpoint: the checkpoint and its parameters.
        extensions: parts of a request that the server supports besides the observation.
        keys: the keys of an observation message, with their meanings.
        numbers_replies: True if a reply repeats the number of its request.
    """

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    suite: str
    action_size: int = Field(gt=0)
    action_dtype: Literal["float32", "float64"] = "float32"
    observation_spec: ObservationSpec
    chunk_size: int = Field(gt=0, le=MAX_CHUNK_SIZE)
    batch_invariant: bool = False
    supported_prefixes: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    checkpoint: dict[str, Any] = {}
    extensions: list[str] = list(EXTENSIONS)
    keys: dict[str, str] = {}
    numbers_replies: bool = False

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> ServerMetadata | None:
        """Return the extension's part of a server's metadata, or None if there is none.

        Raises:
            PolicyProblem: it is malformed or has another version.
        """
        if EXTENSION_KEY not in metadata:
            return None
        try:
            found = parse(cls, metadata[EXTENSION_KEY], f"{where}: metadata: {EXTENSION_KEY}")
        except UsageError as error:
            raise PolicyProblem(excerpt(error)) from error
        if found.version != VERSION:
            raise PolicyProblem(
                f"{where}: it has version {found.version} of evalkit's extension and this evalkit has {VERSION}; "
                "use the same evalkit on both sides"
            )
        return found


def observation_keys(observation_spec: ObservationSpec) -> dict[str, str]:
    """Return the keys of an observation message for a policy, with their meanings."""
    keys = {PROMPT: "the instruction"}
    keys |= {
        IMAGE + camera: "uint8 (H, W, 3) RGB, as the suite's simulator renders it"
        for camera in observation_spec.cameras
    }
    keys |= {STATE + name: "(N,) float, as the suite defines it" for name in observation_spec.state}
    return (
        {**keys, ORACLE_PLAN: "(T, A) float, the plan of the suite's oracle"} if observation_spec.oracle_steps else keys
    )


def encode_request(request: Request) -> dict[str, Any]:
    """Return a request as an observation message with the extension."""
    observation = request.observation
    return {
        PROMPT: observation.instruction,
        **{IMAGE + camera: image for camera, image in observation.images.items()},
        **{STATE + name: vector for name, vector in observation.state.items()},
        **({} if observation.oracle_plan is None else {ORACLE_PLAN: observation.oracle_plan}),
        EXTENSION_KEY: {
            "episode": request.episode.to_dict(),
            "step": request.step,
            "prefix": asdict(request.prefix) if request.prefix else None,
            "reset": request.step == 0,  # every execution starts an inference before an episode's first step
        },
    }


def decode_request(
    message: Mapping[str, Any], observation_spec: ObservationSpec, action_dtype: str = "float32"
) -> Request:
    """Return the request that :func:`encode_request` wrote. Raises ValueError that names a missing or invalid field."""
    context = message[EXTENSION_KEY]
    if not isinstance(context, dict) or not isinstance(context.get("episode"), dict):
        raise ValueError(f"{EXTENSION_KEY!r} must be a map with the episode, the step and the prefix")
    step, prefix = context.get("step"), context.get("prefix")
    try:
        episode = Episode.from_dict(context["episode"])
    except TypeError as error:
        raise ValueError(f"{EXTENSION_KEY}.episode: {error}") from error
    names, numbers = (episode.suite, *episode.task_key), (episode.scene, episode.seed, episode.repeat)
    if not all(isinstance(name, str) for name in names) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{EXTENSION_KEY}.episode: names must be text and numbers integers")
    if type(step) is not int or step < 0:
        raise ValueError(f"{EXTENSION_KEY}.step must be 0 or more, not {step!r}")
    observation = decode_observation(message, observation_spec, action_dtype)
    return Request(episode, step, observation, None if prefix is None else _decode_prefix(prefix, action_dtype))


def number_of(message: Mapping[str, Any]) -> int | None:
    """Return the number of a request or of the request that a reply answers, or None if it has none."""
    context = message.get(EXTENSION_KEY)
    number = context.get(NUMBER) if isinstance(context, dict) else None
    return number if type(number) is int else None


def _decode_prefix(fields: Any, dtype: str) -> Prefix:
    """Return the prefix in a message. Raises ValueError if it is malformed."""
    form = f"{EXTENSION_KEY}.prefix must be null, or a map with actions (K, A) {dtype}, committed (0 to K) and kind"
    if not isinstance(fields, dict) or set(fields) != {"actions", "committed", "kind"}:
        raise ValueError(form)
    actions, committed, kind = fields["actions"], fields["committed"], fields["kind"]
    if not (isinstance(actions, np.ndarray) and actions.ndim == 2 and actions.dtype == dtype):
        raise ValueError(form)
    if kind not in ("prefix", "rtc") or type(committed) is not int or not 0 <= committed <= len(actions):
        raise ValueError(form)
    return Prefix(actions, committed, kind)


def decode_observation(
    message: Mapping[str, Any], observation_spec: ObservationSpec, action_dtype: str = "float32"
) -> Observation:
    """Return the observation in a message. Raises ValueError that names a missing or invalid key."""
    keys = observation_keys(observation_spec)
    for key in keys:
        if key not in message:
            expected = "; ".join(f"{name}: {meaning}" for name, meaning in keys.items())
            raise ValueError(f"the observation has no {key!r}; this policy takes {expected}")
    if not isinstance(message[PROMPT], str):
        raise ValueError(f"{PROMPT!r} must be text, not {type(message[PROMPT]).__name__}")
    return Observation(
        str(message[PROMPT]),
        {camera: _image(message[IMAGE + camera], IMAGE + camera) for camera in observation_spec.cameras},
        {name: _numbers(message[STATE + name], STATE + name, 1).astype(np.float64) for name in observation_spec.state},
        _numbers(message[ORACLE_PLAN], ORACLE_PLAN, 2).astype(action_dtype) if observation_spec.oracle_steps else None,
    )


def _image(value: Any, key: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ValueError(f"{key!r} must be uint8 (H, W, 3), not {_describe(value)}")
    return value


def _numbers(value: Any, key: str, dimensions: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != dimensions or value.dtype.kind not in "fiu":
        raise ValueError(f"{key!r} must be {dimensions}-dimensional numbers, not {_describe(value)}")
    return value


def _describe(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
