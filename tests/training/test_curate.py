"""Curation: pairs of one input, different text, margin kept, nothing malformed chosen, drops explained."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.config import CurateConfig
from recipe.data.records import Judgement
from recipe.storage import read_jsonl
from recipe.training.curate import by_label, curate, run_curate


def judgement(example, sample, label, *, truth=3, task="pointwise", text=None, origin="sft", finish="stop"):
    text = f"words {sample} [RESULT] {label}" if text is None else text
    return Judgement(f"{example}:{origin}:{sample}", example, task, text, "words", label, truth, finish, origin=origin)


@st.composite
def pools(draw):
    found = []
    for number in range(draw(st.integers(1, 6))):
        task = draw(st.sampled_from(["pointwise", "pairwise"]))
        labels = (1, 2, 3, 4, 5) if task == "pointwise" else (1, 2)
        truth = draw(st.sampled_from(labels))
        for sample in range(draw(st.integers(1, 6))):
            label = draw(st.sampled_from([*labels, None]))
            words = draw(st.sampled_from(["same", f"own {sample}"]))
            text = f"{words} [RESULT] {label}" if label else f"{words} and no label"
            row = judgement(f"input-{number}", sample, label, truth=truth, task=task, text=text)
            found.append(row)
    return found


@st.composite
def configs(draw):
    return CurateConfig(
        margin=draw(st.integers(1, 3)),
        balance_labels=draw(st.booleans()),
        balance_criteria=draw(st.booleans()),
        reject_malformed=draw(st.booleans()),
        max_pairs_per_input=draw(st.sampled_from([None, 1, 2])),
        max_pairs=draw(st.sampled_from([None, 1, 3])),
    )


def check_pairs(rows, config, rule):
    criteria = {row.example_id: row.example_id[-1] for row in rows}
    preferences, dropped = curate(rows, config, rule, criteria=criteria, seed=1)
    for pair in preferences:
        assert pair.chosen.example_id == pair.rejected.example_id == pair.example_id
        assert pair.chosen.text.strip() != pair.rejected.text.strip()
        assert pair.chosen.label is not None
        assert pair.rejected.label is not None or config.reject_malformed
    assert len({pair.id for pair in preferences}) == len(preferences)
    used, lost = {pair.example_id for pair in preferences}, [row["example_id"] for row in dropped]
    assert used.isdisjoint(lost)
    assert used | set(lost) == {row.example_id for row in rows}
    assert len(set(lost)) == len(lost)
    assert all(row["reason"] for row in dropped)
    assert len(preferences) <= (config.max_pairs or len(preferences))
    counts = Counter(pair.example_id for pair in preferences)
    assert all(count <= (config.max_pairs_per_input or count) for count in counts.values())


def check_mirrors(rows, config, rule):
    preferences, _ = curate(rows, config.model_copy(update={"balance_labels": True}), rule)
    counts = Counter((p.task, p.chosen.label, p.rejected.label) for p in preferences if p.rejected.label is not None)
    for (task, chosen, rejected), count in counts.items():
        assert counts[task, rejected, chosen] == count


@settings(max_examples=200, deadline=None)
@given(pools(), configs())
def test_every_pair_keeps_the_rules_and_no_input_is_lost(rows, config):
    check_pairs(rows, config, by_label)


@settings(max_examples=200, deadline=None)
@given(pools(), configs())
def test_balanced_labels_come_with_their_mirror(rows, config):
    check_mirrors(rows, config, by_label)


@settings(max_examples=200, deadline=None)
@given(pools(), st.integers(1, 3))
def test_correct_answer_chooses_the_truth_and_keeps_the_margin(rows, margin):
    config = CurateConfig(margin=margin, balance_labels=False)
    preferences, _ = curate(rows, config)
    for pair in preferences:
        needed = 1 if pair.task == "pairwise" else margin
        assert pair.chosen.label == pair.chosen.truth
        assert abs(pair.rejected.label - pair.chosen.label) >= needed
    # All possible pairs: every right text with every text that is off by the margin.
    expected = set()
    for a in rows:
        for b in rows:
            needed = 1 if a.task == "pairwise" else margin
            if a.example_id == b.example_id and a.label == a.truth and b.label and abs(b.label - a.truth) >= needed:
                expected.add((a.example_id, a.text, b.text))
    assert {(p.example_id, p.chosen.text, p.rejected.text) for p in preferences} == expected


def plain(margin=2, **more):
    return CurateConfig(margin=margin, balance_labels=False, **more)


def test_margin_two_drops_near_misses():
    rows = [judgement("a", 0, 3), judgement("a", 1, 4), judgement("a", 2, 5)]
    preferences, _ = curate(rows, plain())
    assert [(p.chosen.label, p.rejected.label) for p in preferences] == [(3, 5)]


def test_a_pairwise_label_is_right_or_wrong_whatever_the_margin():
    rows = [judgement("a", 0, 1, truth=1, task="pairwise"), judgement("a", 1, 2, truth=1, task="pairwise")]
    preferences, _ = curate(rows, plain(margin=3))
    assert [(p.chosen.label, p.rejected.label) for p in preferences] == [(1, 2)]


def test_malformed_is_rejected_only_if_asked_for_and_engine_errors_never():
    rows = [
        judgement("a", 0, 3),
        judgement("a", 1, None, text="no verdict"),
        judgement("a", 2, None, text="", finish="error"),
    ]
    assert not curate(rows, plain())[0]
    (pair,), _ = curate(rows, plain(reject_malformed=True))
    assert pair.rejected.id == rows[1].id


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([None, None], "no well-formed judgement"),
        ([5, 1], "none right"),
        ([3, 4], "none wrong by the margin"),
    ],
)
def test_each_dropped_input_says_why(labels, reason):
    _, dropped = curate([judgement("a", k, label) for k, label in enumerate(labels)], plain())
    assert [row["reason"] for row in dropped] == [reason]


def test_a_cap_takes_one_pair_of_every_input_before_a_second_of_any():
    rows = [judgement(f"in-{i}", k, label) for i in range(4) for k, label in enumerate([3, 3, 5, 1])]
    preferences, _ = curate(rows, plain(max_pairs=4))
    assert len({pair.example_id for pair in preferences}) == 4


def test_the_same_seed_gives_the_same_pairs():
    rows = [judgement(f"in-{i}", k, label) for i in range(5) for k, label in enumerate([3, 3, 5, 1])]
    config = plain(max_pairs_per_input=2)
    assert curate(rows, config, seed=4) == curate(rows, config, seed=4)


def test_run_curate_writes_pairs_and_reasons(tmp_path):
    rows = [judgement("a", 0, 3), judgement("a", 1, 5), judgement("b", 0, 1)]
    facts = run_curate(tmp_path, rows, {}, plain(), seed=0)
    assert facts["pairs"] == len(read_jsonl(tmp_path / "preferences.jsonl")) == 1
    assert facts["dropped"] == {"none right": 1}
    assert read_jsonl(tmp_path / "dropped.jsonl")[0]["example_id"] == "b"
