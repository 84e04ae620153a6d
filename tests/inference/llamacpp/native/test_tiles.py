"""tiles.c, the attention of many tokens, against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from .ggml import Array, attended, built_without_avx512, dense, inputs, needs_native

pytestmark = needs_native
# Heads, how many keys they share, and the width of a head; the last has more heads than a tile has rows.
SHAPES = [(1, 1, 64), (9, 3, 64), (14, 2, 64), (4, 2, 128), (3, 1, 256), (40, 1, 64), (50, 1, 64)]


def causal(tokens: int, cells: int) -> Array:
    """Each token sees the cells up to its own."""
    rows, columns = np.arange(tokens)[:, None], np.arange(cells)[None]
    return np.where(columns <= rows + cells - tokens, 0, -np.inf).astype(np.float16)[None, None]


@pytest.mark.parametrize(("tokens", "streams", "cells"), [(64, 1, 256), (65, 2, 320), (131, 1, 512), (70, 2, 300)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_attention(shape: tuple[int, int, int], tokens: int, streams: int, cells: int) -> None:
    q, k, v, mask = inputs(*shape, tokens=tokens, streams=streams, cells=cells)
    # More heads than a tile's rows, and odd numbers of cells: one by one, with sums of half precision.
    bound = 1e-5 if shape[0] <= 48 and cells % 8 == 0 else 0.02
    for seen in (mask, np.repeat(causal(tokens, cells), streams, axis=0), None):
        theirs, ours, calls = attended(q, k, v, seen)
        assert calls == 1
        assert np.abs(ours - dense(q, k, v, seen)).max() <= bound
        assert np.abs(ours - theirs).max() <= 0.02


def test_cells_of_others_change_nothing() -> None:
    """A cache full of other sequences: bit for bit what comes without them."""
    q, k, v, _ = inputs(9, 3, 64, tokens=100, streams=1, cells=320)
    mask = causal(100, 320)
    _, alone, _ = attended(q, k, v, mask)
    crowd = inputs(9, 3, 64, streams=1, cells=2048, seed=1)
    keys, values = (
        np.concatenate([x[:, :1024], mine, x[:, 1024:]], axis=1) for x, mine in zip(crowd[1:3], (k, v), strict=True)
    )
    hidden = np.full((1, 1, 100, 1024), -np.inf, np.float16)
    _, crowded, calls = attended(q, keys, values, np.concatenate([hidden, mask, hidden], axis=3))
    assert calls == 1
    assert (crowded == alone).all()


def test_tokens_that_share_no_cells_are_done_one_by_one() -> None:
    """As many samples side by side have it: bit for bit what fewer of them give, and as exact as a tile."""
    tokens, own = 160, 16
    q, k, v, _ = inputs(9, 3, 64, tokens=tokens, streams=1, cells=tokens * own)
    mask = np.full((1, 1, tokens, tokens * own), -np.inf, np.float16)
    for token in range(tokens):
        mask[:, :, token, token * own : token * own + 11] = 0
    _, ours, _ = attended(q, k, v, mask)
    parts = [attended(q[:, part], k, v, mask[:, :, part])[1] for part in (slice(0, 70), slice(70, 160))]
    assert (ours == np.concatenate(parts, axis=1)).all()
    assert np.abs(ours - dense(q, k, v, mask)).max() <= 1e-5


def samples_of_prompts(tokens: int, *, each: int, prompt: int, own: int, rng: np.random.Generator) -> Array:
    """What samples see: `each` of them one prompt, and each some cells of its own among those of the others."""
    prompts = -(-tokens // each)
    mask = np.full((tokens, prompts * prompt + tokens * own), -np.inf, np.float16)
    for token in range(tokens):
        first = token // each * prompt
        mask[token, first : first + prompt] = 0
        mask[token, prompts * prompt + token :: tokens][: rng.integers(0, own + 1)] = 0
    return mask[None, None]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_some_threads_give_what_one_does(threads: int) -> None:
    q, k, v, _ = inputs(9, 3, 64, tokens=130, streams=1, cells=320)
    mask = causal(130, 320)
    _, ours, calls = attended(q, k, v, mask, threads=threads)
    assert calls == 1
    _, alone, _ = attended(q, k, v, mask, threads=1)
    assert (ours == alone).all()


def test_nothing_to_attend_to_is_zero_and_damage_is_not_hidden() -> None:
    q, k, v, _ = inputs(4, 2, 64, tokens=96, streams=1, cells=256)
    mask = causal(96, 256)
    mask[0, 0, :10] = -np.inf
    k[0, 200, 0, 5] = np.nan
    _, ours, calls = attended(q, k, v, mask)
    assert calls == 1
    assert (ours[0, :10] == 0).all()
    sees = mask[0, 0, :, 200] == 0
    assert sees.any()
    assert not np.isfinite(ours[0, sees][:, :2]).any()
    assert np.isfinite(ours[0, :, 2:]).all()


@pytest.mark.parametrize("where", ["a query", "the keys of a head", "the first keys of a head"])
def test_what_is_no_number_stays_none(where: str) -> None:
    q, k, v, _ = inputs(4, 2, 64, tokens=96, streams=1, cells=256)
    damaged = {"a query": q[0, 70, :2], "the keys of a head": k[0, :, 0], "the first keys of a head": k[0, :64, 0]}[
        where
    ]
    damaged[:] = np.nan
    theirs, ours, calls = attended(q, k, v, None)
    assert calls == 1
    assert np.isnan(theirs).any()
    assert (np.isnan(ours) == np.isnan(theirs)).all()


def test_for_a_build_without_avx512_it_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = samples_of_prompts(70, each=10, prompt=48, own=72, rng=np.random.default_rng(0))
    for seen in (causal(70, mask.shape[-1]), mask):
        arrays = (*inputs(9, 3, 96, tokens=70, streams=1, cells=mask.shape[-1])[:3], seen)  # AVX-512 leaves 96
        with built_without_avx512(monkeypatch):
            _, ours, calls = attended(*arrays)
        assert calls == 1
        assert np.abs(ours - dense(*arrays)).max() <= 1e-5
