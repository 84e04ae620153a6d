"""The model card: its header is YAML that the hub reads, and it says what was measured, and on what base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recipe.training.card import Base, Card, base_of, model_card

DATA = {"pointwise": "prometheus-eval/Feedback-Collection", "pairwise": "rows"}
BASE = Base("owner/base", "apache-2.0")
FILES = [["type", "size"], ["Q8_0", "145 MB"]]


def card(base: Base = BASE, **changes: Any) -> str:
    calibration = changes.pop("calibration", {})
    told = {"name": "mine", "data": DATA, "merge": "exact", "rounds": 2, "figures": {"Pearson": None}, **changes}
    return model_card(Card(base=base, **told), FILES, calibration)


def header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_header_has_the_hubs_standard_fields() -> None:
    found = header(card())
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == "owner/base"
    assert found["library_name"] == "gguf"
    assert found["pipeline_tag"] == "text-generation"
    assert found["datasets"] == ["prometheus-eval/Feedback-Collection"]
    assert "llm-as-a-judge" in found["tags"]


def test_a_base_that_is_no_hub_name_is_told_in_the_text_alone(tmp_path: Path) -> None:
    text = card(base=Base("my: base", "other"))
    assert "base_model" not in header(text)
    assert "`my: base`" in text


def test_folders_of_this_machine_are_named_by_their_last_part(tmp_path: Path) -> None:
    data = tmp_path / "secret" / "rows"
    text = card(base_of(str(tmp_path), tmp_path), data={"pointwise": str(data)}, merge="", rounds=0)
    assert str(tmp_path.parent) not in text
    assert "`rows`" in text


def test_the_embedded_base_is_a_dequantised_one() -> None:
    base = base_of("smollm2-135m", Path("nowhere"))
    assert (base.name, base.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert "Q4_1" in card(base=base)
    assert "GGUF file" in card(base=base_of("/models/other.gguf", Path("nowhere")))


@pytest.mark.parametrize(
    ("readme", "licence"),
    [("---\nlicense: llama3.1\ntags:\n- a\n---\n# Llama", "llama3.1"), ("# no header", "other"), (None, "other")],
)
def test_the_licence_is_the_base_models_own_words(readme: str | None, licence: str, tmp_path: Path) -> None:
    if readme:
        (tmp_path / "README.md").write_text(readme)
    base = base_of("meta-llama/Llama-3.1-8B-Instruct", tmp_path)
    assert (base.name, base.licence) == ("meta-llama/Llama-3.1-8B-Instruct", licence)


def test_a_judge_that_hardly_judges_is_told_so() -> None:
    warnings = ["picks response 2 in 93% of the rows", "is not shown to be above chance on pairs"]
    assert "picks response 2 in 93% of the rows and is not" in card(warnings=warnings)
    assert "Warning" not in card()


def test_what_was_measured_stands_with_its_interval_and_what_is_undefined_says_so() -> None:
    figures = {
        "rows": 48,
        "Pearson": {"value": 0.52, "low": 0.24, "high": 0.73, "n": 40},
        "accuracy": {"value": None, "low": None, "high": None, "n": 0},
        "other": {"value": 0.5, "low": None, "high": None, "n": 3},
    }
    text = card(figures=figures)
    assert "| Pearson | 0.52 [0.24, 0.73] (n = 40) |" in text
    assert "| accuracy | undefined (n = 0) |" in text
    assert "| other | 0.50 (n = 3) |" in text
    assert "| rows | 48 |" in text


def test_a_calibration_is_claimed_only_where_one_was_fitted() -> None:
    fitted = {"rows": 120, "kind": "regression", "log_loss": {"before": 2.0, "temperature": 1.6, "regression": 1.5}}
    assert "--uncalibrated" in card(calibration={"pointwise": fitted})
    for nothing in ({}, {"pointwise": {"rows": 3}}):
        assert "--uncalibrated" not in card(calibration=nothing)


def test_a_base_in_four_bit_is_said() -> None:
    assert "NF4" in card(nf4=True)
    assert "NF4" not in card()
