"""Draw tokens from logits in numpy, a whole batch at once. Pure; knows no model and no text."""

import hashlib

import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # tokens
NUCLEUS = 1024  # tokens sorted at first: nearly every nucleus is smaller
NO_TOKEN = -1  # what is drawn from logits that are not finite numbers
NOT_FINITE = "the model's logits are not finite numbers: its weights are damaged, or it can't read this text"


def stream(*key: object) -> np.random.Generator:
    """Random numbers that depend on `key`, its parts as text, and on nothing else."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def most_probable_tokens(row: NDArray[np.float32], count: int) -> list[int]:
    """The `count` tokens of the greatest logits [vocabulary], the first of equals first."""
    top = np.argpartition(-row, count)[:count] if count < len(row) else np.arange(len(row))
    found: list[int] = top[np.lexsort((top, -row[top]))].tolist()
    return found


def log_total(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log(sum(exp(logits))) of each row: [rows, vocabulary] -> [rows], in nats."""
    top = logits.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = top[:, 0] + np.log(total)
    return result


def draw(logits: NDArray[np.float32], uniforms: list[float], temperature: float, top_p: float = 1.0) -> list[int]:
    """Draw one token a row from softmax(logits / temperature) [rows, vocabulary]; NO_TOKEN in rows that aren't finite.

    At temperature 0 it is the first greatest logit. uniforms: one number in [0, 1) a row, not read at temperature 0.
    top_p: draw among the most probable tokens that have this share together.
    """
    tops = logits.max(axis=1)
    bad = np.flatnonzero(~np.isfinite(tops))
    if len(bad):
        logits = logits.copy()
        logits[bad] = tops[bad] = 0
    if temperature == 0:
        tokens = logits.argmax(axis=1)
    else:
        below = logits - tops[:, None]
        weights = np.exp(below if temperature == 1 else below / np.float32(temperature))
        if top_p < 1:
            _keep_nucleus(weights, top_p)
        tokens = _pick(weights, uniforms)
    tokens[bad] = NO_TOKEN
    drawn: list[int] = tokens.tolist()
    return drawn


def _keep_nucleus(weights: NDArray[np.float32], top_p: float) -> None:
    """Set all but the most probable tokens of each row of weights [rows, vocabulary] to 0."""
    for row in weights:
        wanted = top_p * row.sum(dtype=np.float64)
        for count in (min(NUCLEUS, len(row)), len(row)):
            top = np.argpartition(row, len(row) - count)[-count:]
            top = top[np.argsort(-row[top], kind="stable")]
            running = np.cumsum(row[top], dtype=np.float64)
            if running[-1] >= wanted:
                break
        kept = top[: int(np.searchsorted(running, wanted)) + 1]
        values = row[kept]
        row[:] = 0
        row[kept] = values


def _pick(weights: NDArray[np.float32], uniforms: list[float]) -> NDArray[np.int64]:
    """Where the running sum of each row of weights [rows, vocabulary] first exceeds its uniform's share of the total.

    The running sums are those of blocks, then of the one block that matters: faster than those of a whole vocabulary.
    """
    sums = np.add.reduceat(weights, np.arange(0, weights.shape[1], BLOCK), axis=1)
    running = np.cumsum(sums, axis=1, dtype=np.float64)
    tokens = np.empty(len(weights), np.int64)
    for row, uniform in enumerate(uniforms):
        target = uniform * running[row, -1]
        block = _first_above(running[row], target)
        inside = np.cumsum(weights[row, block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
        tokens[row] = block * BLOCK + _first_above(inside, target - (running[row, block - 1] if block else 0.0))
    return tokens


def _first_above(running: NDArray[np.float64], target: float) -> int:
    """The first place of a running sum above `target`, or, where rounding carried that too far, the last that adds."""
    return int(min(np.searchsorted(running, target, side="right"), np.searchsorted(running, running[-1])))
