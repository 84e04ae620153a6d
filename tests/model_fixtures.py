"""Tiny random models of every family, and the embedded seed model, for the engines' tests."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_FRAGMENTS = [
    "Hello", " world", "  two", "\n\n", "\t", " ", "   ", "I'm", "you'LL", "don't", "3", "42", "1234567",
    " 7", "3.14", "½", "²", "٣٤", "é", "Straße", "naïve", "Ünïcödé", "日本語", "中文，。", "한국어",
    "Привет", "שלום", "العربية", "हिन्दी", "ไทย", "😀", "👩\u200d👩\u200d👧", "🇫🇷", "…", "—",
    "“quoted”", "def f(x):\n    return x**2", "for(i=0;i<10;i++){", "<html>", "</p>", "a_b", "__init__",
    "C++", "#include", "http://x.y/?q=1&r=2", "{'k': [1, 2]}", "\\n", "$%^&*()", "!?!", "\r\n", " \n ",
    "\u00a0", "\u200b", "[RESULT] 4", "<BEGIN RESPONSE>", "E = mc^2", "A.B.C.", "e\u0301", "\u3000",
    "0x1F", "1,000,000",
]  # fmt: skip


@pytest.fixture(scope="session")
def strings() -> list[str]:
    """200 texts of code, digits, spaces, many scripts and the special tokens, in NFC (llama.cpp does not
    normalise).
    """
    draw = random.Random(0)
    pieces = _FRAGMENTS + SPECIAL[1:]
    mixed = ["".join(draw.choices(pieces, k=draw.randint(2, 8))) for _ in range(200 - len(pieces))]
    return [unicodedata.normalize("NFC", text) for text in [*pieces, *mixed]]


# Names of ours for SentencePiece's tokenisers, by how they put a space in front of a text.
SENTENCEPIECE = {
    "gemma": ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, None),
    "llama-2": (
        {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        None,
    ),
    "mistral-3": (
        None,
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    ),
}


def train_sentencepiece(name: str, corpus: list[str], size: int) -> Any:
    """A tokeniser as transformers converts SentencePiece's: any pair that makes a token is joined, the token that was
    learnt first before the others. Runs of spaces are tokens of their own, as in Gemma's.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    learnt = tokenizers.Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size))
    pairs = json.loads(learnt.to_str())["model"]["merges"]
    learnt_tokens = list(dict.fromkeys("".join(pair) for pair in pairs))
    letters = sorted(set(learnt.get_vocab()) - set(learnt_tokens))
    runs = ["▁" * length for length in range(2, 6)] if name == "gemma" else []
    learnt_tokens = [token for token in learnt_tokens if token not in runs]
    tokens = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *runs, *learnt_tokens, *letters]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [(token[:k], token[k:]) for token in learnt_tokens for k in range(1, len(token))]
    of_runs = sorted(((run[:k], run[k:]) for run in runs for k in range(1, len(run))), key=lambda p: -len(p[0]))
    merges = [(left, right) for left, right in [*of_runs, *merges] if left in vocab and right in vocab]
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    data = json.loads(made.to_str())
    data["normalizer"], data["pre_tokenizer"] = SENTENCEPIECE[name]
    made = tokenizers.Tokenizer.from_str(json.dumps(data))
    made.add_special_tokens([*SPECIAL, "<unk>"])
    made.add_tokens([tokenizers.AddedToken(run, normalized=False) for run in runs])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    return made


@pytest.fixture(scope="session")
def train_tokenizer() -> Callable[..., Any]:
    """(pre-tokeniser name, vocabulary size) -> a transformers tokeniser, trained on Python's json package."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from recipe.gguf.tokenizer import pre_tokenizer_json

    corpus = [p.read_text(encoding="utf-8") for p in sorted(Path(json.__file__).parent.glob("*.py"))]
    corpus += [" ".join(_FRAGMENTS)] * 20

    def byte_level(pre: str, size: int) -> Any:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        data = json.loads(tokenizer.to_str())
        data["pre_tokenizer"] = pre_tokenizer_json(pre)
        data["model"]["ignore_merges"] = pre == "llama-bpe"
        data["normalizer"] = json.loads(normalizers.NFC().__getstate__()) if pre == "qwen2" else None
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        tokenizer.train_from_iterator(corpus, trainer)
        if pre == "llama-bpe":
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
            )
        return tokenizer

    def train(pre: str, size: int = 500, **ends: Any) -> Any:
        tokenizer = train_sentencepiece(pre, corpus, size) if pre in SENTENCEPIECE else byte_level(pre, size)
        plain = ["<tool>", "<think>", "</think>", "[THINK]", "<h1>", "<turn|>", "\n\n\n", "covid"]
        tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in plain])
        tokenizer.add_special_tokens(["[IMG]", "<start_of_image>", "<｜tool｜>"])
        ends = ends | ({"unk_token": "<unk>"} if pre in SENTENCEPIECE else {})
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            chat_template=TEMPLATE,
            **{"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], **ends},
        )

    return train


@pytest.fixture(scope="session")
def build(train_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(family, pre-tokeniser, further config) -> the folder of a tiny random float32 model, tokeniser
    included.
    """

    def make(family: str, pre: str, *, shard: str = "5GB", **changes: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = train_tokenizer(pre)
        settings: dict[str, Any] = {
            "vocab_size": len(tokenizer) + 11,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **changes,
        }
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=torch.float32)
        with torch.no_grad():
            for name, values in model.named_parameters():
                values.normal_(1.0 if "norm" in name and not family.startswith("gemma") else 0.0, 0.3)
        folder = tmp_path_factory.mktemp(f"{family}-")
        model.save_pretrained(folder, max_shard_size=shard)
        tokenizer.save_pretrained(folder)
        return folder

    return make


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WIDE = {"head_dim": 32}
GEMMA = {**WIDE, "query_pre_attn_scalar": 32, "sliding_window": 24, "final_logit_softcapping": 8.0}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
}
CASES = {
    "llama": ("llama", "smollm", {"tie_word_embeddings": True, "rope_parameters": PLAIN}),
    "llama-3": ("llama", "llama-bpe", {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
    "llama-biased": ("llama", "smaug-bpe", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", "gpt-2", {"tie_word_embeddings": False, "sliding_window": None, **WIDE}),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", "qwen2", {"tie_word_embeddings": False, "rope_parameters": PLAIN}),
    "qwen3": ("qwen3", "qwen2", {"tie_word_embeddings": True, **WIDE}),
    "qwen3-untied": ("qwen3", "qwen2", {"tie_word_embeddings": False, **WIDE}),
    "llama-2": ("llama", "llama-2", {"tie_word_embeddings": False}),
    "mistral-3": ("mistral", "mistral-3", {"tie_word_embeddings": False, "sliding_window": None}),
    "gemma2": ("gemma2", "gemma", {**GEMMA, "num_hidden_layers": 4, "attn_logit_softcapping": 5.0}),
    "gemma3": ("gemma3_text", "gemma", {**GEMMA, "num_hidden_layers": 7, "rope_parameters": TWO_ROPES}),
}


@pytest.fixture(scope="session")
def models(build: Callable[..., Path]) -> Callable[..., Path]:
    """Case (and further arguments of `build`) -> its model folder, built once."""
    made: dict[str, Path] = {}

    def get(case: str, **further: Any) -> Path:
        family, pre, changes = CASES[case]
        if further:
            return build(family, pre, **changes, **further)
        if case not in made:
            made[case] = build(family, pre, **changes)
        return made[case]

    return get


@pytest.fixture(scope="session")
def load() -> Callable[[Path], tuple[Any, Any]]:
    """Model folder -> (its float32 model, its tokeniser)."""

    def get(folder: Path) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # PyTorch's fast attention leaves out the cap of Gemma 2's.
        attention = "eager" if folder.name.startswith("gemma2") else "sdpa"
        options = {"dtype": torch.float32, "attn_implementation": attention}
        model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        return model, AutoTokenizer.from_pretrained(folder)

    return get


@pytest.fixture(scope="session")
def inputs_for() -> Callable[[Any], list[list[int]]]:
    """Tokeniser -> the token ids of two texts."""
    texts = ["The judge reads 2 answers, then writes why.", "def f(x):\n    return x ** 2  # 日本語 😀\n" * 3]
    return lambda tokenizer: [tokenizer(text, add_special_tokens=False).input_ids[:200] for text in texts]


@pytest.fixture(scope="session")
def make_adapter(load: Callable[[Path], tuple[Any, Any]]) -> Callable[..., Any]:
    """(base, folder, LoRA settings) -> the float32 model merged by PEFT; the random adapter is saved."""

    def make(base: Path, out: Path, **settings: Any) -> Any:
        import peft
        import torch

        config = peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **settings})
        adapted = peft.get_peft_model(load(base)[0], config)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, values in adapted.named_parameters():
                if "lora_" in name:
                    values.normal_(0.0, 0.15)
        adapted.save_pretrained(out)
        return adapted.merge_and_unload()

    return make


@pytest.fixture(scope="session")
def llama_logits() -> Callable[..., Any]:
    """(GGUF file, lists of token ids) -> the llama.cpp model (for its tokeniser) and the logits (tokens,
    rows) of each.
    """
    import llama_cpp
    import numpy as np

    from benchmarks.peers import open_llama

    def run(path: Path, inputs: Sequence[list[int]]) -> tuple[Any, list[Any]]:
        exact = llama_cpp.GGML_TYPE_F32  # the cache's type; its default, F16, hides what is tested
        model = open_llama(
            path,
            n_ctx=512,
            n_batch=512,
            logits_all=True,
            type_k=exact,
            type_v=exact,
            n_threads=1,  # more would spin against whatever else the machine runs
            n_threads_batch=1,
        )
        outputs = []
        for ids in inputs:
            model.reset()
            model.eval(ids)
            outputs.append(np.array(model.scores[: len(ids)]))
        return model, outputs

    return run


@pytest.fixture(scope="session")
def mean_kl() -> Callable[..., float]:
    """(transformers model, lists of token ids, llama.cpp's logits) -> mean KL (nats a token) from the one to
    the other.
    """

    def measure(model: Any, inputs: Sequence[list[int]], logits: Sequence[Any]) -> float:
        import torch

        sums, tokens = 0.0, 0
        for ids, other in zip(inputs, logits, strict=True):
            with torch.inference_mode():
                p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            q = torch.from_numpy(other).double().log_softmax(-1)
            sums += float((p.exp() * (p - q)).sum())
            tokens += len(ids)
        return sums / tokens

    return measure


@pytest.fixture(scope="session")
def seed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the embedded SmolLM2-135M-Instruct, converted once a session."""
    from recipe.training.seed import run_seed

    folder = tmp_path_factory.mktemp("seed")
    run_seed("smollm2-135m", folder)
    return folder / "model"


@pytest.fixture(scope="session")
def logprobs_after() -> Callable[..., Any]:
    """(llama-cpp-python's high-level object, token ids) -> the log-probabilities (nats) of the token that follows, as
    read in an empty cache: [vocabulary].
    """
    import llama_cpp
    import numpy as np

    def read(llama: Any, ids: Sequence[int]) -> Any:
        llama.reset()
        llama.eval(ids)
        row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),))
        shifted = row.astype(np.float64) - row.max()
        return shifted - np.log(np.exp(shifted).sum())

    return read


def open_training(
    folder: Path, model: Path, settings: Any, *, adapter: Path | None = None, lora: Any = None, **changes: Any
) -> Any:
    """A tiny model with the adapter, or a new one, ready for rows of SFT or DPO; `changes` are fields of `Loading`."""
    from recipe.config import LoraConfig
    from recipe.prompts import Prompts
    from recipe.training.trainer import Loading, Training

    usual: dict[str, Any] = {"engine": "transformers", "quantization": "none", "max_length": 2048}
    loading = Loading(**{**usual, "gradient_checkpointing": False, **changes})
    given: dict[str, Any] = {"loading": loading, "prompts": Prompts(), "seed": 0, "settings": settings}
    return Training(folder, model=model, adapter=adapter, lora=lora or LoraConfig(r=4, alpha=8), **given)
