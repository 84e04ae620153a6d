"""Exported models are run by llama.cpp and compared with transformers: logits, and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.gguf.export import write_gguf
from recipe.gguf.header import read_metadata

CASES = ["llama", "llama-3", "llama-biased", "mistral", "qwen2", "qwen2-untied", "qwen3", "qwen3-untied"]
CASES += ["llama-2", "mistral-3", "gemma2", "gemma3"]


@pytest.mark.parametrize("case", CASES)
def test_family_matches_transformers(
    case: str,
    models: Any,
    load: Any,
    inputs_for: Any,
    llama_logits: Any,
    mean_kl: Any,
    strings: list[str],
    tmp_path: Path,
) -> None:
    folder = models(case)
    model, tokenizer = load(folder)
    inputs = inputs_for(tokenizer)
    bounds = {"F32": 1e-5, "F16": 1e-3, "BF16": 2e-2}
    for type_name, bound in bounds.items():
        write_gguf(folder, tmp_path / "out.gguf", type_name=type_name)
        running, logits = llama_logits(tmp_path / "out.gguf", inputs)
        assert mean_kl(model, inputs, logits) < bound, type_name
    begin = "<|im_start|>" if case == "mistral-3" else ""  # its space in front is put at the very beginning alone
    assert_same_ids(tokenizer, running, [begin + text for text in [*strings, "x<tool>y"]])
    assert running.token_eos() == tokenizer.eos_token_id
    assert running.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert running.metadata["tokenizer.ggml.padding_token_id"] == str(tokenizer.pad_token_id)


def assert_same_ids(tokenizer: Any, running: Any, texts: list[str]) -> None:
    differing = [
        text
        for text in texts
        if running.tokenize(text.encode(), add_bos=False, special=True)
        != tokenizer(text, add_special_tokens=False).input_ids
        or running.tokenize(text.encode(), add_bos=True, special=True) != tokenizer(text).input_ids
    ]
    assert not differing


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all": ("llama", {"target_modules": ALL}),
    "some": ("qwen3", {"target_modules": ["q_proj", "k_proj", "down_proj"]}),
    "gemma": ("gemma3", {"target_modules": ALL}),
    "head": ("qwen2-untied", {"target_modules": [*ALL, "lm_head"]}),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapter_is_merged_as_peft_does(
    case: str,
    models: Any,
    load: Any,
    inputs_for: Any,
    make_adapter: Any,
    llama_logits: Any,
    mean_kl: Any,
    tmp_path: Path,
) -> None:
    base, settings = ADAPTERS[case]
    folder = models(base)
    merged = make_adapter(folder, tmp_path / "adapter", **settings)
    plain, tokenizer = load(folder)
    inputs = inputs_for(tokenizer)
    write_gguf(folder, tmp_path / "out.gguf", adapter=tmp_path / "adapter", type_name="F32")
    _, logits = llama_logits(tmp_path / "out.gguf", inputs)
    assert mean_kl(merged, inputs, logits) < 1e-5
    assert mean_kl(plain, inputs, logits) > 1e-2, "the adapter must matter"


def test_sharded_weights_give_the_same_file(models: Any, tmp_path: Path) -> None:
    import gguf

    shards = models("llama", shard="60KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    for folder, name in ((shards, "a"), (models("llama"), "b")):
        write_gguf(folder, tmp_path / name, type_name="F32", metadata={"general.name": "same"})
    one, other = ({t.name: t.data for t in gguf.GGUFReader(tmp_path / name).tensors} for name in "ab")
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    assert read_metadata(tmp_path / "a") == read_metadata(tmp_path / "b")


@pytest.mark.real
def test_smollm2_matches_transformers(
    seed_model: Path, load: Any, llama_logits: Any, mean_kl: Any, strings: list[str], tmp_path: Path
) -> None:
    import llama_cpp

    from recipe.training.seed import embedded_gguf

    write_gguf(seed_model, tmp_path / "out.gguf")
    model, tokenizer = load(seed_model)
    asked = [
        "Name two fruits.",
        "Is 17 prime? Say why.",
        "Write a haiku about rain.",
        "What does x**2 do in C++?",
    ]
    conversations = [[{"role": "user", "content": f"{q} ({n})"}] for q in asked for n in range(5)]
    inputs = [tokenizer.apply_chat_template(c, add_generation_prompt=True).input_ids for c in conversations]
    running, logits = llama_logits(tmp_path / "out.gguf", inputs)
    assert len(inputs) == 20
    assert mean_kl(model, inputs, logits) < 1e-3
    assert_same_ids(tokenizer, running, strings)
    shipped = llama_cpp.Llama(str(embedded_gguf()), vocab_only=True, verbose=False)
    assert_same_ids(tokenizer, shipped, strings)
