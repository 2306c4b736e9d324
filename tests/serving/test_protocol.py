"""The openpi protocol's bytes, and evalkit's extension as messages."""

from __future__ import annotations

import contextlib
import pickle
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evalkit.episode import Episode
from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policy import Request
from evalkit.serving.bounds import MAX_MESSAGE_BYTES, MAX_VALUES, check_bounds
from evalkit.serving.protocol import (
    ServerMetadata,
    decode_request,
    encode_request,
    jsonable,
    observation_keys,
    pack,
    unpack,
)

DTYPES = ["?", "u1", "i1", "<u2", ">i4", "<i8", "<u8", "<f2", ">f4", "<f8", "S3", "<U2"]
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_plain_values_survive(message: dict[str, Any]) -> None:
    assert unpack(pack(message)) == message


@given(arrays)
def test_arrays_survive_bit_for_bit(array: np.ndarray) -> None:
    assert equal(unpack(pack({"a": [array]}))["a"][0], array)
    assert equal(unpack(pack(array.T)), array.T)
    if array.ndim:
        assert equal(unpack(pack(array[::-1])), array[::-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_scalars_survive(dtype: str) -> None:
    scalar = np.ones(1, dtype)[0]
    back = unpack(pack({"a": scalar}))["a"]
    assert back == scalar
    assert type(back) is (type(scalar.item()) if isinstance(scalar, float | bytes | str) else type(scalar))


def test_the_bytes_are_openpis() -> None:
    """Compare with ``openpi_client.msgpack_numpy``: bytes as keys, the dtype as text, the shape as a list."""
    array, scalar = np.arange(6, dtype="<f4").reshape(2, 3), np.float32(1.5)
    theirs = {
        "a": {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": (2, 3)},
        "b": {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"},
    }
    assert pack({"a": array, "b": scalar}) == msgpack.packb(theirs)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, [("x", "f4")]),
        np.zeros(2, "V4"),
        np.zeros(2, "c8"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, np.longdouble),
        np.datetime64(1, "s"),
        np.complex64(1),
        object(),
        {1, 2},
        2**70,
    ],
)
def test_what_the_protocol_does_not_carry_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        pack({"a": value})


def raw(data: Any = bytes(4), dtype: Any = "<f4", shape: Any = (1,), kind: bytes = b"__ndarray__") -> bytes:
    packed: bytes = msgpack.packb({kind: True, b"data": data, b"dtype": dtype, b"shape": shape})
    return packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        pack({"a": 1}) + b"x",
        b"\x91" * 100_000,
        msgpack.packb({1: 2}),
        raw(pickle.dumps(print), "|O"),
        raw(dtype="<f4,<f4"),
        raw(dtype="|V4"),
        raw(dtype="<c8"),
        raw(b"", "<U0", (2**60,)),
        raw(dtype="rubbish"),
        raw(dtype=None),
        raw(dtype=["<f4"]),
        raw(shape=(2,)),
        raw(shape=(-1,)),
        raw(shape=(True,)),
        raw(shape=4),
        raw(shape=(2**40, 2**40)),
        raw(shape=(1,) * 100),
        raw(data="text"),
        raw("1.5", "<f4", kind=b"__npgeneric__"),
        raw(300, "|i1", kind=b"__npgeneric__"),
        raw(1, "|O", kind=b"__npgeneric__"),
        msgpack.packb({b"__ndarray__": True}),
    ],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)


@given(st.binary(max_size=60))
def test_the_bounds_refuse_nothing_that_msgpack_reads(data: bytes) -> None:
    try:
        msgpack.unpackb(data, strict_map_key=False)
    except Exception:
        return
    check_bounds(data)


def test_every_format_of_msgpack_is_known_to_the_bounds() -> None:
    sizes = (0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536)
    numbers = [sign * 2**power + more for power in range(63) for more in (-1, 0) for sign in (1, -1)]
    values: list[Any] = [None, True, False, 1.5, *numbers, *("x" * n for n in sizes), *(bytes(n) for n in sizes)]
    values += [msgpack.ExtType(4, bytes(n)) for n in (*sizes, 2, 4, 8)]
    values += [[None] * n for n in sizes] + [{str(k): None for k in range(n)} for n in (0, 1, 15, 16, 40_000)]
    for value in values:
        for data in (msgpack.packb(value), msgpack.packb(value, use_single_float=True)):
            check_bounds(data)
            for cut in {0, len(data) - 1}:
                if isinstance(value, list | dict) or not cut:
                    with pytest.raises(ValueError, match="truncated"):
                        check_bounds(data[:cut])


@pytest.mark.parametrize(
    ("accepted", "refused", "message"),
    [
        (b"\x91" * 32 + b"\xc0", b"\x91" * 33 + b"\xc0", "more than 32 maps and lists within each other"),
        (
            b"\xdd" + (MAX_VALUES - 1).to_bytes(4, "big") + b"\x80" * (MAX_VALUES - 1),
            b"\xdd" + MAX_VALUES.to_bytes(4, "big") + b"\x80" * MAX_VALUES,
            "more than 100000 values",
        ),
        (raw(shape=(1,) * 32), raw(shape=(1,) * 33), "33 dimensions; at most 32"),
        (raw(), b"\xc6" + (MAX_MESSAGE_BYTES - 4).to_bytes(4, "big") + bytes(MAX_MESSAGE_BYTES - 4), "a message of "),
    ],
    ids=["depth", "values", "dimensions", "bytes"],
)
def test_a_bound_is_accepted_and_one_more_is_not(accepted: bytes, refused: bytes, message: str) -> None:
    unpack(accepted)
    with pytest.raises(ValueError, match=message):
        unpack(refused)


@pytest.mark.parametrize(
    "data",
    [
        raw(shape=(2**31,) * 20_000),
        b"\xdd" + (10_000_000).to_bytes(4, "big") + b"\x80" * 10_000_000,
        (b"\xdd" + MAX_VALUES.to_bytes(4, "big")) * 1000,
        raw(dtype=",".join(["f4"] * 100_000)),
    ],
    ids=["dimensions", "maps", "announced", "dtype"],
)
def test_a_hostile_message_takes_neither_time_nor_memory(data: bytes) -> None:
    began = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        unpack(data)


# The extension.

NEEDS = ObservationSpec(("above",), ("position",), oracle_steps=3)
OBSERVATION = Observation(
    "go left",
    {"above": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[::-1, ::-1]},
    {"position": np.array([0.1, -2.0])},
    np.ones((3, 2), np.float32),
)
LEFT = Prefix(np.zeros((4, 2), np.float32), 3, "rtc")
REQUEST = Request(
    Episode("s", "near", "left", 2, 3, 1), 20, OBSERVATION, Prefix(np.zeros((4, 2), np.float32), 3, "rtc")
)


def test_a_request_survives_whole() -> None:
    back = decode_request(unpack(pack(encode_request(REQUEST))), NEEDS)
    assert (back.episode, back.step, back.seed) == (REQUEST.episode, REQUEST.step, REQUEST.seed)
    assert back.prefix is not None and (back.prefix.actions == 0).all() and back.prefix.actions.shape == (4, 2)
    assert (back.prefix.committed, back.prefix.kind) == (3, "rtc") and back.prefix.actions.dtype == np.float32
    seen, sent = back.observation, REQUEST.observation
    assert seen.instruction == sent.instruction and seen.oracle_plan is not None and sent.oracle_plan is not None
    assert equal(seen.images["above"], sent.images["above"]) and equal(seen.oracle_plan, sent.oracle_plan)
    assert equal(seen.state["position"], sent.state["position"])


def test_prefix_and_plan_of_a_float64_suite_keep_their_bits_and_another_dtype_is_refused() -> None:
    third = np.full((4, 2), 1 / 3)
    sent = replace(REQUEST, observation=replace(OBSERVATION, oracle_plan=third), prefix=Prefix(third, 1, "prefix"))
    message = unpack(pack(encode_request(sent)))
    back = decode_request(message, NEEDS, "float64")
    assert back.prefix is not None and equal(back.prefix.actions, third)
    assert back.observation.oracle_plan is not None and equal(back.observation.oracle_plan, third)
    with pytest.raises(ValueError, match=r"prefix must be null, or a map with actions \(K, A\) float32"):
        decode_request(message, NEEDS)


def test_the_first_decode_request_an_episode_says_so() -> None:
    first = Request(REQUEST.episode, 0, OBSERVATION)
    assert encode_request(first)["evalkit"]["reset"] is True and encode_request(first)["evalkit"]["prefix"] is None
    assert encode_request(REQUEST)["evalkit"]["reset"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image/above": None}, "'image/above' must be uint8"),
        ({"image/above": np.zeros((2, 2, 3), np.float32)}, r"not float32 \(2, 2, 3\)"),
        ({"image/above": np.zeros((3, 2, 2), np.uint8)}, "must be uint8"),
        ({"state/position": np.zeros((1, 2))}, "must be 1-dimensional"),
        ({"state/position": [0.0, 1.0]}, "not list"),
        ({"oracle_plan": np.zeros(2)}, "must be 2-dimensional"),
        ({"prompt": 3}, "'prompt' must be text"),
        ({"evalkit": 3}, "must be a map"),
        ({"evalkit": {"episode": {"suite": "s"}, "step": 0}}, r"evalkit\.episode: .*missing"),
        ({"evalkit": {"episode": {**REQUEST.episode.to_dict(), "scene": "1"}, "step": 0}}, r"evalkit\.episode"),
        ({"evalkit": {"episode": {**REQUEST.episode.to_dict(), "task": 1}, "step": 0}}, "names must be text"),
        ({"evalkit": {"episode": {**REQUEST.episode.to_dict(), "scene": -1}, "step": 0}}, "scene must be 0 or more"),
        ({"evalkit": {"episode": REQUEST.episode.to_dict(), "step": -1}}, "step must be 0 or more"),
        ({"evalkit": {"episode": REQUEST.episode.to_dict(), "step": 0, "prefix": 1}}, "prefix must be"),
    ],
)
def test_a_message_that_is_no_request_is_refused_with_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_request({**encode_request(REQUEST), **change}, NEEDS)


@pytest.mark.parametrize("key", list(observation_keys(NEEDS)))
def test_a_missing_key_is_named_with_all_that_are_expected(key: str) -> None:
    fields = {k: v for k, v in encode_request(REQUEST).items() if k != key}
    with pytest.raises(
        ValueError, match=rf"has no '{key}'; this policy takes .*prompt: .*image/above: uint8 .*oracle_plan: "
    ):
        decode_request(fields, NEEDS)


def test_broken_metadata_are_not_taken_for_a_server_without_the_extension() -> None:
    good = {"suite": "s", "action_size": 2, "observation_spec": NEEDS.to_dict(), "chunk_size": 10}
    found = ServerMetadata.from_metadata({"evalkit": good}, "ws://h:1")
    assert found is not None and found.observation_spec == NEEDS
    assert ServerMetadata.from_metadata({"evalkit_": good}, "ws://h:1") is None
    with pytest.raises(PolicyProblem, match=r"ws://h:1: metadata: evalkit: chunk_size: is missing"):
        ServerMetadata.from_metadata({"evalkit": {k: v for k, v in good.items() if k != "chunk_size"}}, "ws://h:1")
    with pytest.raises(PolicyProblem, match=r"ws://h:1: it has version 2 .* use the same evalkit on both sides"):
        ServerMetadata.from_metadata({"evalkit": {**good, "version": 2}}, "ws://h:1")
    with pytest.raises(PolicyProblem, match="metadata: evalkit"):
        ServerMetadata.from_metadata({"evalkit": "yes"}, "ws://h:1")


def test_metadata_is_written_as_json() -> None:
    metadata = {
        "pose": np.arange(2.0),
        "norm": np.zeros((9, 9)),
        "n": np.int64(3),
        "x": float("nan"),
        "b": b"",
        1: None,
    }
    assert jsonable(metadata) == {"pose": [0, 1], "norm": "float64 (9, 9)", "n": 3, "x": "nan", "b": "bytes", "1": None}
