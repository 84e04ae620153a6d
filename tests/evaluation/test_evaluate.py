"""Evaluation by a judge that is known: the figures are those of its answers, and differences use what both parsed."""

import pytest

from recipe.config import EvaluateConfig
from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.evaluation.compare import _differences
from recipe.evaluation.evaluate import (
    evaluate,
    headline,
    read_judgements,
)
from recipe.judge.judge import Judge
from recipe.storage import read_jsonl
from recipe.verdict import format_verdict
from tests.scripted import ScriptedGenerator


def example(number, task):
    label = number % 5 + 1 if task == "pointwise" else number % 2 + 1
    responses = ("a",) if task == "pointwise" else ("a", "b")
    turn = (Message("user", f"ask {number}"),)
    return Example(f"{task}-{number}", task, turn, responses, Rubric("Good?"), label, prompt_id=f"p{number}")


EXAMPLES = [example(number, task) for task in ("pointwise", "pairwise") for number in range(30)]
TRUTH = {row.id: row.label for row in EXAMPLES}


def run(folder, script, seed=0, **options):
    with Judge(ScriptedGenerator(script), name="sft") as judge:
        settings = EvaluateConfig(max_tokens=64, resamples=200, **options)
        return evaluate(folder, judge=judge, examples=EXAMPLES, settings=settings, seed=seed)["figures"]


def always_right(request):
    return [format_verdict("because", TRUTH[request.id])]


def malformed_on_the_first_ten(request):
    return ["because"] if int(request.id.rpartition("-")[2]) < 10 else always_right(request)


def test_a_judge_that_is_always_right(tmp_path):
    found = run(tmp_path / "evaluation" / "sft", always_right)
    assert found["pointwise"]["accuracy"]["value"] == found["pairwise"]["accuracy"]["value"] == 1
    assert found["pointwise"]["pearson"]["value"] == pytest.approx(1)
    assert found["pointwise"]["pearson_expected"]["value"] == pytest.approx(1)
    assert [row.example_id for row in read_judgements(tmp_path, "sft")] == [row.id for row in EXAMPLES]


def test_malformed_counts_as_wrong_and_stays_out_of_pearson(tmp_path):
    found = run(tmp_path, malformed_on_the_first_ten)
    assert found["pointwise"]["malformed"] == 10
    assert found["pointwise"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["pointwise"]["pearson"]["n"] == 20
    assert headline(found)["malformed"] == 20


def test_forced_labels_are_told_apart_from_written_ones(tmp_path):
    found = run(tmp_path / "evaluation" / "seed", lambda request: ["no verdict"])
    assert found["pointwise"]["malformed"] == 30
    assert found["constrained"]["pointwise"]["malformed"] == 0
    assert all(row.label is None for row in read_judgements(tmp_path, "seed"))
    assert all(row.label is not None for row in read_judgements(tmp_path, "seed-constrained"))


def test_differences_use_the_rows_that_both_parsed(tmp_path):
    run(tmp_path / "evaluation" / "sft", malformed_on_the_first_ten)
    run(tmp_path / "evaluation" / "j1", lambda request: [format_verdict("because", 1)])
    first, second = read_judgements(tmp_path, "sft"), read_judgements(tmp_path, "j1")
    found = _differences(EXAMPLES, first, second, 200)
    assert found["pointwise"]["accuracy"]["n"] == 20
    assert found["pointwise"]["accuracy"]["value"] == pytest.approx(-0.8)
    assert found["pointwise"]["pearson"]["value"] is None
    assert found["pairwise"]["accuracy"]["value"] == pytest.approx(-0.5)
    # Over all 30 rows the first judge is right in 20 and the second, which parsed all, in 6.
    assert found["pointwise"]["accuracy_all"]["n"] == 30
    assert found["pointwise"]["accuracy_all"]["value"] == pytest.approx((6 - 20) / 30)


def test_with_samples_the_majority_counts_and_the_first_is_kept_beside_it(tmp_path):
    def twice_right(request):
        wrong = 1 if TRUTH[request.id] != 1 else 2
        return [format_verdict("because", label) for label in (wrong, TRUTH[request.id], TRUTH[request.id])]

    found = run(tmp_path / "evaluation" / "sft", twice_right, samples=3)
    assert found["pointwise"]["accuracy"]["value"] == found["pairwise"]["accuracy"]["value"] == 1
    first = read_jsonl(tmp_path / "evaluation" / "sft" / "samples.jsonl", Judgement.from_json)[::3]
    assert all(row.label != TRUTH[row.example_id] for row in first)
    assert [row.example_id for row in first] == [row.id for row in EXAMPLES]


def test_a_forced_label_has_no_vote_where_one_was_written(tmp_path):
    def once_written(request):
        return [format_verdict("because", TRUTH[request.id]), "no verdict", "nor here"]

    found = run(tmp_path / "evaluation" / "sft", once_written, samples=3)
    assert found["pointwise"]["malformed"] == 0
    assert found["pointwise"]["accuracy"]["value"] == 1
    found = run(tmp_path / "evaluation" / "seed", lambda request: ["no verdict"], samples=3)
    assert found["pointwise"]["malformed"] == 30
    assert found["constrained"]["pointwise"]["malformed"] == 0


def test_a_label_that_was_asked_for_alone_is_not_malformed(tmp_path):
    for samples in (1, 3):
        found = run(tmp_path / "evaluation" / "sft", always_right, label_only=True, samples=samples)
        assert found["pointwise"]["malformed"] == found["pairwise"]["malformed"] == 0
        assert all(row.label is not None and not row.rationale for row in read_judgements(tmp_path, "sft"))
