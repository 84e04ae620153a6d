"""The tests of this folder run with SRE_KERNELS=native; all others without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recipe.inference.llamacpp import kv_cache
from recipe.inference.llamacpp.native import kernels


@pytest.fixture(autouse=True)
def native_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SRE_KERNELS", "native")
    monkeypatch.setattr(kv_cache, "_started", False)
    kv_cache.start_backend()
    kernels.use(True)
    yield
    kernels.use(False)
