"""The wire format between the host and a worker: length-prefixed msgpack, with arrays as raw bytes.

A message is a dict of plain values (None, bool, int, float, str, bytes, list, dict with string keys) and numpy arrays.
No message can run code: an array is a dtype string, a shape and a buffer, and object dtypes are refused both ways.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack
import numpy as np

_ARRAY = 1  # msgpack extension code: [dtype string, shape] header, then the buffer
_LENGTH = struct.Struct(">I")
_MAX_BYTES = 1 << 30


class Closed(ConnectionError):
    """The other side has closed the connection."""


class TimedOut(Closed):
    """The other side sent nothing, or read nothing, within the socket's timeout."""


def pack(message: dict[str, Any]) -> bytes:
    """Return one message as bytes, without the length prefix. Raises TypeError for an unsupported value."""
    try:
        packed: bytes = msgpack.packb(message, default=_encode, use_bin_type=True)
    except OverflowError as error:
        raise TypeError("integers of more than 64 bits are not supported") from error
    return packed


def unpack(data: bytes) -> dict[str, Any]:
    """Return the message that :func:`pack` wrote, with read-only arrays. Raises ValueError for malformed bytes."""
    message = msgpack.unpackb(data, ext_hook=_decode, raw=False, strict_map_key=True, max_ext_len=_MAX_BYTES)
    if not isinstance(message, dict):
        raise ValueError("a message must be a mapping")
    return message


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("object arrays are not supported")
        header = msgpack.packb([value.dtype.str, list(value.shape)])
        return msgpack.ExtType(_ARRAY, _LENGTH.pack(len(header)) + header + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not supported")


def _decode(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    dtype_text, shape = msgpack.unpackb(data[_LENGTH.size : start])
    dtype = np.dtype(dtype_text)
    if dtype.hasobject:
        raise ValueError("object arrays are not supported")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


class Channel:
    """One end of a connected stream socket, for whole messages.

    Attributes:
        sent: number of messages sent, by their ``"type"``, for tests.
        received: number of messages received, by their ``"type"``, for tests.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}

    def fileno(self) -> int:
        """Return the socket's file descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises Closed if the other side has closed the connection."""
        data = pack(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except TimeoutError as error:
            raise TimedOut(str(error)) from error
        except OSError as error:
            raise Closed(str(error)) from error
        self.sent[message.get("type", "")] = self.sent.get(message.get("type", ""), 0) + 1

    def receive(self) -> dict[str, Any]:
        """Wait for one message and return it.

        Raises:
            Closed: the other side has closed the connection.
            ValueError: the message is malformed.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _MAX_BYTES:
            raise ValueError(f"a message of {length} bytes exceeds the limit of {_MAX_BYTES}")
        message = unpack(self._read(length))
        self.received[message.get("type", "")] = self.received.get(message.get("type", ""), 0) + 1
        return message

    def close(self) -> None:
        """Close this end."""
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
