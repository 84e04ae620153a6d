"""Streams on a fake cache: every sample as if drawn alone, shared beginnings decoded once, neighbours together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.labels import LabelPlaces
from recipe.inference.llamacpp.scheduler import tree_size
from recipe.inference.llamacpp.streams import StreamScheduler
from recipe.inference.sequence import Prompt
from recipe.inference.stats import Stats

from .fakes import FakeStreams, alone, prompt, prompts


def make(cache: FakeStreams, copy_tokens: int = 1) -> StreamScheduler:
    cache_: Any = cache
    return StreamScheduler(cache_, Stats(), places=len(cache.held), copy_tokens=copy_tokens)


def run(scheduler: StreamScheduler) -> list[Completion]:
    out: list[Completion] = []
    for _ in range(10_000):
        if not scheduler.busy:
            return out
        out += scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(1, 7), st.integers(1, 5), st.integers(1, 24), st.integers(1, 4))
def test_every_sample_is_drawn_as_if_alone(
    ids: list[list[int]], n: int, places: int, batch: int, copy_tokens: int
) -> None:
    cache = FakeStreams(places, max(map(len, ids)) + 6, max(batch, places))
    scheduler = make(cache, copy_tokens)
    for number, run_ids in enumerate(ids):
        scheduler.submit(prompt(str(number), run_ids, n))
    done = run(scheduler)
    assert sorted((c.request_id, c.sample) for c in done) == sorted(
        (str(i), k) for i in range(len(ids)) for k in range(n)
    )
    for completion in done:
        assert list(completion.token_ids) == alone(ids[int(completion.request_id)], 6)


@settings(max_examples=100, deadline=None)
@given(prompts, st.integers(1, 4), st.integers(1, 5))
def test_sorted_prompts_are_decoded_as_the_tree_of_their_beginnings(ids: list[list[int]], n: int, places: int) -> None:
    """Of equal prompts, and of one that another begins with, the last token is decoded again: its logits are needed."""
    scheduler = make(FakeStreams(places, 40, 64))
    runs = sorted(ids)
    for number, run_ids in enumerate(runs):
        scheduler.submit(prompt(f"{number:02}", run_ids, n))
    run(scheduler)
    assert scheduler._stats.prompt_tokens_decoded <= tree_size([np.array(run_ids, np.int32) for run_ids in runs])


def test_only_what_no_free_place_holds_is_copied() -> None:
    cache = FakeStreams(4, 64, 64)
    scheduler = make(cache)
    stem = [1] * 20
    for number in range(12):
        scheduler.submit(prompt(f"{number:02}", [*stem, 2, number % 3 + 1]))
    run(scheduler)
    # The beginning goes to the three other places once; later prompts find it where they are read.
    assert cache.copies == 3


def test_samples_of_one_prompt_fork_by_a_copy_each() -> None:
    cache = FakeStreams(4, 64, 64)
    scheduler = make(cache)
    scheduler.submit(ignoring("a", [1] * 8, samples=7))
    done = run(scheduler)
    assert sorted(c.sample for c in done) == list(range(7))
    assert cache.copies == 3
    assert scheduler._stats.prompt_tokens_decoded == 8


def test_places_are_refilled_before_anything_is_drawn() -> None:
    """Twelve requests of six tokens on four places: three waves, each with one decode a prompt."""
    scheduler = make(FakeStreams(4, 64, 64))
    for number in range(12):
        scheduler.submit(ignoring(str(number), [number + 1] * 8))
    run(scheduler)
    assert scheduler._stats.steps == 12 + 3 * 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(2, 6))
def test_samples_are_decoded_in_neighbouring_streams(lengths: list[int], places: int) -> None:
    """llama.cpp decodes a gap's two sides one after the other."""
    cache = FakeStreams(places, 64, 64)
    scheduler = make(cache)
    for number, length in enumerate(lengths):
        scheduler.submit(ignoring(str(number), [number + 1] * 3, max_tokens=length))
    done = run(scheduler)
    assert [len(c.token_ids) for c in sorted(done, key=lambda c: c.request_id)] == lengths
    for streams in cache.decoded:
        if len(set(streams)) > 1:
            assert streams == list(range(len(streams)))


def test_a_prompt_longer_than_a_batch_is_read_in_parts() -> None:
    cache = FakeStreams(2, 64, 7)
    scheduler = make(cache)
    ids = [1 + k % 3 for k in range(30)]
    scheduler.submit(prompt("0", ids))
    assert list(run(scheduler)[0].token_ids) == alone(ids, 6)
    assert [len(streams) for streams in cache.decoded[:5]] == [7, 7, 7, 7, 2]


def test_labels_alone_come_one_a_step_from_one_stream() -> None:
    cache = FakeStreams(1, 64, 64)
    scheduler = make(cache)
    places = LabelPlaces((1, 2), lambda text: [ord(c) % 40 for c in text], cache.piece)
    tokens = {1: 7, 2: 9}
    for number in range(3):
        asked = replace(prompt(str(number), [1] * 10 + [number + 2]), places=places, reserve=0, label_tokens=tokens)
        scheduler.submit(asked)
    results = [scheduler.step() for _ in range(3)]
    assert [[c.request_id for c in found] for found in results] == [["0"], ["1"], ["2"]]
    assert not scheduler.busy
    assert scheduler._stats.prompt_tokens_decoded == 11 + 1 + 1


def test_labels_alone_and_samples_may_come_in_one_call() -> None:
    cache = FakeStreams(2, 64, 64)
    scheduler = make(cache)
    places = LabelPlaces((1, 2), lambda text: [ord(c) % 40 for c in text], cache.piece)
    stem = [1] * 10
    for number in range(6):
        asked = prompt(str(number), [*stem, number % 3 + 1], 2)
        scheduler.submit(replace(asked, places=places, reserve=0, label_tokens={1: 7, 2: 9}) if number % 2 else asked)
    done = run(scheduler)
    assert sorted(c.request_id for c in done) == ["0", "0", "1", "2", "2", "3", "4", "4", "5"]
    for completion in done:
        if int(completion.request_id) % 2 == 0:
            assert list(completion.token_ids) == alone([*stem, int(completion.request_id) % 3 + 1], 6)


def test_a_few_tokens_are_decoded_again_not_copied() -> None:
    cache = FakeStreams(4, 64, 64)
    scheduler = make(cache, copy_tokens=6)
    for number in range(4):
        scheduler.submit(ignoring(str(number), [1] * 5 + [number + 2]))
    run(scheduler)
    assert cache.copies == 0
    assert scheduler._stats.prompt_tokens_decoded == 4 * 6


def ignoring(name: str, ids: list[int], *, samples: int = 1, max_tokens: int = 6) -> Prompt:
    sampling = Sampling(temperature=0, n=samples, max_tokens=max_tokens, ignore_end=True)
    return Prompt(Request(name, ()), np.array(ids, np.int32), None, max_tokens, sampling)
