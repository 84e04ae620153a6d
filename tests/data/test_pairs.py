"""Pairs made of scored rows: labels follow the scores, and neither place nor length nor prompt tells the winner."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from recipe.config import DataConfig, load
from recipe.data.pairs import pairs_from_scores
from recipe.data.records import Example, Message, Rubric
from recipe.pipeline.context import RunContext
from recipe.storage import write_jsonl

ALL = DataConfig(pairs_from_scores="inputs", pairs_balance_length=False)
RUBRICS = (Rubric("Is it right?"), Rubric("Is it kind?", {score: f"Level {score}" for score in range(1, 6)}))


def row(number: int, *, prompt: int = 0, rubric: int = 0, label: int | None, text: str, why: str = "") -> Example:
    return Example(
        id=f"row-{number}",
        task="pointwise",
        conversation=(Message("user", f"Prompt {prompt}"),),
        responses=(text,),
        rubric=RUBRICS[rubric],
        label=label,
        rationale=why,
        prompt_id=f"p{prompt}",
        origin=f"file:{number}",
    )


drawn_rows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 5), st.integers(0, 9)), max_size=24
).map(
    lambda drawn: [
        row(k, prompt=prompt, rubric=rubric, label=label, text="x" * (24 * length + k))  # no two of one length
        for k, (prompt, rubric, label, length) in enumerate(drawn)
    ]
)


def longer_wins(pair: Example) -> bool:
    first, second = map(len, pair.responses)
    return first > second if pair.label == 1 else second > first


@given(drawn_rows, st.integers(0, 3))
def test_every_pair_of_unequal_scores_comes_once_with_the_higher_score_as_winner(rows, seed):
    scored = {found.responses[0]: found for found in rows}
    pairs = pairs_from_scores(rows, ALL, seed=seed)
    for pair in pairs:
        one, other = (scored[text] for text in pair.responses)
        assert pair.label == (1 if one.label > other.label else 2)
        assert one.conversation == other.conversation == pair.conversation
        assert one.rubric == other.rubric == pair.rubric
        assert pair.prompt_id == one.prompt_id
        assert pair.rationale == ""
        assert pair.id == f"{one.id}+{other.id}"
    expected = {
        frozenset((a.responses[0], b.responses[0]))
        for a, b in combinations(rows, 2)
        if (a.conversation, a.rubric) == (b.conversation, b.rubric) and a.label != b.label
    }
    assert Counter(frozenset(pair.responses) for pair in pairs) == Counter(expected)


@given(drawn_rows, st.integers(0, 3))
def test_place_and_length_tell_nothing_in_any_beginning(rows, seed):
    settings = DataConfig(pairs_from_scores="inputs")
    pairs = pairs_from_scores(rows, settings, seed=seed)
    assert pairs == pairs_from_scores(rows, settings, seed=seed)
    assert sum(map(longer_wins, pairs)) * 2 == len(pairs)
    for end in range(1, len(pairs), 5):
        assert abs(2 * sum(pair.label == 1 for pair in pairs[:end]) - end) <= 2
        assert abs(2 * sum(map(longer_wins, pairs[:end])) - end) <= 1
    first_longer = sum(len(pair.responses[0]) > len(pair.responses[1]) for pair in pairs)
    assert abs(2 * first_longer - len(pairs)) <= 2


def test_unscored_rows_and_repeated_texts_make_no_pair():
    rows = [row(0, label=None, text="a"), row(1, label=2, text="b"), row(2, label=5, text="b")]
    assert pairs_from_scores(rows, ALL, seed=0) == []


def test_pairs_join_the_pairwise_training_rows_of_a_run(tmp_path):
    rows = [row(k, prompt=k // 4, label=1 + k % 4, text=f"{'x' * (k * 7 % 11)} {k}", why="Good.") for k in range(16)]
    own = Example(**{**vars(rows[0]), "task": "pairwise", "responses": ("a", "b"), "label": 1, "id": "own"})
    write_jsonl(tmp_path / "train" / "pointwise.jsonl", [found.to_json() for found in rows])
    write_jsonl(tmp_path / "train" / "pairwise.jsonl", [own.to_json()])

    def run(*settings: str) -> RunContext:
        sources = [f"data.{task}={tmp_path}" for task in ("pointwise", "pairwise")]
        nothing_held_out = ["data.dev_split=''", "data.test_split=''"]
        return RunContext(load("tiny", [*sources, *nothing_held_out, *settings]), tmp_path / "run")

    def ids(run: RunContext, **options: bool) -> list[str]:
        return [found.id for found in run.rows("train", "pairwise", **options)]

    assert ids(run()) == ["own"]
    inputs = run("data.pairs_from_scores=inputs")
    pairs = ids(inputs, limited=False)[1:]
    assert pairs
    assert [found.id for found in inputs.all_train[1]] == ["own", *pairs]
    assert [found.id for found in inputs.sft_rows("pairwise")] == ["own"]
