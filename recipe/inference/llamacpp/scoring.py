"""Reading which of a request's choices is the most probable. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion, Stats
from recipe.inference.choices import ChoiceSearch
from recipe.inference.labels import shared_length
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.prompt import Prompt

TRUNK, BRANCH = 0, 1
"""The sequence that holds the current prompt, and the one that holds a choice after it."""


def read_choices(cache: KVCache, prompts: Sequence[Prompt], stats: Stats) -> Iterator[Completion]:
    """The answer to each prompt. Sorted prompts come quickest: each keeps what it shares with the one before."""
    held: list[int] = []
    for prompt in prompts:
        ids = prompt.ids.tolist()
        done = min(shared_length(held, ids), len(ids) - 1)
        if done < len(held):
            done = cache.cut(TRUNK, done)
        held = ids
        stats.prompt_tokens_decoded += len(ids) - done
        yield _read(cache, prompt, _read_on(cache, ids, done))


def _read_on(cache: KVCache, ids: list[int], done: int) -> NDArray[np.float32]:
    """Decode what the trunk lacks of `ids`, of which it holds the first `done`. The logits [1, vocabulary] after it."""
    while True:
        part = ids[done : done + cache.room]
        done += len(part)
        cache.add(part, done - len(part), [TRUNK], int(done == len(ids)))
        logits = cache.decode(exact=True)
        if done == len(ids):
            return logits


def _read(cache: KVCache, prompt: Prompt, logits: NDArray[np.float32]) -> Completion:
    search = ChoiceSearch(prompt)
    search.learn((), logits[0])
    while True:
        best, known = search.leader()
        if known:
            return search.completion(best)
        run = search.runs[best]
        cache.share(TRUNK, BRANCH)
        for begin in range(0, len(run) - 1, cache.batch):
            part = run[begin : min(begin + cache.batch, len(run) - 1)]
            cache.add(part, len(prompt.ids) + begin, [BRANCH], len(part))
            for place, row in enumerate(cache.decode(exact=True), begin + 1):
                search.learn(tuple(run[:place]), row)
        cache.drop(BRANCH)
