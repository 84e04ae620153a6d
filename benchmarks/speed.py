"""How fast llama.cpp itself runs a model here: the two rates that no scheduler on this machine passes.

Measured on the cache of a LlamaCppGenerator, so with its settings, and with nothing beside `llama_decode`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from recipe.inference.llamacpp.generator import LlamaCppGenerator

_TRUNK = 0


def prefill_rate(generator: LlamaCppGenerator, ids: Sequence[int], rounds: int = 6) -> float:
    """Tokens a second of a full batch from an empty cache: the median of `rounds`. ids: any tokens, repeated as
    needed.
    """
    cache = generator.cache
    size = min(cache.batch, cache.context)
    tokens = [ids[place % len(ids)] for place in range(size)]
    seconds = []
    for _ in range(1 + rounds):
        cache.open(size)
        cache.add(tokens, 0, _TRUNK, 1)
        begin = time.perf_counter()
        cache.decode()
        seconds.append(time.perf_counter() - begin)
    return size / median(seconds[1:])  # the first one pages the weights in


def decode_rate(generator: LlamaCppGenerator, prompt: Sequence[int], new_tokens: int, places: int) -> float:
    """Tokens a second of `places` sequences side by side that go on from one prompt for `new_tokens` steps."""
    cache = generator.cache
    cache.open(len(prompt) + places * (1 + new_tokens))
    for begin in range(0, len(prompt), cache.batch):
        cache.add(prompt[begin : begin + cache.batch], begin, _TRUNK, 0)
        cache.decode()
    for sequence in range(1, places):
        cache.share(_TRUNK, sequence)
    for step in range(1 + new_tokens):
        if step == 1:
            start = time.perf_counter()
        for sequence in range(places):
            cache.add([prompt[-1]], len(prompt) + step, sequence, 1)
        cache.decode()
    return places * new_tokens / (time.perf_counter() - start)


def kv_bytes(generator: LlamaCppGenerator) -> int:
    """The most that the KV cache takes."""
    return generator.cache.cell_bytes() * generator.cache.cells
