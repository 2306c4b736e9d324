from __future__ import annotations

import pickle
import socket
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evalkit.worker.wire import Channel, Closed, TimedOut, pack, unpack

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
arrays = hnp.arrays(
    dtype=st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_plain_values_survive(message: dict[str, Any]) -> None:
    assert unpack(pack(message)) == message


@given(arrays)
def test_arrays_survive_bit_for_bit(array: np.ndarray) -> None:
    back = unpack(pack({"a": array}))["a"]
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()


def test_a_strided_view_survives() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[::-1, ::-1]
    assert (unpack(pack({"a": image}))["a"] == image).all()


def test_objects_are_refused_both_ways() -> None:
    with pytest.raises(TypeError, match="object arrays"):
        pack({"a": np.array([object()])})
    with pytest.raises(TypeError, match="not supported"):
        pack({"a": object()})
    header = msgpack.packb(["|O", [1]])
    evil = len(header).to_bytes(4, "big") + header + pickle.dumps(print)
    with pytest.raises(ValueError, match="object arrays"):
        unpack(msgpack.packb({"a": msgpack.ExtType(1, evil)}))


@pytest.mark.parametrize("data", [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb({"a": msgpack.ExtType(9, b"x")})])
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)


def test_a_channel_counts_and_notices_the_other_side_going() -> None:
    ours, theirs = socket.socketpair()
    a, b = Channel(ours), Channel(theirs)
    a.send({"type": "ask", "image": np.zeros((256, 256, 3), np.uint8)})
    assert b.receive()["image"].shape == (256, 256, 3)
    assert a.sent == {"ask": 1} and b.received == {"ask": 1}
    b.close()
    with pytest.raises(Closed):
        a.receive()


def test_a_peer_that_stops_reading_is_a_timeout() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TimedOut):
        ours.settimeout(0.1)
        Channel(ours).send({"type": "Frame", "image": np.zeros((2000, 2000, 3), np.uint8)})
