"""Workloads are real prompts of the judge, always the same, of the stated sizes."""

from __future__ import annotations

import re
import zlib

import pytest

from benchmarks.workloads import cold_start, make_workload
from recipe.errors import SreError
from recipe.prompts import Prompts

PROMPTS = Prompts()


def encode(messages, begun):
    """About as many tokens as a model's vocabulary would give: words and signs."""
    text = "\n".join(message.content for message in messages) + begun
    return [zlib.crc32(part.encode()) for part in re.findall(r"\w+|[^\w\s]", text)]


def make(name, rows=None):
    return make_workload(name, rows, PROMPTS, encode)


def user(item):
    return item.messages[-1].content


def test_a_is_ten_samples_of_long_prompts_of_many_lengths():
    work = make("a")
    assert (len(work.items), work.samples, work.temperature) == (24, 10, 1.0)
    lengths = [len(item.ids) for item in work.items]
    assert min(lengths) >= 400
    assert max(lengths) <= 700
    assert max(lengths) - min(lengths) > 200
    assert {item.new_tokens for item in work.items} == {64, 96, 128}
    assert len({item.id for item in work.items}) == 24


def test_a_is_lengthened_by_whole_turns_before_its_own():
    conversation = user(make("a").items[0]).partition("<END CONVERSATION PREFIX>")[0]
    assert len(re.findall(r"^assistant: ", conversation, re.MULTILINE)) >= 2
    assert conversation.rstrip().splitlines()[-1].startswith("user: ")


def test_b_is_rows_under_one_rubric():
    work = make("b")
    assert (len(work.items), work.samples, work.temperature) == (200, 1, 0.0)
    assert len({user(item).partition("<END SCORING CRITERIA>")[0] for item in work.items}) == 1
    assert len({user(item) for item in work.items}) > 190
    assert {item.new_tokens for item in work.items} == {64}


def test_c_is_pairs_in_both_orders():
    items = make("c").items
    assert len(items) == 200
    first, swapped = (re.findall(r"<BEGIN RESPONSE \d>\n(.*?)\n<END", user(item), re.DOTALL) for item in items[:2])
    assert first == swapped[::-1] != swapped
    assert items[0].labels == (1, 2)


def test_d_asks_for_the_label_alone_behind_its_marker():
    work = make("d")
    assert work.label_only
    assert (len(work.items), work.new_tokens) == (200, 200)
    assert list(work.items[0].ids[-3:]) == encode((), "[RESULT]")
    assert work.items[0].messages == PROMPTS.judge(_first_test_row(), label_only=True)


def _first_test_row():
    from recipe.data.examples import read_examples

    return read_examples("seed-data", task="pointwise", split="test", limit=1)[0]


@pytest.mark.parametrize(("name", "items"), [("a", 2), ("b", 2), ("c", 4), ("d", 2)])
def test_fewer_rows_are_the_first_ones(name, items):
    short, whole = make(name, 2), make(name, 1000)
    assert len(short.items) == items
    if name != "b":  # b's rubric is its first row's either way
        assert short.items == whole.items[:items]
    assert make(name, 2) == short


@pytest.mark.parametrize("label_only", [False, True])
def test_a_cold_start_is_one_prompt_of_about_400_tokens(label_only):
    work = cold_start(PROMPTS, encode, label_only=label_only)
    (item,) = work.items
    assert 400 <= len(item.ids) <= 460
    assert (work.label_only, item.new_tokens) == ((True, 1) if label_only else (False, 64))


def test_another_name_is_refused():
    with pytest.raises(SreError, match="no workload 'e'; expected some of a, b, c, d"):
        make("e")
