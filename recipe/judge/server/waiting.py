"""From a job of the service to an HTTP answer: whole, or as server-sent events.

event: piece
data: {"order": 0, "sample": 0, "text": " The"}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any

from fastapi.responses import StreamingResponse

from recipe.inference.base import Piece
from recipe.judge.server.errors import problem
from recipe.judge.server.guard import FUTURE
from recipe.judge.service import OnPiece

# A proxy must not hold the events back.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
Submit = Callable[[OnPiece], Future[Any]]


async def whole(scope: MutableMapping[str, Any], future: Future[Any], timeout: float) -> Any:
    """The future's result. Raises its error, and TimeoutError; either way it is cancelled then."""
    scope[FUTURE] = future
    async with asyncio.timeout(timeout):
        return await asyncio.wrap_future(future)


class Stream:
    """The pieces of one job as they come, and then its result.

    `submit` is called at once, so its errors (a full queue) come before the response begins.
    """

    def __init__(self, scope: MutableMapping[str, Any], submit: Submit, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self._end = loop.time() + timeout
        self._events: asyncio.Queue[Piece | None] = asyncio.Queue()

        def push(event: Piece | None) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._future = submit(push)
        self._future.add_done_callback(lambda _: push(None))
        scope[FUTURE] = self._future

    async def pieces(self) -> AsyncIterator[Piece]:
        """Raises TimeoutError when the time is over."""
        loop = asyncio.get_running_loop()
        while True:
            piece = await asyncio.wait_for(self._events.get(), max(0.0, self._end - loop.time()))
            if piece is None:
                return
            yield piece

    def result(self) -> Any:
        """Once there are no more pieces. Raises the job's error."""
        return self._future.result(timeout=0)


def events(lines: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(_until_error(lines), media_type="text/event-stream", headers=_HEADERS)


def event(data: object, name: str = "") -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


async def _until_error(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The response has begun, so an error is its last event."""
    try:
        async for line in lines:
            yield line
    except Exception as error:
        found = problem(error)
        yield event(found.body(), "error")
        if found.status == 500:
            raise
