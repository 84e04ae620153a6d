"""The Python API for asyncio. Concurrent calls are batched together; a cancelled task frees its place.

async with AsyncJudge.from_gguf("judge.gguf") as judge:
    first, second = await asyncio.gather(judge.score(question, a, rubric), judge.score(question, b, rubric))
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from recipe.data.records import Example
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.service import QUEUE, Service

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    method: Callable[Concatenate[Judge, P], T],
) -> Callable[Concatenate[AsyncJudge, P], Coroutine[Any, Any, T]]:
    """A method of Judge as a coroutine: it calls `ask` below in place of Judge's own."""

    @functools.wraps(method)
    async def call(judge: Any, /, *args: P.args, **options: P.kwargs) -> T:
        answer: Any = method(judge, *args, **options)
        return await answer  # type: ignore[no-any-return]

    return call


class AsyncJudge:
    """Judge's calls for one example as coroutines, with its arguments and results. Use with `async with`.

    The errors of Judge are raised, and those of Service.
    """

    score = _awaited(Judge.score)
    compare = _awaited(Judge.compare)
    compare_both_orders = _awaited(Judge.compare_both_orders)
    consensus = _awaited(Judge.consensus)

    def __init__(self, judge: Judge, *, queue: int = QUEUE) -> None:
        """`queue`: calls that may wait at once, a pair in both orders counted twice. One more raises QueueFull."""
        self.judge = judge
        self.service = Service(judge, queue=queue)

    @classmethod
    def from_gguf(cls, path: str | Path, *, queue: int = QUEUE, **options: Any) -> AsyncJudge:
        """Open a GGUF file; `options` are those of `Judge.from_gguf`."""
        return cls(Judge.from_gguf(path, **options), queue=queue)

    def ask(self, example: Example, options: JudgeOptions) -> asyncio.Future[Any]:
        """Answer one example, as `Judge.ask` does."""
        return asyncio.wrap_future(self.service.ask(example, options))

    async def aclose(self) -> None:
        """End the service and free the model; unfinished calls raise Stopped. Calling it again does nothing."""
        # In a thread, because the service ends after the decode under way, and the loop must not wait for that.
        await asyncio.to_thread(self.service.close)
        self.judge.close()

    async def __aenter__(self) -> AsyncJudge:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
