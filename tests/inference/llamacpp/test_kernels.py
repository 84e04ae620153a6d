"""Our kernels at work in whole models, and all that can keep them away. native/ has the tests of each."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import llama_cpp
import numpy as np
import pytest

from recipe.gguf.export import write_gguf
from recipe.inference.llamacpp import kernels
from recipe.inference.llamacpp.kv_cache import KVCache, start_backend

from .native.ggml import ATTENTION, FEATURES, MATMUL, Array, needs_native

pytestmark = needs_native


@pytest.fixture(autouse=True)
def ours_again() -> Iterator[None]:
    start_backend()
    yield
    kernels.use(True)


def test_a_model_decodes_by_ours_what_it_decodes_without(build: Callable[..., Path], tmp_path: Path) -> None:
    """Several sequences that share a prompt, then one more that is read beside them."""
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
    file = tmp_path / "model.gguf"
    write_gguf(build("qwen3", "qwen2", tie_word_embeddings=True, **sizes), file, type_name="F16")
    options = {"context": 512, "cells": 2048, "memory": 0, "sequences": 8, "batch": 256, "micro_batch": 256}

    def decoded(*, ours: bool = True, flash: bool = True, exact: bool = True) -> Array:
        kernels.use(ours)
        cache = KVCache(file, **options, threads=2, flash=flash, verbose=False)
        try:
            cache.open()
            cache.add(np.arange(150), 0, [0], 0)
            cache.decode()
            for place in range(1, 5):
                cache.share(0, place)
            found = []
            for step in range(3):
                for place in range(5):
                    cache.add([7 * place + step], 150 + step, [place], 1)
                if step == 2:
                    cache.add(np.arange(20), 0, [5], 1)
                found.append(cache.decode(exact=exact).copy())
            return np.concatenate(found)
        finally:
            cache.close()

    theirs, before = decoded(ours=False), kernels.calls()
    ours = decoded()
    assert kernels.calls().keys() == before.keys() == {ATTENTION, MATMUL}
    assert all(count > before[name] for name, count in kernels.calls().items())
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()
    exact = decoded(ours=False, flash=False)  # sums in single precision
    assert np.abs(decoded(exact=False) - exact).mean() < 0.5 * np.abs(theirs - exact).mean()


# --- what keeps them away ---


def state_of_a_process(**environment: str) -> str:
    code = "from recipe.inference.llamacpp import kernels, kv_cache; kv_cache.start_backend(); print(kernels.state())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_they_are_at_work_unless_they_are_not_wanted(tmp_path: Path) -> None:
    kept = tmp_path / "a folder"
    assert state_of_a_process(XDG_CACHE_HOME=str(kept)) == "our own (native/)"
    files = list((kept / "sre").iterdir())
    assert [path.suffix for path in files] == [".so"], "nothing half-written stays"
    assert state_of_a_process(SRE_KERNELS="llama.cpp") == "llama.cpp's own (SRE_KERNELS asks for them)"


def test_packages_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(llama_cpp.__file__).parents[1])
    assert state_of_a_process(PYTHONPATH=str(tmp_path / "link")) == "our own (native/)"


def no_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "FLAGS", ("-O1", "-march=x86-64", "-shared", "-fPIC"))


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
    monkeypatch.setattr(kernels, "TRIED", "0.1.")


def another_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "_OBJECT_BYTES", 8)


def another_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


def a_slow_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "_COMPILE_SECONDS", 0.001)


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
        (another_system, "ours are for Linux on x86-64, this is Linux on arm64"),
        (a_slow_compiler, "timed out"),
    ],
)
def test_what_keeps_them_away_is_said_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hinder: Callable[..., None], why: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        patch.setattr(kernels, "_why_not", "")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        hinder(patch, tmp_path)
        kernels.install(FEATURES)
        assert not kernels.installed()
        assert re.search(why, kernels.state())
        assert kernels.calls() == {}


def test_a_slot_that_is_missing_puts_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        used: ClassVar[list[tuple[int, bool]]] = []

        def sre_use(self, kernel: int, own: object, ours: bool) -> int:
            self.used.append((kernel, ours))
            return 1 - kernel

        def sre_name(self, kernel: int) -> bytes:
            return b"second"

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        patch.setattr(kernels, "_own", [])
        patch.setattr(kernels, "_load", lambda features: (Library(), [None, None]))
        kernels.install(FEATURES)
        assert kernels.state() == "llama.cpp's own (ggml's CPU library doesn't call second through a slot)"
    assert Library.used == [(0, True), (1, True), (0, False)]


def test_a_file_of_another_cpu_or_build_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder may be shared by machines of several kinds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    include = kernels._header(kernels._loaded())
    first = kernels._compiled(include, b"AVX512 = 1")
    assert kernels._compiled(include, b"AVX512 = 1") == first
    assert kernels._compiled(include, b"AVX2 = 1") != first
    monkeypatch.setattr(kernels, "_cpu", lambda: b"flags : fpu")
    assert kernels._compiled(include, b"AVX512 = 1") != first
