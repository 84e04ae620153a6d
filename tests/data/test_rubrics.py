"""Rubric files and the ready ones: what is taken, and that every refusal names file and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.data.records import Rubric
from recipe.data.rubrics import FOLDER, load_rubric, read_rubric, ready_rubrics
from recipe.errors import SreError
from recipe.prompts import neutralise

TOML = 'criteria = "Is it kind?"\n[descriptions]\n1 = "No."\n3 = "Yes."\n'


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def failure(path: Path) -> SreError:
    with pytest.raises(SreError) as caught:
        load_rubric(path)
    return caught.value


def test_every_ready_rubric_describes_the_scores_1_to_5_each_differently() -> None:
    ready = ready_rubrics()
    assert len(ready) >= 12
    for name, found in ready.items():
        assert found.name == name
        assert found.rubric.scores == (1, 2, 3, 4, 5)
        assert len(set(found.rubric.descriptions.values())) == 5
        for text in (found.rubric.criteria, *found.rubric.descriptions.values()):
            assert neutralise(text) == text
            assert len(text) < 200


def test_the_wanted_qualities_are_there() -> None:
    wanted = {"helpfulness", "factuality", "harmlessness", "conciseness", "coherence", "instruction-following"}
    wanted |= {"completeness", "code-correctness", "tone", "translation", "summarisation", "reasoning"}
    assert wanted <= ready_rubrics().keys()


def test_a_name_loads_the_rubric_of_the_library() -> None:
    assert load_rubric("tone") == ready_rubrics()["tone"].rubric == load_rubric(FOLDER / "tone.toml")


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    expected = Rubric("Is it kind?", {1: "No.", 3: "Yes."})
    assert load_rubric(write(tmp_path / "kind.toml", TOML)) == expected
    content = {"criteria": "Is it kind?", "descriptions": {"1": "No.", "3": "Yes."}}
    assert load_rubric(write(tmp_path / "kind.json", json.dumps(content))) == expected
    assert load_rubric(str(tmp_path / "kind.json")) == expected
    content = {"criteria": "Is it kind?", "score1_description": "No.", "score_3_description": "Yes."}
    assert load_rubric(write(tmp_path / "kind.json", json.dumps(content))) == expected


@pytest.mark.parametrize("name", ["kind.toml", "kind.json"])
def test_a_byte_order_mark_is_no_part_of_a_rubric(tmp_path: Path, name: str) -> None:
    text = TOML if name.endswith("toml") else json.dumps({"criteria": "Is it kind?"})
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert load_rubric(tmp_path / name).criteria == "Is it kind?"


def test_a_rubric_in_latin_1_is_told_to_be_saved_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "kind.toml").write_bytes('criteria = "c"\n[descriptions]\n1 = "No."\n2 = "Déjà vu."'.encode("latin-1"))
    error = failure(tmp_path / "kind.toml")
    assert (error.file, error.line) == (tmp_path / "kind.toml", 4)
    assert "save the file as UTF-8" in str(error)
    (tmp_path / "kind.toml").write_text(TOML, encoding="utf-16")
    assert load_rubric(tmp_path / "kind.toml").criteria == "Is it kind?"


def test_name_and_task_are_optional_and_descriptions_too(tmp_path: Path) -> None:
    found = read_rubric(write(tmp_path / "kind.toml", 'criteria = "Is it kind?"'))
    assert (found.name, found.task, found.rubric) == ("kind", None, Rubric("Is it kind?"))
    found = read_rubric(write(tmp_path / "k.toml", 'name = "mine"\ntask = "pairwise"\ncriteria = "Which is kinder?"'))
    assert (found.name, found.task) == ("mine", "pairwise")


@pytest.mark.parametrize("name", ["nope", "../rubrics/tone", "tone/../tone", "", "Tone"])
def test_an_unknown_name_lists_the_library(name: str) -> None:
    with pytest.raises(SreError, match="helpfulness, instruction-following"):
        load_rubric(name)


@pytest.mark.parametrize(
    ("name", "text", "field", "message"),
    [
        ("r.toml", "criteria = ", None, "expected TOML"),
        ("r.json", "{", None, "expected JSON"),
        ("r.json", "[1]", None, "expected an object"),
        ("r.toml", "", "rubric", "criteria"),
        ("r.toml", 'criteria = "  "', "rubric", "not an empty text"),
        ("r.toml", "criteria = 5", "rubric", "criteria as a string"),
        ("r.toml", 'criteria = "c"\nscore1 = "x"', "score1", "only name, task, criteria, descriptions"),
        ("r.toml", 'criteria = "c"\ntask = "both"', "task", "pointwise or pairwise"),
        ("r.toml", 'criteria = "c"\nname = 3', "name", "a string"),
        ("r.toml", 'criteria = "c"\nscore1_description = "x"', "rubric", "at least two"),
        ("r.toml", 'criteria = "c"\ndescriptions = "x"', "rubric", "descriptions by score"),
        ("r.toml", 'criteria = "c"\n[descriptions]\n1 = "x"', "rubric", "at least two"),
        ("r.toml", 'criteria = "c"\n[descriptions]\n1 = "x"\n11 = "y"', "rubric", "0 to 10"),
        ("r.toml", 'criteria = "c"\n[descriptions]\n1 = "x"\n2 = ""', "rubric", "score 2"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_field(
    tmp_path: Path, name: str, text: str, field: str | None, message: str
) -> None:
    error = failure(write(tmp_path / name, text))
    assert (error.file, error.field) == (tmp_path / name, field)
    assert message in str(error)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    assert "can't be read" in str(failure(tmp_path / "gone.toml"))
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    assert failure(tmp_path / "r.toml").file == tmp_path / "r.toml"


def test_a_text_is_a_rubric_and_a_misspelt_name_an_error() -> None:
    assert load_rubric(" Is it kind? ") == load_rubric(Rubric("Is it kind?")) == Rubric("Is it kind?")
    assert load_rubric("Is it kind?\nScore 0: No.\nScore 1: Yes.") == Rubric("Is it kind?", {0: "No.", 1: "Yes."})
    assert load_rubric("回答是否简短") == Rubric("回答是否简短")
    for name, nearest in (("helpfulnes", "helpfulness"), ("code_correctness", "code-correctness"), ("Tone", "tone")):
        with pytest.raises(SreError, match=f"did you mean '{nearest}'"):
            load_rubric(name)


@pytest.mark.parametrize("name", ["mine.txt", "my rubric.md", "a folder/mine.yaml", "Mine.DOCX"])
def test_another_kind_of_file_is_not_taken_for_criteria(name: str) -> None:
    with pytest.raises(SreError, match=r"expected a \.toml or \.json file \(`sre rubrics tone"):
        load_rubric(name)


def test_a_ready_rubric_is_refused_for_another_task(tmp_path: Path) -> None:
    path = write(tmp_path / "r.toml", 'task = "pairwise"\ncriteria = "Which is kinder?"')
    assert read_rubric(path, "pairwise").rubric.criteria == "Which is kinder?"
    with pytest.raises(SreError, match="for pairwise"):
        read_rubric(path, "pointwise")


def test_files_are_read_only_where_they_may(tmp_path: Path) -> None:
    path = write(tmp_path / "kind.toml", TOML)
    with pytest.raises(SreError, match="not read here"):
        read_rubric(str(path), files=False)
