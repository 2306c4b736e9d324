"""Hostile servers and clients: messages that are wrong in their bytes, their content, their number or their time."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as listen

from evalkit.episode import Episode
from evalkit.errors import EvalkitError
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.remote import Remote, RemoteParameters
from evalkit.policy import Request, Spec
from evalkit.serving.protocol import pack, unpack
from evalkit.serving.server import Server
from evalkit.suite import load_suite
from support.faults.documents import VALUES
from support.faults.trials import Hang, Trial, time_limit
from support.paths import POINTMASS

TIMEOUT_S = 1.0
MAPPED = {"images": {"observation/image": "above"}, "state": {"observation/state": ["position"]}, "chunk": 10}
CHUNK = np.full((10, 2), 0.25, np.float32)
OFFER: dict[str, Any] = {
    "suite": "pointmass",
    "action_size": 2,
    "chunk_size": 10,
    "observation_spec": {"cameras": [], "state": ["position"], "oracle_steps": 0},
    "numbers_replies": True,
}
IMAGE, STATE = np.zeros((24, 32, 3), np.uint8), np.zeros(2)
Handler = Callable[[ServerConnection], None]


class Still:
    """A policy that returns one chunk, whatever it sees."""

    spec = Spec(ObservationSpec(("above",), ("position",)), 10, {"weights": "none"})

    def act(self, requests: Any) -> list[np.ndarray]:
        """Return the chunk for each request."""
        return [CHUNK for _ in requests]

    def close(self) -> None:
        """Do nothing."""


def messages(good: bytes, chance: random.Random) -> Iterator[tuple[str, bytes | str]]:
    """Yield hostile messages without an end: those of a kind first, then changes of a good one at random."""
    array = {b"__ndarray__": True, b"data": CHUNK.tobytes(), b"dtype": "<f4", b"shape": [10, 2]}
    shapes = ([], [20], [2, 10], [-1, 2], [10, 2, 1], [2**31] * 50_000, [1.5], "x", None)
    dtypes = ("O", "V8", "<f8", "<i4", "", "x" * 100_000, None, 5, "f4,f4", "M8", "|S80")
    contents = (b"", bytes(79), bytes(81), "text", None, *(np.full(20, n, "f4").tobytes() for n in (np.nan, np.inf)))
    arrays = [
        *({**array, b"shape": shape} for shape in shapes),
        *({**array, b"dtype": dtype} for dtype in dtypes),
        *({**array, b"data": content} for content in contents),
    ]
    yield from ((f"array {n}", msgpack.packb({"actions": one})) for n, one in enumerate(arrays))
    for n, value in enumerate(VALUES):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            yield f"actions {n}", msgpack.packb({"actions": value})
            yield f"value {n}", msgpack.packb(value)
    yield from (("text", text) for text in ("", "x" * 1_000_000, "\x1b[2J" * 1000, "Traceback\n" * 1000))
    yield from {
        "nothing": b"",
        "deep": b"\x81\xa1a" * 5_000 + b"\xc0",
        "many maps": b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x80" * 5_000_000,
        "announced": b"\xdd\xff\xff\xff\xff" * 100,
        "a time": b"\x81\xa7actions\xd6\xff" + bytes(4),
        "an extension": msgpack.packb({"actions": msgpack.ExtType(5, b"x" * 1000)}),
        "other text": b"\xa4\xff\xfe\xfd\xfc",
        "half a surrogate": b"\x81\xa7actions\xa3\xed\xa0\xbd",
        "keys twice": b"\x82\xa7actions\xc0\xa7actions\xc0",
        "a list as key": b"\x81\x91\x01\xc0",
    }.items()
    while True:
        damaged = bytearray(good)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        yield "wrong bytes", bytes(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])


HANDLERS: dict[str, Callable[[ServerConnection, str | bytes], object]] = {
    "says nothing": lambda connection, message: time.sleep(0.01),
    "closes": lambda connection, message: connection.close(1011, "\x1b[31mno"),
    "drops": lambda connection, message: connection.socket.close(),
    "answers twice": lambda connection, message: [connection.send(pack({"actions": CHUNK})) for _ in range(2)],
    "answers in pieces": lambda connection, message: connection.send(iter([b"\x81", b"\xa7act", b"ions\xc0"])),
    "answers without end": lambda connection, message: connection.send(iter(lambda: time.sleep(0.01) or b"x", b"")),
    "answers another": lambda connection, message: connection.send(
        pack({"actions": CHUNK, "evalkit": {"request": 10**6}})
    ),
    "sends the request back": lambda connection, message: connection.send(message),
}


@contextlib.contextmanager
def serving(greeting: bytes | str, handle: Callable[[ServerConnection, str | bytes], object]) -> Iterator[str]:
    """Run a server that sends ``greeting``, then calls ``handle`` for each message."""

    def accept(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(greeting)
            for message in connection:
                handle(connection, message)

    with listen(accept, "127.0.0.1", 0, compression=None, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"


def trials(seed: int, count: int) -> Iterator[Trial]:
    """Yield hostile servers and clients, by turns: as a reply, as the greeting, and as a request."""
    chance = random.Random(seed)
    replies, greetings, requests = (
        messages(good, random.Random(seed))
        for good in (
            pack({"actions": CHUNK}),
            pack({"evalkit": OFFER}),
            pack({"image/above": IMAGE, "state/position": STATE, "prompt": "go"}),
        )
    )
    behaviours = list(HANDLERS.items())
    for number in range(count):
        if number % 4 == 3 and behaviours:
            name, handle = behaviours.pop(chance.randrange(len(behaviours)))
            yield Trial("hostile servers", name, partial(_ask, pack({}), handle))
        elif number % 4 == 0:
            name, message = next(greetings)
            yield Trial(
                "hostile servers", f"greeting: {name}", partial(_ask, message, _answer(pack({"actions": CHUNK})))
            )
        elif number % 4 == 1:
            name, message = next(requests)
            yield Trial("hostile clients", name, partial(_serve, message))
        else:
            name, message = next(replies)
            yield Trial("hostile servers", f"reply: {name}", partial(_ask, pack({}), _answer(message)))


def _answer(reply: bytes | str) -> Callable[[ServerConnection, str | bytes], object]:
    return lambda connection, message: connection.send(reply)


def _ask(greeting: bytes | str, handle: Callable[[ServerConnection, str | bytes], object]) -> str | None:
    """Query a hostile server as a run does; it ends in time, with an executable chunk or one short line."""
    suite = load_suite(POINTMASS)
    observation = Observation("go", {"above": IMAGE}, {"position": STATE})
    request = Request(Episode("pointmass", "near", "left", 0, 3), 0, observation)
    began = time.monotonic()
    try:
        with time_limit(20), serving(greeting, handle) as url:
            parameters = {"connect_s": 1, "timeout_s": TIMEOUT_S, **MAPPED}
            try:
                policy = Remote(suite, RemoteParameters(url=url, **parameters))
            except EvalkitError as error:
                if "remove" not in str(error):
                    raise
                policy = Remote(
                    suite, RemoteParameters(url=url, connect_s=1, timeout_s=TIMEOUT_S)
                )  # it speaks the extension
            try:
                for _ in range(2):
                    (chunk,) = policy.act([request])
                    if chunk.shape[1:] != (2,) or chunk.dtype != np.float32:
                        return f"a chunk of {chunk.dtype} {chunk.shape}"
            finally:
                policy.close()
    except EvalkitError as error:
        text = str(error)
        if len(text) > 700 or any(unicodedata.category(character)[0] == "C" for character in text):
            return f"no short line: {text[:200]!r}"
    except (Exception, Hang) as error:
        return f"{type(error).__name__}: {error}"
    taken = time.monotonic() - began
    return f"took {taken:.1f} s" if taken > 2 * TIMEOUT_S + 3 else None


def _serve(message: bytes | str) -> str | None:
    """Send a hostile message to a policy server, and then a good one from another client, which must be answered."""
    log: list[str] = []
    server = Server(Still(), identity={"suite": "pointmass", "action_size": 2}, log=log.append)
    url = server.start()
    try:
        with time_limit(20), connect(url, compression=None, max_size=None, proxy=None) as hostile:
            hostile.recv(timeout=5)
            with contextlib.suppress(ConnectionClosed):
                hostile.send(message)
            began = time.monotonic()
            with connect(url, compression=None, max_size=None, proxy=None) as good:
                good.recv(timeout=5)
                good.send(pack({"image/above": IMAGE, "state/position": STATE, "prompt": "go"}))
                answer: Any = unpack(good.recv(timeout=5))  # type: ignore[arg-type]
            taken = time.monotonic() - began
            if not np.array_equal(answer["actions"], CHUNK):
                return "another client got another chunk"
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                reply = hostile.recv(timeout=2)
                if isinstance(reply, str) and len(reply) > 2000:
                    return f"a reply of {len(reply)} characters"
    except (Exception, Hang) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        server.stop()
    if any(len(line) > 1000 or any(unicodedata.category(c)[0] == "C" for c in line) for line in log):
        return f"a line of the log: {max(log, key=len)[:200]!r}"
    return f"another client waited {taken:.1f} s" if taken > 2 else None
