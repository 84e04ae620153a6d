"""Reading answers from prefills alone: the best of given strings, log-probabilities.

Nothing is drawn here. Prompts come sorted, and each keeps what it shares with the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion
from recipe.inference.labels import shared_length
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.sequence import Prompt
from recipe.inference.stats import Stats, read_on, timed_decode
from recipe.inference.token_sampling import log_total

# Rows of logits asked for at once: 128 rows of a vocabulary of 128k are 66 MB.
ROWS = 128
TRUNK = 0  # the sequence of the current prompt; choices take 1, 2, ...


class Trunk:
    """The sequence that holds the current prompt, and how much of it is decoded."""

    def __init__(self, cache: KVCache, stats: Stats) -> None:
        self._cache, self._stats = cache, stats
        self.ids: list[int] = []

    def move(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Turn to another prompt, keeping what it shares with the current one. The logits [vocabulary] after its last
        token: a view until the next call.
        """
        ids = list(ids)
        done = min(shared_length(self.ids, ids), len(ids) - 1)
        if done < len(self.ids):
            done = self._cache.cut(TRUNK, done)
        self.ids = ids
        return read_on(self._cache, self._stats, ids, done, TRUNK)


def read_choice(cache: KVCache, trunk: Trunk, stats: Stats, prompt: Prompt, *, logprobs: bool) -> Completion:
    """The choice of the greatest sum of token log-probabilities after the prompt (the first of equals).

    Choices share the tokens of their common beginnings too: each distinct beginning is one token of the
    batch, owned by every choice that starts so.
    """
    runs = [cache.tokenize(choice) for choice in prompt.request.choices]
    first = trunk.move(prompt.ids.tolist())[None, :].copy()
    scores: list[list[float]] = [[] for _ in runs]
    width = cache.sequences - 1
    order = sorted(range(len(runs)), key=lambda c: runs[c])
    for begin in range(0, len(order), width):
        _score_choices(cache, stats, first, len(prompt.ids), order[begin : begin + width], runs, scores)
    best = max(range(len(runs)), key=lambda c: (sum(scores[c]), -c))
    return Completion(
        prompt.request.id,
        0,
        prompt.request.choices[best],
        tuple(runs[best]),
        "forced",
        len(prompt.ids),
        token_logprobs=tuple(scores[best]) if logprobs else (),
    )


def _score_choices(
    cache: KVCache,
    stats: Stats,
    first: NDArray[np.float32],
    position: int,
    wave: list[int],
    runs: list[list[int]],
    scores: list[list[float]],
) -> None:
    """Fill scores[c] for the choices c of one wave (sorted, at most one per sequence)."""
    owners: dict[tuple[int, ...], list[int]] = {}
    for place, choice in enumerate(wave):
        cache.share(TRUNK, place + 1)
        for length in range(len(runs[choice])):
            owners.setdefault(tuple(runs[choice][:length]), []).append(place)
    _spread(first, (), owners.pop((), []), wave, runs, scores)
    # Sorted beginnings put parents before children; those of one length go on being decoded left to right.
    beginnings = sorted(owners)
    step = min(ROWS, cache.batch)
    for at in range(0, len(beginnings), step):
        part = beginnings[at : at + step]
        for beginning in part:
            places = [place + 1 for place in owners[beginning]]
            cache.add([beginning[-1]], position + len(beginning) - 1, places, 1)
        logits = timed_decode(cache, stats)
        for row, beginning in enumerate(part):
            _spread(logits[row : row + 1], beginning, owners[beginning], wave, runs, scores)
    for place in range(len(wave)):
        cache.drop(place + 1)


def _spread(
    row: NDArray[np.float32],
    beginning: tuple[int, ...],
    places: list[int],
    wave: list[int],
    runs: list[list[int]],
    scores: list[list[float]],
) -> None:
    """Give each choice that starts with `beginning` the log-probability of its next token: row [1,
    vocabulary].
    """
    total = float(log_total(row)[0]) if places else 0.0
    for place in places:
        token = runs[wave[place]][len(beginning)]
        scores[wave[place]].append(float(row[0, token]) - total)


def completion_logprobs(
    cache: KVCache, trunk: Trunk, stats: Stats, prompt: Sequence[int], completion: Sequence[int]
) -> NDArray[np.float64]:
    """Log-softmax (nats) of every completion token given all before it: [len(completion)]."""
    if not completion or not prompt:
        return np.zeros(0)
    found = [_row_logprobs(trunk.move(prompt)[None, :], completion[:1])]
    for begin in range(0, len(completion) - 1, min(ROWS, cache.batch)):
        part = completion[begin : min(begin + min(ROWS, cache.batch), len(completion) - 1)]
        cache.add(part, len(prompt) + begin, [TRUNK], len(part))
        found.append(_row_logprobs(timed_decode(cache, stats), completion[begin + 1 : begin + 1 + len(part)]))
    cache.cut(TRUNK, len(prompt))
    return np.concatenate(found)


def _row_logprobs(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = logits[np.arange(len(tokens)), list(tokens)].astype(np.float64)
    return drawn - log_total(logits)


def all_logits(cache: KVCache, ids: Sequence[int]) -> NDArray[np.float32]:
    """The logits after every token of `ids` from an empty cache: a copy, [len(ids), vocabulary]."""
    cache.open()
    rows = []
    step = min(ROWS, cache.batch)
    for begin in range(0, len(ids), step):
        part = ids[begin : begin + step]
        cache.add(part, begin, [TRUNK], len(part))
        rows.append(cache.decode().copy())
    return np.concatenate(rows) if rows else np.zeros((0, cache.vocab_size), np.float32)
