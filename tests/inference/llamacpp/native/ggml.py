"""ggml's public C functions, as far as one product or one attention needs them, with native/ and without."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from recipe.inference.llamacpp.kv_cache import start_backend
from recipe.inference.llamacpp.native import kernels

FEATURES = llama_cpp.llama_print_system_info()
needs_native = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64") or b"AVX2 = 1" not in FEATURES,
    reason="native/ is for Linux on x86-64 with AVX2",
)
ATTENTION, MATMUL = "ggml_compute_forward_flash_attn_ext", "llamafile_sgemm"
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 30}
"""ggml's numbers of types; bfloat16 is held as bits."""

Array = NDArray[Any]


class _Init(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """A context for each operation, freed after it."""

    def __init__(self) -> None:
        start_backend()
        path = kernels.loaded_library()
        self.base = ctypes.CDLL(str(path.with_name(path.name.replace("-cpu", "-base"))))
        self.cpu = ctypes.CDLL(str(path))
        for name in ("init", "new_tensor_4d", "permute", "flash_attn_ext", "mul_mat", "new_graph", "get_data"):
            getattr(self.base, f"ggml_{name}").restype = ctypes.c_void_p

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None,
        *,
        alibi: float = 0,
        cap: float = 0,
        sinks: Array | None = None,
        threads: int = 2,
    ) -> NDArray[np.float32]:
        """q [streams, tokens, heads, width], k and v [streams, cells, shared heads, width], mask [streams, 1, tokens,
        cells]; the result [streams, tokens, heads, width].
        """

        def build(context: Any) -> ctypes.c_void_p:
            heads = [
                ctypes.c_void_p(self.base.ggml_permute(context, self._tensor(context, x), 0, 2, 1, 3))
                for x in (q, k, v)
            ]
            masked = None if mask is None else self._tensor(context, mask)
            options = (ctypes.c_float(q.shape[-1] ** -0.5), ctypes.c_float(alibi), ctypes.c_float(cap))
            result = ctypes.c_void_p(self.base.ggml_flash_attn_ext(context, *heads, masked, *options))
            if sinks is not None:
                self.base.ggml_flash_attn_ext_add_sinks(result, self._tensor(context, sinks))
            return result

        return self._computed(build, (*q.shape[:3], v.shape[3]), threads)

    def multiply(self, weights: Array, tokens: Array, *, threads: int = 2) -> NDArray[np.float32]:
        """weights [..., m, k], tokens [..., n, k] in single precision; the result [..., n, m]. Matrices of tokens
        may share one of weights.
        """

        def build(context: Any) -> ctypes.c_void_p:
            operands = (self._tensor(context, weights), self._tensor(context, tokens))
            return ctypes.c_void_p(self.base.ggml_mul_mat(context, *operands))

        return self._computed(build, (*tokens.shape[:-1], weights.shape[-2]), threads)

    def _tensor(self, context: Any, array: Array) -> ctypes.c_void_p:
        array = np.ascontiguousarray(array)
        sizes = [ctypes.c_int64(n) for n in (*array.shape[::-1], 1, 1, 1)[:4]]
        made = ctypes.c_void_p(self.base.ggml_new_tensor_4d(context, TYPES[array.dtype], *sizes))
        ctypes.memmove(ctypes.c_void_p(self.base.ggml_get_data(made)), array.ctypes.data, array.nbytes)
        return made

    def _computed(self, build: Callable[[Any], ctypes.c_void_p], shape: tuple[int, ...], threads: int) -> Array:
        context = ctypes.c_void_p(self.base.ggml_init(_Init(128 << 20, None, False)))
        try:
            result = build(context)
            graph = ctypes.c_void_p(self.base.ggml_new_graph(context))
            self.base.ggml_build_forward_expand(graph, result)
            assert self.cpu.ggml_graph_compute_with_ctx(context, graph, threads) == 0
            numbers = (ctypes.c_float * int(np.prod(shape))).from_address(self.base.ggml_get_data(result))
            return np.array(numbers, np.float32).reshape(shape)
        finally:
            self.base.ggml_free(context)


def calls() -> dict[str, int]:
    """How many times each kernel was called in this process, by the name of ggml's function."""
    library, numbers = kernels._library, range(len(kernels._originals))
    library.sre_calls.restype = ctypes.c_long
    return {library.sre_name(kernel).decode(): library.sre_calls(kernel) for kernel in numbers}


def by_both(kernel: str, compute: Callable[[], Array]) -> tuple[Array, Array, int]:
    """By llama.cpp's own kernel and by ours, and how many times ours was at work."""
    kernels.use(False)
    try:
        before = calls()[kernel]
        theirs = compute()
        assert calls()[kernel] == before, "llama.cpp's own was wanted"
    finally:
        kernels.use(True)
    return theirs, compute(), calls()[kernel] - before


def attended(*arrays: Array | None, **options: Any) -> tuple[Array, Array, int]:
    """`Ggml.attend` by both."""
    ggml = Ggml()
    return by_both(ATTENTION, lambda: ggml.attend(*arrays, **options))


@contextmanager
def built_without_avx512(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ours as they are where llama.cpp was built for AVX2."""
    start_backend()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        patch.setattr(kernels, "_originals", [])
        kernels.install(b"AVX2 = 1 | ")
        yield
    kernels.use(True)


def inputs(
    heads: int, shared: int, width: int, *, tokens: int = 1, streams: int = 2, cells: int = 300, seed: int = 0
) -> tuple[Array, Array, Array, Array]:
    """Random queries, keys and values, and a mask with holes, single ones and long ones, and a few finite numbers."""
    rng = np.random.default_rng(seed)
    q = rng.normal(0, 2, (streams, tokens, heads, width)).astype(np.float32)
    k, v = rng.normal(0, 1, (2, streams, cells, shared, width)).astype(np.float16)
    mask = np.where(rng.random((streams, 1, tokens, cells)) < 0.2, -np.inf, 0).astype(np.float16)
    mask[rng.random(mask.shape) < 0.05] = -1.5
    mask[:, :, :, 60:150] = -np.inf
    mask[:, :, :, -37:-1] = -np.inf
    return q, k, v, mask


def dense(q: Array, k: Array, v: Array, mask: Array | None) -> NDArray[np.float64]:
    """Attention in double precision."""
    group = q.shape[2] // k.shape[2]
    keys, values = (np.repeat(x.astype(np.float64), group, axis=2) for x in (k, v))
    scores = np.einsum("sthd,schd->shtc", q.astype(np.float64), keys) * q.shape[-1] ** -0.5
    scores += 0 if mask is None else mask.astype(np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("shtc,schd->sthd", weights, values)
