"""Code written for prometheus-eval runs with its import line changed; here over a fake engine."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from recipe.data.records import Rubric
from recipe.errors import SreError
from recipe.inference.base import Request
from recipe.inference.scripted import ScriptedGenerator
from recipe.judge import Judge
from recipe.judge import compat as prometheus_eval
from recipe.judge.compat import (
    ABSOLUTE_PROMPT,
    ABSOLUTE_PROMPT_WO_REF,
    RELATIVE_PROMPT,
    SCORE_RUBRIC_TEMPLATE,
    PrometheusEval,
    parse_rubric,
)

RUBRIC = SCORE_RUBRIC_TEMPLATE.format(
    criteria="Are both items fruits?", **{f"score{k}_description": f"{k - 1} of the four [sic]." for k in range(1, 6)}
)


def judge_of(script: Any) -> Judge:
    return Judge(ScriptedGenerator(script if callable(script) else lambda request: [script]))


def seen(judge: PrometheusEval) -> list[Request]:
    return judge.model.generator.seen  # type: ignore[attr-defined]


def test_the_sample_code_of_an_absolute_grade() -> None:
    judge = PrometheusEval(model=judge_of("A brick is no fruit. [RESULT] 2"), absolute_grade_template=ABSOLUTE_PROMPT)
    feedback, score = judge.single_absolute_grade(
        instruction="Name two fruits.",
        response="Apple and brick.",
        rubric=RUBRIC,
        reference_answer="Apple and pear.",
    )
    assert (feedback, score) == ("A brick is no fruit.", 2)
    text = seen(judge)[0].messages[-1].content
    for part in ("Name two fruits.", "Apple and brick.", "Apple and pear.", "Are both items fruits?", "3 of the four"):
        assert part in text


def test_the_sample_code_of_a_relative_grade() -> None:
    judge = PrometheusEval(model=judge_of("The second names two. [RESULT] 2"), relative_grade_template=RELATIVE_PROMPT)
    data = {
        "instruction": "Name two fruits.",
        "response_A": "Apple and brick.",
        "response_B": "Apple and pear.",
        "reference_answer": "Plum and pear.",
        "rubric": "Are both items fruits?",
    }
    assert judge.single_relative_grade(**data) == ("The second names two.", "B")
    text = seen(judge)[0].messages[-1].content
    assert text.index("Apple and brick.") < text.index("Apple and pear.")
    assert "Plum and pear." in text


def test_a_batch_comes_back_in_its_order_whatever_the_engine_does() -> None:
    judge = PrometheusEval(judge_of(lambda request: [f"Reason {request.id}. [RESULT] {int(request.id) % 5 + 1}"]))
    feedbacks, scores = judge.absolute_grade(
        instructions=["Q"] * 7, responses=[str(k) for k in range(7)], rubric=RUBRIC, params={}
    )
    assert scores == [1, 2, 3, 4, 5, 1, 2]
    assert feedbacks == [f"Reason {k}." for k in range(7)]
    pairs = judge.relative_grade(
        instructions=["Q", "Q"], responses_A=["a", "b"], responses_B=["b", "a"], rubric=["c", "d"]
    )
    assert pairs[1] == ["A", "B"]


def test_what_could_not_be_judged_is_none_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    generator = ScriptedGenerator(lambda request: ["Fine. [RESULT] 3"], context=700)
    judge = PrometheusEval(Judge(generator))
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        found = judge.absolute_grade(instructions=["Q", "Q"], responses=["word " * 900, "short"], rubric=RUBRIC)
    assert found == ([None, "Fine."], [None, 3])
    assert "more than the context" in caplog.text


def test_unconstrained_text_without_a_score_is_none() -> None:
    judge = PrometheusEval(judge_of("I would say four."), constrain=False)
    assert judge.single_absolute_grade("Q", "R", RUBRIC) == (None, None)
    assert judge.single_relative_grade("Q", "R", "S", "Better?") == (None, None)
    assert PrometheusEval(judge_of("I would say four.")).single_absolute_grade("Q", "R", RUBRIC)[1] is not None


def test_the_template_says_whether_the_reference_is_shown() -> None:
    for template, shown in ((None, True), (ABSOLUTE_PROMPT, True), (ABSOLUTE_PROMPT_WO_REF, False)):
        judge = PrometheusEval(judge_of("Fine. [RESULT] 3"), template)
        judge.single_absolute_grade("Q", "R", RUBRIC, reference_answer="The model answer.")
        assert ("The model answer." in seen(judge)[0].messages[-1].content) == shown
    with pytest.raises(SreError, match="its own prompts"):
        PrometheusEval(judge_of("x"), "Rate this: {response}")


def test_params_the_engine_has_are_used_and_the_others_named(caplog: pytest.LogCaptureFixture) -> None:
    judge = PrometheusEval(judge_of(lambda request: ["one two three four five six [RESULT] 3"]))
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        feedback, _ = judge.single_absolute_grade("Q", "R", RUBRIC, params={"max_tokens": 2, "top_p": 0.9})
    assert feedback == "one two"
    assert "top_p" in caplog.text
    assert "max_tokens" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"responses": ["r"]}, "responses"),
        ({"rubric": [RUBRIC]}, "rubric"),
        ({"reference_answers": ["a"]}, "reference_answers"),
        ({"rubric": ""}, "rubric"),
        ({"rubric": [7, 7]}, "rubric"),
    ],
)
def test_inputs_that_do_not_fit_are_named(changes: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"instructions": ["Q", "Q"], "responses": ["r", "s"], "rubric": RUBRIC} | changes
    with pytest.raises(SreError) as caught:
        PrometheusEval(judge_of("Fine. [RESULT] 3")).absolute_grade(**arguments)
    assert caught.value.field == field


def test_a_rubric_string_becomes_a_rubric() -> None:
    levels = {k: f"{k - 1} of the four [sic]." for k in range(1, 6)}
    assert parse_rubric(RUBRIC) == Rubric("Are both items fruits?", levels)
    assert parse_rubric("[Is it short?]") == parse_rubric(" Is it short? ") == Rubric("Is it short?")
    assert parse_rubric("[a [b] c]\nScore 0: no,\nnot at all.\n Score 1: yes: it is") == Rubric(
        "a [b] c", {0: "no,\nnot at all.", 1: "yes: it is"}
    )
    for bad in (
        "[]",
        "Score 1: a\nScore 2: b",
        "[c]\nScore 1: a\nScore 1: b",
        "[c]\nScore 1: a",
        "[c]\nScore 1:\nScore 2: b",
    ):
        with pytest.raises(SreError):
            parse_rubric(bad)


def test_a_model_that_was_opened_here_is_closed_here_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []

    def from_gguf(path: str, *, context: int = 4096) -> Judge:
        opened.append((path, context))
        return judge_of("Fine. [RESULT] 3")

    monkeypatch.setattr(prometheus_eval.Judge, "from_gguf", from_gguf)
    with PrometheusEval("judge.gguf") as judge:
        assert judge.single_absolute_grade("Q", "R", RUBRIC) == ("Fine.", 3)
    assert judge.model.generator.closed  # type: ignore[attr-defined]
    model = prometheus_eval.VLLM(model="judge.gguf", max_model_len=2048, gpu_memory_utilization=0.9)
    with PrometheusEval(model=model):
        pass
    assert not model.generator.closed  # type: ignore[attr-defined]
    assert opened == [("judge.gguf", 4096), ("judge.gguf", 2048)]


def test_a_missing_model_file_is_named() -> None:
    with pytest.raises(SreError, match=r"gone\.gguf"):
        PrometheusEval("gone.gguf")
