"""attention.c against llama.cpp's own attention and against dense arithmetic; and all that can keep it away."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from recipe.engines import attention
from recipe.engines.gguf import write_gguf
from recipe.engines.kvcache import KVCache, start_backend

FEATURES = llama_cpp.llama_print_system_info()
pytestmark = pytest.mark.skipif(
    not attention.suits() or b"AVX2 = 1" not in FEATURES, reason="attention.c is for Linux on x86-64 with AVX2"
)
# Heads, how many keys they share, and the width of a head.
SHAPES = [(1, 1, 64), (4, 2, 64), (9, 3, 64), (4, 1, 64), (5, 1, 64), (14, 2, 64), (4, 2, 128), (3, 1, 256)]
CELLS = 300
F32, F16 = 0, 1

Array = NDArray[Any]


@pytest.fixture(autouse=True)
def ours_again() -> Iterator[None]:
    start_backend()
    yield
    attention.use(True)


class _Init(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """ggml's public C functions, as far as one attention needs them."""

    def __init__(self) -> None:
        path = attention._loaded()
        self.base = ctypes.CDLL(str(path.with_name(path.name.replace("-cpu", "-base"))))
        self.cpu = ctypes.CDLL(str(path))
        for name in ("init", "new_tensor_4d", "permute", "flash_attn_ext", "new_graph", "get_data"):
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
        base = self.base
        context = ctypes.c_void_p(base.ggml_init(_Init(64 << 20, None, False)))

        def tensor(array: Array) -> ctypes.c_void_p:
            array = np.ascontiguousarray(array)
            kind = F32 if array.dtype == np.float32 else F16
            sizes = [ctypes.c_int64(n) for n in (*array.shape[::-1], 1, 1, 1)[:4]]
            made = ctypes.c_void_p(base.ggml_new_tensor_4d(context, kind, *sizes))
            ctypes.memmove(ctypes.c_void_p(base.ggml_get_data(made)), array.ctypes.data, array.nbytes)
            return made

        def by_head(array: Array) -> ctypes.c_void_p:
            return ctypes.c_void_p(base.ggml_permute(context, tensor(array), 0, 2, 1, 3))

        try:
            masked = None if mask is None else tensor(mask)
            scale = ctypes.c_float(q.shape[-1] ** -0.5)
            options = (scale, ctypes.c_float(alibi), ctypes.c_float(cap))
            result = base.ggml_flash_attn_ext(context, by_head(q), by_head(k), by_head(v), masked, *options)
            result = ctypes.c_void_p(result)
            if sinks is not None:
                base.ggml_flash_attn_ext_add_sinks(result, tensor(sinks))
            graph = ctypes.c_void_p(base.ggml_new_graph(context))
            base.ggml_build_forward_expand(graph, result)
            assert self.cpu.ggml_graph_compute_with_ctx(context, graph, threads) == 0
            shape = (*q.shape[:3], v.shape[3])
            numbers = (ctypes.c_float * int(np.prod(shape))).from_address(base.ggml_get_data(result))
            return np.array(numbers, np.float32).reshape(shape)
        finally:
            base.ggml_free(context)

    def both(self, *arrays: Array | None, **options: Any) -> tuple[Array, Array, int]:
        """By llama.cpp's own attention and by ours, and how many times ours was at work."""
        attention.use(False)
        before = attention.calls()
        theirs = self.attend(*arrays, **options)
        assert attention.calls() == before, "llama.cpp's own was wanted"
        attention.use(True)
        return theirs, self.attend(*arrays, **options), attention.calls() - before


def inputs(
    heads: int, shared: int, width: int, *, tokens: int = 1, streams: int = 2, cells: int = CELLS, seed: int = 0
) -> tuple[Array, Array, Array, Array]:
    """Random queries, keys and values, and a mask with holes, single ones and long ones, and a few finite numbers."""
    rng = np.random.default_rng(seed)
    q = rng.normal(0, 2, (streams, tokens, heads, width)).astype(np.float32)
    k, v = rng.normal(0, 1, (2, streams, cells, shared, width)).astype(np.float16)
    mask = np.where(rng.random((streams, 1, tokens, cells)) < 0.2, -np.inf, 0).astype(np.float16)
    mask[rng.random(mask.shape) < 0.05] = -1.5
    mask[:, :, :, 60:150] = -np.inf
    mask[:, :, :, -37:] = -np.inf
    return q, k, v, mask


def dense(q: Array, k: Array, v: Array, mask: Array | None) -> NDArray[np.float64]:
    group = q.shape[2] // k.shape[2]
    keys, values = (np.repeat(x.astype(np.float64), group, axis=2) for x in (k, v))
    scores = np.einsum("sthd,schd->shtc", q.astype(np.float16).astype(np.float64), keys) * q.shape[-1] ** -0.5
    scores += 0 if mask is None else mask.astype(np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("shtc,schd->sthd", weights, values)


@pytest.mark.parametrize(("tokens", "streams"), [(1, 5), (7, 1), (63, 2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_llama_cpp_does(shape: tuple[int, int, int], tokens: int, streams: int) -> None:
    arrays = inputs(*shape, tokens=tokens, streams=streams)
    theirs, ours, calls = Ggml().both(*arrays)
    assert calls == 1
    # Bit for bit, but where the exponential differs in its last bit and a sum is then rounded the other way.
    assert (ours == theirs).mean() >= 0.95
    assert np.abs(ours - theirs).max() <= 2e-3
    # Sums are of half precision, here and there.
    assert np.abs(ours - dense(*arrays)).max() <= 0.02


def test_without_a_mask_and_with_any_number_of_threads() -> None:
    q, k, v, _ = inputs(9, 3, 64, streams=3)
    for threads in (1, 2, 3, 7, 9):
        theirs, ours, calls = Ggml().both(q, k, v, None, threads=threads)
        assert calls == 1
        assert (ours == theirs).mean() >= 0.95
        assert np.abs(ours - dense(q, k, v, None)).max() <= 0.02


LEFT = {
    "64 tokens": (inputs(4, 2, 64, tokens=64), {}),
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
    theirs, ours, calls = Ggml().both(*arrays, **options)
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
    theirs, ours, calls = Ggml().both(q, k, v, mask)
    assert calls == 1
    assert (ours[0] == 0).all()
    assert np.isnan(ours[1, :, :2]).all()
    assert np.isfinite(ours[1, :, 2:]).all()
    assert (np.isfinite(ours) == np.isfinite(theirs)).all()


@pytest.mark.parametrize("shape", [(9, 3, 64), (5, 1, 96), (4, 2, 32)], ids=str)
def test_for_a_build_without_avx512_it_uses_none(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_library", None)
        attention.install(b"AVX2 = 1 | ")
        arrays = inputs(*shape, streams=3)
        theirs, ours, calls = Ggml().both(*arrays)
    assert calls == 1, attention.state()
    assert np.abs(ours - theirs).max() <= 0.01  # sums in another order than this build's, where that has AVX-512
    assert np.abs(ours - dense(*arrays)).max() <= 0.02


@pytest.mark.parametrize("streams", [True, False], ids=["streams", "unified"])
def test_a_model_decodes_by_it_what_it_decodes_without(
    build: Callable[..., Path], tmp_path: Path, streams: bool
) -> None:
    """Several sequences that share a prompt, then one more that is read beside them."""
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
    file = tmp_path / "model.gguf"
    write_gguf(build("qwen3", "qwen2", tie_word_embeddings=True, **sizes), file, type_name="F32")
    options = {"context": 512, "cells": 2048, "memory": 0, "sequences": 8, "batch": 256, "micro_batch": 256}
    cache = KVCache(file, **options, threads=2, flash=True, verbose=False)

    def decoded() -> Array:
        cache.open(*((6, 256) if streams else (0, 0)))
        cache.add(np.arange(150), 0, [0], 0)
        cache.decode()
        for place in range(1, 5):
            cache.copy(0, place, 150) if streams else cache.share(0, place)
        found = []
        for step in range(3):
            for place in range(5):
                cache.add([7 * place + step], 150 + step, [place], 1)
            if step == 2:
                cache.add(np.arange(20), 0, [5], 1)
            found.append(cache.decode().copy())
        return np.concatenate(found)

    try:
        attention.use(False)
        theirs = decoded()
        attention.use(True)
        before = attention.calls()
        ours = decoded()
        assert attention.calls() > before
    finally:
        cache.close()
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


# --- what keeps it away ---


def state_of_a_process(**environment: str) -> str:
    code = "import recipe.engines.attention as a, recipe.engines.kvcache as k; k.start_backend(); print(a.state())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_it_is_at_work_unless_it_is_not_wanted(tmp_path: Path) -> None:
    kept = tmp_path / "a folder"
    assert state_of_a_process(XDG_CACHE_HOME=str(kept)) == "our own (attention.c)"
    files = list((kept / "sre").iterdir())
    assert [path.suffix for path in files] == [".so"], "nothing half-written stays"
    assert state_of_a_process(SRE_ATTENTION="llama.cpp") == "llama.cpp's own (SRE_ATTENTION asks for it)"


def test_packages_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(llama_cpp.__file__).parents[1])
    assert state_of_a_process(PYTHONPATH=str(tmp_path / "link")) == "our own (attention.c)"


def no_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "FLAGS", ("-O1", "-march=x86-64", "-shared", "-fPIC"))


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")


def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)


def no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")


def a_folder_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache" / "sre").mkdir(parents=True)
    (tmp_path / "cache" / "sre").chmod(0o777)


def another_ggml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "TRIED", "0.1.")


def another_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "_OBJECT_BYTES", 8)


def another_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


def a_slow_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "_COMPILE_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("hinder", "why"),
    [
        (no_vectors, "compiling it: .*neither AVX-512 nor AVX2"),
        (no_compiler, "no C compiler was found"),
        (no_home, "Could not determine home"),
        (no_folder, "Not a directory"),
        (a_folder_of_others, "others may write"),
        (another_ggml, r"tried with ggml 0\.1\.x, this is "),
        (another_header, r"ggml\.h is not that of the loaded library"),
        (another_system, "ours is for Linux on x86-64, this is Linux on arm64"),
        (a_slow_compiler, "timed out"),
    ],
)
def test_what_keeps_it_away_is_said_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hinder: Callable[..., None], why: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_library", None)
        patch.setattr(attention, "_why_not", "")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        hinder(patch, tmp_path)
        attention.install(FEATURES)
        assert not attention.installed()
        assert re.search(why, attention.state())
        assert attention.calls() == 0


def test_a_file_of_another_cpu_or_build_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder may be shared by machines of several kinds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    include = attention._header(attention._loaded())
    first = attention._compiled(include, b"AVX512 = 1")
    assert attention._compiled(include, b"AVX512 = 1") == first
    assert attention._compiled(include, b"AVX2 = 1") != first
    monkeypatch.setattr(attention, "_cpu", lambda: b"flags : fpu")
    assert attention._compiled(include, b"AVX512 = 1") != first
