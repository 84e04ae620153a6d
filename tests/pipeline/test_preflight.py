"""What would go wrong hours later is refused before training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recipe.config import load
from recipe.errors import SreError
from recipe.pipeline.preflight import check_model

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("case", ["gemma3", "llama-2", "mistral-3", "qwen3"])
def test_prompts_that_llama_cpp_reads_as_they_are_trained_on_pass(case: str, models: Any) -> None:
    check_model(load("tiny"), models(case))


def test_a_prompt_that_llama_cpp_reads_otherwise_is_refused(models: Any, tmp_path: Path) -> None:
    """This tokeniser puts a space in front of a text that begins with no special token; llama.cpp doesn't."""
    folder = tmp_path / "model"
    shutil.copytree(models("mistral-3"), folder)
    (folder / "chat_template.jinja").write_text(PLAIN)
    with pytest.raises(SreError, match="other tokens"):
        check_model(load("tiny"), folder)
