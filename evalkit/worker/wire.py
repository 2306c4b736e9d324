"""The wire between the host and a worker: length-prefixed msgpack, with arrays as raw bytes.

A message is a dict of plain values (None, bool, int, float, str, bytes, list, dict with string keys) and numpy arrays.
Nothing on the wire can run code: arrays are a dtype string, a shape and a buffer; object dtypes are refused both ways.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack
import numpy as np

_ARRAY = 1  # msgpack extension code: [dtype string, shape] header, then the buffer
_LENGTH = struct.Struct(">I")
_MOST_BYTES = 1 << 30


class Closed(ConnectionError):
    """The other side has gone."""


class TimedOut(Closed):
    """The other side said nothing, or read nothing, for as long as the socket waits."""


def pack(message: dict[str, Any]) -> bytes:
    """One message as bytes, without the length prefix. Raises TypeError for a value the wire does not carry."""
    try:
        packed: bytes = msgpack.packb(message, default=_encode, use_bin_type=True)
    except OverflowError as error:
        raise TypeError("an integer beyond 64 bits is not carried") from error
    return packed


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of :func:`pack`; arrays come back read-only. Raises ValueError for anything malformed."""
    message = msgpack.unpackb(data, ext_hook=_decode, raw=False, strict_map_key=True, max_ext_len=_MOST_BYTES)
    if not isinstance(message, dict):
        raise ValueError("a message must be a mapping")
    return message


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("object arrays are not carried")
        header = msgpack.packb([value.dtype.str, list(value.shape)])
        return msgpack.ExtType(_ARRAY, _LENGTH.pack(len(header)) + header + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not carried")


def _decode(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    dtype_text, shape = msgpack.unpackb(data[_LENGTH.size : start])
    dtype = np.dtype(dtype_text)
    if dtype.hasobject:
        raise ValueError("object arrays are not carried")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


class Channel:
    """One end of a connected stream socket; sends and receives whole messages.

    ``sent`` and ``received`` count messages by their ``"type"``, so that a test can say what travelled.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends one message; raises Closed where the other side has gone."""
        data = pack(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except TimeoutError as error:
            raise TimedOut(str(error)) from error
        except OSError as error:
            raise Closed(str(error)) from error
        self.sent[message.get("type", "")] = self.sent.get(message.get("type", ""), 0) + 1

    def receive(self) -> dict[str, Any]:
        """Waits for one message; raises Closed where the other side has gone, ValueError for a malformed one."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _MOST_BYTES:
            raise ValueError(f"a message of {length} bytes is not one of ours")
        message = unpack(self._read(length))
        self.received[message.get("type", "")] = self.received.get(message.get("type", ""), 0) + 1
        return message

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._socket.recv(min(count - len(parts), 1 << 20))
            except TimeoutError as error:
                raise TimedOut(str(error)) from error
            except OSError as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("the other side closed the connection")
            parts += part
        return bytes(parts)
