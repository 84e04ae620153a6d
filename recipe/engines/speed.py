"""How fast llama.cpp itself runs a model here: the two rates that no scheduler on this machine passes.

Measured on the cache of a LlamaCppGenerator, so with its settings, and with nothing beside `llama_decode`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from recipe.engines.llamacpp import STREAM_STEP, LlamaCppGenerator

_TRUNK = 0


def prefill_rate(generator: LlamaCppGenerator, ids: Sequence[int], rounds: int = 6) -> float:
    """Tokens a second of a full batch from an empty cache: the median of `rounds`. ids: any tokens, repeated as
    needed.
    """
    cache = generator._cache
    size = min(cache.batch, cache.context)
    tokens = [ids[place % len(ids)] for place in range(size)]
    seconds = []
    for _ in range(1 + rounds):
        cache.open(1, size)
        cache.add(tokens, 0, [_TRUNK], 1)
        begin = time.perf_counter()
        cache.decode()
        seconds.append(time.perf_counter() - begin)
    cache.open(1, size)
    return size / median(seconds[1:])  # the first one pages the weights in


def decode_rate(generator: LlamaCppGenerator, prompt: Sequence[int], new_tokens: int, places: int) -> float:
    """Tokens a second of `places` sequences together (as many of them as the cache holds) that go on from one prompt,
    each in a stream of its own, in `new_tokens` steps.
    """
    cache = generator._cache
    length = -(-(len(prompt) + new_tokens) // STREAM_STEP) * STREAM_STEP
    places = min(places, cache.cells // length)
    cache.open(places, length)
    for begin in range(0, len(prompt), cache.batch):
        cache.add(prompt[begin : begin + cache.batch], begin, [_TRUNK], 0)
        cache.decode()
    for sequence in range(1, places):
        cache.copy(_TRUNK, sequence, len(prompt))
    start = time.perf_counter()
    for step in range(new_tokens):
        for sequence in range(places):
            cache.add([prompt[-1]], len(prompt) + step, [sequence], 1)
        cache.decode()
    seconds = time.perf_counter() - start
    cache.open(places, length)
    return places * new_tokens / seconds


def kv_bytes(generator: LlamaCppGenerator) -> int:
    """Size of the KV cache."""
    return generator._cache.cell_bytes() * generator._cache.cells
