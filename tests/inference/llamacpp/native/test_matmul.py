"""matmul.c: products with weights of two bytes, bit for bit those of llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest

from .ggml import FEATURES, MATMUL, Array, Ggml, built_without_avx512, by_both, needs_native

pytestmark = needs_native
BFLOAT = b"AVX512_BF16 = 1" in FEATURES


def both(weights: Array, tokens: Array, threads: int = 2) -> tuple[Array, Array, int]:
    ggml = Ggml()
    return by_both(MATMUL, lambda: ggml.multiply(weights, tokens, threads=threads))


def operands(m: int, n: int, k: int, kind: str = "F16") -> tuple[Array, Array]:
    """Random weights [m, k] of this type and tokens [n, k]."""
    rng = np.random.default_rng(m + n + k)
    weights, tokens = (rng.normal(0, 1, (rows, k)).astype(np.float32) for rows in (m, n))
    if kind == "BF16":
        return (weights.view(np.uint32) >> 16).astype(np.uint16), tokens
    return weights.astype(np.float16 if kind == "F16" else np.float32), tokens


def numbers(weights: Array) -> Array:
    """Weights in double precision."""
    if weights.dtype == np.uint16:
        weights = (weights.astype(np.uint32) << 16).view(np.float32)
    return weights.astype(np.float64)


@pytest.mark.parametrize("kind", ["F16", pytest.param("BF16", marks=pytest.mark.skipif(not BFLOAT, reason="no BF16"))])
@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 13, 40, 96, 97, 200])
@pytest.mark.parametrize(("m", "k"), [(4, 32), (12, 64), (192, 576), (576, 1536), (64, 4096)])
def test_it_computes_what_llama_cpp_does(m: int, n: int, k: int, kind: str) -> None:
    weights, tokens = operands(m, n, k, kind)
    theirs, ours, calls = both(weights, tokens)
    assert calls == 1
    assert (ours == theirs).all()
    # Tokens are rounded to the type of the weights first.
    rounded = 2.0 ** (-8 if kind == "BF16" else -11)
    bound = rounded * np.abs(tokens.astype(np.float64)) @ np.abs(numbers(weights)).T
    assert (np.abs(ours - tokens.astype(np.float64) @ numbers(weights).T) <= 1.1 * bound).all()


def test_several_tokens_matrices_share_weights() -> None:
    weights, tokens = operands(48, 10, 64)
    weights, tokens = np.stack([weights, -2 * weights]), np.stack([tokens + shift for shift in range(4)])
    theirs, ours, calls = both(weights, tokens)
    assert calls == 4
    assert (ours == theirs).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    theirs, ours, calls = both(*operands(36, 17, 64), threads)
    assert calls == 1
    assert (ours == theirs).all()


@pytest.mark.parametrize(
    ("m", "n", "k", "kind"),
    [(64, 1, 64, "F16"), (6, 8, 64, "F16"), (64, 8, 72, "F16"), (64, 8, 4112, "F16"), (64, 8, 64, "F32")],
    ids=["one token", "rows that fill no tile", "numbers that fill no vector", "long rows", "single precision"],
)
def test_what_it_leaves_to_llama_cpp(m: int, n: int, k: int, kind: str) -> None:
    theirs, ours, calls = both(*operands(m, n, k, kind))
    assert calls == 0
    assert (ours == theirs).all()


def test_damage_is_not_hidden() -> None:
    weights, tokens = operands(16, 9, 64)
    weights[5, 7] = np.nan
    tokens[3, 60] = np.inf
    theirs, ours, calls = both(weights, tokens)
    assert calls == 1
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    assert np.isnan(ours[:, 5]).all()
    assert not np.isfinite(ours[3]).any()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 40])
def test_for_a_build_without_avx512_it_uses_none(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    weights, tokens = operands(24, n, 104)  # which AVX-512 leaves to llama.cpp
    with built_without_avx512(monkeypatch):
        theirs, ours, calls = both(weights, tokens)
    assert calls == 1
    assert np.abs(ours - theirs).max() <= 1e-4  # sums in another order than this build's, where that has AVX-512
