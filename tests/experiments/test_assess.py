"""Assessment: ratings, picks in both orders, poor rationales - and what can't be read or disagrees is counted."""

import dataclasses

import pytest

from experiments.assess import PROMPTS, Assessments, parse_pick, parse_rating, read_assessments, run_assess
from recipe.config import CurateConfig, SampleConfig
from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.prompts import Prompts
from tests.scripted import ScriptedGenerator
from tests.test_prompts import tags

EXAMPLE = Example("a", "pointwise", (Message("user", "ask"),), ("answer",), Rubric("Is it good?"), 3)
PAIR = dataclasses.replace(EXAMPLE, task="pairwise", responses=("answer", "other"), label=1)
LABELS = [3, 3, 3, 5, 1]
POOL = [
    Judgement(f"a:sft:{k}", "a", "pointwise", f"reason {k} [RESULT] {label}", f"reason {k}", label, 3)
    for k, label in enumerate(LABELS)
]


def assess(folder, method, script):
    facts = run_assess(
        folder,
        generator=ScriptedGenerator(script),
        examples={"a": EXAMPLE},
        judgements=POOL,
        method=method,
        settings=CurateConfig(),
        sampling=SampleConfig(n=3),
        prompts=Prompts(PROMPTS),
        seed=0,
    )
    said = read_assessments(folder / "assessments.jsonl")
    return facts, said.ratings, said.picks, said.reversals


def test_ratings_are_read_and_unreadable_ones_counted(tmp_path):
    def script(request):
        return ["no rating" if request.id == "a:sft:1" else "fine. Judgment rating: 4"]

    facts, ratings, _, _ = assess(tmp_path, "self-assessment", script)
    assert ratings == {f"a:sft:{k}": 4 for k in (0, 2, 3, 4)}
    assert (facts["questions"], facts["malformed"]) == (5, 1)


def best_is(*order):
    """A meta-judge that ranks rationales by `order`, whatever the order they are shown in."""

    def script(request):
        text = request.messages[0].content
        shown = sorted((text.index(f"\n{name}\n"), name) for name in order if f"\n{name}\n" in text)
        names = [name for _, name in shown]
        ranked = [names.index(name) + 1 for name in order if name in names]
        return [f'["ITEM{ranked[0]}", "ITEM{ranked[-1]}"]']

    return script


def test_a_pick_that_holds_in_both_orders_counts(tmp_path):
    facts, _, picks, _ = assess(tmp_path, "meta-judge-equal", best_is("reason 2", "reason 0", "reason 1"))
    assert picks == {("a", "right"): ("a:sft:2", "a:sft:1")}
    assert facts["disagreed"] == 0


def test_the_meta_judge_with_margin_picks_on_both_sides(tmp_path):
    order = ("reason 1", "reason 0", "reason 2", "reason 4", "reason 3")
    _, _, picks, _ = assess(tmp_path, "meta-judge", best_is(*order))
    assert picks == {("a", "right"): ("a:sft:1", "a:sft:2"), ("a", "wrong"): ("a:sft:4", "a:sft:3")}


def test_a_judge_that_goes_by_position_disagrees_with_itself(tmp_path):
    facts, _, picks, _ = assess(tmp_path, "meta-judge-equal", lambda request: ['["ITEM1", "ITEM2"]'])
    assert picks == {("a", "right"): None}
    assert facts["disagreed"] == 1


def test_poor_rationales_come_from_the_childlike_prompt(tmp_path):
    def script(request):
        assert "young child" in request.messages[0].content
        return ["me like [RESULT] 3", "me not like [RESULT] 1", "me"]

    facts, _, _, reversals = assess(tmp_path, "preference-reversal", script)
    assert [judgement.label for judgement in reversals["a"]] == [3, 1, None]
    assert {judgement.origin for judgement in reversals["a"]} == {"reversal"}
    assert facts["malformed"] == 1


def test_without_a_file_nothing_was_said():
    assert read_assessments(None) == Assessments()


@pytest.mark.parametrize("example", [EXAMPLE, PAIR])
def test_the_prompts_without_a_system_part(example):
    judges = Prompts(PROMPTS)
    (assessment,) = judges.render("self_assessment", example, judgement="It is so. [RESULT] 3")
    assert tags(assessment.content)[-2:] == ["SCORING CRITERIA", "JUDGMENT"]
    assert "Judgment rating: <1-5>" in assessment.content
    (meta,) = judges.render("meta_judge", example, contender_rationales=["first", "second", "third"])
    assert tags(meta.content)[-3:] == ["ITEM1", "ITEM2", "ITEM3"]
    (reversal,) = judges.render("preference_reversal", example)
    assert "SCORING CRITERIA" not in tags(reversal.content)


def test_ratings_and_picks_within_reasoning_do_not_count():
    assert parse_rating("<think>Judgment rating: 2") is None
    assert parse_rating("<think>Judgment rating: 2</think> Sound. Judgment rating: 4") == 4
    assert parse_rating("<think>Judgment rating: 2</think> Sound.") is None
    assert parse_pick('<think>["ITEM1", "ITEM2"]', 2) is None
    assert parse_pick('<think>["ITEM1", "ITEM2"]</think>["ITEM2", "ITEM1"]', 2) == (1, 0)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Judgment rating: 4", 4),
        ("Judgment rating: 1 ... Judgment rating: 5", 5),
        ("Judgment rating: 7", None),
        ("Judgment rating: 4.5", None),
        ("rating 4", None),
    ],
)
def test_ratings(text, rating):
    assert parse_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ('["ITEM3", "ITEM1"]', (2, 0)),
        ('so ["ITEM1","ITEM2"] then ["ITEM2", "ITEM1"]', (1, 0)),
        ('["ITEM1", "ITEM1"]', None),
        ('["ITEM4", "ITEM1"]', None),
        ('["ITEM0", "ITEM1"]', None),
        ("ITEM1, ITEM2", None),
    ],
)
def test_picks_name_two_different_existing_items(text, pick):
    assert parse_pick(text, items=3) == pick
