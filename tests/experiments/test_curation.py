"""The rules of curation that are baselines: what they choose, and that their pairs keep the recipe's rules."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assess import Assessments
from experiments.curation import METHODS, rule_of
from recipe.training.curate import curate
from tests.training.test_curate import check_mirrors, check_pairs, configs, judgement, plain, pools


def curated(method, rows, config, assessments=None):
    return curate(rows, config, rule_of(method, assessments or Assessments()))


def said(rows):
    """What an assessor might have answered about the rows, at random but fixed."""
    rng = random.Random(len(rows))
    ratings = {row.id: rng.randint(1, 5) for row in rows}
    sides = {}
    for row in rows:
        side = "right" if row.label == row.truth else "wrong"
        sides.setdefault((row.example_id, side), {}).setdefault(row.text.strip(), row.id)
    picks = {}
    for key, texts in sides.items():
        ids = list(texts.values())
        picks[key] = tuple(rng.sample(ids, 2)) if len(ids) > 1 and rng.random() < 0.7 else None
    reversals = {
        row.example_id: [judgement(row.example_id, 0, row.truth, truth=row.truth, task=row.task, origin="reversal")]
        for row in rows
    }
    return Assessments(ratings, picks, reversals)


@settings(max_examples=300, deadline=None)
@given(pools(), configs(), st.sampled_from(METHODS))
def test_pairs_of_every_rule_are_sound_and_no_input_is_lost(rows, config, method):
    check_pairs(rows, config, rule_of(method, said(rows)))
    check_mirrors(rows, config, rule_of(method, said(rows)))


def test_majority_vote_takes_the_most_frequent_label_for_the_truth():
    rows = [judgement("a", k, label, truth=3) for k, label in enumerate([5, 5, 3, 1])]
    preferences, _ = curated("majority-vote", rows, plain())
    assert {(p.chosen.label, p.rejected.label) for p in preferences} == {(5, 3), (5, 1)}


def test_majority_vote_yields_nothing_on_a_tie():
    rows = [judgement("a", k, label) for k, label in enumerate([5, 5, 3, 3, 1])]
    preferences, dropped = curated("majority-vote", rows, plain())
    assert not preferences
    assert [row["reason"] for row in dropped] == ["tie for the most frequent label"]


def test_self_assessment_goes_by_ratings_alone():
    rows = [judgement("a", 0, 1), judgement("a", 1, 3)]
    ratings = {rows[0].id: 5, rows[1].id: 2}
    preferences, _ = curated("self-assessment", rows, plain(margin=3), Assessments(ratings))
    assert [(p.chosen.label, p.rejected.label) for p in preferences] == [(1, 3)]
    assert not curated("self-assessment", rows, plain(margin=4), Assessments(ratings))[0]


def test_meta_judge_with_margin_takes_the_best_right_and_the_worst_wrong():
    rows = [judgement("a", k, label) for k, label in enumerate([3, 3, 5, 1])]
    picks = {("a", "right"): (rows[1].id, rows[0].id), ("a", "wrong"): (rows[2].id, rows[3].id)}
    preferences, _ = curated("meta-judge", rows, plain(), Assessments(picks=picks))
    assert [(p.chosen.id, p.rejected.id) for p in preferences] == [(rows[1].id, rows[3].id)]


def test_meta_judge_equal_pairs_two_right_judgements_and_drops_disagreement():
    rows = [judgement("a", 0, 3), judgement("a", 1, 3), judgement("b", 0, 3), judgement("b", 1, 3)]
    picks = {("a", "right"): (rows[1].id, rows[0].id), ("b", "right"): None}
    preferences, dropped = curated("meta-judge-equal", rows, plain(), Assessments(picks=picks))
    assert [(p.chosen.id, p.rejected.id) for p in preferences] == [(rows[1].id, rows[0].id)]
    assert [(row["example_id"], row["reason"]) for row in dropped] == [("b", "the meta-judge disagreed with itself")]


def test_random_equal_pairs_right_labels():
    rows = [judgement("a", k, 3) for k in range(4)]
    (pair,), _ = curated("random-equal", rows, plain())
    assert pair.chosen.label == pair.rejected.label == 3


def test_preference_reversal_chooses_the_poor_rationale():
    rows = [judgement("a", 0, 3)]
    poor = [
        judgement("a", 0, 3, origin="reversal", text="me like it [RESULT] 3"),
        judgement("a", 1, 1, origin="reversal"),
    ]
    (pair,), _ = curated("preference-reversal", rows, plain(), Assessments(reversals={"a": poor}))
    assert pair.chosen.text.startswith("me like it")
    assert pair.rejected.id == rows[0].id
