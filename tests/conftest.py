"""A judge small enough to train in tests: a tiny Llama that already writes verdicts, and rows for it to judge."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import recipe  # noqa: F401  (before any test loads torch: its threads then wait asleep)

from .model_fixtures import *  # noqa: F403
from .run_folders import begun_run, finished_run  # noqa: F401
from .stages import done  # noqa: F401

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REASONS = ["all there", "one is missing", "two are missing", "none of it", "it fits", "it does not fit"]
WORDS = ["apple", "pear", "plum", "fig", "brick", "chair", "lamp", "spoon"]


def pointwise_row(number: int, draw: random.Random) -> dict[str, str]:
    words = draw.sample(WORDS, 4)
    row = {
        "id": f"point-{number}",
        "prompt_id": f"p{number}",
        "orig_instruction": f"Name four fruits, number {number}.",
        "orig_response": ", ".join(words),
        "orig_criteria": "How many of the four are fruits?",
        "orig_score": str(1 + sum(word in WORDS[:4] for word in words)),
        "orig_feedback": draw.choice(REASONS),
    }
    return row | {f"orig_score{k}_description": f"{k - 1} of them" for k in range(1, 6)}


def pairwise_row(number: int, draw: random.Random) -> dict[str, str]:
    row = pointwise_row(number, draw)
    better, other = draw.sample("AB", 2)
    del row["orig_response"], row["orig_score"]
    return row | {
        "id": f"pair-{number}",
        f"orig_response_{better}": "apple, pear",
        f"orig_response_{other}": "brick, lamp",
        "orig_preference": better,
    }


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of <split>/<task>.jsonl in the collections' columns."""
    folder = tmp_path_factory.mktemp("tiny-data")
    draw = random.Random(5)
    for split, first, count in (("train", 0, 24), ("dev", 100, 4), ("test", 200, 24)):
        (folder / split).mkdir()
        for task, make in (("pointwise", pointwise_row), ("pairwise", pairwise_row)):
            rows = [make(first + k, draw) for k in range(count)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / split / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A Hugging Face folder: two layers, a tokeniser of its own, trained for seconds to end with a random verdict."""
    return _trained(tmp_path_factory.mktemp("tiny-model"), tiny_data)


@pytest.fixture(scope="session")
def tiny_model_to_10(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The same, which writes labels from 1 to 10. To its tokeniser a 10 is two tokens."""
    return _trained(tmp_path_factory.mktemp("tiny-model-10"), tiny_data, labels=(*range(1, 11), 10, 10))


def _trained(folder: Path, data: Path, labels: Sequence[int] = ()) -> Path:
    """labels: those that it writes, where they are not the rows'."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipe.data.examples import read_examples
    from recipe.prompts import Prompts
    from recipe.training.trainer import completion_ids, prompt_ids
    from recipe.verdict import format_verdict

    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = random.Random(1)
    rows = [row for task in ("pointwise", "pairwise") for row in read_examples(data, task=task, split="train")]
    for _ in range(80):
        batch = draw.sample(rows, 4)
        loss = torch.zeros(())
        for row in batch:
            prompt = prompt_ids(tokenizer, Prompts().judge(row))[-64:]
            verdict = completion_ids(tokenizer, format_verdict(draw.choice(REASONS), draw.choice(labels or row.labels)))
            targets = torch.tensor([[-100] * len(prompt) + verdict])
            loss = loss + model(input_ids=torch.tensor([prompt + verdict]), labels=targets).loss / 4
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from experiments.assess import PROMPTS
    from recipe.prompts import Prompts

    tokenizer = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    corpus = [*Prompts(PROMPTS).sources.values(), *REASONS, " ".join(WORDS), "\nuser: \nassistant: [RESULT] 1"] * 5
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Type name, e.g. "Q8_0" -> the embedded SmolLM2-135M-Instruct as a GGUF of that type, made once a session.

    SRE_TEST_MODEL names another file to take in its place: a judge that was trained from it, say.
    """
    from recipe.inference.llamacpp.quantization import quantize
    from recipe.training.seed import embedded_gguf

    folder = tmp_path_factory.mktemp("smollm2")

    def get(type_name: str) -> Path:
        path = folder / f"{type_name}.gguf"
        if not path.exists():
            quantize(Path(os.environ.get("SRE_TEST_MODEL") or embedded_gguf()), path, type_name, requantize=True)
        return path

    return get


@pytest.fixture(scope="session")
def at_most() -> Callable[[int], int]:
    """How many rows a slow test takes: what it says, or less where SRE_TEST_ROWS says so, for a first look."""
    return lambda rows: min(rows, int(os.environ.get("SRE_TEST_ROWS", rows)))
