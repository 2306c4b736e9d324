"""A policy behind a WebSocket: anything that speaks the openpi protocol can ask it. See :mod:`evalkit.serving.protocol`.

One thread holds the connections, another asks the policy. Whatever requests wait when the policy is free are asked
about together, however many they are: nothing waits for a batch to fill, and since a policy treats every request by
itself, nobody can tell who else was in the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import logging
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.typing import Data

from evalkit.documents import parse
from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem, UsageError
from evalkit.policy import Policy, PolicyWarnings, Request
from evalkit.serving import protocol as openpi
from evalkit.serving.protocol import ServerMetadata, pack, unpack

_INTERNAL_ERROR = 1011
_QUIET = logging.getLogger("evalkit.serving.server.websockets")  # a port scan is no news
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def serve(
    policy: Policy,
    *,
    identity: dict[str, Any],
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Serves a policy until SIGINT or SIGTERM. Call it from the main thread. Closing the policy is the caller's.

    Args:
        policy: what to serve.
        identity: what the policy cannot know of itself: ``"suite"`` (name), ``"action_size"``, ``"checkpoint"``.
        host: where to listen; whoever reaches it may ask, so it is this machine alone unless another one is given.
        port: where to listen; 0 for a free one.
        ready: called once with the URL, when clients can connect.
        log: called with a line for each client that comes, goes or fails.

    Raises:
        UsageError: the host or port cannot be listened on.
    """
    server = Server(policy, identity=identity, host=host, port=port, log=log)
    over = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: over.set()) for number in signals}
    try:
        url = server.start()
        if ready:
            ready(url)
        over.wait()
        if server.busy and log:
            log("waiting for the policy to end what it is doing (Ctrl-C again: leave it)")
    finally:
        for number, handler in before.items():  # a second Ctrl-C interrupts a policy that takes long to end
            signal.signal(number, handler)
        server.stop()


@dataclass(frozen=True)
class _Question:
    """A request, and where its answer goes: {"actions", "server_timing"}."""

    request: Request
    answer: asyncio.Future[dict[str, Any]]


class Server:
    """A policy being served, from :meth:`start` to :meth:`stop`, in threads of its own."""

    def __init__(
        self,
        policy: Policy,
        *,
        identity: dict[str, Any],
        host: str = "127.0.0.1",
        port: int = 0,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """A server that does not listen yet; the arguments are those of :func:`serve`."""
        spec = policy.spec
        said = {
            **identity,
            "observation_spec": spec.observation_spec,
            "chunk_size": spec.chunk_size,
            "batch_invariant": spec.batch_invariant,
            "supported_prefixes": spec.supported_prefixes,
            "metadata": {name: fact for name, fact in spec.metadata.items() if name != "where"},
            "keys": openpi.keys_of(spec.observation_spec),
        }
        self._policy = policy
        self._offer = parse(ServerMetadata, said, "identity")
        self._metadata = pack({openpi.EXTENSION: self._offer.model_dump(mode="json")})
        self._host, self._port = host, port
        self._log = log or (lambda line: None)
        self._visitors = itertools.count()
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._waiting: set[asyncio.Future[dict[str, Any]]] = set()
        self._bound: Future[str] = Future()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._policy_loop)]

    @property
    def busy(self) -> bool:
        """Whether a request is being thought about."""
        return bool(self._waiting)

    def start(self) -> str:
        """Listens; returns the URL. Raises UsageError where the host or port cannot be listened on."""
        self._threads[0].start()
        url = self._bound.result()
        self._threads[1].start()
        return url

    def stop(self) -> None:
        """Frees the port, says goodbye to every client, and waits for the policy to finish what it is doing."""
        if self._threads[1].ident is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._over.set)
        self._questions.put(None)
        for thread in self._threads:
            thread.join()

    # The thread of the connections.

    def _listen(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._bound.done():
                raise
            cannot = _cannot_listen(self._host, self._port, error) if isinstance(error, OSError) else error
            self._bound.set_exception(cannot)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await listen(
            self._attend,
            self._host,
            self._port,
            compression=None,
            max_size=openpi.MOST_BYTES,
            process_request=_health,
            ping_interval=None,  # a client that builds a simulator may be deaf for minutes
            close_timeout=2,
            logger=_QUIET,
        )
        async with server:
            address = server.sockets[0].getsockname()
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            self._bound.set_result(f"ws://{host}:{address[1]}")
            await self._over.wait()
            for answer in self._waiting:
                answer.cancel()

    async def _attend(self, connection: ServerConnection) -> None:
        """One client, from its coming to its going."""
        visitor = _ClientSession(next(self._visitors), self._offer)
        name = "client {}:{}".format(*(connection.remote_address or ("?", "?"))[:2])
        self._log(f"{name}: connected")
        try:
            await connection.send(self._metadata)
            async for message in connection:
                reply = await self._reply(visitor, message)
                if isinstance(reply, str):
                    self._log(f"{name}: {reply.rstrip()}")
                await connection.send(reply)
                if isinstance(reply, str):
                    await connection.close(_INTERNAL_ERROR, "what went wrong is in the frame before")
        except (ConnectionClosed, asyncio.CancelledError):
            pass
        self._log(f"{name}: gone after {visitor.asked} requests")

    async def _reply(self, visitor: _ClientSession, message: Data) -> str | bytes:
        """The reply to a message: actions, or in words what went wrong."""
        try:
            request = visitor.request(message)
        except ValueError as error:
            return f"evalkit cannot read this observation: {error}"
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if self._over.is_set():
            answer.cancel()  # nobody thinks any more
        self._waiting.add(answer)
        self._questions.put(_Question(request, answer))
        try:
            return pack(await answer)
        except EvalkitError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()
        finally:
            self._waiting.discard(answer)

    # The thread of the policy.

    def _policy_loop(self) -> None:
        while True:
            waiting = [self._questions.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._questions.get_nowait())
            if None in waiting:
                return
            self._answer([question for question in waiting if question])

    def _answer(self, batch: Sequence[_Question]) -> None:
        started = time.perf_counter()
        try:
            chunks = self._policy.act([question.request for question in batch])
            if len(chunks) != len(batch):
                raise PolicyProblem(f"the policy returned {len(chunks)} chunks for {len(batch)} requests")
            arrays = [np.asarray(chunk) for chunk in chunks]
            warnings = self._policy.warnings() if isinstance(self._policy, PolicyWarnings) else []
        except (Exception, SystemExit) as error:  # whatever it is, this thread goes on
            if len(batch) == 1:
                self._settle(batch[0].answer, _as_exception(error))
            else:  # one request that the policy cannot take must not fail the others
                for question in batch:
                    self._answer([question])
            return
        for remark in warnings:
            self._log(remark)
        timing = {"infer_ms": (time.perf_counter() - started) * 1000, "batch": len(batch)}
        for question, chunk in zip(batch, arrays, strict=True):
            self._settle(question.answer, {openpi.ACTIONS: chunk, "server_timing": timing})

    def _settle(self, answer: asyncio.Future[dict[str, Any]], result: dict[str, Any] | Exception) -> None:
        def settle() -> None:
            if answer.done():  # the server is stopping
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(settle)


class _ClientSession:
    """One connection. A client without the extension is given episodes: the first, and another at each reset."""

    def __init__(self, number: int, offer: ServerMetadata) -> None:
        self.asked = 0
        self._offer = offer
        self._number = number
        self._scene = 0
        self._step = 0

    def request(self, message: Data) -> Request:
        """What a message asks. Raises ValueError that says what is wrong with it."""
        fields = unpack(message) if isinstance(message, bytes) else None
        if not isinstance(fields, dict):
            raise ValueError("it must be a map in msgpack, in a binary frame")
        self.asked += 1
        if openpi.EXTENSION in fields:
            return openpi.request_of(fields, self._offer.observation_spec)
        if fields.get(openpi.RESET) and self._step:
            self._scene, self._step = self._scene + 1, 0
        # The connection is the repeat: two clients at once must not sample the same.
        episode = Episode(self._offer.suite, "remote", "remote", self._scene, seed=0, repeat=self._number)
        request = Request(episode, self._step, openpi.observation_of(fields, self._offer.observation_spec))
        self._step += 1
        return request


def _as_exception(error: BaseException) -> Exception:
    """The error as one that a future takes."""
    return error if isinstance(error, Exception) else PolicyProblem(f"the policy ended with {error!r}")


def _health(connection: ServerConnection, request: HttpRequest) -> Response | None:
    return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def _cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    why = error.strerror or str(error)
    return UsageError(f"cannot serve at {host}:{port}: {why.lower()}; give another --port or --host")
