"""Workloads small enough to count by hand, and the tiny model as a GGUF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.workloads import Item, Workload
from recipe.data.records import Message


@pytest.fixture
def workload() -> Callable[..., Workload]:
    """(token ids of each prompt, new tokens of each, further fields) -> a workload "x"."""

    def make(prompts: Sequence[Sequence[int]], new_tokens: Sequence[int] = (), **more: object) -> Workload:
        counts = new_tokens or [4] * len(prompts)
        items = [
            Item(f"i{n}", (Message("user", f"Judge {n}."),), (1, 2, 3, 4, 5), tuple(ids), count)
            for n, (ids, count) in enumerate(zip(prompts, counts, strict=True))
        ]
        return Workload("x", "a test", tuple(items), **more)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recipe.gguf.export import write_gguf

    path = tmp_path_factory.mktemp("tiny-gguf") / "tiny.gguf"
    write_gguf(tiny_model, path, type_name="F16")
    return path
