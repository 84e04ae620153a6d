"""What every request passes before its route: host, origin, key, size and time of the body. It also counts requests."""

import asyncio
import hmac
import time
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import Message, Receive, Scope, Send

from recipe.judge.server.errors import Problem
from recipe.judge.service import QUEUE

OPEN = frozenset({"/", "/health", "/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing of what is judged."""

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class Settings:
    """Limits of a server."""

    api_key: str | None = None  # what clients must send as `Authorization: Bearer <key>`; None for nothing
    timeout: float = 120.0  # seconds for the body to come, and again for the answer
    max_body: int = 1_000_000  # bytes
    hosts: frozenset[str] | None = None  # the names by which it may be addressed (the header Host); None for any
    queue: int = QUEUE  # requests that may be unfinished at once


class Metrics:
    """What /metrics shows, in a registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("sre_requests", "HTTP requests", ["route", "status"], registry=own)
        about = "Time to the last byte"
        self.seconds = Histogram("sre_request_seconds", about, ["route"], buckets=SECONDS, registry=own)
        self.judgements = Counter("sre_judgements", "Judgements written", registry=own)
        self.malformed = Counter("sre_malformed", "Judgements without a label", registry=own)
        self.queue = Gauge("sre_queue_depth", "Requests that wait or run", registry=own)


class Guard:
    """ASGI middleware around all routes."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 500

        async def watched(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            if refused := self._refusal(scope):
                await refused.response()(scope, receive, watched)
            else:
                await self._app(scope, self._limited(receive), watched)
        finally:
            # The router leaves the route here. A path that is none's is not counted by name: clients choose it.
            route = getattr(scope.get("route"), "path", "other")
            metrics = scope["app"].state.metrics
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(time.monotonic() - begin)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        hosts, key = self._settings.hosts, self._settings.api_key
        host = headers.get("host", b"").decode("latin-1").lower()
        if hosts is not None and host.rpartition(":")[0] not in hosts and host not in hosts:
            return Problem(400, "bad_host", f"expected the host to be one of {', '.join(sorted(hosts))}", "host")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _from_elsewhere(headers):
            return Problem(403, "cross_site", "a page of another site may not use this server")
        if key is not None and scope["path"] not in OPEN:
            given = headers.get("authorization", b"")
            # In constant time: how long a refusal takes tells nothing of the key.
            if not hmac.compare_digest(given, b"Bearer " + key.encode()):
                message = "expected this server's key as `Authorization: Bearer <key>`"
                return Problem(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
        return None

    def _limited(self, receive: Receive) -> Receive:
        """`receive`, which raises Problem when the body is too long or does not come in time."""
        limit, timeout = self._settings.max_body, self._settings.timeout
        end: float | None = asyncio.get_running_loop().time() + timeout
        size = 0

        async def limited() -> Message:
            nonlocal end, size
            try:
                async with asyncio.timeout_at(end):
                    event = await receive()
            except TimeoutError:
                raise Problem(408, "slow_body", f"the body did not come within {timeout:g} s") from None
            size += len(event.get("body", b""))
            if size > limit:
                raise Problem(413, "too_large", f"expected a body of at most {limit} bytes")
            if not event.get("more_body"):
                end = None  # the body is complete; what comes now is the client's going away
            return event

        return limited


def _from_elsewhere(headers: dict[str, bytes]) -> bool:
    """Whether a browser sends this for a page of another site. Programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition(b"://")[2] != headers.get("host", b"").lower()
