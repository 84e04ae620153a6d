"""The Python API over a fake engine: what is asked of it, what is made of its answers."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling, to_judgement
from recipe.inference.calibration import Calibration
from recipe.judge import AsyncJudge, BothOrders, Judge
from recipe.judge.judge import prompts_in, to_bytes
from recipe.judge.options import JudgeOptions
from recipe.prompts import Prompts
from tests.scripted import ScriptedGenerator

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
    found = list(judge.judge([example("a")], JudgeOptions(**options)))
    assert [j.label for j in found] == [1, 2, 3]
    assert len({j.id for j in found}) == 3
    assert judge.generator.sampling == Sampling(1.0, 3, 9, 7, stop_at_label=True)  # type: ignore[attr-defined]


def test_label_only_asks_the_other_prompt_and_accepts_a_label_alone() -> None:
    judge = judge_of("[RESULT] 4")
    (judgement,) = judge.judge([example("a")], JudgeOptions(label_only=True, constrain=False))
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


# Several judgements of one example.


def by_response(request: Request, sample: int) -> dict[str, Any]:
    """Prefers "good" wherever it stands; where both are alike, the first place."""
    first, second = request.messages[-1].content.split("<BEGIN RESPONSE 2>")
    label = 2 if "good" in second and "good" not in first else 1
    return {
        "text": f"The one of place {label}. [RESULT] {label}",
        "label_logprobs": {label: math.log(0.9), 3 - label: math.log(0.1)},
    }


SWAP = JudgeOptions(swap=True)


def pair(name: str, *responses: str) -> Example:
    return example(name, task="pairwise", responses=responses, label=2)


def test_compare_both_orders_asks_both_and_tells_a_preference_from_a_place() -> None:
    judge = judge_of(by_response)
    sure = judge.compare_both_orders("q", "bad", "good", "Which is better?")
    assert (sure.label, sure.consistent, sure.swapped_label) == (2, True, 2)
    assert sure.preference == pytest.approx(0.9)
    by_place = judge.compare_both_orders("q", "bad", "poor", "Which is better?", tie="first")
    assert (by_place.label, by_place.consistent) == (1, False)
    assert by_place.preference == pytest.approx(0.5)
    texts = [request.messages[-1].content for request in judge.generator.requests]  # type: ignore[attr-defined]
    assert [text.index("bad") < text.index("poor") for text in texts] == [True, False]


def test_both_orders_of_many_pairs_stream_one_answer_a_pair() -> None:
    found = list(judge_of(by_response).answers([pair("a", "good", "bad"), pair("b", "bad", "good")], SWAP))
    assert sorted((both.example_id, both.label, both.first.truth) for both in found) == [("a", 1, 2), ("b", 2, 2)]


def test_a_pointwise_example_among_pairs_in_both_orders_is_judged_once() -> None:
    answers = judge_of("x [RESULT] 1").answers([pair("a", "x", "y"), example("b")], SWAP)
    found = {each.example_id: each for each in answers}
    assert (type(found["a"]), type(found["b"])) == (BothOrders, Judgement)


def test_an_order_that_the_engine_could_not_do_is_raised_by_compare_both_orders() -> None:
    def answer(request: Request, sample: int) -> Any:
        return {"finish": "error", "error": "too long"} if ":swapped" in request.id else by_response(request, sample)

    with pytest.raises(SreError, match="too long"):
        judge_of(answer).compare_both_orders("q", "a", "b", "c")


def test_consensus_draws_at_temperature_1_and_takes_the_majority() -> None:
    judge = judge_of(lambda request, sample: f"Try {sample}. [RESULT] {(4, 2, 4, 3, 4)[sample]}")
    found = judge.consensus("q", "r", RUBRIC, seed=7)
    assert (found.label, found.votes, found.rationale) == (4, {2: 1, 3: 1, 4: 3}, "Try 0.")
    assert [sample.id.rpartition(":")[2] for sample in found.samples] == list("01234")
    assert judge.generator.sampling == Sampling(1.0, 5, 512, 7, stop_at_label=True)  # type: ignore[attr-defined]
    pairs = judge_of(lambda request, sample: f"x [RESULT] {1 + sample % 2}")
    assert pairs.consensus("q", ("a", "b"), "c", samples=3).votes == {1: 2, 2: 1}


def test_consensus_of_many_keeps_samples_in_order_and_examples_apart() -> None:
    judge = judge_of(lambda request, sample: f"x [RESULT] {1 if request.id == 'a' else 2}")
    many = judge.answers([example("a"), example("b")], JudgeOptions(samples=12))
    found = {agreed.example_id: agreed for agreed in many}
    assert {name: agreed.votes for name, agreed in found.items()} == {"a": {1: 12}, "b": {2: 12}}
    assert [sample.id for sample in found["a"].samples] == [f"a:fake:{k}" for k in range(12)]


@pytest.mark.parametrize("options", [{"samples": 1}, {"temperature": 0}, {"label_only": True}])
def test_a_consensus_of_equal_samples_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SreError) as caught:
        judge_of().consensus("q", "r", RUBRIC, **options)
    assert caught.value.field == "samples"


def test_a_consensus_that_the_engine_could_not_do_is_raised() -> None:
    with pytest.raises(SreError, match="too long"):
        judge_of({"finish": "error", "error": "too long"}).consensus("q", "r", RUBRIC)


# What may be judged.


@pytest.mark.parametrize("scores", [(0, 1), (1, 2, 3), (0, 5, 9)])
def test_any_scale_of_single_digits_works(scores: tuple[int, ...]) -> None:
    judge = judge_of(f"Top. [RESULT] {scores[-1]}")
    rubric = Rubric("Good?", {score: f"Level {score}." for score in scores})
    assert judge.score("q", "r", rubric).label == scores[-1]
    (request,) = judge.generator.requests  # type: ignore[attr-defined]
    assert request.labels == scores
    assert f"a number from {scores[0]} to {scores[-1]}" in request.messages[-1].content
    assert judge_of("Off. [RESULT] 4").score("q", "r", rubric, constrain=False).label is None


def test_every_turn_and_the_reference_are_shown_in_pairwise_too() -> None:
    judge = judge_of("x [RESULT] 1")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "A fruit?"},
    ]
    judge.compare(turns, "Pear.", "Brick.", "Which is right?", reference="Plum.")
    text = judge.generator.requests[0].messages[-1].content  # type: ignore[attr-defined]
    places = [text.index(part) for part in ("Be brief.", "Hi", "Hello", "A fruit?", "Plum.", "Pear.", "Brick.")]
    assert places == sorted(places)


def test_an_empty_response_is_judged() -> None:
    assert judge_of().score("q", "", RUBRIC).label == 2


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_text_that_no_file_or_tokenizer_takes_is_refused_by_name(text: str) -> None:
    for arguments, field in (
        ((text, "r", "c"), "conversation"),
        (("q", text, "c"), "response"),
        (("q", "r", text), "rubric"),
    ):
        with pytest.raises(SreError) as caught:
            judge_of().score(*arguments)
        assert caught.value.field == field
    with pytest.raises(SreError, match="reference"):
        judge_of().score("q", "r", "c", reference=text)


def test_score_takes_the_options_of_a_draw() -> None:
    judge = judge_of()
    judge.score("q", "r", RUBRIC, temperature=0.7, seed=3, max_tokens=9)
    assert judge.generator.sampling == Sampling(0.7, 1, 9, 3, stop_at_label=True)  # type: ignore[attr-defined]
    judge_of("[RESULT] 2").compare("q", "a", "b", "c", label_only=True)


def test_request_and_judgement_are_the_two_halves_of_judge() -> None:
    judge = judge_of("Why. [RESULT] 4")
    free = JudgeOptions(constrain=False)
    (whole,) = judge.judge([example("a")], free)
    request = judge.request(example("a"), free)
    assert [request] == judge.generator.requests  # type: ignore[attr-defined]
    (completion,) = judge.generator.generate([request], free.sampling)
    assert judge.judgement(example("a"), completion, free) == whole


# The conversions that judging and sampling share.


def test_to_judgement_keeps_what_the_engine_recorded() -> None:
    completion = Completion("a", 4, "Why. [RESULT] 2", (5, 6), "length", 9, {1: -2.0, 2: -0.1})
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
        origin="iter-1",
    )
    assert Judgement.from_json(found.to_json()) == found


def test_to_judgement_never_reads_a_label_from_an_engines_error() -> None:
    completion = Completion("a", 0, "x [RESULT] 2", (), "error", 9, error="broke")
    found = to_judgement(example("a"), completion, "m", need_rationale=False)
    assert (found.label, found.finish, found.text) == (None, "error", "")


def test_to_judgement_refuses_labels_of_the_other_task() -> None:
    pair = example("a", task="pairwise", responses=("x", "y"), label=1)
    assert to_judgement(pair, Completion("a", 0, "Why. [RESULT] 3", (), "stop", 9), "m").label is None


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

    module = types.ModuleType("recipe.inference.llamacpp.generator")
    module.LlamaCppGenerator = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recipe.inference.llamacpp.generator", module)
    return opened


def test_from_gguf_asks_with_the_files_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake_engine(monkeypatch)
    path = gguf(tmp_path / "mine.gguf", {"general.name": "x", "sre.prompts.pointwise": "Own: {{ criteria }}"})
    judge = Judge.from_gguf(path, threads=2, context=512, parallel=3)
    assert opened == {"path": path, "threads": 2, "context": 512, "parallel": 3, "memory": None, "gpu_layers": None}
    assert judge.prompts.judge(example("a")) == (Message("user", "Own: Are both items fruits?"),)
    assert judge.score("q", "r", RUBRIC).origin == "mine"
    assert len(judge.identity["model"]) == 64


def test_a_run_folder_is_opened_by_its_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake_engine(monkeypatch)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(SreError, match=r"no judge\.gguf yet"):
        Judge.from_gguf(tmp_path)
    path = gguf(tmp_path / "judge.gguf", {})
    assert Judge.from_gguf(tmp_path).name == tmp_path.name
    assert opened["path"] == path


def test_a_memory_budget_reaches_the_engine_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake_engine(monkeypatch)
    Judge.from_gguf(gguf(tmp_path / "mine.gguf", {}), memory="64MiB")
    assert opened["memory"] == 64 * 2**20
    with pytest.raises(SreError, match="such as 2GB"):
        Judge.from_gguf(tmp_path / "mine.gguf", memory="plenty")


@pytest.mark.parametrize(
    ("size", "found"), [("2GB", 2_000_000_000), ("1.5 GiB", 3 * 2**29), (4096, 4096), ("4096", 4096)]
)
def test_sizes_are_read_in_both_units(size: int | str, found: int) -> None:
    assert to_bytes(size) == found


@pytest.mark.parametrize("size", ["", "GB", "-1GB", 0, "2 apples"])
def test_what_is_no_size_is_refused(size: int | str) -> None:
    with pytest.raises(SreError, match="memory"):
        to_bytes(size)


def test_a_truncated_model_file_is_named(tmp_path: Path) -> None:
    path = gguf(tmp_path / "cut.gguf", {"general.name": "x" * 100})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SreError, match="damaged or cut short") as caught:
        Judge.from_gguf(path)
    assert caught.value.file == path


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


@pytest.mark.parametrize(("name", "lacking"), [("judge.gguf", "judge.gguf"), ("notes.txt", "config.toml")])
def test_a_folder_that_is_no_run_says_what_it_lacks(tmp_path: Path, name: str, lacking: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(SreError, match=lacking):
        Judge.from_gguf(tmp_path)


def test_only_prompt_keys_are_taken_from_the_metadata() -> None:
    assert prompts_in({"sre.prompts.pairwise": "x", "sre.format": "1", "general.name": "y"}) == {"pairwise": "x"}


def test_importing_the_judge_loads_no_model_library() -> None:
    heavy = "torch", "transformers", "llama_cpp", "datasets", "scipy", "sklearn", "numpy"
    code = f"import sys, recipe.judge, recipe.judge.judge_file; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HALVED = Calibration((1, 2, 3, 4, 5), tuple(tuple((i == k) / 4 for k in range(5)) for i in range(5)), (0.0,) * 5)


def test_a_calibration_changes_probabilities_and_scores_but_no_label() -> None:
    answer = {"text": "Both. [RESULT] 5", "label_logprobs": {k: -8.0 + k for k in range(1, 6)}}
    plain = Judge(Fake(lambda request, sample: answer))
    read = Judge(Fake(lambda request, sample: answer), calibrations={"pointwise": HALVED})
    before, after = (judge.score("Name two.", "A pear.", RUBRIC) for judge in (plain, read))
    assert before.label == after.label == 5
    ratio = before.label_probabilities[5] / before.label_probabilities[4]
    assert after.label_probabilities[5] / after.label_probabilities[4] == pytest.approx(ratio ** (1 / 4))
    assert (after.expected_score or 0) < (before.expected_score or 0)
    assert plain.identity != read.identity
    alone = read.score("Name two.", "A pear.", RUBRIC, label_only=True)
    assert alone.label_probabilities == before.label_probabilities


def test_the_orders_of_a_pair_are_averaged_after_the_calibration() -> None:
    """The judge always adds two nats to the first place; the calibration takes them off, and the pair is no tie."""
    calibration = Calibration((1, 2), ((1.0, 0.0), (0.0, 1.0)), (0.0, 2.0))

    def answer(request: Request, sample: int) -> dict[str, Any]:
        better = 2.5 if request.id.endswith(":swapped") else 1.0  # what the first place is ahead by
        return {"text": "So. [RESULT] 1", "label_logprobs": {1: 0.0, 2: -better}}

    judge = Judge(Fake(answer), calibrations={"pairwise": calibration})
    found = judge.compare_both_orders("Name two.", "A pear.", "A plum.", RUBRIC)
    first, swapped = (1 / (1 + math.exp(-logit)) for logit in (1.0, -0.5))
    assert found.preference == pytest.approx((first + 1 - swapped) / 2)
    assert found.label == 2


# Several threads.


def test_single_calls_from_several_threads_wait_for_each_other() -> None:
    busy, most = [0], [0]

    def answer(request: Request, sample: int) -> str:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.002)
        busy[0] -= 1
        return f"{request.messages[-1].content.split('mark-')[1][0]}. [RESULT] 3"

    judge = judge_of(answer)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: judge.score(f"mark-{k}", "r", RUBRIC).rationale, range(8)))
    assert found == [f"{k}." for k in range(8)]
    assert most == [1]


def test_a_call_waits_for_the_stream_that_another_thread_reads() -> None:
    judge = judge_of()
    stream = judge.judge([example("a"), example("b")])
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(judge.score, "q", "r", RUBRIC)
        time.sleep(0.05)
        assert not waiting.done()
        assert len(list(stream)) == 1
        assert waiting.result().label == 2


def test_an_unfinished_stream_that_is_dropped_keeps_nobody_out() -> None:
    judge = judge_of()
    next(judge.judge([example("a"), example("b")]))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(judge.score, "q", "r", RUBRIC).result().label == 2


def test_a_single_call_refuses_what_makes_several_judgements() -> None:
    for options in ({"samples": 3}, {"swap": True}):
        with pytest.raises(SreError, match="consensus"):
            judge_of().score("q", "r", RUBRIC, **options)


ODD_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    *[("from_gguf", {"threads": value}) for value in ("4", 0, 1.5, True)],
    *[("from_gguf", {"context": value}) for value in ("x", 0, None, 4096.5)],
    *[("from_gguf", {"parallel": value}) for value in ("16", 0, None)],
    *[("from_gguf", {"memory": value}) for value in ("much", 0, [1], {})],
    *[("from_gguf", {"gpu_layers": value}) for value in ("all", -2, 0.5)],
    *[("from_gguf", {"calibrated": value}) for value in ("no", None, 2)],
    *[("from_gguf", {"path": value}) for value in (None, 5, b"x")],
    *[("score", {name: None}) for name in ("conversation", "response", "rubric", "reference", "max_tokens", "seed")],
    *[("score", {"conversation": value}) for value in (5, {"role": "user"}, [5], [])],
    *[("score", {"response": value}) for value in (5, ["x"], b"x")],
    *[("score", {"rubric": value}) for value in (5, ["x"], "", "helpfulnes")],
    *[("score", {"max_tokens": value}) for value in ("8", 0, 1.5, True)],
    *[("score", {"samples": value}) for value in ("5", None, 0)],
    *[("score", {"temperature": value}) for value in ("hot", -1, float("nan"))],
    *[("score", {name: "no"}) for name in ("constrain", "label_only", "swap")],
    ("score", {"temprature": 1}),
    *[("compare", {"response_a": value}) for value in (None, 5)],
    *[("compare", {"response_b": value}) for value in (None, ["x"])],
    ("compare_both_orders", {"tie": "draw"}),
    *[("consensus", {"samples": value}) for value in ("5", 1, None, 2.5)],
    *[("consensus", {"response": value}) for value in (None, 5, ("a", "b", "c"))],
]
RIGHT: dict[str, dict[str, Any]] = {
    "score": {"conversation": "q", "response": "a", "rubric": "helpfulness"},
    "compare": {"conversation": "q", "response_a": "a", "response_b": "b", "rubric": "helpfulness"},
}
RIGHT |= {"compare_both_orders": RIGHT["compare"], "consensus": RIGHT["score"]}


@pytest.mark.parametrize(("method", "odd"), ODD_ARGUMENTS, ids=str)
def test_an_odd_argument_is_named(tmp_path: Path, method: str, odd: dict[str, Any]) -> None:
    (name,) = odd
    (tmp_path / "judge.gguf").write_bytes(b"GGUF")
    right = RIGHT.get(method, {"path": tmp_path / "judge.gguf"})
    arguments = {**right, **odd}
    places = [arguments.pop(place) for place in right]
    with pytest.raises(SreError) as caught:
        getattr(Judge(ScriptedGenerator()), method)(*places, **arguments)
    assert caught.value.field == name


def test_a_judge_is_not_made_of_a_path_and_judges_examples_alone() -> None:
    with pytest.raises(SreError, match="from_gguf"):
        Judge("judge.gguf")  # type: ignore[arg-type]
    with pytest.raises(SreError, match="examples"):
        Judge(ScriptedGenerator()).judge([{"id": "1"}])  # type: ignore[list-item]
    with pytest.raises(SreError, match="queue"):
        AsyncJudge(Judge(ScriptedGenerator()), queue="x")  # type: ignore[arg-type]
