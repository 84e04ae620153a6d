"""The Python API for asyncio. Concurrent calls are batched together; a cancelled task frees its place.

async with AsyncJudge.from_gguf("judge.gguf") as judge:
    first, second = await asyncio.gather(judge.score(question, a, rubric), judge.score(question, b, rubric))
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from recipe.data.records import Judgement
from recipe.errors import SreError
from recipe.judge.aggregate import BothOrders, Consensus, Tie
from recipe.judge.judge import Conversation, Judge, to_example
from recipe.judge.options import JudgeOptions
from recipe.judge.rubrics import AnyRubric
from recipe.judge.service import QUEUE, Answer, Service


class AsyncJudge:
    """Judge's calls for one example as coroutines, with its arguments and results. Use with `async with`.

    The errors of Judge are raised, and those of Service.
    """

    def __init__(self, judge: Judge, *, queue: int = QUEUE) -> None:
        """`queue`: calls that may wait at once, a pair in both orders counted twice. One more raises QueueFull."""
        self.judge = judge
        self.service = Service(judge, queue=queue)

    @classmethod
    def from_gguf(cls, path: str | Path, *, queue: int = QUEUE, **options: Any) -> AsyncJudge:
        """Open a GGUF file; `options` are those of `Judge.from_gguf`."""
        return cls(Judge.from_gguf(path, **options), queue=queue)

    async def score(
        self, conversation: Conversation, response: str, rubric: AnyRubric, *, reference: str = "", **options: Any
    ) -> Judgement:
        """See `Judge.score`."""
        return cast(Judgement, await self._ask(conversation, (response,), rubric, reference, **options))

    async def compare(
        self,
        conversation: Conversation,
        response_a: str,
        response_b: str,
        rubric: AnyRubric,
        *,
        reference: str = "",
        **options: Any,
    ) -> Judgement:
        """See `Judge.compare`."""
        return cast(Judgement, await self._ask(conversation, (response_a, response_b), rubric, reference, **options))

    async def compare_both_orders(
        self,
        conversation: Conversation,
        response_a: str,
        response_b: str,
        rubric: AnyRubric,
        *,
        reference: str = "",
        tie: Tie = "probability",
        **options: Any,
    ) -> BothOrders:
        """See `Judge.compare_both_orders`."""
        options |= {"swap": True, "tie": tie}
        return cast(BothOrders, await self._ask(conversation, (response_a, response_b), rubric, reference, **options))

    async def consensus(
        self,
        conversation: Conversation,
        response: str | tuple[str, str],
        rubric: AnyRubric,
        *,
        reference: str = "",
        samples: int = 5,
        **options: Any,
    ) -> Consensus:
        """See `Judge.consensus`."""
        if samples < 2:
            raise SreError(f"a consensus needs two or more samples, not {samples}", field="samples")
        responses = (response,) if isinstance(response, str) else tuple(response)
        return cast(Consensus, await self._ask(conversation, responses, rubric, reference, samples=samples, **options))

    async def _ask(
        self, conversation: Conversation, responses: tuple[str, ...], rubric: AnyRubric, reference: str, **options: Any
    ) -> Answer:
        example = to_example(conversation, responses, rubric, reference)
        return await asyncio.wrap_future(self.service.ask(example, JudgeOptions(**options)))

    async def aclose(self) -> None:
        """End the service and free the model; unfinished calls raise Stopped. Calling it again does nothing."""
        # In a thread, because the service ends after the decode under way, and the loop must not wait for that.
        await asyncio.to_thread(self.service.close)
        self.judge.close()

    async def __aenter__(self) -> AsyncJudge:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
