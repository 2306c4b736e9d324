"""A client's connections to a policy server (:mod:`evalkit.serving.protocol`), with reconnection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from evalkit.documents import first_difference
from evalkit.errors import EnvironmentProblem, PolicyProblem, UsageError, excerpt
from evalkit.serving.bounds import MAX_MESSAGE_BYTES
from evalkit.serving.protocol import jsonable, unpack

_MAX_LOSSES = 3  # connections lost over one request before it is given up


class ConnectionPool:
    """A client's connections to one server, reopened when they are lost. For use within one event loop.

    Attributes:
        metadata: the server's metadata.
        warnings: one line for each connection that was lost and reopened.
    """

    def __init__(self, url: str, connect_s: float, timeout_s: float, api_key: str | None = None) -> None:
        """Create a pool without connections.

        Args:
            url: ws:// or wss://.
            connect_s: seconds to wait for the server, at first and over one request's losses.
            timeout_s: seconds to wait for one reply, over all connections on which the request is sent.
            api_key: key that is sent as openpi's client sends it; none if None.
        """
        self.metadata: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._url, self._connect_s, self._timeout_s = url, connect_s, timeout_s
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._display_url = url.partition("?")[0]  # the query may be secret
        self._connections: list[ClientConnection | None] = []
        self._has_metadata = False

    async def exchange(self, messages: Sequence[bytes]) -> list[str | bytes]:
        """Return the replies to several messages, each over a connection of its own.

        A request takes at most ``timeout_s`` for its reply and ``connect_s`` for connections that it lost, whatever the
        server does.

        Raises:
            EnvironmentProblem: the server is not available within ``connect_s``.
            PolicyProblem: a reply takes longer than ``timeout_s``, a request's connection is lost too often, another
                policy answers at the same address, or the server sent a message that answers no request.
        """
        await self.open(len(messages))
        tasks = [asyncio.ensure_future(self._exchange_one(index, message)) for index, message in enumerate(messages)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def open(self, count: int) -> None:
        """Open connections up to ``count``, within ``connect_s`` in all.

        All are open before the first message is sent: a single-threaded server accepts none during inference.
        """
        self._connections += [None] * (count - len(self._connections))
        deadline = asyncio.get_running_loop().time() + self._connect_s
        for index, connection in enumerate(self._connections[:count]):
            if connection is None:
                self._connections[index] = await self._connect(deadline)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(connection.close() for connection in self._connections if connection))
        self._connections.clear()

    async def _ask(self, connection: ClientConnection, message: bytes) -> str | bytes:
        """Send a message and return its reply. Raises PolicyProblem if something else arrived before it was sent."""
        unasked = asyncio.ensure_future(connection.recv())
        await asyncio.wait({unasked}, timeout=0)
        unasked.cancel()  # safe: websockets keeps a message that arrives later for the next recv
        with contextlib.suppress(asyncio.CancelledError):
            await unasked
            raise PolicyProblem(
                f"{self._display_url}: it sent a message that answers no request, so its chunks could be executed for "
                "the wrong observations: its server must send one reply to each observation"
            )
        await connection.send(message)
        return await connection.recv()

    async def _exchange_one(self, index: int, message: bytes) -> str | bytes:
        loop = asyncio.get_running_loop()
        reply_s, connect_s = self._timeout_s, self._connect_s
        for _ in range(_MAX_LOSSES):
            # Out of the list while a reply is pending: a late reply must not be taken for the next one.
            connection, self._connections[index] = self._connections[index], None
            assert connection is not None, "exchange before open"
            began = loop.time()
            try:
                reply = await asyncio.wait_for(self._ask(connection, message), reply_s)
                self._connections[index] = connection
                return reply
            except asyncio.TimeoutError as error:
                raise PolicyProblem(
                    f"{self._display_url}: no reply within {self._timeout_s:g} s; check the server, or wait longer "
                    "with timeout_s=SECONDS"
                ) from error
            except ConnectionClosed as error:
                reason = excerpt(error)
            finally:
                if self._connections[index] is None:
                    connection.transport.abort()
            lost = loop.time()
            self._connections[index] = await self._connect(lost + connect_s)
            reply_s, connect_s = reply_s - (lost - began), connect_s - (loop.time() - lost)
            self.warnings.append(f"{self._display_url}: the connection was lost ({reason}) and reopened")
        raise PolicyProblem(
            f"{self._display_url}: the connection was lost {_MAX_LOSSES} times over one request ({reason}); see the "
            "server's log"
        )

    async def _connect(self, deadline: float) -> ClientConnection:
        """Open one more connection to the same server, and wait for it until ``deadline`` if it is not available."""
        loop, pause = asyncio.get_running_loop(), 0.1
        while True:
            try:
                return await asyncio.wait_for(self._connect_once(), max(deadline - loop.time(), 0.1))
            except (OSError, asyncio.TimeoutError, WebSocketException) as error:
                self._raise_if_permanent(error)
                reason = excerpt(error) or type(error).__name__
            if loop.time() + pause > deadline:
                raise EnvironmentProblem(
                    f"{self._display_url}: no policy server answers within {self._connect_s:g} s ({reason}); start it, "
                    "or wait longer with connect_s=SECONDS"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _connect_once(self) -> ClientConnection:
        connection = await connect(
            self._url,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            additional_headers=self._headers,
            proxy=None if _is_loopback(self._url) else True,
            open_timeout=None,  # the caller has a deadline
            ping_interval=None,  # openpi's server does not reply to pings during inference
            close_timeout=1,
        )
        try:
            self._check_metadata(await connection.recv())
        except BaseException:
            connection.transport.abort()
            raise
        return connection

    def _check_metadata(self, message: str | bytes) -> None:
        """Read the server's first message. Raises PolicyProblem if it is not metadata, or another server's."""
        try:
            metadata = unpack(message) if isinstance(message, bytes) else None
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict):
            raise PolicyProblem(
                f"{self._display_url}: it does not begin with openpi's metadata: it is not an openpi policy server"
            )
        if not self._has_metadata:
            self.metadata, self._has_metadata = metadata, True
        elif difference := first_difference(jsonable(self.metadata), jsonable(metadata)):
            field, before, now = difference
            raise PolicyProblem(
                f"{self._display_url}: it came back as another policy: {excerpt(field, 100)} was "
                f"{excerpt(repr(before), 60)} and is {excerpt(repr(now), 60)}; start the first one again and --resume "
                "the run"
            )

    def _raise_if_permanent(self, error: Exception) -> None:
        """Raise an EvalkitError if waiting cannot help."""
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status in (401, 403):
                raise UsageError(
                    f"{self._display_url}: it refuses the key (HTTP {status}): set EVALKIT_REMOTE_API_KEY"
                ) from error
            if status not in (502, 503, 504):  # a gateway's replies while a server starts
                raise EnvironmentProblem(
                    f"{self._display_url}: the server at this address is not a policy server (HTTP {status}); check "
                    "the address"
                ) from error
        elif isinstance(error, InvalidHandshake) and not isinstance(error.__cause__, EOFError | OSError):
            raise EnvironmentProblem(
                f"{self._display_url}: the server at this address does not use WebSocket ({excerpt(error)}); check the "
                "address"
            ) from error
        elif isinstance(error, InvalidURI | InvalidProxy | socket.gaierror | ssl.SSLError):
            raise EnvironmentProblem(f"{self._display_url}: it cannot be reached: {excerpt(error)}") from error


def _is_loopback(url: str) -> bool:
    """Return True if a URL is on this machine, for which no proxy is used."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
