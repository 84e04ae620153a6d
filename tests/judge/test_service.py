"""One engine, many callers: batching, order, cancelling, a full queue, failure and the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from recipe.data.records import Judgement, Message
from recipe.errors import SreError
from recipe.inference.base import Piece, Request, Sampling
from recipe.judge import BothOrders, Consensus, Judge
from recipe.judge.async_judge import AsyncJudge
from recipe.judge.judge import to_example
from recipe.judge.options import JudgeOptions
from recipe.judge.service import QueueFull, Refused, Service, Stopped
from tests.scripted import ScriptedGenerator, ScriptedSession

WAIT = 10


def echo(request: Request) -> list[str]:
    """The last word of the prompt's question, so that a reply shows whose it is."""
    return [f"I saw {word_of(request)}. [RESULT] {label}" for label in request.labels or (1,)]


def word_of(request: Request) -> str:
    text = request.messages[-1].content
    return text[text.index("mark-") :].split()[0]


def example(mark: str = "mark-0", *responses: str) -> Any:
    return to_example(f"Say {mark} now", responses or ("Fine.",), "Is it said?")


def chat(name: str, text: str = "mark-0") -> Request:
    return Request(name, (Message("user", text),))


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Start services that are closed at the end, whatever happens."""
    started: list[Service] = []

    def make(script: Any = echo, *, pace: float = 0.0, context: int | None = None, **options: Any) -> Service:
        started.append(Service(Judge(ScriptedGenerator(script, pace=pace, context=context)), **options))
        return started[-1]

    yield make
    for service in started:
        service.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def test_a_question_gives_the_judgement_that_the_judge_itself_gives(start: Callable[..., Service]) -> None:
    service = start()
    found = service.ask(example("mark-7")).result(WAIT)
    assert isinstance(found, Judgement)
    assert (found.label, found.rationale, found.task) == (1, "I saw mark-7.", "pointwise")
    with Judge(ScriptedGenerator(echo)) as judge:
        alone = judge.score("Say mark-7 now", "Fine.", "Is it said?")
    assert (found.text, found.label_probabilities) == (alone.text, alone.label_probabilities)


def test_samples_give_a_consensus_and_a_tie_rule_both_orders(start: Callable[..., Service]) -> None:
    service = start()
    found = service.ask(example(), JudgeOptions(samples=5)).result(WAIT)
    assert isinstance(found, Consensus)
    assert found.votes == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    pair = service.ask(example("mark-1", "one", "two"), JudgeOptions(swap=True, tie="first")).result(WAIT)
    assert isinstance(pair, BothOrders)
    assert (pair.first.label, pair.swapped.label, pair.consistent, pair.label) == (1, 1, False, 1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"samples": 3, "label_only": True}, "samples"),
        ({"samples": 3, "temperature": 0.0}, "samples"),
    ],
)
def test_settings_that_cannot_go_together_are_named(
    start: Callable[..., Service], options: dict[str, Any], field: str
) -> None:
    service = start()
    with pytest.raises(SreError) as caught:
        service.ask(example(), JudgeOptions(**options))
    assert caught.value.field == field
    assert service.unfinished == 0


def test_requests_that_come_while_others_run_join_their_batch(start: Callable[..., Service]) -> None:
    steps: list[set[str]] = []

    class Watched(ScriptedSession):
        def step(self) -> Any:
            events = super().step()
            steps.append({event.request_id for event in events})
            return events

    generator = ScriptedGenerator(lambda request: ["w " * 50], pace=0.002)
    generator.session = lambda: Watched(generator)  # type: ignore[method-assign]
    with Service(Judge(generator)) as service:
        first = service.submit([chat("first")], Sampling())
        until(lambda: len(steps) > 2)
        second = service.submit([chat("second")], Sampling())
        for future in (first, second):
            future.result(WAIT)
    assert {"first"} in steps
    assert {"first", "second"} in steps


def test_pieces_come_in_order_and_add_up_to_the_text(start: Callable[..., Service]) -> None:
    pieces: list[Piece] = []
    service = start(lambda request: ["one two", "three four five"])
    completions = service.submit([chat("a")], Sampling(n=2), on_piece=pieces.append).result(WAIT)
    for completion in completions:
        written = [piece.text for piece in pieces if piece.sample == completion.sample]
        assert "".join(written) == completion.text
        assert len(written) > 1


def test_many_callers_at_once_each_get_their_own_answer(start: Callable[..., Service]) -> None:
    service = start(queue=64)
    found: dict[int, Any] = {}

    def call(number: int) -> None:
        found[number] = [service.ask(example(f"mark-{number}-{turn}")).result(WAIT).rationale for turn in range(5)]

    threads = [threading.Thread(target=call, args=[number]) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"I saw mark-{number}-{turn}." for turn in range(5)] for number in range(64)}
    assert service.unfinished == 0


# The queue.


def test_a_full_queue_refuses_and_says_when_to_come_back(start: Callable[..., Service]) -> None:
    service = start(lambda request: ["w " * 10_000], pace=0.002, queue=2)
    long = Sampling(max_tokens=10_000)
    service.submit([chat("a")], long)
    with pytest.raises(QueueFull, match="all 2 places") as caught:
        service.submit([chat("b"), chat("c")], long)
    assert caught.value.retry_after >= 1
    service.submit([chat("b")], long)
    with pytest.raises(QueueFull):
        service.submit([chat("c")], long)


def test_cancelling_frees_the_place_at_once_and_the_sequence_before_the_next_step() -> None:
    generator = ScriptedGenerator(lambda request: ["w " * 10_000], pace=0.002)
    sessions: list[ScriptedSession] = []

    def session() -> ScriptedSession:
        sessions.append(ScriptedSession(generator))
        return sessions[0]

    generator.session = session  # type: ignore[method-assign]
    with Service(Judge(generator), queue=1) as service:
        future = service.submit([chat("a")], Sampling(max_tokens=10_000))
        until(lambda: bool(sessions) and sessions[0].busy)
        assert future.cancel()
        assert service.unfinished == 0
        until(lambda: not sessions[0].busy)
        with pytest.raises(CancelledError):
            future.result(WAIT)
        # Under the same id, too: nothing of the old one is left.
        second = service.submit([chat("a")], Sampling(max_tokens=3))
        assert second.result(WAIT)[0].text.split() == ["w"] * 3


def test_a_request_cancelled_before_it_began_never_reaches_the_engine(start: Callable[..., Service]) -> None:
    service = start(lambda request: ["w " * 60], pace=0.005)
    running = service.submit([chat("a")], Sampling())
    waiting = service.submit([chat("a")], Sampling())
    assert waiting.cancel()
    running.result(WAIT)
    service.submit([chat("b")], Sampling()).result(WAIT)
    assert [request.id for request in service.owner.generator.seen] == ["a", "b"]  # type: ignore[attr-defined]


def test_two_requests_of_one_id_run_one_after_the_other(start: Callable[..., Service]) -> None:
    service = start(pace=0.001)
    futures = [service.submit([chat("same", f"mark-{k}")], Sampling()) for k in range(3)]
    assert [future.result(WAIT)[0].text for future in futures] == [f"I saw mark-{k}. [RESULT] 1" for k in range(3)]


def test_a_seed_gives_the_same_request_id_again_and_greedy_requests_never_wait_for_each_other(
    start: Callable[..., Service],
) -> None:
    service = start()
    for _ in range(2):
        service.ask(example(), JudgeOptions(temperature=1.0, seed=3)).result(WAIT)
        service.ask(example()).result(WAIT)
    ids = [request.id for request in service.owner.generator.seen]  # type: ignore[attr-defined]
    assert ids[0] == ids[2]
    assert ids[1] != ids[3]


# Errors and the end.


def test_what_the_engine_cannot_take_fails_alone(start: Callable[..., Service]) -> None:
    service = start(lambda request: ["Fine."], context=40)
    long = service.submit([chat("long", "w " * 100)], Sampling(max_tokens=9))
    short = service.submit([chat("short")], Sampling(max_tokens=9))
    with pytest.raises(Refused, match="more than the context of 40"):
        long.result(WAIT)
    assert short.result(WAIT)[0].text == "Fine."
    assert service.healthy


def test_one_refused_order_cancels_the_other(start: Callable[..., Service]) -> None:
    service = start(lambda request: ["w " * 10_000], context=40)
    with pytest.raises(Refused):
        service.submit([chat("short"), chat("long", "w " * 100)], Sampling(max_tokens=9)).result(WAIT)
    until(lambda: service.unfinished == 0)


def test_a_caller_whose_callback_fails_hurts_only_itself(start: Callable[..., Service]) -> None:
    service = start()

    def broken(piece: Piece) -> None:
        raise ValueError("no ears")

    with pytest.raises(ValueError, match="no ears"):
        service.submit([chat("a")], Sampling(), on_piece=broken).result(WAIT)
    assert service.submit([chat("b")], Sampling()).result(WAIT)[0].text.startswith("I saw")


def test_a_request_that_fails_in_the_engine_fails_alone_and_the_others_get_their_answers(
    start: Callable[..., Service],
) -> None:
    def script(request: Request) -> list[str]:
        if "bad" in request.id:
            raise ZeroDivisionError("it divides by nothing")
        return [f"{request.id} " * 40]

    service = start(script, pace=0.001)
    shown: dict[str, list[str]] = {}

    def ask(name: str) -> Future[Any]:
        pieces = shown.setdefault(name, [])
        return service.submit([chat(name)], Sampling(), on_piece=lambda piece: pieces.append(piece.text))

    first = [ask(name) for name in ("a", "b")]
    until(lambda: all(len(shown[name]) > 3 for name in ("a", "b")))
    rest = [ask(name) for name in ("bad-1", "c", "bad-2", "d")]
    for future, name in zip((*first, *rest), ("a", "b", "bad-1", "c", "bad-2", "d"), strict=True):
        if "bad" in name:
            with pytest.raises(ZeroDivisionError):
                future.result(WAIT)
        else:
            (done,) = future.result(WAIT)
            # Nothing is shown twice, although it was written twice.
            assert done.text == "".join(shown[name]) == f"{name} " * 40
    assert service.healthy
    assert service.unfinished == 0
    assert ask("e").result(WAIT)[0].text == "e " * 40


def test_a_request_that_always_fails_costs_the_callers_beside_it_nothing(start: Callable[..., Service]) -> None:
    def script(request: Request) -> list[str]:
        if "bad" in request.id:
            raise ValueError("whatever it raises")
        return [f"{request.id} " * 20]

    service = start(script, pace=0.001)
    futures = {name: service.submit([chat(name)], Sampling()) for k in range(8) for name in (f"good-{k}", f"bad-{k}")}
    for name, future in futures.items():
        if "bad" in name:
            with pytest.raises(ValueError, match="whatever"):
                future.result(WAIT)
        else:
            assert future.result(WAIT)[0].text == f"{name} " * 20
    until(lambda: service.healthy and not service.unfinished)


def test_a_request_that_the_engine_can_not_take_is_refused_whatever_it_raises(start: Callable[..., Service]) -> None:
    service = start()
    submit = ScriptedSession.submit

    def broken(self: Any, request: Request, sampling: Sampling) -> None:
        if request.id == "bad":
            raise ValueError("a template's own error")
        submit(self, request, sampling)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedSession, "submit", broken)
        futures = [service.submit([chat(name)], Sampling()) for name in ("a", "bad", "b")]
        with pytest.raises(Refused, match="a template's own error"):
            futures[1].result(WAIT)
        assert [futures[k].result(WAIT)[0].finish for k in (0, 2)] == ["stop", "stop"]
    assert service.healthy


def test_an_engine_that_fails_at_everything_is_not_healthy_until_it_answers(start: Callable[..., Service]) -> None:
    broken = True

    def script(request: Request) -> list[str]:
        if broken:
            raise RuntimeError("out of memory")
        return echo(request)

    service = start(script)
    for number in range(3):
        assert service.healthy
        with pytest.raises(RuntimeError, match="out of memory"):
            service.submit([chat(str(number))], Sampling()).result(WAIT)
    until(lambda: not service.healthy)
    broken = False
    service.submit([chat("a")], Sampling()).result(WAIT)
    assert service.healthy


def test_an_engine_that_can_not_begin_again_fails_every_waiting_future_and_the_service_says_so(
    start: Callable[..., Service],
) -> None:
    service = start(lambda request: ["w " * 10_000], pace=0.002)
    waiting = [service.submit([chat(name)], Sampling(max_tokens=10_000)) for name in ("a", "a", "b")]
    with pytest.MonkeyPatch.context() as patch:

        def gone(self: Any) -> Any:
            raise RuntimeError("out of memory")

        patch.setattr(ScriptedSession, "step", gone)
        patch.setattr(ScriptedSession, "__init__", lambda self, generator: gone(self))
        for future in waiting:
            with pytest.raises(RuntimeError, match="out of memory"):
                future.result(WAIT)
        assert not service.healthy
        assert service.unfinished == 0
        with pytest.raises(Stopped, match="out of memory"):
            service.submit([chat("c")], Sampling())
        service.close()


def test_closing_ends_what_waits_and_closing_twice_is_fine(start: Callable[..., Service]) -> None:
    service = start(lambda request: ["w " * 10_000], pace=0.002)
    futures: list[Future[Any]] = [service.submit([chat(name)], Sampling(max_tokens=10_000)) for name in ("a", "a")]
    service.close()
    service.close()
    for future in futures:
        with pytest.raises(Stopped, match="closed"):
            future.result(WAIT)
    with pytest.raises(Stopped, match="closed"):
        service.submit([chat("b")], Sampling())
    assert not service.owner.generator.closed  # type: ignore[attr-defined]


def test_an_interrupt_in_the_with_block_ends_the_thread() -> None:
    before = threading.active_count()

    def interrupted() -> None:
        with Service(Judge(ScriptedGenerator(echo))) as service:
            service.submit([chat("a")], Sampling(max_tokens=10_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == before


def test_an_engine_without_sessions_is_refused() -> None:
    class Batches:
        name = "batches"

    with pytest.raises(SreError, match="'batches' takes no requests as they come"):
        Service(Judge(Batches()))  # type: ignore[arg-type]


# asyncio.


def test_the_async_judge_answers_like_the_judge_and_batches_what_is_gathered() -> None:
    async def run() -> None:
        async with AsyncJudge(Judge(ScriptedGenerator(echo))) as judge:
            found = await asyncio.gather(
                *(judge.score(f"Say mark-{k}", "Fine.", "Is it said?") for k in range(20)),
                judge.compare("Say mark-a", "x", "y", "Which?", reference="r"),
            )
            assert [each.rationale for each in found] == [f"I saw mark-{k}." for k in [*range(20), "a"]]
            both = await judge.compare_both_orders("Say mark-b", "x", "y", "Which?", tie="tie")
            assert (both.label, both.consistent) == (None, False)
            votes = await judge.consensus("Say mark-c", ("x", "y"), "Which?", samples=4)
            assert votes.votes == {1: 2, 2: 2}
            with pytest.raises(SreError, match="samples"):
                await judge.consensus("Say mark-c", "x", "Which?", samples=1)
        assert judge.judge.generator.closed  # type: ignore[attr-defined]
        await judge.aclose()

    asyncio.run(run())


def test_a_cancelled_task_frees_its_place_and_the_others_go_on() -> None:
    async def run() -> None:
        script = {"a": ["w " * 10_000]}
        generator = ScriptedGenerator(lambda r: script["a"] if "forever" in r.messages[-1].content else echo(r))
        generator.pace = 0.001
        async with AsyncJudge(Judge(generator), queue=2) as judge:
            task = asyncio.create_task(judge.score("forever", "x", "c", max_tokens=10_000))
            await asyncio.sleep(0.02)
            assert judge.service.unfinished == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert judge.service.unfinished == 0
            assert (await judge.score("Say mark-1", "x", "c")).rationale == "I saw mark-1."
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await judge.score("forever", "x", "c", max_tokens=10_000)
            assert judge.service.unfinished == 0

    asyncio.run(run())
