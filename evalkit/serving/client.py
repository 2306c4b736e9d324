"""A client's connections to a policy server (:mod:`evalkit.serving.protocol`): opened, lost and made again."""

from __future__ import annotations

import asyncio
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
from evalkit.errors import EnvironmentProblem, PolicyProblem, UsageError
from evalkit.serving.protocol import MOST_BYTES, jsonable, unpack

_LOSSES = 3  # so many lost connections over one request are no accident


class ConnectionPool:
    """A client's connections to one server, opened again when they are lost. For use within one event loop.

    Attributes:
        metadata: what the server says of itself.
        remarks: what happened to the connections.
    """

    def __init__(self, url: str, connect_s: float, timeout_s: float, api_key: str | None = None) -> None:
        """No connection yet.

        Args:
            url: ws:// or wss://.
            connect_s: how long to wait for the server, at first and when it was lost.
            timeout_s: how long to wait for one reply.
            api_key: sent as openpi's client does, where given.
        """
        self.metadata: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._url, self._connect_s, self._timeout_s = url, connect_s, timeout_s
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._shown = url.partition("?")[0]  # what stands behind it may be secret
        self._connections: list[ClientConnection | None] = []
        self._known = False

    async def exchange(self, messages: Sequence[bytes]) -> list[str | bytes]:
        """The replies to several messages, each over a connection of its own."""
        await self.open(len(messages))
        asked = [asyncio.ensure_future(self._ask(place, message)) for place, message in enumerate(messages)]
        try:
            return await asyncio.gather(*asked)
        finally:
            for one in asked:
                one.cancel()

    async def open(self, count: int) -> None:
        """Makes it so many connections, before any is asked: a single-threaded server takes none while it thinks."""
        self._connections += [None] * (count - len(self._connections))
        for place, connection in enumerate(self._connections[:count]):
            if connection is None:
                self._connections[place] = await self._connect()

    async def close(self) -> None:
        """Closes every connection."""
        await asyncio.gather(*(connection.close() for connection in self._connections if connection))
        self._connections.clear()

    @staticmethod
    async def _once(connection: ClientConnection, message: bytes) -> str | bytes:
        await connection.send(message)
        return await connection.recv()

    async def _ask(self, place: int, message: bytes) -> str | bytes:
        for _ in range(_LOSSES):
            # Out of the list while a reply is owed: one that comes too late must not answer the next question.
            connection, self._connections[place] = self._connections[place], None
            assert connection is not None, "ask before open"
            try:
                reply = await asyncio.wait_for(self._once(connection, message), self._timeout_s)
                self._connections[place] = connection
                return reply
            except asyncio.TimeoutError as error:
                raise PolicyProblem(
                    f"{self._shown}: no reply within {self._timeout_s:g} s; see to the server, or wait longer with "
                    "timeout_s=SECONDS"
                ) from error
            except ConnectionClosed as error:
                why = error
            finally:
                if self._connections[place] is None:
                    connection.transport.abort()
            self._connections[place] = await self._connect()
            self.warnings.append(f"{self._shown}: the connection was lost ({why}) and made again")
        raise PolicyProblem(
            f"{self._shown}: the connection was lost {_LOSSES} times over one request ({why}); see its log"
        )

    async def _connect(self) -> ClientConnection:
        """One more connection, to the same server as before, which may yet have to start."""
        loop, pause = asyncio.get_running_loop(), 0.1
        deadline = loop.time() + self._connect_s
        while True:
            try:
                return await self._dial(max(deadline - loop.time(), 0.1))
            except (OSError, asyncio.TimeoutError, WebSocketException) as error:
                self._give_up_on(error)
                why = str(error) or type(error).__name__
            if loop.time() + pause > deadline:
                raise EnvironmentProblem(
                    f"{self._shown}: no policy server answers within {self._connect_s:g} s ({why}); start it there, or "
                    "wait longer with connect_s=SECONDS"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _dial(self, worker_timeout_s: float) -> ClientConnection:
        connection = await connect(
            self._url,
            compression=None,
            max_size=MOST_BYTES,
            additional_headers=self._headers,
            proxy=None if _is_loopback(self._url) else True,
            open_timeout=worker_timeout_s,
            ping_interval=None,  # openpi's server is deaf while its policy thinks
            close_timeout=1,
        )
        try:
            self._recognize(await asyncio.wait_for(connection.recv(), worker_timeout_s))
        except BaseException:
            await connection.close()
            raise
        return connection

    def _recognize(self, greeting: str | bytes) -> None:
        """Reads the metadata. Raises PolicyProblem where they are none, or another server's than before."""
        try:
            metadata = unpack(greeting) if isinstance(greeting, bytes) else None
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict):
            raise PolicyProblem(
                f"{self._shown}: it does not begin with openpi's metadata: it is no openpi policy server"
            )
        if not self._known:
            self.metadata, self._known = metadata, True
        elif difference := first_difference(jsonable(self.metadata), jsonable(metadata)):
            field, was, now = difference
            raise PolicyProblem(
                f"{self._shown}: it came back as another policy: {field} was {was!r} and is {now!r}; start the first "
                "one again and --resume the run"
            )

    def _give_up_on(self, error: Exception) -> None:
        """Raises where waiting cannot help."""
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status in (401, 403):
                raise UsageError(
                    f"{self._shown}: it refuses the key (HTTP {status}): set EVALKIT_REMOTE_API_KEY"
                ) from error
            if status not in (502, 503, 504):  # what a gateway says of a server that is not up yet
                raise EnvironmentProblem(
                    f"{self._shown}: what answers there is no policy server (HTTP {status}); see to the address"
                ) from error
        elif isinstance(error, InvalidHandshake) and not isinstance(error.__cause__, EOFError | OSError):
            raise EnvironmentProblem(
                f"{self._shown}: what answers there does not speak WebSocket ({error}); see to the address"
            ) from error
        elif isinstance(error, InvalidURI | InvalidProxy | socket.gaierror | ssl.SSLError):
            raise EnvironmentProblem(f"{self._shown}: it cannot be reached: {error}") from error


def _is_loopback(url: str) -> bool:
    """Whether a URL is of this machine, where no proxy leads."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
