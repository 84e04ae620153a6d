"""How models are loaded: without kernels that end the process. The cache itself is tested through its schedulers."""

from __future__ import annotations

import pytest

from benchmarks.peers import open_llama
from recipe.inference.llamacpp import kv_cache as kvcache


@pytest.mark.parametrize(("features", "extra"), [(b"AVX512 = 1 | AMX_INT8 = 1 | ", False), (b"AVX512 = 1 | ", True)])
def test_amx_kernels_are_left_out_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, features: bytes, extra: bool
) -> None:
    monkeypatch.setattr(kvcache._C, "llama_print_system_info", lambda: features)
    assert kvcache.model_params().use_extra_bufts is extra


def test_the_high_level_object_is_loaded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, defaults = [], kvcache._C.llama_model_default_params
    monkeypatch.setattr(kvcache, "model_params", lambda: seen.append("ours") or defaults())
    with pytest.raises(ValueError, match="does not exist"):
        open_llama("no-such.gguf")
    assert seen == ["ours"]
    assert kvcache._C.llama_model_default_params is defaults
