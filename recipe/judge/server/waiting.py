"""From a job of the service to an HTTP answer: whole, or as server-sent events.

event: piece
data: {"order": 0, "sample": 0, "text": " The"}
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from recipe.inference.base import Piece
from recipe.judge.server.errors import problem


async def whole(http: HttpRequest, future: Future[Any]) -> Any:
    """The future's result. It is cancelled when the server's time is over (TimeoutError) or the client goes away
    (ClientDisconnect).
    """
    answer, gone = asyncio.wrap_future(future), asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((answer, gone), timeout=http.app.state.timeout, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnect if gone.done() else TimeoutError
    finally:
        gone.cancel()
        future.cancel()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class Streamed(StreamingResponse):
    """The events of a job: the first ones, one for each `piece` of text as it is written, and those of its result.

    `submit` gives the job to the service, with `on_piece`. It is called at once, so its errors (a full queue) come
    before the response begins. `timeout`: seconds for all of it.
    """

    def __init__(
        self,
        submit: Callable[..., Future[Any]],
        timeout: float,
        *,
        begin: Iterable[str] = (),
        piece: Callable[[Piece], str],
        end: Callable[[Any], Iterable[str]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + timeout
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._begin, self._piece, self._end = begin, piece, end
        self._future = submit(on_piece=self._push)
        self._future.add_done_callback(lambda _: self._push(None))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy must not hold the events back
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    def _push(self, piece: Piece | None) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def _events(self) -> AsyncIterator[str]:
        try:
            for line in self._begin:
                yield line
            while piece := await asyncio.wait_for(self._pieces.get(), max(0.0, self._until - self._loop.time())):
                yield self._piece(piece)
            for line in self._end(self._future.result(timeout=0)):
                yield line
        except Exception as error:  # the response has begun, so an error is its last event
            found = problem(error)
            yield event(found.body(), "error")
            if found.status_code == 500:
                raise

    async def __call__(self, *asgi: Any) -> None:
        try:
            await super().__call__(*asgi)
        finally:  # also when the client goes away
            self._future.cancel()


def event(data: object, name: str = "") -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"
