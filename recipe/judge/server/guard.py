"""What every request passes before and after the routes: host, key, size and time of the body, the client's going
away, the counts."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from recipe.judge.server.errors import Problem
from recipe.judge.server.metrics import Metrics

FUTURE = "sre.future"
"""Where a route leaves the future it waits for, in the request's scope: it is cancelled at the end, come what may."""

OPEN = frozenset({"/", "/health", "/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing of what is judged."""
GONE = 499  # as nginx counts a client that went away before its answer

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Settings:
    """Limits of a server. api_key: what clients must send as `Authorization: Bearer <key>`, None for nothing. timeout:
    seconds for the body to come, and again for the answer. max_body: bytes. hosts: the names by which it may be
    addressed (the header Host), None for any."""

    api_key: str | None = None
    timeout: float = 120.0
    max_body: int = 1_000_000
    hosts: frozenset[str] | None = None


class Guard:
    """ASGI middleware around the routes at `paths`."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._settings, self._metrics, self._paths = app, settings, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 500

        async def watched(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            if not await self._serve(scope, receive, watched):
                status = GONE
        finally:
            route = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.answered(route, status, time.monotonic() - begin)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """False when the client went away."""
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        refused = self._refusal(scope["method"], scope["path"], headers)
        body = refused or await self._read(headers, receive)
        if isinstance(body, Problem):
            await body.response()(scope, receive, send)
            return True
        return body is not None and await self._run(scope, bytes(body), receive, send)

    def _refusal(self, method: str, path: str, headers: dict[str, bytes]) -> Problem | None:
        hosts, key = self._settings.hosts, self._settings.api_key
        host = headers.get("host", b"").decode("latin-1").lower()
        if hosts is not None and host.rpartition(":")[0] not in hosts and host not in hosts:
            return Problem(400, "bad_host", f"expected the host to be one of {', '.join(sorted(hosts))}", "host")
        if method not in ("GET", "HEAD", "OPTIONS") and _from_elsewhere(headers):
            return Problem(403, "cross_site", "a page of another site may not use this server")
        if key is not None and path not in OPEN:
            given = headers.get("authorization", b"")
            # In constant time: how long a refusal takes tells nothing of the key.
            if not hmac.compare_digest(given, b"Bearer " + key.encode()):
                return Problem(401, "invalid_api_key", "expected this server's key as `Authorization: Bearer <key>`")
        return None

    async def _read(self, headers: dict[str, bytes], receive: Receive) -> bytearray | Problem | None:
        """The body; None when the client went away."""
        limit = self._settings.max_body
        too_large = Problem(413, "too_large", f"expected a body of at most {limit} bytes")
        length = headers.get("content-length", b"0")
        if length.isdigit() and int(length) > limit:
            return too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.timeout):
                while True:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return None
                    body += event.get("body", b"")
                    if len(body) > limit:
                        return too_large
                    if not event.get("more_body"):
                        return body
        except TimeoutError:
            return Problem(408, "slow_body", f"the body did not come within {self._settings.timeout:g} s")

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Run the route until it is done or the client has gone. False for the latter."""
        given = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.ensure_future(_gone(receive))

        async def replay() -> Event:
            return given.pop() if given else await asyncio.shield(gone)

        route = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({route, gone}, return_when=asyncio.FIRST_COMPLETED)
            if route.done():
                route.result()
                return True
            return False
        finally:
            for task in (route, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            if FUTURE in scope:
                scope[FUTURE].cancel()


def _from_elsewhere(headers: dict[str, bytes]) -> bool:
    """Whether a browser sends this for a page of another site. Programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition(b"://")[2] != headers.get("host", b"").lower()


async def _gone(receive: Receive) -> Event:
    while (event := await receive())["type"] != "http.disconnect":
        pass
    return event
