"""attention.c against llama.cpp's own attention and against dense arithmetic: few tokens a sequence."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from .ggml import Array, attended, built_without_avx512, dense, inputs, needs_native

pytestmark = needs_native
# Heads, how many keys they share, and the width of a head.
SHAPES = [(1, 1, 64), (4, 2, 64), (9, 3, 64), (4, 1, 64), (5, 1, 64), (14, 2, 64), (4, 2, 128), (3, 1, 256)]


def halved(q: Array, k: Array, v: Array, mask: Array | None) -> NDArray[np.float64]:
    """Dense, with queries rounded to half precision, as here and in llama.cpp."""
    return dense(q.astype(np.float16), k, v, mask)


@pytest.mark.parametrize(("tokens", "streams"), [(1, 5), (7, 1), (63, 2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_llama_cpp_does(shape: tuple[int, int, int], tokens: int, streams: int) -> None:
    arrays = inputs(*shape, tokens=tokens, streams=streams)
    theirs, ours, calls = attended(*arrays)
    assert calls == 1
    # Bit for bit, but where the exponential differs in its last bit and a sum is then rounded the other way.
    assert (ours == theirs).mean() >= 0.95
    assert np.abs(ours - theirs).max() <= 2e-3
    # Sums are of half precision, here and there.
    assert np.abs(ours - halved(*arrays)).max() <= 0.02


def test_without_a_mask_and_with_any_number_of_threads() -> None:
    q, k, v, _ = inputs(9, 3, 64, streams=3)
    for threads in (1, 2, 3, 7, 9):
        theirs, ours, calls = attended(q, k, v, None, threads=threads)
        assert calls == 1
        assert (ours == theirs).mean() >= 0.95
        assert np.abs(ours - halved(q, k, v, None)).max() <= 0.02


LEFT = {
    "one token alone in 512 cells": (inputs(4, 2, 64, streams=1, cells=512), {}),
    "less than a group of heads a thread": (inputs(4, 1, 64, streams=1), {}),
    "keys in single precision": ((*(x.astype(np.float32) for x in inputs(4, 2, 64)[:3]), None), {}),
    "an odd width": (inputs(4, 2, 40), {}),
    "ALiBi": (inputs(4, 2, 64), {"alibi": 8.0}),
    "soft caps": (inputs(4, 2, 64), {"cap": 30.0}),
    "sinks": (inputs(4, 2, 64), {"sinks": np.ones(4, np.float32)}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_it_leaves_to_llama_cpp(case: str) -> None:
    arrays, options = LEFT[case]
    theirs, ours, calls = attended(*arrays, **options)
    assert calls == 0
    assert (ours == theirs).all()
    assert np.isfinite(ours).all()


def test_nothing_to_attend_to_is_zero_and_damage_is_not_hidden() -> None:
    q, k, v, mask = inputs(4, 2, 64, streams=3)
    mask[0] = -np.inf
    k[1, 7, 0, 5] = np.nan
    mask[1, :, :, 7] = 0
    v[2, 8, 1, 6] = np.inf
    mask[2, :, :, 8] = 0
    theirs, ours, calls = attended(q, k, v, mask)
    assert calls == 1
    assert (ours[0] == 0).all()
    assert np.isnan(ours[1, :, :2]).all()
    assert np.isfinite(ours[1, :, 2:]).all()
    assert (np.isfinite(ours) == np.isfinite(theirs)).all()


@pytest.mark.parametrize("shape", [(9, 3, 64), (5, 1, 96), (4, 2, 32)], ids=str)
def test_for_a_build_without_avx512_it_uses_none(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    with built_without_avx512(monkeypatch):
        arrays = inputs(*shape, streams=3)
        theirs, ours, calls = attended(*arrays)
    assert calls == 1
    assert np.abs(ours - theirs).max() <= 0.01  # sums in another order than this build's, where that has AVX-512
    assert np.abs(ours - halved(*arrays)).max() <= 0.02
