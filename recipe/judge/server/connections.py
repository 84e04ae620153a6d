"""What a server does about connections, below the requests: how many there may be, how long a request's head may take,
and how what is under way ends when the server is stopped."""

import asyncio
import contextlib
import resource
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 256  # connections at once. One more takes the place of the one that has been idle longest.
HEAD_SECONDS = 10.0  # for the head of a request to come, from its first byte or the connection's beginning
AT_ONCE = 16  # connections that are taken in before those that are too many are let go
_OTHER_FILES = 32  # that the process has open at most
GRACE_SECONDS = 3.0  # for requests under way when the server is stopped; they are answered with 503 then


def most_connections() -> int:
    """MOST, or as many as the limit of open files leaves: beyond it the event loop would do nothing but fail."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else max(4, min(MOST, files - 2 * AT_ONCE - _OTHER_FILES))


class Connection(H11Protocol):
    """uvicorn's connection, which alone would wait for ever."""

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > most_connections():
            idle = (one for one in self.connections if isinstance(one, Connection) and one.idle)
            min(idle, key=lambda one: one._since).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.idle:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether it is open and no request is under way."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _await_head(self) -> None:
        self._stop_waiting()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()


class Server(uvicorn.Server):
    """uvicorn's server. close: ends what is under way with an answer; it may block, and is called in a thread."""

    def __init__(self, app: Any, close: Callable[[], None]) -> None:
        patience = int(GRACE_SECONDS) + 5
        limits = {"timeout_graceful_shutdown": patience, "backlog": AT_ONCE}
        super().__init__(uvicorn.Config(app, http=Connection, log_level="error", **limits))
        self._close = close
        files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= files < 1024:  # some systems begin with 256, and allow more
            with contextlib.suppress(OSError, ValueError):
                more = 1024 if hard == resource.RLIM_INFINITY else min(1024, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(128)  # those that wait to be taken in; asyncio asked for AT_ONCE

    async def shutdown(self, sockets: Any = None) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE_SECONDS, loop.run_in_executor, None, self._close)
        await super().shutdown(sockets)
