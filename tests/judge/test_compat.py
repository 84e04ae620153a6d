"""Code written for prometheus-eval runs with its import line changed; here over a fake engine."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.data.records import Rubric
from recipe.data.rubrics import load_rubric as parse_rubric
from recipe.errors import SreError
from recipe.inference.base import Request
from recipe.judge import Judge
from recipe.judge import compat as prometheus_eval
from recipe.judge.compat import (
    ABSOLUTE_PROMPT,
    ABSOLUTE_PROMPT_WO_REF,
    RELATIVE_PROMPT,
    SCORE_RUBRIC_TEMPLATE,
    PrometheusEval,
)
from tests.scripted import ScriptedGenerator

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


def test_columns_pair_by_position_whatever_their_index() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"q": [f"Question {k}" for k in range(4)], "a": [f"Answer {k}" for k in range(4)], "ref": ["R", None, "R", "R"]}
    )
    judge = PrometheusEval(judge_of("Fine. [RESULT] 3"))
    shuffled, kept = frame.iloc[[2, 0, 1]], frame[frame.q != "Question 0"]
    for questions, answers, references in (
        (shuffled.q, ["Answer 2", "Answer 0", "Answer 1"], None),
        (shuffled.q, shuffled.a, shuffled.ref),
        (kept.q, kept.a, kept.ref.to_numpy()),
        (frame.q.to_numpy(), frame.a.to_numpy(), frame.ref.tolist()),
        (frame.q[::-1], tuple(frame.a[::-1]), iter(frame.ref[::-1])),
        (frame.q, frame.a, frame.ref.astype("string")),  # pandas' NA
    ):
        seen(judge).clear()
        number = len(questions)
        found = judge.absolute_grade(
            instructions=questions,
            responses=answers,
            rubric=pandas.Series(["c"] * number),
            reference_answers=references,
        )
        assert found == (["Fine."] * number, [3] * number)
        for request, question in zip(seen(judge), list(questions), strict=True):
            text = request.messages[-1].content
            assert question in text
            assert question.replace("Question", "Answer") in text
            assert "nan" not in text.lower()
    pairs = judge.relative_grade(instructions=kept.q, responses_A=kept.a, responses_B=kept.a.iloc[::-1], rubric="c")
    assert len(pairs[1]) == 3


@pytest.mark.parametrize("column", ["one text", {"a": 1}, None, 7, [["nested"]]])
def test_what_is_no_column_of_texts_is_a_value_error(column: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        PrometheusEval(judge_of("x [RESULT] 3")).absolute_grade(instructions=column, responses=["r"], rubric="c")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"q": ["a"]})
    with pytest.raises(ValueError, match="DataFrame"):
        PrometheusEval(judge_of("x [RESULT] 3")).absolute_grade(instructions=frame, responses=["r"], rubric="c")


def test_what_could_not_be_judged_is_none_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    generator = ScriptedGenerator(lambda request: ["Fine. [RESULT] 3"], context=700)
    judge = PrometheusEval(Judge(generator))
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        found = judge.absolute_grade(instructions=["Q", "Q"], responses=["word " * 900, "short"], rubric=RUBRIC)
    assert found == ([None, "Fine."], [None, 3])
    assert "more than the context" in caplog.text


def test_the_template_says_whether_the_reference_is_shown() -> None:
    for template, shown in ((None, True), (ABSOLUTE_PROMPT, True), (ABSOLUTE_PROMPT_WO_REF, False)):
        judge = PrometheusEval(judge_of("Fine. [RESULT] 3"), template)
        judge.single_absolute_grade("Q", "R", RUBRIC, reference_answer="The model answer.")
        assert ("The model answer." in seen(judge)[0].messages[-1].content) == shown


def test_a_template_of_ones_own_is_asked_as_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    script = {"0": ["Good {sic}. Score: 4"], "1": ["No idea."], "2": ["Bad. [RESULT] 1"]}
    judge = PrometheusEval(
        judge_of(lambda request: script[request.id]), "Rate {response} to {instruction} by {rubric}."
    )
    found = judge.absolute_grade(
        instructions=["Q"] * 3, responses=["{a}", "b", "c"], rubric="R", params={"max_tokens": 9}
    )
    assert found == (["Good {sic}.", None, "Bad."], [4, None, 1])
    system, user = seen(judge)[0].messages
    assert (system.role, user.content) == ("system", "Rate {a} to Q by R.")
    pair = PrometheusEval(
        judge_of("[RESULT] B"), relative_grade_template="{response_A}, {response_B}? {reference_answer}"
    )
    assert pair.single_relative_grade("Q", "a", "b", "R", "ref") == ("", "B")
    assert seen(pair)[0].messages[-1].content == "a, b? ref"
    with pytest.raises(ValueError, match=r"\{response\}"):
        PrometheusEval(judge_of("x"), "Rate {answer}").single_absolute_grade("Q", "a", "R")
    full = PrometheusEval(Judge(ScriptedGenerator(lambda request: ["x"], context=9)), "{response} " * 9)
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        assert full.single_absolute_grade("Q", "a", "R") == (None, None)
    assert "context" in caplog.text


def test_what_prometheus_evals_parser_reads_is_read_alike() -> None:
    """Compared with the package itself, where it is installed (`pip install prometheus-eval`)."""
    theirs = pytest.importorskip("prometheus_eval.parser")
    begins = ("", "Fine. ", "It (Score 5) fits.\n", "[Response A] is short. ")
    marks = (
        "[RESULT]",
        "[Result]",
        "[RESULT:",
        "[SCORE]",
        "Score:",
        "score",
        "Result:",
        "\nResult:",
        "score of",
        "[Response",
    )
    ends = (
        "3",
        " 3",
        " (3)",
        "[3]",
        " 3/5",
        " 3 out of 5",
        " 7",
        " A",
        " b]",
        " B]",
        " Response A",
        " Score: 2",
        " 2.5",
    )
    for text in (f"{a}{b}{c}" for a in begins for b in marks for c in ends):
        for mode in ("absolute", "relative"):
            wanted = theirs.parse_output(text, mode)[1]
            assert wanted is None or prometheus_eval.parse_output(text, mode)[1] == wanted, (text, mode)


def test_params_the_engine_has_are_used_and_the_others_named(caplog: pytest.LogCaptureFixture) -> None:
    judge = PrometheusEval(judge_of(lambda request: ["one two three four five six [RESULT] 3"]))
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        feedback, _ = judge.single_absolute_grade("Q", "R", RUBRIC, params={"max_tokens": 2, "top_p": 0.9})
    assert feedback == "one two"
    assert "top_p" in caplog.text
    assert "max_tokens" not in caplog.text


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"max_tokens": "512"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        (["max_tokens"], "params"),
    ],
)
def test_params_of_no_sense_are_value_errors(params: Any, field: str) -> None:
    for judge in (PrometheusEval(judge_of("Fine. [RESULT] 3")), PrometheusEval(judge_of("x"), "Rate {response}")):
        with pytest.raises(ValueError, match=field):
            judge.single_absolute_grade("Q", "R", RUBRIC, params=params)


def test_a_rubric_may_be_json_text() -> None:
    judge = PrometheusEval(judge_of("Fine. [RESULT] 1"))
    text = '{"criteria": "Is it a fruit?", "score0_description": "No.", "score1_description": "Yes."}'
    assert judge.single_absolute_grade("Q", "R", text) == ("Fine.", 1)
    assert seen(judge)[0].labels == (0, 1)


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
    with pytest.raises(ValueError, match=field):
        PrometheusEval(judge_of("Fine. [RESULT] 3")).absolute_grade(**arguments)


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
        with pytest.raises(SreError, match="rubric"):
            parse_rubric(bad)
        with pytest.raises(ValueError, match="rubric"):
            PrometheusEval(judge_of("x [RESULT] 3")).single_absolute_grade("Q", "R", bad)


def test_a_model_is_a_file_or_opened_with_vllms_options(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []

    def from_gguf(path: str, *, context: int = 4096) -> Judge:
        opened.append((path, context))
        return judge_of("Fine. [RESULT] 3")

    monkeypatch.setattr(prometheus_eval.Judge, "from_gguf", from_gguf)
    assert PrometheusEval("judge.gguf").single_absolute_grade("Q", "R", RUBRIC) == ("Fine.", 3)
    assert PrometheusEval(model_id="judge.gguf").single_absolute_grade("Q", "R", RUBRIC) == ("Fine.", 3)
    model = prometheus_eval.VLLM(model="judge.gguf", max_model_len=2048, gpu_memory_utilization=0.9)
    assert PrometheusEval(model=model).single_absolute_grade("Q", "R", RUBRIC) == ("Fine.", 3)
    assert opened == [("judge.gguf", 4096), ("judge.gguf", 4096), ("judge.gguf", 2048)]


def test_a_missing_model_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"gone\.gguf"):
        PrometheusEval("gone.gguf")


# Calls that code written for prometheus-eval makes, its own tests' among them.


def test_code_for_a_mock_model_runs() -> None:
    judges = {
        mode: PrometheusEval(
            model=prometheus_eval.MockLLM(mode=mode),
            absolute_grade_template=ABSOLUTE_PROMPT,
            relative_grade_template=RELATIVE_PROMPT,
        )
        for mode in ("absolute", "relative")
    }
    for judge in judges.values():
        assert judge.absolute_grade_template == ABSOLUTE_PROMPT
        assert judge.relative_grade_template == RELATIVE_PROMPT
        assert hasattr(judge, "model")
    feedbacks, scores = judges["absolute"].absolute_grade(
        instructions=["How do plants live?"],
        responses=["By light."],
        rubric="Is it true?",
        reference_answers=None,
        params={},
    )
    assert (feedbacks, scores) == (["Hello"], [5])
    with pytest.raises(ValueError, match="responses"):
        judges["absolute"].absolute_grade(
            instructions=["Q"], responses=[], rubric="c", reference_answers=None, params={}
        )
    feedbacks, scores = judges["relative"].relative_grade(
        instructions=["Q"], responses_A=["a"], responses_B=["b"], rubric="c", reference_answers=["r"], params={}
    )
    assert (feedbacks, scores) == (["Hello"], ["A"])
    with pytest.raises(ValueError, match="absolute or relative"):
        prometheus_eval.MockLLM(mode="both")
    with pytest.raises(ValueError, match="responses_B"):
        judges["relative"].relative_grade(instructions=["Q"], responses_A=["a"], responses_B=[], rubric="c", params={})


class OwnModel:
    """As people write one for prometheus-eval: it has `completions`, and no class of ours."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def completions(self, prompts: list[Any], **params: Any) -> list[str]:
        self.asked.append((prompts, params))
        return [f"As long as {len(prompt)} messages. [RESULT] 4" for prompt in prompts]


class OwnAsyncModel(OwnModel):
    async def completions(self, prompts: list[Any], **params: Any) -> list[str]:  # type: ignore[override]
        return super().completions(prompts, **params)


@pytest.mark.parametrize("kind", [OwnModel, OwnAsyncModel])
def test_a_model_class_of_ones_own_is_asked_by_its_completions(kind: type[OwnModel]) -> None:
    model = kind()
    judge = PrometheusEval(model=model, absolute_grade_template=ABSOLUTE_PROMPT)
    rows = {"instructions": ["Name a fruit.", "Name a tool."], "responses": ["apple", "hammer"]}
    feedbacks, scores = judge.absolute_grade(**rows, rubric="Is it right?", params={"max_tokens": 77})
    assert scores == [4, 4]
    assert all(feedback.startswith("As long as") for feedback in feedbacks)
    ((prompts, params),) = model.asked  # in one batch
    assert len(prompts) == 2
    assert prompts[0][-1]["role"] == "user"
    assert "apple" in prompts[0][-1]["content"]
    assert params["max_tokens"] == 77


def test_a_sample_with_a_comma_after_each_text_runs() -> None:
    """The first sample in prometheus-eval's README makes tuples of one text."""
    judge = PrometheusEval(model=judge_of("Warm. [RESULT] 4"), absolute_grade_template=ABSOLUTE_PROMPT)
    instruction = ("A friend is sad.",)
    found = judge.single_absolute_grade(
        instruction=instruction,  # type: ignore[arg-type]
        response=("I am sorry.",),  # type: ignore[arg-type]
        rubric=RUBRIC,
        reference_answer=("I am here.",),  # type: ignore[arg-type]
    )
    assert found == ("Warm.", 4)
    assert "A friend is sad." in seen(judge)[0].messages[-1].content


def litellm(answer: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A stand-in for the package, and the calls it gets; `answer`: a call -> its text."""
    asked: list[dict[str, Any]] = []

    def completion(call: dict[str, Any]) -> Any:
        asked.append(call)
        try:
            return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=answer(call)))])
        except ConnectionError as error:
            return error

    def batch_completion(messages: list[Any], **call: Any) -> list[Any]:
        return [completion({**call, "messages": turns}) for turns in messages]

    return SimpleNamespace(batch_completion=batch_completion), asked


def test_litellm_is_asked_with_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    package, asked = litellm(lambda call: "Good. [Response B]")
    monkeypatch.setitem(sys.modules, "litellm", package)
    for model in (
        prometheus_eval.LiteLLM("openai/prometheus-eval/prometheus-7b-v2.0", api_base="http://here/v1"),
        prometheus_eval.AsyncLiteLLM("gpt-4-turbo", requests_per_minute=100),
    ):
        judge = PrometheusEval(model=model, relative_grade_template=prometheus_eval.RELATIVE_PROMPT_WO_REF)
        found = judge.relative_grade(
            instructions=["Q", "Q"],
            responses_A=["a", "b"],
            responses_B=["c", "d"],
            rubric="R",
            params={"max_tokens": 9},
        )
        assert found == (["Good.", "Good."], ["B", "B"])
    names = [("openai/prometheus-eval/prometheus-7b-v2.0", "http://here/v1")] * 2 + [("gpt-4-turbo", None)] * 2
    assert [(call["model"], call["api_base"]) for call in asked] == names
    for call in asked:
        assert call["max_tokens"] == 9
        assert {turn["role"] for turn in call["messages"]} <= {"system", "user"}


def test_a_row_that_litellm_fails_at_is_none_in_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(call: dict[str, Any]) -> str | None:
        text = call["messages"][-1]["content"]
        if "dropped" in text:
            raise ConnectionError("the line is dead")
        return None if "empty" in text else "Fine. [RESULT] 3"

    monkeypatch.setitem(sys.modules, "litellm", litellm(answer)[0])
    judge = PrometheusEval(model=prometheus_eval.AsyncLiteLLM("gpt-4-turbo"))
    with caplog.at_level(logging.WARNING, "recipe.judge"):
        found = judge.absolute_grade(instructions=["Q"] * 3, responses=["good", "dropped", "empty"], rubric="R")
    assert found == (["Fine.", None, None], [3, None, None])
    assert "the line is dead" in caplog.text


def test_models_write_texts_as_prometheus_evals_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", litellm(lambda call: f"To {call['messages'][0]['content']}")[0])
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b")]
    assert prometheus_eval.LiteLLM("m").completions(prompts, max_tokens=9) == ["To a", "To b"]
    assert asyncio.run(prometheus_eval.AsyncLiteLLM("m").completions(prompts)) == ["To a", "To b"]
    assert prometheus_eval.MockLLM("absolute").completions(["p", "q"], use_tqdm=False) == ["Hello [RESULT] 5"] * 2
    assert asyncio.run(prometheus_eval.AsyncMockLLM("relative").completions(["p"])) == ["Hello [RESULT] 1"]


def test_a_model_is_asked_within_a_running_loop_too() -> None:
    async def grade() -> Any:
        return PrometheusEval(model=OwnAsyncModel()).single_absolute_grade("Q", "R", "c")

    assert asyncio.run(grade())[1] == 4


def test_a_model_that_answers_too_few_is_no_judge(caplog: pytest.LogCaptureFixture) -> None:
    model = SimpleNamespace(completions=lambda prompts, **params: ["Fine. [RESULT] 3"])
    found = PrometheusEval(model=model).absolute_grade(instructions=["Q"] * 2, responses=["a", "b"], rubric="c")
    assert found == ([None, None], [None, None])
    assert "1 texts" in caplog.text


def test_without_litellm_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    for make in (prometheus_eval.LiteLLM, prometheus_eval.AsyncLiteLLM):
        with pytest.raises(ValueError, match="pip install litellm"):
            make("gpt-4")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It names (Score 5) two. [RESULT] 3", 3),
        ("It names (Score 5) two", None),
        ("Right. [RESULT] 5 out of 5", 5),
        ("Wrong. [RESULT] score of 1", 1),
        ("Fine. [Result] 3", 3),
        ("Weak. [Result] Score: 2", 2),
        ("Good. [Result] Result: 4", 4),
        ("So so. [Result] 4/5", 4),
        ("Good. (Score 5)", 5),
        ("Good. [Score 4]", 4),
        ("Good. score: 3", 3),
        ("Good. [RESULT] 3.0", 3),
        ("Good. **Score: 3**", 3),
        ("Good. score of 1", 1),
        ("Good. score3", 3),
        ("Good. scores 3", None),
        ("Good. [RESULT] (5)", 5),
        ("The score is surely not 3.", None),
        ("A perfect 10!", None),
        ("Score: 2.5", None),
        ("Score: 7", None),
        ("Result: A", None),
        ("", None),
        (None, None),
    ],
)
def test_scores_are_read_in_many_forms(text: str | None, score: int | None) -> None:
    assert prometheus_eval.parse_output(text, "absolute")[1] == score


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("[Response B is worse. [RESULT] A", "A"),
        ("Result A or B, no results", None),
        ("Response A is right. [RESULT] A", "A"),
        ("They are alike... [Response B]", "B"),
        ("Both are clear... [Result] Response B", "B"),
        ("Both are clear... Response B Response A", None),
        ("Both are clear... [RESULT: B]", "B"),
        ("Both are clear... [Result: b]", "B"),
        ("Both are clear.\nResult: B", "B"),
        ("I select Response B.", None),
        ("Response C is right.", None),
        ("It is B... or is it A? Who knows.", None),
        ("", None),
        (None, None),
    ],
)
def test_choices_are_read_in_many_forms(text: str | None, choice: str | None) -> None:
    assert prometheus_eval.parse_output(text, "relative")[1] == choice


def test_parse_output_gives_the_feedback_and_refuses_other_modes() -> None:
    assert prometheus_eval.parse_output("Fine. [RESULT] 3", "absolute") == ("Fine.", 3)
    for kind in (AssertionError, ValueError):  # prometheus-eval's own tests expect the first
        with pytest.raises(kind, match="both"):
            prometheus_eval.parse_output("x", "both")


def test_the_rubrics_and_templates_have_their_names() -> None:
    for name in ("helpfulness", "harmlessness", "honesty", "factual_validity", "reasoning"):
        text = prometheus_eval.load_rubric(name, "absolute")
        assert text == getattr(prometheus_eval, f"{name.upper()}_RUBRIC")
        assert parse_rubric(text).scores == (1, 2, 3, 4, 5)
        assert text.startswith(prometheus_eval.load_rubric(name, "relative") + "\n")
    for template, reference in ((ABSOLUTE_PROMPT, True), (ABSOLUTE_PROMPT_WO_REF, False)):
        assert prometheus_eval.get_prompt_template("absolute", reference) == template
        assert ("{reference_answer}" in template) == reference
    assert prometheus_eval.get_prompt_template("relative", True) == RELATIVE_PROMPT
    for call in ((prometheus_eval.load_rubric, "beauty", "absolute"), (prometheus_eval.load_rubric, "honesty", "both")):
        with pytest.raises(ValueError, match="expected"):
            call[0](*call[1:])
    with pytest.raises(ValueError, match="expected"):
        prometheus_eval.get_prompt_template("both", True)


def test_every_error_is_a_value_error() -> None:
    for make in (
        lambda: PrometheusEval("gone.gguf"),
        lambda: prometheus_eval.VLLM("gone.gguf"),
        lambda: PrometheusEval(7),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            make()
    judge = PrometheusEval(judge_of("x [RESULT] 3"))
    for rubric in ("helpfulnes", "c\nScore 1: a\nScore 5: b", "a\0b"):
        with pytest.raises(ValueError, match="rubric"):
            judge.single_absolute_grade("Q", "R", rubric)
