"""The client of policy servers: openpi servers without the extension, and servers that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import run_policy
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.sync.server import Server as SyncServer
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as listen

from evalkit.episode import Episode
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem, UsageError
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.checkpoint import Checkpoint, Entry, load_checkpoints
from evalkit.policies.remote import Remote, RemoteParameters, resize_with_pad
from evalkit.policies.rotations import axis_angle
from evalkit.policies.scripted import Random, ScriptedParameters
from evalkit.policy import Request, Spec
from evalkit.records.journal import read_journal
from evalkit.runner.options import Candidate, RunOptions
from evalkit.serving.protocol import pack, unpack
from evalkit.serving.server import Server
from evalkit.suite import Suite, load_suite

IDENTITY = {"suite": "pointmass", "action_size": 2}
MAPPED = {"images": {"observation/image": "above"}, "state": {"observation/state": ["position"]}, "chunk": 10}
CHUNK = np.full((10, 2), 0.25, np.float32)


@pytest.fixture
def suite(pointmass: str) -> Suite:
    return load_suite(pointmass)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVALKIT_REMOTE_API_KEY", raising=False)


class Upstream:
    """A policy server like openpi's: metadata, then one reply for each message, made by one callable."""

    def __init__(self, answer: Callable[[Any], Any], metadata: Any, port: int = 0) -> None:
        self.seen: list[Any] = []
        self.headers: list[Any] = []
        self._answer = answer
        self._metadata = metadata
        self._server: SyncServer = listen(self._handle, "127.0.0.1", port, compression=None, max_size=None)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"

    def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.headers.append(connection.request.headers)
        metadata = self._metadata
        connection.send(metadata if isinstance(metadata, bytes | str) else pack(metadata))
        try:
            for message in connection:
                self.seen.append(unpack(message) if isinstance(message, bytes) else message)
                reply = self._answer(self.seen[-1])
                if reply is None:
                    connection.socket.shutdown(socket.SHUT_RDWR)
                    return
                connection.send(reply if isinstance(reply, bytes | str) else pack(reply))
                if isinstance(reply, str):
                    return
        except ConnectionClosed:
            pass

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()


@contextmanager
def upstream(answer: Any = None, metadata: Any = None) -> Iterator[Upstream]:
    """Run an upstream server; ``answer`` is every reply, or a function from a message to its reply."""
    reply = {"actions": CHUNK} if answer is None else answer
    server = Upstream(reply if callable(reply) else lambda message: reply, {} if metadata is None else metadata)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def remote(suite: Suite, url: str, **parameters: Any) -> Iterator[Remote]:
    policy = Remote(suite, RemoteParameters(url=url, **{"connect_s": 5, **parameters}))
    try:
        yield policy
    finally:
        policy.close()


def request(suite: Suite, scene: int = 0) -> Request:
    """Return a request with all of a suite's cameras and state vectors, filled with random numbers."""
    random = np.random.default_rng(scene)
    images = {n: random.integers(0, 256, (c.height, c.width, 3), np.uint8) for n, c in suite.cameras.items()}
    state = {name: random.normal(size=vector.size) for name, vector in suite.state.items()}
    return Request(Episode(suite.name, "near", "left", scene, 3), 0, Observation("go left", images, state))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Servers without the extension.


def test_a_plain_server_gets_what_the_parameters_say(suite: Suite) -> None:
    asked = request(suite)
    reply = {"actions": np.arange(36.0).reshape(12, 3), "server_timing": {"infer_ms": 1.0}}
    with upstream(reply, {"reset_pose": [0, 1], "norm": np.zeros(99)}) as server:
        with remote(suite, server.url, **MAPPED, columns=2, flip=True, resize=16, prompt="task") as policy:
            (chunk,) = policy.act([asked])
            assert (
                policy.spec.observation_spec == ObservationSpec(("above",), ("position",))
                and not policy.spec.batch_invariant
            )
            assert policy.spec.metadata == {
                "where": server.url,
                "extension": False,
                "unsupported": ["seed", "reset", "prefix"],
                "layout": {
                    "images": {"observation/image": "above"},
                    "state": {"observation/state": ["position"]},
                    "prompt": "task",
                    "flip": True,
                    "resize": 16,
                },
                "metadata": {"reset_pose": [0, 1], "norm": "float64 (99,)"},
            }
        (message,) = server.seen
    assert chunk.dtype == np.float32 and (chunk == np.arange(36).reshape(12, 3)[:10, :2]).all()
    assert set(message) == {"observation/image", "observation/state", "task"} and message["task"] == "go left"
    assert message["observation/state"].dtype == np.float64
    assert (message["observation/state"] == asked.observation.state["position"]).all()
    assert (message["observation/image"] == resize_with_pad(asked.observation.images["above"][::-1, ::-1], 16)).all()


def test_libero_is_sent_as_openpis_own_client_sends_it() -> None:
    libero = load_suite("libero")
    asked = request(libero)
    entry = load_checkpoints()["openpi-libero"].parameters
    with (
        upstream({"actions": np.zeros((10, 7))}) as server,
        remote(libero, server.url, **{k: v for k, v in entry.items() if k != "url"}) as policy,
    ):
        assert policy.act([asked])[0].shape == (5, 7)
        assert policy.spec.observation_spec == ObservationSpec(
            ("agentview", "wrist"), ("eef_pos", "eef_quat", "gripper_qpos")
        )
        (message,) = server.seen
    seen = asked.observation
    assert set(message) == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert message["observation/wrist_image"].shape == (224, 224, 3)
    assert (message["observation/image"] == resize_with_pad(seen.images["agentview"][::-1, ::-1], 224)).all()
    state = [seen.state["eef_pos"], axis_angle(seen.state["eef_quat"]), seen.state["gripper_qpos"]]
    assert (message["observation/state"] == np.concatenate(state)).all()


def test_a_run_on_a_plain_server_is_a_run(suite: Suite, pointmass: str, tmp_path: Path) -> None:
    with upstream() as server, remote(suite, server.url, **MAPPED) as policy:
        options = RunOptions(pointmass, out=tmp_path / "run", workers=2, episodes=1)
        run_policy(options, Candidate("theirs", policy, {"id": "theirs"}))
        assert len({id(m) for m in server.seen}) == len(server.seen) > 10 and len(server.headers) <= 2
    assert all(r.success is False and r.inferences for r in read_journal(tmp_path / "run").values())


def test_images_are_padded_as_openpi_pads_them() -> None:
    image = np.full((24, 32, 3), 200, np.uint8)
    small = resize_with_pad(image, 16)
    assert small.shape == (16, 16, 3) and (small[2:14] == 200).all() and not small[:2].any() and not small[14:].any()
    assert resize_with_pad(small, 16) is small


@pytest.mark.parametrize(
    ("quaternion", "vector"),
    [
        ([0, 0, 0, 1], [0, 0, 0]),
        ([0, 0, 0, -1.5], [0, 0, 0]),
        ([1, 0, 0, 0], [np.pi, 0, 0]),
        ([0, np.sqrt(0.5), 0, np.sqrt(0.5)], [0, np.pi / 2, 0]),
        ([0, np.sqrt(0.5), 0, -np.sqrt(0.5)], [0, 3 * np.pi / 2, 0]),
    ],
)
def test_axis_angles_are_robosuites(quaternion: list[float], vector: list[float]) -> None:
    np.testing.assert_allclose(axis_angle(np.array(quaternion, float)), vector, atol=1e-12)


def test_an_api_key_is_sent_and_stands_nowhere(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_REMOTE_API_KEY", "sesame")
    entry = Entry(summary="", policy="evalkit.policies.remote:Remote")
    with upstream() as server:
        checkpoint = Checkpoint("remote", entry, {"url": f"{server.url}/?session=secret", **MAPPED})
        policy = checkpoint.build(suite)
        policy.close()
        assert server.headers[0]["Authorization"] == "Api-Key sesame"
        shown = f"{checkpoint.identity()} {policy.spec.metadata}"
        assert server.url in shown and "sesame" not in shown and "secret" not in shown


# What is asked for wrongly.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {},
            r"not an evalkit server: .* images and state of .*\{images: \{observation/image: above\}, state: \{obs",
        ),
        (
            {"images": {}, "state": {}},
            r"its metadata lacks the length of its action chunks: .* --checkpoint remote:url=ws://127.*,chunk=10",
        ),
        ({**MAPPED, "columns": 3}, "columns=3: an action of pointmass has 2"),
        (
            {**MAPPED, "state": {"s": ["axis_angle(position)"]}},
            r"axis_angle\(position\) needs a quaternion x, y, z, w, and position has 2",
        ),
    ],
)
def test_what_a_plain_server_needs_to_be_told_is_asked_for(
    suite: Suite, parameters: dict[str, Any], message: str
) -> None:
    with upstream() as server, pytest.raises(UsageError, match=message), remote(suite, server.url, **parameters):
        pass


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"images": {"observation/image": "above"}}, "describes its observations itself: remove images"),
        ({"chunk": 5}, "its chunks are 10 steps: remove chunk=5, and use --horizon"),
    ],
)
def test_what_an_evalkit_server_says_itself_is_not_to_be_said(
    suite: Suite, parameters: dict[str, Any], message: str
) -> None:
    server = Server(Random(suite, ScriptedParameters()), identity=IDENTITY)
    url = server.start()
    with pytest.raises(UsageError, match=message), remote(suite, url, **parameters):
        pass
    with remote(suite, url, chunk=10):
        pass
    server.stop()


def test_a_server_for_another_suite_is_refused(suite: Suite) -> None:
    server = Server(Random(suite, ScriptedParameters()), identity={"suite": "libero", "action_size": 7})
    url = server.start()
    with (
        pytest.raises(UsageError, match=r"serves a policy for libero \(actions of 7\).* of pointmass \(actions of 2\)"),
        remote(suite, url),
    ):
        pass
    server.stop()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost:8000", "url: it must be ws://HOST:PORT, wss://HOST:PORT or HOST:PORT"),
        ("localhost", "it must be"),
        ("localhost:many", "it must be"),
        ("ws://", "it must be"),
        ("ws://a b:1", "it must be"),
        ("ws://me:sesame@host:8000", "must not hold a password, .* set EVALKIT_REMOTE_API_KEY instead"),
    ],
)
def test_a_bad_address_is_refused_before_anything_is_tried(suite: Suite, url: str, message: str) -> None:
    entry = Entry(summary="", policy="evalkit.policies.remote:Remote")
    with pytest.raises(UsageError, match=message) as refused:
        Checkpoint("remote", entry, {"url": url}).build(suite)
    assert "sesame" not in str(refused.value)
    with pytest.raises(UsageError, match=r"api_key is not a parameter.* set EVALKIT_REMOTE_API_KEY"):
        Checkpoint("remote", entry, {"url": "localhost:1", "api_key": "sesame"}).build(suite)


# Servers that are not there, or are something else.


@pytest.mark.slow
def test_a_server_that_is_not_there_is_waited_for(suite: Suite) -> None:
    port = free_port()
    started = time.monotonic()
    with (
        pytest.raises(
            EnvironmentProblem, match=rf"ws://127\.0\.0\.1:{port}: no policy server answers within 0\.5 s \(.*"
        ),
        remote(suite, f"127.0.0.1:{port}", connect_s=0.5),
    ):
        pass
    assert time.monotonic() - started < 3
    late = Server(Random(suite, ScriptedParameters()), identity=IDENTITY, port=port)
    threading.Timer(0.4, late.start).start()
    with remote(suite, f"127.0.0.1:{port}") as policy:
        assert policy.spec.chunk_size == 10
    late.stop()


def refusing(status: int) -> Callable[[ServerConnection, HttpRequest], Response]:
    return lambda connection, request: connection.respond(status, "go away\n")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, EnvironmentProblem, r"the server at this address is not a policy server \(HTTP 404\); check the address"),
        (200, EnvironmentProblem, r"not a policy server \(HTTP 200\)"),
        (401, UsageError, r"it refuses the key \(HTTP 401\): set EVALKIT_REMOTE_API_KEY"),
        (503, EnvironmentProblem, "no policy server answers within 0.5 s .*HTTP 503"),
    ],
)
def test_a_web_server_is_no_policy_server(suite: Suite, status: int, error: type[EvalkitError], message: str) -> None:
    with listen(lambda connection: None, "127.0.0.1", 0, process_request=refusing(status)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with pytest.raises(error, match=message), remote(suite, f"127.0.0.1:{port}", connect_s=0.5):
            pass


@pytest.mark.parametrize(
    ("greeting", "message"),
    [(b"SSH-2.0-OpenSSH_9.6\r\n", "does not use WebSocket"), (b"", r"no policy server answers within 0.5 s")],
)
def test_something_else_at_the_port_is_no_policy_server(suite: Suite, greeting: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def wait_ready() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(1000)
                connection.sendall(greeting)
                connection.close()

        thread = threading.Thread(target=wait_ready, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=message), remote(suite, f"127.0.0.1:{port}", connect_s=0.5):
            pass
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("metadata", ["hello", b"\xc1", pack([1])])
def test_a_websocket_that_does_not_begin_with_metadata_is_no_policy_server(suite: Suite, metadata: Any) -> None:
    with (
        upstream(metadata=metadata) as server,
        pytest.raises(PolicyProblem, match="does not begin with openpi's metadata"),
        remote(suite, server.url, **MAPPED),
    ):
        pass


def test_a_host_that_does_not_exist_is_not_waited_for(suite: Suite) -> None:
    started = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="cannot be reached"), remote(suite, "no.such.host.invalid:8000"):
        pass
    assert time.monotonic() - started < 4


# Servers that misbehave.


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\xc1", "its reply is not openpi's msgpack"),
        (pack([1]), "its reply has no 'actions', only: list"),
        ({"action": CHUNK, "x": 1}, "its reply has no 'actions', only: action, x; set its key with actions=KEY"),
        ({}, "only: nothing"),
        ({"actions": [[0.0, 0.0]]}, "its 'actions' are list, not a chunk of 10 actions of 2 numbers"),
        ({"actions": CHUNK[None]}, r"its 'actions' are float32 \(1, 10, 2\)"),
        ({"actions": CHUNK.astype("U4")}, "its 'actions' are <U4"),
        ({"actions": CHUNK[:9]}, r"its chunk is \(9, 2\), not \(10, 2\) as"),
        ({"actions": np.zeros((10, 7))}, r"its chunk is \(10, 7\).*columns=2"),
        ({"actions": np.zeros((10, 1))}, r"its chunk is \(10, 1\)"),
        (
            "Traceback (most recent call last):\n  File \"x.py\", line 1\nKeyError: 'observation/exterior'\n",
            "the policy failed there: KeyError: 'observation/exterior'$",
        ),
        ("", "the policy failed there: it gives no reason"),
        (None, r"the connection was lost 3 times over one request \(.*\); see the server's log"),
    ],
)
def test_a_reply_that_is_no_chunk_is_one_line(suite: Suite, answer: Any, message: str) -> None:
    with upstream(lambda _: answer) as server, remote(suite, server.url, **MAPPED) as policy:
        with pytest.raises(PolicyProblem, match=message) as problem:
            policy.act([request(suite)])
        assert str(problem.value).startswith(f"{server.url}: ") and "\n" not in str(problem.value)


def test_nan_is_left_to_the_run_to_refuse(suite: Suite) -> None:
    with upstream({"actions": CHUNK * np.nan}) as server, remote(suite, server.url, **MAPPED) as policy:
        assert np.isnan(policy.act([request(suite)])[0]).all()


@pytest.mark.slow
def test_a_server_that_is_too_slow_is_one_line(suite: Suite) -> None:
    with (
        upstream(lambda _: time.sleep(0.5)) as server,
        remote(suite, server.url, **MAPPED, timeout_s=0.2) as policy,
        pytest.raises(PolicyProblem, match=r"no reply within 0\.2 s; .* timeout_s=SECONDS"),
    ):
        policy.act([request(suite)])


@pytest.mark.slow
def test_a_reply_that_comes_too_late_answers_no_later_question(suite: Suite) -> None:
    asked: list[float] = []

    def answer(message: Any) -> Any:
        asked.append(message["observation/state"][0])
        time.sleep(0.5 if len(asked) == 1 else 0)
        return {"actions": np.full((10, 2), message["observation/state"][0])}

    with upstream(answer) as server, remote(suite, server.url, **MAPPED, timeout_s=0.2) as policy:
        with pytest.raises(PolicyProblem, match="no reply"):
            policy.act([request(suite, 0)])
        time.sleep(0.6)
        later = request(suite, 1)
        assert policy.act([later])[0][0, 0] == np.float32(later.observation.state["position"][0])


def test_what_may_be_secret_in_an_address_is_never_shown(suite: Suite) -> None:
    with pytest.raises(EvalkitError) as refused, remote(suite, f"127.0.0.1:{free_port()}/?token=SECRET", connect_s=0.1):
        pass
    assert "SECRET" not in str(refused.value)


def test_several_requests_go_over_several_connections_and_come_back_in_order(suite: Suite) -> None:
    together = threading.Barrier(3, timeout=10)

    def answer(message: Any) -> Any:
        together.wait()
        return {"actions": np.full((10, 2), message["observation/state"][0])}

    with upstream(answer) as server, remote(suite, server.url, **MAPPED) as policy:
        asked = [request(suite, scene) for scene in range(3)]
        chunks = policy.act(asked)
        assert len(server.headers) == 3
    positions = [np.float32(r.observation.state["position"][0]) for r in asked]
    assert [chunk[0, 0] for chunk in chunks] == positions


class Stub:
    """A random policy with metadata of its own."""

    def __init__(self, suite: Suite, weights: str) -> None:
        self._random = Random(suite, ScriptedParameters(cameras="all"))
        self.spec = Spec(self._random.spec.observation_spec, 10, {"weights": weights})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return self._random.act(requests)

    def close(self) -> None:
        pass


def restarted(first: Server, second: Server) -> None:
    first.stop()
    threading.Timer(0.3, second.start).start()


def test_a_server_that_comes_back_is_asked_again(suite: Suite) -> None:
    first = Server(Stub(suite, "a"), identity=IDENTITY)
    url = first.start()
    second = Server(Stub(suite, "a"), identity=IDENTITY, port=int(url.rpartition(":")[2]))
    asked = [request(suite, scene) for scene in range(3)]
    with remote(suite, url) as policy:
        before = policy.act(asked)
        assert policy.warnings() == []
        restarted(first, second)
        after = policy.act(asked)
        warnings = policy.warnings()
    second.stop()
    assert np.array_equal(before, after)
    assert len(warnings) == 3 and all("the connection was lost" in r and "reopened" in r for r in warnings)


def test_another_policy_at_the_same_address_is_not_taken_for_the_first(suite: Suite) -> None:
    first = Server(Stub(suite, "a"), identity=IDENTITY)
    url = first.start()
    second = Server(Stub(suite, "b"), identity=IDENTITY, port=int(url.rpartition(":")[2]))
    with remote(suite, url) as policy:
        policy.act([request(suite)])
        restarted(first, second)
        with pytest.raises(PolicyProblem, match=r"another policy: evalkit\.metadata\.weights was 'a' and is 'b'"):
            policy.act([request(suite)])
    second.stop()


def test_a_server_that_does_not_come_back_ends_the_run(suite: Suite) -> None:
    server = Server(Stub(suite, "a"), identity=IDENTITY)
    with remote(suite, server.start(), connect_s=0.5) as policy:
        server.stop()
        with pytest.raises(EnvironmentProblem, match=r"no policy server answers within 0\.5 s"):
            policy.act([request(suite)])


def client_threads() -> int:
    """The number of threads, without those in which the server decodes messages."""
    return sum(not thread.name.startswith("evalkit-decoder") for thread in threading.enumerate())


def test_nothing_is_left_behind(suite: Suite) -> None:
    server = Server(Stub(suite, "a"), identity=IDENTITY)
    url = server.start()
    threads = client_threads()
    handles = open_files()
    for _ in range(3):
        with remote(suite, url) as policy:
            policy.act([request(suite), request(suite)])
    with pytest.raises(UsageError), remote(suite, url, chunk=3):
        pass
    deadline = time.monotonic() + 5
    while client_threads() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client_threads() == threads
    server.stop()
    assert open_files() <= handles


def open_files() -> int:
    """Return the number of open files of this process, or 0 if the platform does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
