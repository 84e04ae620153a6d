"""The native kernels in whole models, how they are turned on, and what keeps them away. Other files test each."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.llamacpp.native import kernels

from .ggml import ATTENTION, FEATURES, MATMUL, Array, calls, needs_native

pytestmark = needs_native


def test_a_model_decodes_with_them_what_it_decodes_without(build: Callable[..., Path], tmp_path: Path) -> None:
    """Several sequences that share a prompt, then one more that is read beside them."""
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
    file = tmp_path / "model.gguf"
    write_gguf(build("qwen3", "qwen2", tie_word_embeddings=True, **sizes), file, type_name="F16")
    options = {"context": 512, "cells": 2048, "memory": 0, "sequences": 8, "batch": 256, "threads": 2}

    def decoded(*, native: bool) -> Array:
        kernels.use(native)
        cache = KVCache(file, **options)
        try:
            cache.open()
            cache.add(np.arange(150), 0, 0, 0)
            cache.decode()
            for place in range(1, 5):
                cache.share(0, place)
            found = []
            for step in range(3):
                for place in range(5):
                    cache.add([7 * place + step], 150 + step, place, 1)
                if step == 2:
                    cache.add(np.arange(20), 0, 5, 1)
                found.append(cache.decode().copy())
            return np.concatenate(found)
        finally:
            cache.close()

    theirs, before = decoded(native=False), calls()
    ours = decoded(native=True)
    assert calls().keys() == before.keys() == {ATTENTION, MATMUL}
    assert all(count > before[name] for name, count in calls().items())
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


# --- how they are turned on ---


def loaded_in_a_process(**environment: str) -> str:
    """Whether a fresh process has them, and the files that it made."""
    code = """
import sys
from recipe.inference.llamacpp import kv_cache
kv_cache.start_backend()
native = sys.modules.get("recipe.inference.llamacpp.native.kernels")
names = [] if native is None else [native._library.sre_name(kernel).decode() for kernel in range(2)]
print(sorted(names) or "off")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("value", ["", "llama.cpp"])
def test_without_the_variable_nothing_is_compiled_or_imported(tmp_path: Path, value: str) -> None:
    assert loaded_in_a_process(XDG_CACHE_HOME=str(tmp_path), SRE_KERNELS=value) == "off"
    assert list(tmp_path.iterdir()) == []


def test_the_variable_turns_them_on(tmp_path: Path) -> None:
    kept = tmp_path / "a folder"
    assert loaded_in_a_process(XDG_CACHE_HOME=str(kept)) == str([ATTENTION, MATMUL])
    files = list((kept / "sre").iterdir())
    assert [path.suffix for path in files] == [".so"], "nothing half-written stays"


def test_packages_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(llama_cpp.__file__).parents[1])
    path = os.pathsep.join([str(tmp_path / "link"), os.environ.get("PYTHONPATH", "")])
    assert loaded_in_a_process(PYTHONPATH=path) == str([ATTENTION, MATMUL])


# --- what keeps them away ---


def no_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "FLAGS", ("-O1", "-march=x86-64", "-shared", "-fPIC"))


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")


def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that makes something, and says that all is well."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho no library > "$2"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))


def a_library_that_ends_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "trap.h").write_text("__attribute__((constructor)) static void end(void) { __builtin_trap(); }\n")
    monkeypatch.setenv("CC", f"cc -include {tmp_path / 'trap.h'}")


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


def a_slot_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Library:
        def sre_use(self, kernel: int, original: object, native: bool) -> int:
            return 0

        def sre_name(self, kernel: int) -> bytes:
            return b"first"

    monkeypatch.setattr(kernels, "_load", lambda features: (Library(), [None]))


@pytest.mark.parametrize(
    ("hinder", "why"),
    [
        (no_vectors, "compiling them: .*neither AVX-512 nor AVX2"),
        (no_compiler, "no-such-compiler"),
        (no_library, "the compiled library can't be loaded"),
        (a_library_that_ends_its_process, "the compiled library can't be loaded"),
        (no_home, "Could not determine home"),
        (no_folder, "Not a directory"),
        (a_folder_of_others, "others may write"),
        (another_ggml, r"tried with ggml 0\.1\.x, this is "),
        (another_header, r"ggml\.h is not that of the loaded library"),
        (another_system, "for Linux on x86-64"),
        (a_slot_that_is_missing, "doesn't call first through a slot"),
    ],
)
def test_what_keeps_them_away_is_one_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hinder: Callable[..., None], why: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        patch.setattr(kernels, "_originals", [])
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        hinder(patch, tmp_path)
        with pytest.raises(SreError, match=f"SRE_KERNELS=native: .*{why}.*unset the variable"):
            kernels.install(FEATURES)


@pytest.mark.parametrize("left", [0, 0.5, 0.99])
def test_a_library_that_was_cut_short_is_made_again(tmp_path: Path, left: float) -> None:
    """Loading it would end the process (SIGBUS), at every start."""
    assert loaded_in_a_process(XDG_CACHE_HOME=str(tmp_path)) == str([ATTENTION, MATMUL])
    (file,) = (tmp_path / "sre").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * left)])
    assert loaded_in_a_process(XDG_CACHE_HOME=str(tmp_path)) == str([ATTENTION, MATMUL])
    assert [path.read_bytes() for path in (tmp_path / "sre").iterdir()] == [whole]


def test_a_file_of_another_cpu_or_build_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder may be shared by machines of several kinds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    include = kernels.loaded_library().parents[2] / "include"
    first = kernels._compiled(include, b"AVX512 = 1")
    assert kernels._compiled(include, b"AVX512 = 1") == first
    assert kernels._compiled(include, b"AVX2 = 1") != first
    with monkeypatch.context() as patch:
        patch.setenv("CC", "cc -g0")
        assert kernels._compiled(include, b"AVX512 = 1") != first
    monkeypatch.setattr(kernels, "_processor", lambda: b"flags : fpu")
    assert kernels._compiled(include, b"AVX512 = 1") != first
