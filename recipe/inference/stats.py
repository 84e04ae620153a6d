"""What one call of the llama.cpp engine counts, and the decodes that count it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.inference.llamacpp.kv_cache import KVCache, Tokens


@dataclass
class Stats:
    """Counts of one call. prompt_tokens_total counts a prompt once, however many samples it has; the difference to
    prompt_tokens_decoded was shared. python_seconds is all time not spent inside llama.cpp (the caller's excluded).
    """

    prompt_tokens_total: int = 0
    prompt_tokens_decoded: int = 0
    new_tokens: int = 0
    steps: int = 0
    decode_seconds: float = 0.0
    python_seconds: float = 0.0


def timed_decode(cache: KVCache, stats: Stats, *, together: bool = False) -> NDArray[np.float32]:
    """Decode the batch that `cache` holds. Returns its logits [outputs, vocabulary], a view until the next one."""
    begin = time.perf_counter()
    logits = cache.decode(together=together)
    stats.decode_seconds += time.perf_counter() - begin
    stats.steps += 1
    return logits


def read_on(cache: KVCache, stats: Stats, ids: Tokens, done: int, sequence: int) -> NDArray[np.float32]:
    """Decode what `sequence`, which holds the first `done` tokens of the prompt `ids`, lacks of it: at least its last.
    The logits [vocabulary] after it: a view until the next decode.
    """
    while True:
        part = ids[done : done + cache.room]
        done += len(part)
        cache.add(part, done - len(part), [sequence], int(done == len(ids)))
        stats.prompt_tokens_decoded += len(part)
        logits = timed_decode(cache, stats)
        if done == len(ids):
            row: NDArray[np.float32] = logits[0]
            return row
