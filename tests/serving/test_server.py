"""The policy server, with evalkit's client and with any client of openpi's protocol."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import invoke, refused
from support.runs import run_policy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from evalkit.episode import Episode
from evalkit.errors import PolicyProblem, UsageError
from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.remote import Remote, RemoteParameters
from evalkit.policies.scripted import Oracle, OracleParameters, Random, ScriptedParameters
from evalkit.policy import Policy, Request, Spec
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.options import Candidate, RunOptions
from evalkit.serving.protocol import pack, unpack
from evalkit.serving.server import Server
from evalkit.suite import Suite, load_suite
from evalkit.testing import canonical

IMAGE, STATE = np.zeros((24, 32, 3), np.uint8), np.zeros(2)


class Stub:
    """A policy whose actions identify their request, or that raises; it records every batch."""

    def __init__(
        self, observation_spec: ObservationSpec = ObservationSpec(("above",), ("position",)), delay: float = 0
    ) -> None:
        self.spec = Spec(observation_spec, 3, {"weights": "none"})
        self.seen: list[list[Request]] = []
        self.closed = False
        self._delay = delay

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        self.seen.append(list(requests))
        time.sleep(self._delay)
        if any(request.observation.instruction == "break" for request in requests):
            raise RuntimeError("CUDA out of memory")
        return [np.full((3, 2), float(request.observation.state["position"][0]), np.float32) for request in requests]

    def close(self) -> None:
        self.closed = True


@contextmanager
def served(policy: Policy, **identity: Any) -> Iterator[str]:
    server = Server(policy, identity={"suite": "pointmass", "action_size": 2, **identity})
    url = server.start()
    try:
        yield url
    finally:
        server.stop()


@contextmanager
def plain_client(url: str) -> Iterator[tuple[ClientConnection, Any]]:
    """Connect as openpi's own client does."""
    with connect(url, compression=None, max_size=None, proxy=None) as connection:
        yield connection, unpack(connection.recv())  # type: ignore[arg-type]


def query(connection: ClientConnection, **fields: Any) -> Any:
    message = {"image/above": IMAGE, "state/position": STATE, "prompt": "go"}
    connection.send(pack({**message, **{k.replace("__", "/"): v for k, v in fields.items()}}))
    reply = connection.recv(timeout=10)
    return reply if isinstance(reply, str) else unpack(reply)


def play(suite: str, policy: Policy, out: Path, workers: int) -> list[dict[str, Any]]:
    options = RunOptions(suite, out=out, workers=workers)
    run_policy(options, Candidate("policy", policy, {"id": "policy"}))
    return canonical(read_journal(out).values())


# To evalkit: nothing changes.


def random_policy(suite: Suite) -> Policy:
    return Random(suite, ScriptedParameters(chunk=7, cameras="all"))


def noisy_oracle(suite: Suite) -> Policy:
    return Oracle(suite, OracleParameters(chunk=10, noise=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("make", [random_policy, noisy_oracle])
def test_a_served_policy_plays_the_same_run_bit_for_bit(pointmass: str, tmp_path: Path, make: Any) -> None:
    suite = load_suite(pointmass)
    here = play(pointmass, make(suite), tmp_path / "here", workers=1)
    with served(make(suite), checkpoint={"id": "it"}) as url:
        for workers in (1, 3):
            remote = Remote(suite, RemoteParameters(url=url))
            there = play(pointmass, remote, tmp_path / str(workers), workers)
            remote.close()
            assert there == here and len(here) == 16
    metadata = read_manifest(tmp_path / "3").checkpoint["metadata"]
    server = {"suite": "pointmass", "metadata": make(suite).spec.metadata, "checkpoint": {"id": "it"}}
    assert metadata == {"where": url, "extension": True, "unsupported": [], "server": server}


def test_a_remote_has_the_spec_of_what_is_served(pointmass: str) -> None:
    with served(Stub(ObservationSpec(("above",), (), oracle_steps=4))) as url:
        remote = Remote(load_suite(pointmass), RemoteParameters(url=url))
        assert (remote.spec.observation_spec, remote.spec.chunk_size) == (
            ObservationSpec(("above",), (), oracle_steps=4),
            3,
        )
        assert remote.spec.batch_invariant
        remote.close()
        remote.close()


def test_a_whole_request_arrives(pointmass: str) -> None:
    policy = Stub()
    observation = Observation("go", {"above": IMAGE}, {"position": STATE})
    prefix = Prefix(np.ones((4, 2), np.float32), 2, "prefix")
    asked = Request(Episode("pointmass", "near", "left", 2, 3, repeat=1), 20, observation, prefix)
    with served(policy) as url:
        remote = Remote(load_suite(pointmass), RemoteParameters(url=url))
        remote.act([asked])
        remote.close()
    arrived = policy.seen[0][0]
    assert (arrived.episode, arrived.step, arrived.seed) == (asked.episode, 20, asked.seed)
    assert arrived.prefix is not None and (arrived.prefix.committed, arrived.prefix.kind) == (2, "prefix")
    assert arrived.prefix.actions.dtype == np.float32 and (arrived.prefix.actions == 1).all()


def test_a_served_policy_that_breaks_its_word_is_one_line(pointmass: str) -> None:
    policy = Stub()
    observation = Observation("go", {"above": IMAGE}, {"position": STATE})
    asked = Request(Episode("pointmass", "near", "left", 2, 3), 0, observation)
    policy.spec = Spec(policy.spec.observation_spec, 4, {})
    with served(policy) as url:
        remote = Remote(load_suite(pointmass), RemoteParameters(url=url))
        with pytest.raises(PolicyProblem, match=r"its chunk is \(3, 2\), not \(4, 2\)"):
            remote.act([asked])
        policy.act = lambda requests: []  # type: ignore[method-assign]
        with pytest.raises(PolicyProblem, match="failed there: the policy returned 0 chunks for 1 requests"):
            remote.act([asked])
        remote.close()


# To others.


def test_a_plain_client_is_told_what_to_send_and_is_answered() -> None:
    policy = Stub()
    with served(policy) as url, plain_client(url) as (connection, metadata):
        assert metadata["evalkit"]["keys"] == {
            "prompt": "the instruction",
            "image/above": "uint8 (H, W, 3) RGB, as the suite's simulator renders it",
            "state/position": "(N,) float, as the suite defines it",
        }
        reply = query(connection, state__position=np.array([0.5, 1], np.float32), prompt="go left")
        assert (reply["actions"] == np.full((3, 2), 0.5, np.float32)).all() and reply["actions"].dtype == np.float32
        assert reply["server_timing"]["infer_ms"] > 0
    seen = policy.seen[0][0].observation
    assert seen.instruction == "go left" and seen.state["position"].dtype == np.float64 and seen.oracle_plan is None


def test_a_plain_clients_episodes_begin_with_its_connection_and_where_it_says_so() -> None:
    policy = Stub()
    with served(policy) as url:
        for _ in range(2):
            with plain_client(url) as (connection, _):
                for fields in ({"reset": True}, {}, {"reset": True}):
                    query(connection, **fields)
    asked = [(r.episode.id, r.step) for batch in policy.seen for r in batch]
    first = [("pointmass/remote/remote/0/s0/r0", 0), ("pointmass/remote/remote/0/s0/r0", 1)]
    assert asked[:3] == [*first, ("pointmass/remote/remote/1/s0/r0", 0)]
    assert [name.replace("r1", "r0") for name, _ in asked[3:]] == [name for name, _ in asked[:3]]
    assert len({r.seed for batch in policy.seen for r in batch}) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xc1", "evalkit cannot read this observation: "),
        ("text", "it must be a map in msgpack, in a binary frame"),
        (pack([1]), "it must be a map"),
        (
            pack({"prompt": "go"}),
            "has no 'image/above'; this policy takes prompt: the instruction; image/above: uint8",
        ),
        (pack({"evalkit": 1}), "must be a map"),
        (
            pack({"prompt": "break", "image/above": IMAGE, "state/position": STATE}),
            "RuntimeError: CUDA out of memory\n",
        ),
    ],
)
def test_what_goes_wrong_is_said_in_a_text_frame_and_hurts_no_other_client(data: Any, message: str) -> None:
    with served(Stub()) as url, plain_client(url) as (other, _):
        with plain_client(url) as (connection, _):
            connection.send(data)
            reply = connection.recv(timeout=10)
            assert isinstance(reply, str) and message in reply
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        assert query(other)["actions"].shape == (3, 2)


@pytest.mark.parametrize("how", ["exit", "ragged", "warning"])
def test_whatever_a_policy_does_the_server_goes_on(how: str) -> None:
    class Bad(Stub):
        def act(self, requests: Sequence[Request]) -> list[Any]:
            chunks: list[Any] = super().act(requests)
            if requests[0].observation.instruction == "bad" and how == "exit":
                sys.exit(0)
            bad = requests[0].observation.instruction == "bad" and how == "ragged"
            return [[[1.0], [1.0, 2.0]]] if bad else chunks

        def warnings(self) -> list[str]:
            if how == "warning" and not hasattr(self, "spoke"):
                self.spoke = True
                raise ValueError("no warnings today")
            return []

    with served(Bad()) as url:
        with plain_client(url) as (connection, _):
            connection.send(pack({"prompt": "bad", "image/above": IMAGE, "state/position": STATE}))
            assert isinstance(connection.recv(timeout=10), str)
        with plain_client(url) as (connection, _):
            assert query(connection)["actions"].shape == (3, 2)


@pytest.mark.slow
def test_what_waits_is_asked_about_together_and_one_that_fails_takes_no_other_with_it() -> None:
    policy = Stub(delay=0.2)
    with served(policy) as url:
        replies: dict[int, Any] = {}

        def client(number: int) -> None:
            with plain_client(url) as (connection, _):
                time.sleep(0.05 if number else 0)
                prompt = "break" if number == 2 else "go"
                replies[number] = query(connection, state__position=np.array([number, 0.0]), prompt=prompt)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(len(batch) for batch in policy.seen) >= 3
    assert "CUDA out of memory" in replies[2]
    assert {n: r["actions"][0, 0] for n, r in replies.items() if n != 2} == {0: 0, 1: 1, 3: 3, 4: 4}


def test_a_health_check_is_answered_and_clients_are_logged() -> None:
    lines: list[str] = []
    server = Server(Stub(), identity={"suite": "pointmass", "action_size": 2}, log=lines.append)
    url = server.start()
    with urllib.request.urlopen(url.replace("ws:", "http:") + "/healthz", timeout=10) as reply:
        assert (reply.status, reply.read()) == (200, b"OK\n")
    with plain_client(url) as (connection, _):
        query(connection)
    server.stop()
    assert [line.partition(": ")[2] for line in lines] == ["connected", "disconnected after 1 requests"]


# Coming and going.


@pytest.mark.parametrize("origin", ["https://example.org", "http://localhost:8000", "null", "http://allowed.test:1"])
def test_a_web_page_is_refused_unless_its_origin_is_allowed(origin: str) -> None:
    lines: list[str] = []
    identity = {"suite": "pointmass", "action_size": 2}
    allowed = ["http://allowed.test", "HTTPS://Other.test:444/"]
    server = Server(Stub(), identity=identity, allowed_origins=allowed, log=lines.append)
    url = server.start()
    try:
        with pytest.raises(InvalidStatus) as error, connect(url, origin=Origin(origin), proxy=None):
            pass
        assert error.value.response.status_code == 403 and b"--allow-origin" in (error.value.response.body or b"")
        assert any(f"refused a web page of {origin} (see --allow-origin)" in line for line in lines)
        for known in ("http://allowed.test", "https://other.test:444"):
            with connect(url, origin=Origin(known), proxy=None, compression=None) as connection:
                connection.recv()
                assert query(connection)["actions"].shape == (3, 2)
        with plain_client(url) as (connection, _):  # no browser, no origin
            assert query(connection)["actions"].shape == (3, 2)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/page", "*", "", "https://", "file:///x", "a\nb"]
)
def test_an_allowed_origin_must_be_one(origin: str) -> None:
    with pytest.raises(UsageError, match=r"--allow-origin .*must be like https:"):
        Server(Stub(), identity={"suite": "pointmass", "action_size": 2}, allowed_origins=[origin])
    line = refused(invoke("serve", "--checkpoint", "no-such-checkpoint", "--allow-origin", origin))
    assert "--allow-origin" in line


@pytest.mark.slow
def test_a_message_that_takes_long_to_read_makes_no_other_client_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = threading.Event()

    def slow_unpack(data: bytes) -> Any:
        if b"slow" in data:
            reading.set()
            time.sleep(1.5)
        return unpack(data)

    monkeypatch.setattr("evalkit.serving.server.unpack", slow_unpack)
    with served(Stub()) as url, plain_client(url) as (slow, _), plain_client(url) as (quick, _):
        slow.send(pack({"prompt": "slow"}))
        assert reading.wait(5)
        began = time.monotonic()
        assert query(quick)["actions"].shape == (3, 2)
        assert time.monotonic() - began < 1
        assert "has no 'image/above'" in slow.recv(timeout=5)


@pytest.mark.parametrize(
    "fields",
    [{"\x1b[31m" + "k" * 100_000: 1}, {"evalkit": {"episode": {"x\x07" * 9_000: 1}}}, {"prompt": "\x1b" * 9_000}],
)
def test_a_hostile_message_is_one_short_line_in_log_and_reply(fields: dict[str, Any]) -> None:
    lines: list[str] = []
    server = Server(Stub(), identity={"suite": "pointmass", "action_size": 2}, log=lines.append)
    with plain_client(server.start()) as (connection, _):
        connection.send(pack(fields))
        reply = connection.recv(timeout=5)
    server.stop()
    assert isinstance(reply, str) and len(reply) < 400 and "\x1b" not in reply
    assert all(len(line) < 400 and line.isprintable() for line in lines)


def test_a_port_in_use_is_one_line_and_a_stopped_server_frees_it() -> None:
    identity = {"suite": "pointmass", "action_size": 2}
    first = Server(Stub(), identity=identity)
    port = int(first.start().rpartition(":")[2])
    second = Server(Stub(), identity=identity, port=port)
    with pytest.raises(UsageError, match=rf"cannot serve at 127\.0\.0\.1:{port}: .*in use.*; give another --port"):
        second.start()
    second.stop()
    first.stop()
    first.stop()
    third = Server(Stub(), identity=identity, port=port)
    third.start()
    third.stop()
    with pytest.raises(UsageError, match=r"cannot serve at no\.such\.host\.invalid"):
        Server(Stub(), identity=identity, host="no.such.host.invalid").start()
    with pytest.raises(UsageError, match="identity: action_size: is missing"):
        Server(Stub(), identity={"suite": "pointmass"})


def test_stopping_waits_for_the_policy_and_leaves_no_client_waiting() -> None:
    policy = Stub(delay=0.3)
    server = Server(policy, identity={"suite": "pointmass", "action_size": 2})
    with plain_client(server.start()) as (connection, _):
        connection.send(pack({"image/above": IMAGE, "state/position": STATE, "prompt": "go"}))
        while not policy.seen:
            time.sleep(0.01)
        server.stop()
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
    assert not policy.closed, "whoever built it closes it"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serving_cleanly(pointmass: str, number: signal.Signals) -> None:
    program = f"""
from evalkit.policies.scripted import Random, ScriptedParameters
from evalkit.serving.server import serve
from evalkit.suite import load_suite
suite = load_suite({pointmass!r})
policy = Random(suite, ScriptedParameters(chunk=10, cameras="all"))
serve(policy, port=0, identity={{"suite": suite.name, "action_size": 2}}, ready=lambda url: print(url, flush=True))
print("over")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with plain_client(url) as (connection, _):
        query(connection)
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
    output, errors = process.communicate()
    assert (output, errors) == ("over\n", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)
