"""The client against servers that mean harm: it ends in time, with one short line, and executes no wrong chunk."""

from __future__ import annotations

import contextlib
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from support.runs import run_policy
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as listen

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem
from evalkit.observation import Observation
from evalkit.policies.remote import Remote, RemoteParameters
from evalkit.policy import Request
from evalkit.records.journal import read_journal
from evalkit.runner.options import Candidate, RunOptions
from evalkit.serving.protocol import pack, unpack
from evalkit.suite import Suite, load_suite

pytestmark = pytest.mark.slow

MAPPED = {"images": {"observation/image": "above"}, "state": {"observation/state": ["position"]}, "chunk": 10}
REPLY = pack({"actions": np.full((10, 2), 0.25, np.float32)})
EVALKIT = {
    "evalkit": {
        "suite": "pointmass",
        "action_size": 2,
        "chunk_size": 10,
        "observation_spec": {"cameras": [], "state": ["position"], "oracle_steps": 0},
        "numbers_replies": True,
    }
}
Handler = Callable[[ServerConnection], None]


@pytest.fixture
def suite(pointmass: str) -> Suite:
    return load_suite(pointmass)


@contextmanager
def serving(handle: Handler, metadata: Any = None) -> Iterator[str]:
    """Run a server that sends its metadata and then leaves each connection to ``handle``."""

    def accept(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(metadata if isinstance(metadata, bytes) else pack(metadata or {}))
            handle(connection)

    with listen(accept, "127.0.0.1", 0, compression=None, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"


def answering(*replies: bytes | str) -> Handler:
    """Return a handler that sends all of ``replies`` to every message."""

    def handle(connection: ServerConnection) -> None:
        for _ in connection:
            for reply in replies:
                connection.send(reply)

    return handle


@contextmanager
def remote(suite: Suite, url: str, **parameters: Any) -> Iterator[Remote]:
    policy = Remote(suite, RemoteParameters(url=url, **{"connect_s": 2, **parameters}))
    try:
        yield policy
    finally:
        policy.close()


def request() -> Request:
    observation = Observation("go", {"above": np.zeros((24, 32, 3), np.uint8)}, {"position": np.zeros(2)})
    return Request(Episode("pointmass", "near", "left", 0, 3), 0, observation)


def is_one_short_line(error: EvalkitError) -> bool:
    text = str(error)
    return len(text) < 600 and not any(unicodedata.category(character)[0] == "C" for character in text)


# Answers that belong to no question.


def test_a_server_that_answers_twice_ends_the_run_before_a_wrong_chunk_is_executed(suite: Suite) -> None:
    with serving(answering(REPLY, REPLY)) as url, remote(suite, url, **MAPPED) as policy:
        policy.act([request()])
        time.sleep(0.1)
        with pytest.raises(PolicyProblem, match="sent a message that answers no request"):
            policy.act([request()])


def test_a_second_greeting_answers_no_request(suite: Suite) -> None:
    def greet_again(connection: ServerConnection) -> None:
        connection.send(REPLY)
        answering(REPLY)(connection)

    with serving(greet_again) as url, remote(suite, url, **MAPPED) as policy:
        time.sleep(0.1)
        with pytest.raises(PolicyProblem, match="answers no request"):
            policy.act([request()])


def test_a_run_with_a_server_that_answers_twice_records_no_episode(
    pointmass: str, suite: Suite, tmp_path: Path
) -> None:
    with serving(answering(REPLY, REPLY)) as url, remote(suite, url, **MAPPED) as policy:
        with pytest.raises(PolicyProblem, match="answers no request"):
            run_policy(RunOptions(pointmass, out=tmp_path / "run", workers=1), Candidate("x", policy, {"id": "x"}))
        assert not read_journal(tmp_path / "run")


@pytest.mark.parametrize("shift", [-1, 1, None])
def test_an_evalkit_server_that_answers_another_request_is_refused(suite: Suite, shift: int | None) -> None:
    def handle(connection: ServerConnection) -> None:
        for message in connection:
            number = unpack(message)["evalkit"]["request"]  # type: ignore[arg-type]
            answered = {} if shift is None else {"evalkit": {"request": number + shift}}
            connection.send(pack({"actions": np.zeros((10, 2), np.float32), **answered}))

    answered_another = pytest.raises(PolicyProblem, match=r"it answered request (0|2|None) instead of 1")
    with serving(handle, EVALKIT) as url, remote(suite, url) as policy, answered_another:
        policy.act([request()])


# Time.


def drop_late(connection: ServerConnection) -> None:
    """Lose every connection shortly before the reply would be too late."""
    for _ in connection:
        time.sleep(0.4)
        connection.socket.close()


def drip(connection: ServerConnection) -> None:
    """Send one byte of a reply at a time, without an end."""
    for _ in connection:
        connection.send(iter(lambda: time.sleep(0.01) or b"x", b""))


def flood(connection: ServerConnection) -> None:
    """Send fragments as fast as they go, without an end."""
    for _ in connection:
        connection.send(iter(lambda: b"", None))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("handle", [drop_late, drip, flood])
def test_timeout_s_holds_whatever_a_server_does(suite: Suite, handle: Handler) -> None:
    with serving(handle) as url, remote(suite, url, **MAPPED, timeout_s=0.5) as policy:
        began = time.monotonic()
        with pytest.raises(PolicyProblem, match=r"no reply within 0\.5 s"):
            policy.act([request()])
        assert time.monotonic() - began < 1.2


def test_connect_s_holds_for_a_server_that_never_sends_its_metadata(suite: Suite) -> None:
    ended = threading.Event()

    def silent(connection: ServerConnection) -> None:
        ended.wait(10)

    with listen(silent, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        with (
            pytest.raises(EvalkitError, match=r"no policy server answers within 0\.5 s"),
            remote(suite, f"ws://127.0.0.1:{server.socket.getsockname()[1]}", connect_s=0.5),
        ):
            pass
        assert time.monotonic() - began < 1.5
        ended.set()


# Size.


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


def array(shape: list[int]) -> Any:
    return {b"__ndarray__": True, b"data": bytes(4), b"dtype": "<f4", b"shape": shape}


HOSTILE: dict[str, bytes] = {
    "many dimensions": msgpack.packb({"actions": array([2**31] * 50_000)}),
    "deep": b"\x81\xa1a" * 1000 + b"\xc0",
    "many maps": b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x80" * 5_000_000,
    "many maps in maps": b"\x9f" + (b"\xdc\xff\xff" + b"\x80" * 65535) * 15,
    "many keys": msgpack.packb({f"key {n}": n for n in range(60_000)}),
    "a long key": msgpack.packb({"\x1b[31m" + "k" * 1_200_000: 1}),
    "a long dtype": msgpack.packb({"actions": {**array([1]), b"dtype": ",".join(["f4"] * 200_000)}}),
    "a long text": msgpack.packb({"actions": "\x1b]0;title\x07" * 100_000}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_one_short_line_at_once(suite: Suite, name: str) -> None:
    with serving(answering(HOSTILE[name])) as url, remote(suite, url, **MAPPED, timeout_s=5) as policy:
        began = time.monotonic()
        with pytest.raises(PolicyProblem) as error:
            policy.act([request()])
        assert time.monotonic() - began < 2 and is_one_short_line(error.value)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("a long key", "a long text")])
def test_hostile_metadata_is_one_short_line_at_once(suite: Suite, name: str) -> None:
    with serving(answering(REPLY), HOSTILE[name]) as url:
        began = time.monotonic()
        with pytest.raises(EvalkitError) as error, remote(suite, url, **MAPPED):
            pass
        assert time.monotonic() - began < 2 and is_one_short_line(error.value)


@pytest.mark.parametrize("text", ["\x1b[2J" * 300_000, "Traceback\n" + "E" * 1_200_000, "a\n" * 600_000 + "\x9b31m"])
def test_a_hostile_error_is_one_short_line(suite: Suite, text: str) -> None:
    with serving(answering(text)) as url, remote(suite, url, **MAPPED) as policy:
        with pytest.raises(PolicyProblem, match="the policy failed there") as error:
            policy.act([request()])
        assert is_one_short_line(error.value)


def test_the_metadata_of_a_manifest_has_excerpts_that_still_tell_servers_apart(suite: Suite) -> None:
    found = []
    for last in "ab":
        metadata = {"\x1b[1mname": "weights\x07 " + "x" * 5000 + last}
        with serving(answering(REPLY), metadata) as url, remote(suite, url, **MAPPED) as policy:
            found.append(policy.spec.metadata["metadata"])
    assert found[0] != found[1] and all(len(str(metadata)) < 600 for metadata in found)
    assert all("\\x" not in repr(metadata) and "weights xxx" in str(metadata) for metadata in found)


def test_a_close_reason_with_controls_is_shown_without_them(suite: Suite) -> None:
    def close(connection: ServerConnection) -> None:
        for _ in connection:
            connection.close(1011, "\x1b[31mred\x07")

    with serving(close) as url, remote(suite, url, **MAPPED) as policy:
        with pytest.raises(PolicyProblem, match="the connection was lost 3 times") as error:
            policy.act([request()])
        assert is_one_short_line(error.value) and "red" in str(error.value)
        assert not any("\x1b" in warning for warning in policy.warnings())
