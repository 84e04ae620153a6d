"""Logits and log-probabilities of given texts, from one pass over each: what the engine's own are held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipe.inference.llamacpp.generator import LlamaCppGenerator


def prompt_logits(generator: LlamaCppGenerator, ids: Sequence[int]) -> NDArray[np.float32]:
    """The logits after every token of `ids`, from an empty cache: [len(ids), vocabulary]."""
    generator.latest = None  # ends any session
    cache = generator.cache
    cache.open()
    rows = []
    for begin in range(0, len(ids), 128):
        part = ids[begin : begin + 128]
        cache.add(part, begin, 0, len(part))
        rows.append(cache.decode().copy())
    return np.concatenate(rows)


def sequence_logprobs(
    generator: LlamaCppGenerator, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[NDArray[np.float64]]:
    """For each (prompt ids, completion ids): the log-softmax (nats) of every completion token."""
    found = []
    for prompt, completion in pairs:
        rows = prompt_logits(generator, [*prompt, *completion])[len(prompt) - 1 : -1].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        drawn = rows[np.arange(len(completion)), list(completion)]
        found.append(drawn - np.log(np.exp(rows).sum(axis=1)))
    return found
