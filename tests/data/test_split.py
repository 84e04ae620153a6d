"""Splits part by whole prompts, in an order of which any beginning is balanced; what is held back is written once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from recipe.cli.main import main
from recipe.data.examples import read_examples
from recipe.data.records import Example, Message, Rubric
from recipe.data.split import characters, prepare_splits, split_rows, spread
from recipe.errors import SreError


def row(number: int, prompt: int, label: int, *, pair: bool = False, rationale: str = "Because.") -> Example:
    return Example(
        id=f"row-{number}",
        task="pairwise" if pair else "pointwise",
        conversation=(Message("user", f"Prompt {prompt}"),),
        responses=("one", "two") if pair else ("one",),
        rubric=Rubric("Is it good?"),
        label=label,
        rationale=rationale,
        prompt_id=f"p{prompt}",
    )


rows_of_prompts = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), min_size=1, max_size=60).map(
    lambda drawn: [row(k, prompt, label) for k, (prompt, label) in enumerate(drawn)]
)


@given(rows_of_prompts, st.integers(0, 3), st.sampled_from([(0.0, 0.0), (0.2, 0.1), (0.5, 0.5), (0.0, 1.0)]))
def test_every_row_is_in_one_split_and_its_prompt_in_no_other(rows, seed, shares):
    dev, test = shares
    half = len(rows) // 2
    splits = split_rows({"a": rows[:half], "b": rows[half:]}, dev=dev, test=test, seed=seed)
    found = [row for sources in splits.values() for some in sources.values() for row in some]
    assert sorted(row.id for row in found) == sorted(row.id for row in rows)
    prompts = [{row.prompt_id for some in sources.values() for row in some} for sources in splits.values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts))


def test_a_share_of_few_prompts_still_holds_one_back():
    splits = split_rows({"a": [row(k, k % 3, 1) for k in range(9)]}, dev=0.1, test=0.1, seed=0)
    assert [len({r.prompt_id for r in splits[name]["a"]}) for name in ("train", "dev", "test")] == [1, 1, 1]


@pytest.mark.parametrize(("dev", "test"), [(-0.1, 0), (0.6, 0.6), (0, 1.1)])
def test_shares_that_cannot_be_are_an_error(dev, test):
    with pytest.raises(SreError, match="held back"):
        split_rows({"a": [row(0, 0, 1)]}, dev=dev, test=test, seed=0)


@given(rows_of_prompts, st.integers(0, 3))
def test_labels_take_turns_while_there_are_rows_of_each(rows, seed):
    ordered = spread(rows, seed)
    counts = Counter(r.label for r in rows)
    for n in range(1, min(counts.values()) * len(counts) + 1):
        so_far = Counter(r.label for r in ordered[:n])
        assert max(so_far.values()) - min(so_far[label] for label in counts) <= 1


def test_prompts_take_turns_within_a_label():
    rows = [row(k, 0, 3) for k in range(5)] + [row(9, 1, 3)]
    assert {r.prompt_id for r in spread(rows, 0)[:2]} == {"p0", "p1"}


def test_the_longer_response_wins_in_half_of_the_first_pairs():
    pairs = [row(k, k % 5, 1 + k % 2, pair=True) for k in range(40)]
    # In 32 of the 40 the longer response is the better one, as in most collections.
    lengths = [
        ("long response", "short") if (pair.label == 1) == (k < 32) else ("short", "long response")
        for k, pair in enumerate(pairs)
    ]
    pairs = [replace(pair, responses=both) for pair, both in zip(pairs, lengths, strict=True)]
    first = spread(pairs, 0)[:16]
    assert sum(len(pair.responses[pair.label - 1]) > 5 for pair in first) == 8
    assert Counter(pair.label for pair in first) == {1: 8, 2: 8}


def test_rows_with_a_rationale_come_first():
    rows = [row(k, k, 1 + k % 5, rationale="" if k % 2 else "Because.") for k in range(20)]
    assert [bool(r.rationale) for r in spread(rows, 0)] == [True] * 10 + [False] * 10


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    rows = [row(k, k % 7, 1 + k % 5) for k in range(40)]
    assert spread(rows, 1) == spread(rows, 1) != spread(rows, 2)


def sre(*arguments):
    return CliRunner().invoke(main, ["split", *map(str, arguments)])


def test_the_command_writes_folders_that_a_run_reads(tmp_path, tiny_data):
    out = tmp_path / "data"
    files = [f"scores={tiny_data / 'train/pointwise.jsonl'}", f"picks={tiny_data / 'train/pairwise.jsonl'}"]
    result = sre(*files, "-o", out, "--dev", "0.25", "--test", "0.25", "-n", "5", "-n", "4", "--both-orders")
    assert result.exit_code == 0, result.output
    counts = {
        (split, task): len(read_examples(out, task=task, split=split))
        for split in ("train", "dev", "test")
        for task in ("pointwise", "pairwise")
    }
    # The pointwise file's prompts were placed first; both files have the same prompts.
    assert counts == {
        ("train", "pointwise"): 5,
        ("train", "pairwise"): 4,
        ("dev", "pointwise"): 5,
        ("dev", "pairwise"): 8,
        ("test", "pointwise"): 5,
        ("test", "pairwise"): 8,
    }
    assert len(read_examples(out, split="test")) == 13  # of both tasks
    assert {r.aspect for r in read_examples(out, task="pairwise", split="test")} == {"picks"}


def test_what_holds_rows_back_is_told_where_none_are(tmp_path, tiny_data):
    rows = tiny_data / "train/pointwise.jsonl"
    told = sre(rows, "-o", tmp_path / "all").stderr
    assert "--dev 0.1 --test 0.1" in told
    with pytest.raises(SreError, match=r"sre split .*--test 0\.1"):
        read_examples(tmp_path / "all", split="test")
    assert sre(rows, "-o", tmp_path / "parts", *told.partition("rows: ")[2].split()[:4]).stderr.count("--dev") == 0
    assert read_examples(tmp_path / "parts", split="test")


def test_a_split_that_is_there_is_not_written_over(tmp_path, tiny_data):
    arguments = (tiny_data / "train/pointwise.jsonl", "-o", tmp_path / "data", "--test", "0.5")
    assert sre(*arguments).exit_code == 0
    before = (tmp_path / "data/test/pointwise.jsonl").read_bytes()
    result = sre(*arguments, "--seed", "1")
    assert result.exit_code == 2
    assert "is there already" in result.output
    assert (tmp_path / "data/test/pointwise.jsonl").read_bytes() == before


def test_numbers_that_fit_no_files_and_lengths_that_fit_no_row_are_errors(tmp_path, tiny_data):
    file = tiny_data / "train/pointwise.jsonl"
    assert "once for each of the 1 files" in sre(file, "-o", tmp_path / "a", "-n", "1", "-n", "2").output
    result = sre(file, "-o", tmp_path / "a", "--max-chars", "3")
    assert (result.exit_code, "no row has 3 characters or less" in result.output) == (2, True)


def test_long_rows_are_left_out(tmp_path, tiny_data):
    file = tiny_data / "train/pointwise.jsonl"
    lengths = sorted(map(characters, read_examples(file)))
    middle = lengths[len(lengths) // 2]
    splits = prepare_splits({"a": str(file)}, tmp_path / "data", max_chars=middle)
    assert splits == {"train": {"pointwise": sum(length <= middle for length in lengths)}}
    assert splits["train"]["pointwise"] < len(lengths)


def test_files_of_one_name_or_with_one_id_are_refused(tmp_path, tiny_data):
    twin = tmp_path / "pointwise.jsonl"
    twin.write_bytes((tiny_data / "train/pointwise.jsonl").read_bytes())
    result = sre(tiny_data / "train/pointwise.jsonl", twin, "-o", tmp_path / "data")
    assert (result.exit_code, "the same name" in result.output) == (2, True)
    result = sre(tiny_data / "train/pointwise.jsonl", f"other={twin}", "-o", tmp_path / "data")
    assert (result.exit_code, "two files have a row 'point-0'" in result.output) == (2, True)
    assert not (tmp_path / "data").exists()


def test_both_orders_of_a_held_back_pair_stand_together(tmp_path, tiny_data):
    prepare_splits({"a": str(tiny_data / "train/pairwise.jsonl")}, tmp_path / "data", test=1.0, both_orders=True)
    rows = read_examples(tmp_path / "data", task="pairwise", split="test")
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert (other.id, other.label, other.responses) == (f"{one.id}:swapped", 3 - one.label, one.responses[::-1])
