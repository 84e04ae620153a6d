"""The Python API over a fake engine: what is asked of it, what is made of its answers."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.engines.base import Completion, Request, Sampling
from recipe.engines.judgements import to_judgement, to_request
from recipe.errors import SreError
from recipe.judge import Judge, expected_score, label_probabilities
from recipe.judge.judge import prompts_in
from recipe.prompts import Prompts
from recipe.rows import Example, Judgement, Message, Rubric

RUBRIC = Rubric("Are both items fruits?", {k: f"Level {k}." for k in range(1, 6)})


class Fake:
    """Answers each request, last one first, with what `answer(request, sample)` says."""

    name = "fake"

    def __init__(self, answer: Callable[[Request, int], dict[str, Any] | str]) -> None:
        self.answer, self.requests, self.closed = answer, list[Request](), 0
        self.sampling = Sampling()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.requests, self.sampling = list(requests), sampling
        for request in reversed(requests):
            for sample in range(sampling.n):
                found = self.answer(request, sample)
                fields = {"text": found} if isinstance(found, str) else found
                yield Completion(
                    **{
                        "request_id": request.id,
                        "sample": sample,
                        "text": "",
                        "token_ids": (1, 2, 3),
                        "finish": "stop",
                        "prompt_tokens": 10,
                        **fields,
                    }
                )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(m.content) for m in messages)

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def judge_of(answer: Any = "A brick is no fruit. [RESULT] 2") -> Judge:
    return Judge(Fake(answer if callable(answer) else lambda request, sample: answer))


def example(name: str, **changes: Any) -> Example:
    fields = {
        "id": name,
        "task": "pointwise",
        "conversation": (Message("user", f"Question {name}"),),
        "responses": ("Apple and brick.",),
        "rubric": RUBRIC,
        "label": 3,
    }
    return Example(**{**fields, **changes})


def test_score_gives_the_label_the_rationale_and_the_prompt_of_the_package() -> None:
    judge = judge_of()
    judgement = judge.score("Name two fruits.", "Apple and brick.", RUBRIC, reference="Apple, pear.")
    assert (judgement.label, judgement.rationale, judgement.task) == (2, "A brick is no fruit.", "pointwise")
    assert (judgement.origin, judgement.truth, judgement.tokens) == ("fake", None, 3)
    (request,) = judge.generator.requests  # type: ignore[attr-defined]
    text = "\n".join(message.content for message in request.messages)
    for part in (
        "Name two fruits.",
        "Apple and brick.",
        "Are both items fruits?",
        "Level 4.",
        "Apple, pear.",
    ):
        assert part in text
    assert (request.labels, request.force_label, request.label_only) == ((1, 2, 3, 4, 5), True, False)
    assert judge.generator.sampling.temperature == 0  # type: ignore[attr-defined]
    assert judge.generator.sampling.stop_at_label  # type: ignore[attr-defined]


def test_compare_gives_one_of_the_two_responses() -> None:
    judge = judge_of("B names two. [RESULT] 2")
    judgement = judge.compare("Name two fruits.", "Apple and brick.", "Apple and pear.", "Which is right?")
    assert (judgement.label, judgement.task) == (2, "pairwise")
    (request,) = judge.generator.requests  # type: ignore[attr-defined]
    assert request.labels == (1, 2)
    text = request.messages[-1].content
    assert text.index("Apple and brick.") < text.index("Apple and pear.")


def test_conversations_and_rubrics_may_be_plain_python() -> None:
    judge = judge_of()
    turns = [
        {"role": "user", "content": "Hi"},
        Message("assistant", "Hello"),
        {"role": "user", "content": "Fruit?"},
    ]
    judge.score(turns, "Pear.", {"criteria": "Short?", "descriptions": {"1": "no", "2": "yes"}})
    (request,) = judge.generator.requests  # type: ignore[attr-defined]
    assert request.labels == (1, 2)
    assert "Hello" in request.messages[-1].content


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (([], "r", "c"), "conversation"),
        ((42, "r", "c"), "conversation"),
        (("q", "r", ""), "rubric"),
        (("q", "r", {"criteria": "c", "descriptions": {"x": "y"}}), "rubric"),
        (("q", None, "c"), "response"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(SreError) as caught:
        judge_of().score(*arguments)
    assert caught.value.field == field


def test_unconstrained_text_without_a_label_is_malformed_and_not_raised() -> None:
    judge = judge_of("I would say four.")
    judgement = judge.score("q", "r", RUBRIC, constrain=False)
    assert (judgement.label, judgement.rationale, judgement.text) == (None, "", "I would say four.")
    assert not judge.generator.requests[0].force_label  # type: ignore[attr-defined]


def test_a_verdict_without_rationale_is_malformed_only_when_unconstrained() -> None:
    judge = judge_of({"text": "[RESULT] 4", "finish": "forced"})
    assert judge.score("q", "r", RUBRIC).label == 4
    assert judge.score("q", "r", RUBRIC, constrain=False).label is None


def test_score_and_compare_raise_what_the_engine_could_not_do() -> None:
    judge = judge_of({"finish": "error", "error": "the prompt has 9000 tokens, the context 4096"})
    with pytest.raises(SreError, match="9000 tokens"):
        judge.score("q", "r", RUBRIC)
    with pytest.raises(SreError, match="9000 tokens"):
        judge.compare("q", "r", "s", RUBRIC)


def test_judge_streams_in_the_order_of_completion_and_names_each_example() -> None:
    judge = judge_of(lambda request, sample: f"Because of {request.id}. [RESULT] 3")
    found = list(judge.judge([example("a"), example("b", label=None)]))
    assert [j.example_id for j in found] == ["b", "a"]
    assert [j.rationale for j in found] == ["Because of b.", "Because of a."]
    assert [j.truth for j in found] == [None, 3]


def test_judge_is_lazy_one_judgement_at_a_time() -> None:
    asked: list[str] = []

    def answer(request: Request, sample: int) -> str:
        asked.append(request.id)
        return "x [RESULT] 1"

    stream = judge_of(answer).judge([example("a"), example("b"), example("c")])
    assert asked == []
    next(stream)
    assert asked == ["c"]


def test_an_error_in_a_batch_is_counted_and_the_others_go_on() -> None:
    def answer(request: Request, sample: int) -> Any:
        return {"finish": "error", "error": "too long"} if request.id == "b" else "Fine. [RESULT] 5"

    judge = judge_of(answer)
    found = {j.example_id: j for j in judge.judge([example(name) for name in "abc"])}
    assert {name: j.label for name, j in found.items()} == {"a": 5, "b": None, "c": 5}
    assert (found["b"].finish, found["b"].text) == ("error", "")
    assert judge.errors == {"b": "too long"}
    list(judge.judge([example("a")]))
    assert judge.errors == {}


def test_samples_temperature_seed_and_length_reach_the_engine_and_ids_differ() -> None:
    judge = judge_of(lambda request, sample: f"Try {sample}. [RESULT] {sample + 1}")
    options: dict[str, Any] = {
        "samples": 3,
        "temperature": 1.0,
        "seed": 7,
        "max_tokens": 9,
        "constrain": False,
    }
    found = list(judge.judge([example("a")], **options))
    assert [j.label for j in found] == [1, 2, 3]
    assert len({j.id for j in found}) == 3
    assert judge.generator.sampling == Sampling(1.0, 3, 9, 7, stop_at_label=True)  # type: ignore[attr-defined]


def test_label_only_asks_the_other_prompt_and_accepts_a_label_alone() -> None:
    judge = judge_of("[RESULT] 4")
    (judgement,) = judge.judge([example("a")], label_only=True, constrain=False)
    (request,) = judge.generator.requests  # type: ignore[attr-defined]
    assert (judgement.label, judgement.rationale) == (4, "")
    assert request.label_only
    assert request.messages == Prompts().judge(example("a"), label_only=True)


def test_two_examples_of_one_id_are_refused_before_anything_runs() -> None:
    with pytest.raises(SreError, match="same id"):
        judge_of().judge([example("a"), example("a")])


def test_closing_twice_closes_the_engine_once_and_a_closed_judge_says_so() -> None:
    with judge_of() as judge:
        judge.score("q", "r", RUBRIC)
    judge.close()
    assert judge.generator.closed == 1  # type: ignore[attr-defined]
    with pytest.raises(SreError, match="closed"):
        judge.score("q", "r", RUBRIC)


# Probabilities.


def judgement(logprobs: dict[int, float]) -> Judgement:
    return Judgement("i", "e", "pointwise", "t", "r", 3, label_logprobs=logprobs)


def test_expected_score_is_the_mean_over_normalised_label_probabilities() -> None:
    found = judgement({1: math.log(0.1), 2: math.log(0.1), 5: math.log(0.2)})
    assert label_probabilities(found) == pytest.approx({1: 0.25, 2: 0.25, 5: 0.5})
    assert expected_score(found) == pytest.approx(3.25)


def test_very_small_probabilities_do_not_underflow() -> None:
    assert expected_score(judgement({1: -2000.0, 2: -2000.0})) == pytest.approx(1.5)
    assert expected_score(judgement({1: -math.inf, 2: -3.0})) == pytest.approx(2.0)


def test_without_recorded_probabilities_there_is_no_expected_score() -> None:
    assert label_probabilities(judgement({})) == {}
    assert expected_score(judgement({})) is None


# The conversions that judging and sampling share.


def test_to_judgement_keeps_what_the_engine_recorded() -> None:
    completion = Completion("a", 4, "Why. [RESULT] 2", (5, 6), "length", 9, (-1.0, -0.5), {1: -2.0, 2: -0.1})
    found = to_judgement(example("a"), completion, "iter-1")
    assert found == Judgement(
        id="a:iter-1:4",
        example_id="a",
        task="pointwise",
        text="Why. [RESULT] 2",
        rationale="Why.",
        label=2,
        truth=3,
        finish="length",
        tokens=2,
        label_logprobs={1: -2.0, 2: -0.1},
        logprob=-1.5,
        token_ids=(5, 6),
        origin="iter-1",
    )
    assert Judgement.from_json(found.to_json()) == found


def test_to_judgement_never_reads_a_label_from_an_engines_error() -> None:
    completion = Completion("a", 0, "x [RESULT] 2", (), "error", 9, error="broke")
    found = to_judgement(example("a"), completion, "m", need_rationale=False)
    assert (found.label, found.finish, found.text, found.logprob) == (None, "error", "", None)


def test_to_judgement_refuses_labels_of_the_other_task() -> None:
    pair = example("a", task="pairwise", responses=("x", "y"), label=1)
    assert to_judgement(pair, Completion("a", 0, "Why. [RESULT] 3", (), "stop", 9), "m").label is None


def test_to_request_carries_the_examples_id_and_labels() -> None:
    messages = (Message("user", "q"),)
    assert to_request(example("a"), messages, force_label=True) == Request("a", messages, (1, 2, 3, 4, 5), True)


# Opening a file.


def gguf(path: Path, pairs: dict[str, str]) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    body = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    return path


def fake_engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    opened: dict[str, Any] = {}

    class Engine(Fake):
        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(lambda request, sample: "Why. [RESULT] 1")
            opened.update(path=path, **options)

    module = types.ModuleType("recipe.engines.llamacpp")
    module.LlamaCppGenerator = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recipe.engines.llamacpp", module)
    return opened


def test_from_gguf_asks_with_the_files_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake_engine(monkeypatch)
    path = gguf(tmp_path / "mine.gguf", {"general.name": "x", "sre.prompts.pointwise": "Own: {{ criteria }}"})
    judge = Judge.from_gguf(path, threads=2, context=512, parallel=3)
    assert opened == {"path": path, "threads": 2, "context": 512, "parallel": 3}
    assert judge.prompts.judge(example("a")) == (Message("user", "Own: Are both items fruits?"),)
    assert judge.score("q", "r", RUBRIC).origin == "mine"
    assert len(judge.fingerprint) == 64


def test_from_gguf_without_prompts_inside_asks_with_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine(monkeypatch)
    judge = Judge.from_gguf(gguf(tmp_path / "plain.gguf", {"general.name": "x"}))
    assert judge.prompts.digest == Prompts().digest


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="no such model file") as caught:
        Judge.from_gguf(tmp_path / "nowhere.gguf")
    assert caught.value.file == tmp_path / "nowhere.gguf"


def test_only_prompt_keys_are_taken_from_the_metadata() -> None:
    assert prompts_in({"sre.prompts.pairwise": "x", "sre.format": "1", "general.name": "y"}) == {"pairwise": "x"}


def test_importing_the_judge_loads_no_model_library() -> None:
    heavy = "torch", "transformers", "llama_cpp", "datasets", "scipy", "sklearn", "numpy"
    code = f"import sys, recipe.judge, recipe.judge.batch; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
