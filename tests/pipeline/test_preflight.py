"""What would go wrong hours later is refused before training."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from recipe.config import load
from recipe.errors import SreError
from recipe.inference.pytorch import engines
from recipe.pipeline.context import RunContext
from recipe.pipeline.preflight import check_model, preflight
from recipe.pipeline.stage_order import run_pipeline

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


@pytest.mark.parametrize(("role", "refused"), [("system", False), ("user", True)])
def test_a_template_that_refuses_a_role_is_asked_before_training(
    role: str, refused: bool, models: Any, tmp_path: Path
) -> None:
    """A system turn can go into the user's; nothing can be judged without a user's."""
    folder = shutil.copytree(models("qwen3"), tmp_path / "model")
    refusal = f"{{% if m.role == '{role}' %}}{{{{ raise_exception('not supported') }}}}{{% endif %}}"
    (folder / "chat_template.jinja").write_text(PLAIN.replace("{{ m.role }}", refusal, 1))
    with pytest.raises(SreError, match="not supported") if refused else nullcontext():
        check_model(load("tiny"), folder)


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json", "model.safetensors"],
)
def test_damaged_files_of_a_model_are_one_error(name: str, template: bool, models: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(models("qwen3"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    odd = [
        {**config, key: value}
        for key in ("architectures", "rms_norm_eps", "rope_parameters")
        for value in (5, "x", {"x": 1})
    ]
    texts = [
        "",
        "[]",
        "{",
        "5",
        '{"model": 5}',
        '{"model": {"type": "BPE"}}',
        '{"weight_map": [1]}',
        *map(json.dumps, odd),
    ]
    refused = []
    for text in texts:
        (folder / name).write_text(text)
        try:
            check_model(load("tiny", [f'model.source="{folder}"']), folder, template=template)
        except SreError as error:
            refused.append(str(error))
    assert len(refused) >= (1 if name == "tokenizer_config.json" else 4)
    assert all(str(folder) in said for said in refused)


def test_packages_that_training_lacks_are_missed_before_the_first_stage(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [f'data.pointwise="{tiny_data}"', f'data.pairwise="{tiny_data}"']
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(SreError, match=r"\[train\]"):
        run_pipeline(load("tiny", rows), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_that_sft_will_leave_out_are_told_before_it_starts(tiny_data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tiny_data / "train" / "pointwise.jsonl").read_text().splitlines()]
    long = "word " * 2000
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"orig_response": long}) + "\n" for row in rows))
    given = [f"data.pointwise={tmp_path / 'rows.jsonl'}", "data.pairwise=", "model.source=somewhere"]
    for longest, told in ((4096, False), (2048, True)):
        config = load("tiny", [*given, f"model.max_length={longest}"])
        (said, _) = preflight(RunContext(config, tmp_path), offline=True)
        assert (f"16 of them longer than model.max_length = {longest} tokens" in said) == told
