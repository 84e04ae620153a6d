"""How models are loaded: without kernels that end the process. The cache itself is tested through its schedulers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers import open_llama
from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.inference.llamacpp import kv_cache as kvcache
from recipe.inference.llamacpp.quantization import quantize


@pytest.mark.parametrize(
    ("features", "kernels", "right", "extra", "mapped"),
    [
        (b"AVX512 = 1 | AMX_INT8 = 1 | ", "amx", True, True, False),
        (b"AVX512 = 1 | AMX_INT8 = 1 | ", "amx", False, False, True),
        (b"AVX512 = 1 | AMX_INT8 = 1 | ", "", True, False, True),
        (b"AVX512 = 1 | AMX_INT8 = 1 | ", "native", True, False, True),
        (b"AVX512 = 1 | AMX_INT8 = 0 | ", "", False, True, True),
    ],
)
def test_amx_is_used_where_it_is_asked_for_and_right(
    monkeypatch: pytest.MonkeyPatch, features: bytes, kernels: str, right: bool, extra: bool, mapped: bool
) -> None:
    monkeypatch.setattr(kvcache._C, "llama_print_system_info", lambda: features)
    monkeypatch.setenv("SRE_KERNELS", kernels)
    monkeypatch.setattr(kvcache, "products_are_right", lambda: right)
    params = kvcache.model_params()
    assert params.use_extra_bufts is extra
    assert (params.load_mode != kvcache._C.LLAMA_LOAD_MODE_NONE) is mapped


@pytest.mark.parametrize(("kind", "mapped"), [("Q4_K_M", False), ("Q4_0", False), ("Q8_0", True), ("F16", True)])
def test_a_file_is_mapped_unless_llama_cpp_rearranges_its_weights(
    build: Callable[..., Path], tmp_path: Path, kind: str, mapped: bool
) -> None:
    whole, file = tmp_path / "whole.gguf", tmp_path / "m.gguf"
    write_gguf(build("llama", "smollm", hidden_size=256, intermediate_size=256), whole)
    quantize(whole, file, kind)
    params = kvcache.model_params(0, file)
    assert (params.load_mode != kvcache._C.LLAMA_LOAD_MODE_NONE) is mapped
    assert kvcache.model_params(-1, file).load_mode == kvcache._C.llama_model_default_params().load_mode


def test_the_high_level_object_is_loaded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, defaults = [], kvcache._C.llama_model_default_params
    monkeypatch.setattr(kvcache, "model_params", lambda: seen.append("ours") or defaults())
    with pytest.raises(ValueError, match="does not exist"):
        open_llama("no-such.gguf")
    assert seen == ["ours"]
    assert kvcache._C.llama_model_default_params is defaults


@pytest.mark.parametrize(("asked", "layers"), [(None, -1), (-1, -1), (0, 0), (3, 3)])
def test_layers_go_to_a_gpu_and_the_native_kernels_then_stay_out(
    build: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    layers: int,
) -> None:
    """A stand-in says that there is a GPU; this build of llama.cpp then loads the layers where it can."""
    from recipe.inference.llamacpp.native import kernels

    file, installed, loaded, load = tmp_path / "m.gguf", [], [], kvcache._C.llama_model_load_from_file
    write_gguf(build("llama", "smollm"), file)
    monkeypatch.setenv("SRE_KERNELS", "native")
    monkeypatch.setattr(kernels, "install", installed.append)
    monkeypatch.setattr(kvcache._C, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(
        kvcache._C,
        "llama_model_load_from_file",
        lambda path, params: loaded.append(params.n_gpu_layers) or load(path, params),
    )
    sizes = {"context": 64, "cells": 64, "memory": 0, "sequences": 1, "batch": 64, "threads": 1}
    kvcache.KVCache(file, gpu_layers=asked, **sizes).close()
    assert loaded == [layers]
    assert bool(installed) == (layers == 0)


def test_without_a_gpu_no_layer_is_put_there_and_asking_for_one_says_how_to_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kvcache._C, "llama_supports_gpu_offload", lambda: False)
    assert kvcache.offloaded_layers(None) == kvcache.offloaded_layers(0) == 0
    for asked in (1, -1):
        with pytest.raises(SreError, match=r"gpu_layers.*CMAKE_ARGS=-DGGML_CUDA=on pip install.*METAL.*VULKAN"):
            kvcache.offloaded_layers(asked)
