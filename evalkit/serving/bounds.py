"""Bounds on a message in msgpack, checked on its bytes before anything is built from them."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 1 << 27  # several uncompressed camera images of 4K; openpi itself sets no limit
MAX_DEPTH = 32  # maps and lists within each other
MAX_VALUES = 100_000  # maps, lists, keys and plain values, in all; an array's numbers are one value
MAX_DIMENSIONS = 32  # of one array: numpy 1 has no more

# The sizes of msgpack's formats from 0xc0 on: (bytes of the length, fixed bytes of the value). A format whose length
# counts values instead of bytes (a list or a map) is in _LISTS or _MAPS.
_FORMATS = {
    **{0xC0: (0, 0), 0xC2: (0, 0), 0xC3: (0, 0)},  # null, false, true
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0)},  # bytes
    **{0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},  # extension types
    **{0xCA: (0, 4), 0xCB: (0, 8)},  # floats
    **{0xCC: (0, 1), 0xCD: (0, 2), 0xCE: (0, 4), 0xCF: (0, 8)},  # unsigned integers
    **{0xD0: (0, 1), 0xD1: (0, 2), 0xD2: (0, 4), 0xD3: (0, 8)},  # integers
    **{0xD4: (0, 2), 0xD5: (0, 3), 0xD6: (0, 5), 0xD7: (0, 9), 0xD8: (0, 17)},  # extension types of a fixed size
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},  # text
    **{0xDC: (2, 0), 0xDD: (4, 0)},  # lists
    **{0xDE: (2, 0), 0xDF: (4, 0)},  # maps
}
_LISTS, _MAPS = (0xDC, 0xDD), (0xDE, 0xDF)


def check_bounds(data: bytes) -> None:
    """Check the size, the depth and the number of values of a message, in time that the bounds limit.

    Raises:
        ValueError: a bound is exceeded, or the message is truncated or not msgpack.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are accepted")
    position, values = 0, 0
    remaining = [1]  # values still to come, by open map or list
    while remaining:
        if not remaining[-1]:
            remaining.pop()
            continue
        remaining[-1] -= 1
        if position >= len(data):
            raise ValueError("the message is truncated")
        position, inside = _skip(data, position)
        values += 1
        if inside:
            remaining.append(inside)
        if values + inside > MAX_VALUES:
            raise ValueError(f"a message of more than {MAX_VALUES} values")
        if len(remaining) > MAX_DEPTH + 1:
            raise ValueError(f"a message with more than {MAX_DEPTH} maps and lists within each other")


def _skip(data: bytes, position: int) -> tuple[int, int]:
    """Return the position after a value's own bytes, and the number of values that follow inside it."""
    kind, position = data[position], position + 1
    if kind <= 0x7F or kind >= 0xE0:  # small integers
        return position, 0
    if kind <= 0x8F:
        return position, 2 * (kind & 0x0F)
    if kind <= 0x9F:
        return position, kind & 0x0F
    if kind <= 0xBF:
        return position + (kind & 0x1F), 0
    if kind not in _FORMATS:
        raise ValueError(f"byte {kind:#x} is no format of msgpack")
    width, fixed = _FORMATS[kind]
    length = int.from_bytes(data[position : position + width], "big")
    position += width
    if kind in _LISTS:
        return position, length
    return (position, 2 * length) if kind in _MAPS else (position + fixed + length, 0)
