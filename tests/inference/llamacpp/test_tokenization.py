"""Long runs of equal characters: the ids come back, or the request has an error; the process lives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.gguf import export
from recipe.gguf.tokenizer import read_vocabulary
from recipe.inference.llamacpp import kv_cache, tokenization
from recipe.inference.llamacpp.generator import LlamaCppGenerator

STD_REGEX = ("tekken", "gpt-4o", "llama4", "deepseek-llm", "deepseek-v3", "bloom", "viking")  # as pre-tokenizers
CONTEXT = 4096
ASK = """
import json, sys
from recipe.data.records import Message
from recipe.inference.base import Request, Sampling
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.llamacpp.tokenization import token_ids

for path in sys.argv[2:]:
    with LlamaCppGenerator(path, context=int(sys.argv[1]), threads=1, parallel=1) as generator:
        texts = {"honest": "Hello world", "long": "a" * 30_000, "longest": "a" * 200_000}
        requests = [Request(name, (Message("user", text),)) for name, text in texts.items()]
        found = generator.generate(requests, Sampling(max_tokens=4))
        ids = [len(token_ids(generator.cache._vocab, letter * 40_000)) for letter in "a \\u5b571"]
        print(json.dumps([{c.request_id: c.error for c in found}, ids]))
"""


def model_with(pre: str, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF of the model, its pre-tokenizer declared as `pre`."""

    def read(model: Path, rows: int) -> Any:
        return dataclasses.replace(read_vocabulary(model, rows), pre=pre)

    monkeypatch.setattr(export, "read_vocabulary", read)
    export.write_gguf(folder, out)
    return out


def test_equal_characters_end_a_request_and_never_the_process(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models("llama", max_position_embeddings=CONTEXT)
    paths = [model_with(pre, folder, tmp_path / f"{pre}.gguf", monkeypatch) for pre in STD_REGEX]
    command = [sys.executable, "-c", ASK, str(CONTEXT), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(STD_REGEX)
    for line in lines:
        errors, counts = json.loads(line)
        assert errors.pop("honest") == ""
        assert [f"more than the context of {CONTEXT}" in error for error in errors.values()] == [True] * 2, errors
        assert "tokens and its answer" in errors["long"]
        assert "characters" in errors["longest"]
        assert min(counts) > 1000


def test_a_text_that_no_context_holds_is_not_tokenised(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.write_gguf(models("llama"), tmp_path / "model.gguf")
    with LlamaCppGenerator(tmp_path / "model.gguf", context=512, threads=1, parallel=1) as generator:
        texts = [generator.cache.piece(token).decode(errors="replace") for token in range(generator.cache.vocab_size)]
        longest = generator.cache._longest_token
        assert longest >= max(map(len, texts))
        monkeypatch.setattr(kv_cache, "token_ids", lambda vocab, text: [7])
        assert generator.tokenize("x" * 512 * longest) == [7]
        with pytest.raises(SreError, match="more than the context of 512"):
            generator.tokenize("x" * (512 * longest + 1))


def test_a_thread_of_its_own_changes_no_id(models: Any, tmp_path: Path, strings: list[str]) -> None:
    export.write_gguf(models("llama"), tmp_path / "model.gguf")
    with LlamaCppGenerator(tmp_path / "model.gguf", context=512, threads=1, parallel=1) as generator:
        vocab, text = generator.cache._vocab, "".join(strings)
        assert len(text) > tokenization.LONG_TEXT
        assert tokenization.token_ids(vocab, text) == tokenization._token_ids(vocab, text)
