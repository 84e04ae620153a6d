"""attention.c against llama.cpp's own attention, in models of every shape of heads; and all that can keep it away."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recipe.engines import attention
from recipe.engines.gguf import write_gguf
from recipe.engines.kvcache import KVCache, start_backend

FLAGS = Path("/proc/cpuinfo").read_text("utf-8").split() if Path("/proc/cpuinfo").is_file() else []
here = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64" or "avx2" not in FLAGS,
    reason="attention.c is for Linux on x86-64 with AVX2",
)
# What one look at four numbers takes in: a head's width must be a multiple.
SLAB = 64 if "avx512f" in FLAGS else 32
# Heads, how many keys they share, and the width of a head.
SHAPES = [(1, 1, 64), (4, 2, 64), (9, 3, 64), (4, 1, 64), (5, 1, 64), (14, 2, 64), (4, 2, 128), (3, 1, 256), (4, 2, 96)]
PROMPT = 150
PLACES = 5


@pytest.fixture
def open_cache(build: Callable[..., Path], tmp_path: Path) -> Callable[..., KVCache]:
    """(heads, of which share keys, width of a head) -> the open cache of a tiny random model."""

    def make(heads: int, shared: int, width: int) -> KVCache:
        sizes = {"num_attention_heads": heads, "num_key_value_heads": shared, "head_dim": width}
        file = tmp_path / "model.gguf"
        write_gguf(build("qwen3", "qwen2", tie_word_embeddings=True, **sizes), file, type_name="F32")
        return KVCache(
            file,
            context=512,
            cells=2048,
            memory=0,
            sequences=2 * PLACES,
            batch=256,
            micro_batch=256,
            threads=2,
            flash=True,
            verbose=False,
        )

    return make


def answers(cache: KVCache, streams: bool) -> NDArray[np.float32]:
    """Logits of three steps of several sequences that share a prompt. Without streams, another sequence has cells of
    the same cache. In the third step a second prompt rides along.
    """
    cache.open(*((PLACES + 1, 512) if streams else (0, 0)))
    cache.add(np.arange(PROMPT) % 300, 0, [0], 0)
    cache.decode()
    for place in range(1, PLACES):
        if streams:
            cache.copy(0, place, PROMPT)
        else:
            cache.share(0, place)
    if not streams:
        cache.add(np.arange(40) + 100, 0, [PLACES], 0)
        cache.decode()
    found = []
    for step in range(3):
        for place in range(PLACES):
            cache.add([7 * place + step], PROMPT + step, [place], 1)
        if step == 2:
            cache.add(np.arange(20), 40 if not streams else 0, [PLACES], 1)
        found.append(cache.decode().copy())
    return np.concatenate(found)


@pytest.fixture
def compare(open_cache: Callable[..., KVCache]) -> Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Logits by llama.cpp's attention and by ours, which must be at work where heads are of a multiple of `slab`."""

    def run(shape: tuple[int, int, int], streams: bool, slab: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        cache = open_cache(*shape)
        try:
            attention.use(False)
            before = attention.calls()
            theirs = answers(cache, streams)
            assert attention.calls() == before, "llama.cpp's own was wanted"
            attention.use(True)
            ours = answers(cache, streams)
            assert (attention.calls() > before) == (shape[2] % slab == 0), attention.state()
        finally:
            attention.use(True)
            cache.close()
        assert np.isfinite(ours).all()
        return theirs, ours

    return run


@here
@pytest.mark.parametrize("streams", [True, False], ids=["streams", "unified"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_llama_cpp_does(
    compare: Callable[..., Any], shape: tuple[int, int, int], streams: bool
) -> None:
    theirs, ours = compare(shape, streams, SLAB)
    # Bit for bit, but where the C library's exponential is off in its last bit.
    assert (ours == theirs).all(axis=1).mean() >= 0.75
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


@here
@pytest.mark.parametrize("shape", [(9, 3, 64), (5, 1, 96), (4, 2, 48)], ids=str)
def test_without_avx512_it_is_as_near_as_sums_in_another_order(
    compare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    start_backend()
    mine = attention._library
    monkeypatch.setattr(attention, "_library", None)
    monkeypatch.setattr(attention, "FLAGS", (*attention.FLAGS, "-march=haswell"))
    try:
        attention.install()
        assert attention._library not in (None, mine), attention.state()
        theirs, ours = compare(shape, True, 32)
    finally:
        monkeypatch.undo()
        attention.use(True)
    assert np.abs(ours - theirs).max() <= 2e-3 * np.abs(theirs).max()


@here
def test_it_is_at_work_unless_it_is_not_wanted(tmp_path: Path) -> None:
    code = (
        "from recipe.engines import attention, kvcache; kvcache.start_backend(); print(attention.state())"  # one line
    )
    for wanted, expected in (
        ("", "our own (attention.c)"),
        ("llama.cpp", "llama.cpp's own (SRE_ATTENTION asks for it)"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, attention.VARIABLE: wanted, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
    kept = [path.name for path in (tmp_path / "sre").iterdir()]
    assert len(kept) == 1
    assert kept[0].startswith("attention-"), "nothing half-written stays"


def cpu_without_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "FLAGS", ("-O1", "-march=x86-64", "-shared", "-fPIC"))


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")


def another_ggml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "TRIED", "0.1.")


def another_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


def no_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def slow_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention, "_COMPILE_SECONDS", 0.001)


@here
@pytest.mark.parametrize(
    ("hinder", "why"),
    [
        (cpu_without_vectors, "compiling it failed: .*neither AVX-512 nor AVX2"),
        (no_compiler, "no C compiler was found"),
        (another_ggml, r"tried with ggml 0\.1\.x, this is "),
        (another_system, "ours is for Linux on x86-64, this is Linux on arm64"),
        (no_cache_folder, "Not a directory"),
        (slow_compiler, "timed out"),
    ],
)
def test_what_keeps_it_away_is_said_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hinder: Callable[..., None], why: str
) -> None:
    start_backend()
    monkeypatch.setattr(attention, "_library", None)
    monkeypatch.setattr(attention, "_why_not", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hinder(monkeypatch, tmp_path)
    attention.install()
    assert re.search(why, attention.state())
    assert attention.calls() == 0


@here
def test_a_file_of_another_cpu_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder may be shared by machines of several kinds."""
    start_backend()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    include = attention._header(Path(attention._loaded()[0]))
    first = attention._compiled(include)
    assert attention._compiled(include) == first
    monkeypatch.setattr(attention, "_cpu", lambda: b"flags : fpu")
    assert attention._compiled(include) != first
