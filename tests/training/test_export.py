"""The export's arithmetic; whole exports run in tests/pipeline."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.config import ExportConfig
from recipe.data.examples import read_examples
from recipe.data.records import Example, Judgement
from recipe.gguf.export import write_gguf
from recipe.gguf.header import read_metadata
from recipe.inference.calibration import read_calibrations
from recipe.inference.chat_template import ChatTemplate
from recipe.prompts import Prompts
from recipe.training.card import Base, Card, base_of
from recipe.training.export import fit_calibrations, judge_metadata, modelfile, run_export
from tests.scripted import ScriptedGenerator


def judged(number: int, rationale: str = "Because.") -> tuple[Judgement, str]:
    """A judge that is sure of 2 where 1 is true, and of 1 where 2 is true, with noise."""
    draw = random.Random(number)
    truth = 1 + number % 2
    logprobs = {1: draw.gauss(0, 1), 2: draw.gauss(0, 1) + (2 if truth == 2 else -2)}
    fields = {"truth": truth, "label_logprobs": logprobs}
    return Judgement(str(number), str(number), "pairwise", "", rationale, truth, **fields), f"p{number}"


def test_a_calibration_is_fitted_on_the_held_out_judgements_of_each_task() -> None:
    calibrations, facts = fit_calibrations([judged(number) for number in range(60)])
    assert set(calibrations) == {"pairwise"}
    assert (calibrations["pairwise"].rows, facts["pairwise"]["rows"]) == (60, 60)
    assert "kind" in facts["pairwise"]


def test_without_held_out_rows_nothing_is_fitted_and_nothing_is_said_to_be() -> None:
    assert fit_calibrations([]) == ({}, {})
    assert fit_calibrations([judged(number, rationale="") for number in range(60)]) == ({}, {})
    calibrations, facts = fit_calibrations([judged(number) for number in range(5)])
    assert (calibrations, facts) == ({}, {"pairwise": {"rows": 5}})


def export(tiny_model: Path, folder: Path, held_out: Sequence[tuple[Judgement, str]]) -> tuple[dict[str, str], str]:
    """The metadata of judge.gguf and the card of an export of the tiny model that judges no rows."""
    _, card = export_rows(tiny_model, folder, (), lambda path: None, None, held_out)
    return read_metadata(folder / "judge.gguf"), card


def export_rows(
    tiny_model: Path,
    folder: Path,
    rows: Sequence[Example],
    open_gguf: Callable[[Path], Any],
    trained: Callable[[], Any] | None,
    held_out: Sequence[tuple[Judgement, str]] = (),
) -> tuple[dict[str, Any], str]:
    """What an export of the tiny model reports, and its card."""
    folder.mkdir()
    snapshot = folder / "sft.gguf"
    write_gguf(tiny_model, snapshot, adapter=None, type_name="F16", metadata={})
    facts = run_export(
        folder,
        snapshot=snapshot,
        judge=folder / "judge.gguf",
        rows=rows,
        held_out=held_out,
        settings=ExportConfig(types=("F16",), type="F16"),
        max_tokens=24,
        prompts=Prompts(),
        open_gguf=open_gguf,
        trained=trained,
        card=Card(
            "tiny",
            {"pairwise": "rows"},
            merge="",
            rounds=0,
            base=Base("base", "other"),
            figures={},
            warnings=["picks response 2 in 93% of the rows"],
        ),
    )
    return facts, (folder / "README.md").read_text(encoding="utf-8")


def test_the_file_and_the_card_have_a_calibration_only_where_held_out_rows_gave_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    metadata, card = export(tiny_model, tmp_path / "with", [judged(number) for number in range(60)])
    assert set(read_calibrations(metadata)) == {"pairwise"}
    assert "- pairwise: " in card
    assert "93%" in card
    metadata, card = export(tiny_model, tmp_path / "without", [])
    assert read_calibrations(metadata) == {}
    assert not any("calibration" in key for key in metadata)
    assert "--uncalibrated" not in card


def test_labels_of_the_judge_as_it_was_trained_are_compared_with_those_of_its_file(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = read_examples(tiny_data, task="pointwise", split="test", limit=4)
    odd = rows[0].id

    def file(path: Path) -> ScriptedGenerator:
        return ScriptedGenerator(lambda request: ["So. [RESULT] 4"])

    def trained() -> ScriptedGenerator:
        return ScriptedGenerator(lambda request: [f"So. [RESULT] {2 if request.id == odd else 4}"])

    facts, card = export_rows(tiny_model, tmp_path / "gguf", rows, file, trained)
    assert facts["flip_rate"] == {"NF4": 0.25}
    assert "| NF4 | as trained | 25.0% |" in card
    facts, card = export_rows(tiny_model, tmp_path / "plain", rows, file, None)
    assert facts["flip_rate"] == {}
    assert "| NF4 |" not in card


def test_a_snapshot_says_in_standard_keys_what_it_is_and_names_no_folder(tiny_model: Path, tmp_path: Path) -> None:
    import gguf

    private = tmp_path / "secret" / "base"
    private.mkdir(parents=True)
    for base in (base_of("smollm2-135m", private), base_of(str(private), private)):
        out = tmp_path / "j.gguf"
        metadata = judge_metadata("mine j2", base, Prompts())
        write_gguf(tiny_model, out, adapter=None, type_name="F16", metadata=metadata)
        fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
        assert str(tmp_path) not in str(metadata)
        assert fields["general.license"] == base.licence
        assert "llm-as-a-judge" in fields["general.tags"]
        assert fields["general.languages"] == ["en"]
        assert fields["general.size_label"]
        assert fields["general.quantization_version"] == gguf.GGML_QUANT_VERSION
        assert fields["general.base_model.count"] == 1
        assert fields["general.base_model.0.name"] == base.name.rpartition("/")[2]
        assert ("general.base_model.0.repo_url" in fields) == ("/" in base.name)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


MODELFILES = [
    (
        CHATML,
        "<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ .Prompt }}<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    (
        GEMMA,
        "<start_of_turn>user\n{{ .System }}\n\n{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
]


@pytest.mark.parametrize(("source", "asked", "stop"), MODELFILES)
def test_a_modelfile_keeps_to_ollamas_grammar(source: str, asked: str, stop: str) -> None:
    """Ollama can't be installed here: a strict reading of its documented grammar stands for it."""
    for task in ("pointwise", "pairwise"):
        template = ChatTemplate(source, bos="", eos="", file="x")
        lines = read_modelfile(modelfile("judge.gguf", Prompts().sources[task], template))
        assert [line for line in lines if line[0] == "FROM"] == [("FROM", "../judge.gguf")]
        assert [line for line in lines if line[0] == "TEMPLATE"] == [("TEMPLATE", asked)]
        assert re.findall(r"{{(.*?)}}", asked) == [" .System ", " .Prompt "]
        (system,) = [value for command, value in lines if command == "SYSTEM"]
        assert system
        assert "{" not in system
        parameters = dict(value.split(" ", 1) for command, value in lines if command == "PARAMETER")
        assert parameters == {"temperature": "0", "num_ctx": "4096", "num_predict": "512", "stop": stop}


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """(instruction, value) of each; a parameter's value is its name, a blank, and what it is set to.

    A value is the rest of its line, or stands in one or three double quotes; of these, only the last may span lines.
    """
    value = r'"""(?P<long>(?:(?!""").)*)"""|"(?P<quoted>[^"\n]*)"|(?P<bare>[^"\s][^"\n]*)'
    line = re.compile(rf"(FROM|TEMPLATE|SYSTEM|PARAMETER (?P<name>[a-z_]+)) (?:{value})\n", re.S)
    lines, place = [], 0
    while place < len(text):
        found = line.match(text, place)
        assert found, text[place : place + 60]
        said = next(found[name] for name in ("long", "quoted", "bare") if found[name] is not None)
        lines.append((found[1].split()[0], f"{found['name']} {said}" if found["name"] else said))
        place = found.end()
    return lines


@pytest.mark.parametrize(("source", "asked", "stop"), MODELFILES)
def test_a_modelfile_has_the_chat_template_in_ollamas_form(source: str, asked: str, stop: str) -> None:
    prompts = Prompts().sources
    text = modelfile("judge.gguf", prompts["pairwise"], ChatTemplate(source, bos="", eos="", file="x"))
    assert text.startswith(f'FROM ../judge.gguf\nTEMPLATE """{asked}"""\nSYSTEM """You compare two responses')
    assert f'PARAMETER stop "{stop}"\n' in text
    assert "PARAMETER num_ctx" in text
