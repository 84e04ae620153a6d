"""The scheduler on a fake cache: every sequence must see exactly its own tokens, and every cell counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.inference.base import Completion, Piece, Request, Sampling
from recipe.inference.llamacpp.scheduler import Scheduler, tree_size
from recipe.inference.prompt import Prompt

from .fakes import FakeCache, alone, logits, prompt, prompts


def run(scheduler: Scheduler) -> list[Completion | Piece]:
    out: list[Completion | Piece] = []
    for _ in range(10_000):
        if not scheduler.busy:
            return out
        out += scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


def make(cache: FakeCache, places: int, *, keep: int = 1, stream: bool = False, ride_along: int = 5) -> Scheduler:
    cache_: Any = cache
    return Scheduler(cache_, parallel=places, ride_along=ride_along, keep=keep, stream=stream)


@settings(max_examples=80, deadline=None)
@given(prompts, st.integers(1, 4), st.integers(1, 4), st.integers(20, 80), st.integers(4, 24), st.integers(0, 4))
def test_every_sample_is_drawn_as_if_alone_within_the_cells(
    ids: list[list[int]], n: int, places: int, cells: int, batch: int, keep: int
) -> None:
    cache = FakeCache(cells, 2 * places + keep + 2, max(batch, places))
    scheduler = make(cache, places, keep=keep)
    for number, run_ids in enumerate(ids):
        scheduler.submit(prompt(str(number), run_ids, n))
    done = [result for result in run(scheduler) if isinstance(result, Completion)]
    assert sorted((c.request_id, c.sample) for c in done) == sorted(
        (str(i), k) for i in range(len(ids)) for k in range(n)
    )
    for completion in done:
        assert list(completion.token_ids) == alone(ids[int(completion.request_id)], 6)


@settings(max_examples=40, deadline=None)
@given(prompts, st.sets(st.integers(0, 11)), st.integers(0, 6), st.integers(1, 3))
def test_a_cancelled_request_leaves_the_others_as_they_are(
    ids: list[list[int]], cancelled: set[int], steps: int, places: int
) -> None:
    cache = FakeCache(60, 2 * places + 4, 12)
    scheduler = make(cache, places, keep=2)
    for number, run_ids in enumerate(ids):
        scheduler.submit(prompt(str(number), run_ids, 2))
    out = [result for _ in range(steps) if scheduler.busy for result in scheduler.step()]
    for number in cancelled:
        scheduler.cancel(str(number))
    late = run(scheduler)
    assert not {c.request_id for c in late} & {str(number) for number in cancelled}
    done = [c for c in (*out, *late) if isinstance(c, Completion)]
    assert {c.request_id for c in done} >= {str(i) for i in range(len(ids)) if i not in cancelled}
    assert all(list(c.token_ids) == alone(ids[int(c.request_id)], 6) for c in done)


def test_what_prompts_share_is_decoded_once_even_within_one_batch() -> None:
    cache = FakeCache(200, 20, 64)
    scheduler = make(cache, 8)
    runs = [[1] * 20 + [2, 3], [1] * 20 + [2, 4], [1] * 20 + [3, 3]]
    for number, ids in enumerate(runs):
        scheduler.submit(prompt(str(number), ids))
    scheduler.step()
    assert len(cache.positions) == 20 + 2 + 1 + 2
    assert tree_size([np.array(ids, np.int32) for ids in runs]) == 20 + 2 + 1 + 2


def test_a_kept_prompt_serves_a_later_request_until_it_is_the_least_recently_used() -> None:
    cache = FakeCache(500, 20, 64)
    scheduler = make(cache, 2, keep=2)
    first, other, third = [1] * 10, [2] * 10, [3] * 10
    decoded = []
    for number, ids in enumerate([first, other, first, third, first, other]):
        cache.positions.clear()
        scheduler.submit(prompt(str(number), ids))
        run(scheduler)
        decoded.append(sum(position < 10 for position in cache.positions))
    # Only the last token again where the prompt was kept; `other` had to go for `third`.
    assert decoded[:5] == [10, 10, 1, 10, 1]
    assert decoded[5] == 10


def test_models_whose_memory_can_not_be_cut_share_no_beginnings() -> None:
    cache = FakeCache(200, 20, 64, shares=False)
    scheduler = make(cache, 8)
    for number in range(2):
        scheduler.submit(prompt(str(number), [1] * 10))
    run(scheduler)
    assert sum(position < 10 for position in cache.positions) == 20


def test_pieces_are_the_text_in_order_and_come_before_the_completion() -> None:
    scheduler = make(FakeCache(200, 20, 64), 4, stream=True)
    for number in range(3):
        scheduler.submit(prompt(str(number), [number + 1] * 5))
    out = run(scheduler)
    for number in range(3):
        mine = [result for result in out if result.request_id == str(number)]
        assert isinstance(mine[-1], Completion)
        assert "".join(piece.text for piece in mine[:-1]) == mine[-1].text


def test_places_are_refilled_at_once() -> None:
    """Twelve requests of six tokens on four places: three waves, no step in which a place waits for a prompt."""
    cache = FakeCache(500, 20, 64)
    cache.is_end = lambda token: False  # type: ignore[method-assign]
    scheduler = make(cache, 4, ride_along=20)
    for number in range(12):
        scheduler.submit(
            Prompt(Request(str(number), ()), Sampling(temperature=0, max_tokens=6), np.full(8, number + 1, np.int32), 6)
        )
    run(scheduler)
    assert cache.batches <= 1 + 3 * 6


class DamagedCache(FakeCache):
    """Gives no numbers for any sequence that holds the token 7."""

    def decode(self) -> Any:
        wanted = [(next(iter(owners)), position) for _, position, owners, output in self.pending if output]
        rows = super().decode()
        for row, (sequence, position) in zip(rows, wanted, strict=True):
            if 7 in {token for token, _, __ in self.seen(sequence, position)}:
                row[:] = np.nan
        return rows


def test_logits_that_are_not_finite_end_their_own_request_and_the_cache_is_wiped_when_idle() -> None:
    cache = DamagedCache(200, 20, 64)
    scheduler = make(cache, 4, keep=3)
    runs = {"bad": [1, 7, 3], "good": [1, 2, 3], "other": [2, 2]}
    for name, ids in runs.items():
        scheduler.submit(prompt(name, ids, 2))
    done = {(c.request_id, c.sample): c for c in run(scheduler) if isinstance(c, Completion)}
    assert {key: c.finish == "error" for key, c in done.items()} == {
        (name, k): name == "bad" for name in runs for k in (0, 1)
    }
    assert all(list(done[name, 0].token_ids) == alone(runs[name], 6) for name in ("good", "other"))
    assert cache.damaged
    scheduler.submit(prompt("late", [1, 2, 3]))
    (late,) = run(scheduler)
    assert isinstance(late, Completion)
    assert list(late.token_ids) == alone([1, 2, 3], 6)
    assert (cache.wiped, cache.damaged) == (1, False)


def test_labels_are_read_from_the_prompts_without_a_place() -> None:
    cache = FakeCache(200, 20, 64)
    scheduler = make(cache, 1)
    tokens = {1: (7,), 2: (9,)}
    scheduler.submit(prompt("drawn", [1, 2], max_tokens=50))
    for number in range(3):
        asked = prompt(str(number), [1] * 10 + [number + 2, 5, 6], max_tokens=0)
        scheduler.submit(replace(asked, label_tokens=tokens, lead=2, request=Request(str(number), (), label_only=True)))
    out = [result for _ in range(2) for result in scheduler.step() if isinstance(result, Completion)]
    assert sorted(c.request_id for c in out) == ["0", "1", "2"]
    for completion in out:
        row = logits([1] * 10 + [int(completion.request_id) + 2, 5, 6])
        assert completion.token_ids[-1] == max((7, 9), key=lambda token: row[token])
        assert completion.prompt_tokens == 11
        assert set(completion.label_logprobs) <= {1, 2}
