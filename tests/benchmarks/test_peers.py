"""The peers write as many tokens as asked for; the rates are measured on nothing but the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers
from benchmarks.speed import decode_rate, kv_bytes, prefill_rate
from recipe.gguf.export import write_gguf
from recipe.gguf.importer import import_gguf
from recipe.inference.llamacpp.generator import LlamaCppGenerator

PROMPTS = [(list(range(10, 10 + size)), count) for size, count in ((40, 6), (30, 9), (35, 6), (20, 6))]
NEW = sum(count for _, count in PROMPTS)


@pytest.fixture(scope="module")
def tiny(models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "tiny.gguf"
    write_gguf(models("llama"), path, type_name="F32")
    return path


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("peers-folder")
    import_gguf(tiny, made, peers.dtype_name())
    return made


@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (3, 1.0)])
def test_the_loop_writes_fixed_lengths(tiny: Path, samples: int, temperature: float) -> None:
    seconds, new = peers.run_loop(tiny, PROMPTS, samples=samples, temperature=temperature, threads=1)
    assert new == samples * NEW
    assert seconds > 0


@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (3, 1.0)])
def test_transformers_writes_fixed_lengths(folder: Path, samples: int, temperature: float) -> None:
    seconds, new, dtype = peers.run_transformers(
        folder, PROMPTS, samples=samples, temperature=temperature, threads=1, parallel=2
    )
    assert new == samples * NEW
    assert seconds > 0
    assert dtype == peers.dtype_name()


def test_the_loop_goes_on_past_an_end_token(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp

    drawn: list[Any] = []

    def generate(self: Any, tokens: list[int], **_: Any) -> Any:
        for _ in range(100):
            drawn.append(self.token_eos())
            yield self.token_eos()

    monkeypatch.setattr(llama_cpp.Llama, "generate", generate)
    assert peers.run_loop(tiny, PROMPTS, samples=1, temperature=0.0, threads=1)[1] == NEW
    assert len(drawn) == NEW + 1  # the untimed one


def test_batches_have_one_length_of_answer_and_prompts_of_like_lengths() -> None:
    batches = list(peers._batches(PROMPTS, 2))
    assert [([len(ids) for ids in batch], count) for batch, count in batches] == [([20, 35], 6), ([40], 6), ([30], 9)]


def test_rates_are_measured_on_an_empty_cache(tiny: Path) -> None:
    with LlamaCppGenerator(tiny, threads=1, context=256, parallel=3) as generator:
        assert prefill_rate(generator, [5, 6, 7], rounds=2) > 0
        assert decode_rate(generator, list(range(10, 60)), 4, places=3) > 0


def test_a_decode_rate_writes_every_step_of_every_place(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaCppGenerator(tiny, threads=1, context=256, parallel=3) as generator:
        added: list[tuple[int, int]] = []
        add = generator.cache.add

        def record(tokens: Any, position: int, sequence: int, outputs: int) -> None:
            added.append((position, sequence))
            add(tokens, position, sequence, outputs)

        monkeypatch.setattr(generator.cache, "add", record)
        decode_rate(generator, [5, 6, 7], 2, places=3)
        once = [(0, 0), *((3 + step, place) for step in range(3) for place in (0, 1, 2))]
        assert added == once


def test_the_kv_cache_is_two_bytes_a_number_of_every_layer(tiny: Path) -> None:
    with LlamaCppGenerator(tiny, threads=1, context=256, parallel=3) as generator:
        heads, size, layers = 2, 64 // 4, 2
        assert kv_bytes(generator) == layers * 2 * heads * size * 2 * generator.cache.cells
