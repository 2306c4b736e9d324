"""A server that offers a policy to any client of the openpi protocol (:mod:`evalkit.serving.protocol`).

One thread runs the connections, a few decode messages, and another runs the policy. When the policy is free, all
pending requests go into one batch, however many they are, so no request waits for a batch to fill. A policy processes
every request independently, so a reply does not depend on the other requests of its batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import logging
import queue
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from evalkit.errors import EvalkitError, PolicyProblem, UsageError, excerpt
from evalkit.policy import Policy, PolicyWarnings, Request
from evalkit.serving import protocol
from evalkit.serving.bounds import MAX_MESSAGE_BYTES
from evalkit.serving.protocol import ServerMetadata, pack, unpack

_INTERNAL_ERROR = 1011
_MAX_LOG_LINES = 60  # of a traceback
_ORIGIN = re.compile(r"(https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d+)?)/?")
_WEBSOCKETS_LOG = logging.getLogger("evalkit.serving.server.websockets")  # a port scan is not worth a message
_WEBSOCKETS_LOG.addHandler(logging.NullHandler())
_WEBSOCKETS_LOG.propagate = False


def serve(
    policy: Policy,
    *,
    identity: dict[str, Any],
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_origins: Sequence[str] = (),
    ready: Callable[[str], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Serve a policy until SIGINT or SIGTERM. Must be called from the main thread; the caller closes the policy.

    Args:
        policy: the policy.
        identity: the metadata that the policy lacks: ``"suite"`` (name), ``"action_size"``, ``"action_dtype"``,
            ``"checkpoint"``.
        host: listen address, by default this machine alone. There is no authentication: any client that can reach it
            can query the policy.
        port: listen port; 0 selects a free one.
        allowed_origins: web origins (``https://HOST[:PORT]``) whose pages may connect. A browser sends the origin of a
            page, so by default no page can query the policy, not even on this machine. Other clients send none.
        ready: called once with the URL, when clients can connect.
        log: called with a line for each connection, disconnection and failure.

    Raises:
        UsageError: the server cannot listen on the host or port, or an allowed origin is not one.
    """
    server = Server(policy, identity=identity, host=host, port=port, allowed_origins=allowed_origins, log=log)
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
    try:
        url = server.start()
        if ready:
            ready(url)
        stopping.wait()
        if server.busy and log:
            log("waiting for the running inference to end (Ctrl-C again: do not wait)")
    finally:
        for number, handler in previous.items():  # a second Ctrl-C interrupts a slow inference
            signal.signal(number, handler)
        server.stop()


@dataclass(frozen=True)
class _PendingRequest:
    """A request, and the future of its reply: {"actions", "server_timing"}."""

    request: Request
    reply: asyncio.Future[dict[str, Any]]


class Server:
    """A server for one policy, which runs from :meth:`start` to :meth:`stop` in threads of its own."""

    def __init__(
        self,
        policy: Policy,
        *,
        identity: dict[str, Any],
        host: str = "127.0.0.1",
        port: int = 0,
        allowed_origins: Sequence[str] = (),
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Create a server that does not listen yet; the arguments are those of :func:`serve`."""
        spec = policy.spec
        metadata = {
            **identity,
            "observation_spec": spec.observation_spec,
            "chunk_size": spec.chunk_size,
            "batch_invariant": spec.batch_invariant,
            "supported_prefixes": spec.supported_prefixes,
            "metadata": {name: value for name, value in spec.metadata.items() if name != "where"},
            "keys": protocol.observation_keys(spec.observation_spec),
            "numbers_replies": True,
        }
        self._policy = policy
        self._metadata = parse(ServerMetadata, metadata, "identity")
        self._first_message = pack({protocol.EXTENSION_KEY: self._metadata.model_dump(mode="json")})
        self._host, self._port = host, port
        self._allowed_origins = [parse_origin(origin) for origin in allowed_origins]
        self._log = log or (lambda line: None)
        self._session_numbers = itertools.count()
        self._queue: queue.SimpleQueue[_PendingRequest | None] = queue.SimpleQueue()
        self._pending: set[asyncio.Future[dict[str, Any]]] = set()
        self._bound: Future[str] = Future()
        self._decoders = ThreadPoolExecutor(4, thread_name_prefix="evalkit-decoder")
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._connection_loop, self._policy_loop)
        ]

    @property
    def busy(self) -> bool:
        """True while a request is pending."""
        return bool(self._pending)

    def start(self) -> str:
        """Listen, and return the URL. Raises UsageError if the server cannot listen on the host or port."""
        self._threads[0].start()
        url = self._bound.result()
        self._threads[1].start()
        return url

    def stop(self) -> None:
        """Free the port, close every connection, and wait for the running inference to end."""
        if self._threads[1].ident is None:
            return
        with contextlib.suppress(RuntimeError):  # the event loop has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._decoders.shutdown()

    # The thread of the connections.

    def _connection_loop(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._bound.done():
                raise
            problem = _listen_error(self._host, self._port, error) if isinstance(error, OSError) else error
            self._bound.set_exception(problem)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await listen(
            self._handle_client,
            self._host,
            self._port,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            process_request=self._check_handshake,
            ping_interval=None,  # a client that builds a simulator may not reply to pings for minutes
            close_timeout=2,
            logger=_WEBSOCKETS_LOG,
        )
        async with server:
            address = server.sockets[0].getsockname()
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            self._bound.set_result(f"ws://{host}:{address[1]}")
            await self._stopping.wait()
            for reply in self._pending:
                reply.cancel()

    def _check_handshake(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer a health check, and refuse a web page whose origin was not allowed."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        refused = [origin for origin in request.headers.get_all("Origin") if origin not in self._allowed_origins]
        if not refused:
            return None
        self._log(f"{_name(connection)}: refused a web page of {excerpt(refused[0])} (see --allow-origin)")
        text = "this policy server refuses web pages; evalkit serve --allow-origin ORIGIN allows those of an origin\n"
        return connection.respond(http.HTTPStatus.FORBIDDEN, text)

    async def _handle_client(self, connection: ServerConnection) -> None:
        """Serve one client, from its connection to its disconnection."""
        session = _ClientSession(next(self._session_numbers), self._metadata)
        name = _name(connection)
        self._log(f"{name}: connected")
        try:
            await connection.send(self._first_message)
            async for message in connection:
                reply = await self._reply(session, message)
                for line in reply.rstrip().splitlines()[-_MAX_LOG_LINES:] if isinstance(reply, str) else ():
                    self._log(f"{name}: {excerpt(line)}")
                await connection.send(reply)
                if isinstance(reply, str):
                    await connection.close(_INTERNAL_ERROR, "the previous frame has the error")
        except (ConnectionClosed, asyncio.CancelledError):
            pass
        self._log(f"{name}: disconnected after {session.request_count} requests")

    async def _reply(self, session: _ClientSession, message: Data) -> str | bytes:
        """Return the reply to a message: the packed actions, or the text of an error."""
        try:  # in a thread: no message may make other clients wait
            request, number = await self._loop.run_in_executor(self._decoders, session.request, message)
        except ValueError as error:
            return f"evalkit cannot read this observation: {excerpt(error)}"
        pending: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if self._stopping.is_set():
            pending.cancel()  # the policy thread has ended
        self._pending.add(pending)
        self._queue.put(_PendingRequest(request, pending))
        try:
            reply = await pending
            return pack(reply if number is None else {**reply, protocol.EXTENSION_KEY: {protocol.NUMBER: number}})
        except EvalkitError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()
        finally:
            self._pending.discard(pending)

    # The thread of the policy.

    def _policy_loop(self) -> None:
        while True:
            waiting = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            if None in waiting:
                return
            self._run_batch([pending for pending in waiting if pending])

    def _run_batch(self, batch: Sequence[_PendingRequest]) -> None:
        started = time.perf_counter()
        try:
            chunks = self._policy.act([pending.request for pending in batch])
            if len(chunks) != len(batch):
                raise PolicyProblem(f"the policy returned {len(chunks)} chunks for {len(batch)} requests")
            arrays = [np.asarray(chunk) for chunk in chunks]
            warnings = self._policy.warnings() if isinstance(self._policy, PolicyWarnings) else []
        except (Exception, SystemExit) as error:  # no error may end this thread
            if len(batch) == 1:
                self._set_result(batch[0].reply, _as_exception(error))
            else:  # one request that the policy cannot process must not fail the others
                for pending in batch:
                    self._run_batch([pending])
            return
        for warning in warnings:
            self._log(warning)
        timing = {"infer_ms": (time.perf_counter() - started) * 1000, "batch": len(batch)}
        for pending, chunk in zip(batch, arrays, strict=True):
            self._set_result(pending.reply, {protocol.ACTIONS: chunk, "server_timing": timing})

    def _set_result(self, reply: asyncio.Future[dict[str, Any]], result: dict[str, Any] | Exception) -> None:
        def set_result() -> None:
            if reply.done():  # the server is stopping
                return
            if isinstance(result, Exception):
                reply.set_exception(result)
            else:
                reply.set_result(result)

        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(set_result)


class _ClientSession:
    """The state of one connection.

    A client without the extension gets episodes of its own: one on connection, and another at each reset.
    """

    def __init__(self, number: int, metadata: ServerMetadata) -> None:
        self.request_count = 0
        self._metadata = metadata
        self._number = number
        self._scene = 0
        self._step = 0

    def request(self, message: Data) -> tuple[Request, int | None]:
        """Return the request in a message, and the client's number of it. Raises ValueError if it is malformed."""
        fields = unpack(message) if isinstance(message, bytes) else None
        if not isinstance(fields, dict):
            raise ValueError("it must be a map in msgpack, in a binary frame")
        self.request_count += 1
        if protocol.EXTENSION_KEY in fields:
            request = protocol.decode_request(fields, self._metadata.observation_spec, self._metadata.action_dtype)
            return request, protocol.number_of(fields)
        if fields.get(protocol.RESET) and self._step:
            self._scene, self._step = self._scene + 1, 0
        # The connection is the repeat: two concurrent clients must not sample the same noise.
        episode = Episode(self._metadata.suite, "remote", "remote", self._scene, seed=0, repeat=self._number)
        observation = protocol.decode_observation(fields, self._metadata.observation_spec, self._metadata.action_dtype)
        request = Request(episode, self._step, observation)
        self._step += 1
        return request, None


def _as_exception(error: BaseException) -> Exception:
    """Return the error as an Exception, which a future accepts."""
    return error if isinstance(error, Exception) else PolicyProblem(f"the policy ended with {error!r}")


def _name(connection: ServerConnection) -> str:
    return "client {}:{}".format(*(connection.remote_address or ("?", "?"))[:2])


def parse_origin(text: str) -> str:
    """Return a web origin as browsers send it. Raises UsageError if it is not one."""
    match = _ORIGIN.fullmatch(text.lower())
    if not match:
        raise UsageError(f"--allow-origin {excerpt(text)}: must be like https://example.org or http://localhost:3000")
    return match[1]


def _listen_error(host: str, port: int, error: OSError) -> UsageError:
    why = error.strerror or str(error)
    return UsageError(f"cannot serve at {host}:{port}: {why.lower()}; give another --port or --host")
