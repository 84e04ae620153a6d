"""VllmGenerator over an engine of vLLM's shapes that runs a tiny random Llama, and what Unsloth says without vLLM."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Request, Sampling, completions_by_request
from recipe.inference.pytorch.vllm import VllmGenerator

SAMPLING = Sampling(temperature=1.0, n=3, max_tokens=12, seed=7)


@dataclass(frozen=True)
class SamplingParams:
    """The fields of vLLM's own that are used; another one is an error, there and here."""

    n: int
    temperature: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    detokenize: bool


class Engine:
    """`fast_generate` as Unsloth hangs it on a model: outputs in the prompts' order, samples in none."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, []

    def __call__(self, prompts: Any, *, sampling_params: Any, lora_request: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, sampling_params, lora_request))
        return [
            SimpleNamespace(
                outputs=[self.sample(prompt["prompt_token_ids"], params, k) for k in (2, 0, 1)[-params.n :]]
            )
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    def sample(self, prompt: list[int], params: SamplingParams, index: int) -> Any:
        draw = torch.Generator().manual_seed(params.seed + index)
        tokens: list[int] = []
        reason = "length"
        while len(tokens) < params.max_tokens:
            with torch.inference_mode():
                row = self.model(torch.tensor([prompt + tokens])).logits[0, -1].log_softmax(-1)
            token = int(torch.multinomial(row.exp(), 1, generator=draw))
            tokens.append(token)
            if token in params.stop_token_ids:
                reason = "stop"
                break
        return SimpleNamespace(index=index, token_ids=tuple(tokens), finish_reason=reason)


@pytest.fixture(scope="module")
def folder(models: Callable[..., Path]) -> Path:
    return models("llama")


@pytest.fixture
def opened(
    folder: Path, load: Callable[[Path], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[VllmGenerator, Engine]]:
    def load_for_vllm(path: Path, adapter: Path | None, **_: Any) -> tuple[Any, Any, str]:
        model, tokenizer = load(path)
        model.fast_generate = engine = Engine(model)
        engines.append(engine)
        return model, tokenizer, f"the adapter {adapter}"

    engines: list[Engine] = []
    vllm, unsloth = ModuleType("vllm"), ModuleType("recipe.inference.pytorch.unsloth")
    vllm.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    unsloth.load_for_vllm = load_for_vllm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "recipe.inference.pytorch.unsloth", unsloth)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    generator = VllmGenerator(folder, adapter=Path("j1"), name="j1", context=128)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    with generator:
        yield generator, engines[0]


def requests(*texts: str) -> list[Request]:
    return [Request(f"r{k}", (Message("user", text),), labels=(1, 2)) for k, text in enumerate(texts)]


def test_all_samples_of_all_prompts_are_one_call_with_the_adapter(opened: tuple[VllmGenerator, Engine]) -> None:
    generator, engine = opened
    found = completions_by_request(generator.generate(requests("Is the sky blue?", "2 + 2 = ?"), SAMPLING))
    ((prompts, params, lora),) = engine.calls
    assert lora == "the adapter j1"
    assert [one.n for one in params] == [3, 3]
    assert params[0].seed != params[1].seed
    assert len(prompts) == 2
    assert [[one.sample for one in found[name]] for name in ("r0", "r1")] == [[0, 1, 2], [0, 1, 2]]


def test_a_sample_holds_its_tokens_and_the_text_without_the_end(opened: tuple[VllmGenerator, Engine]) -> None:
    generator, engine = opened
    (request,) = requests("Name a fruit.")
    found = list(generator.generate([request], SAMPLING))
    params, prompt = engine.calls[0][1][0], engine.calls[0][0][0]["prompt_token_ids"]
    for completion in found:
        drawn = engine.sample(prompt, params, completion.sample)
        assert completion.token_ids == drawn.token_ids
        assert completion.finish == drawn.finish_reason
        assert completion.prompt_tokens == len(prompt)
        written = [token for token in drawn.token_ids if token not in params.stop_token_ids]
        decoded = generator._tokenizer.inner.decode(written, skip_special_tokens=True)
        assert completion.text.rstrip("\ufffd") == decoded.rstrip("\ufffd")  # half a character at the end is left out


def test_draws_do_not_depend_on_neighbours(opened: tuple[VllmGenerator, Engine]) -> None:
    generator, _ = opened
    both = requests("Is the sky blue?", "2 + 2 = ?")
    together = completions_by_request(generator.generate(both, SAMPLING))
    alone = completions_by_request(generator.generate(both[1:], SAMPLING))
    assert alone["r1"] == together["r1"]


def test_a_prompt_that_does_not_fit_is_an_error_and_the_others_go_on(opened: tuple[VllmGenerator, Engine]) -> None:
    generator, _ = opened
    found = completions_by_request(generator.generate(requests("a " * 400, "short"), SAMPLING))
    assert {one.finish for one in found["r0"]} == {"error"}
    assert len(found["r0"]) == 3
    assert "error" not in {one.finish for one in found["r1"]}


@pytest.mark.parametrize("wish", [{"force_label": True}, {"label_only": True}, {"choices": ("a", "b")}])
def test_what_takes_raw_logits_is_refused(opened: tuple[VllmGenerator, Engine], wish: dict[str, Any]) -> None:
    request = Request("r", (Message("user", "q"),), labels=(1, 2), **wish)
    with pytest.raises(SreError, match="the engine torch"):
        opened[0].generate([request], SAMPLING)


def test_greedy_draws_are_refused(opened: tuple[VllmGenerator, Engine]) -> None:
    with pytest.raises(SreError, match="temperatures above 0"):
        opened[0].generate(requests("q"), Sampling(temperature=0, n=2))


def test_without_a_gpu_and_vllm_it_says_what_is_missing(folder: Path) -> None:
    if torch.cuda.is_available() and importlib.util.find_spec("vllm"):
        pytest.skip("both are here")
    with pytest.raises(SreError, match="vLLM needs a GPU, and `pip install vllm"):
        VllmGenerator(folder, adapter=None, name="x")
