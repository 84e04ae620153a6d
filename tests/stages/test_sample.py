"""Sampling: N judgements of each input, in whole blocks, the same after a cut as without one."""

import pytest

from recipe.config import SampleConfig
from recipe.engines.scripted import ScriptedGenerator
from recipe.rows import Example, Message, Rubric
from recipe.run import read_jsonl
from recipe.stages.sample import choose_inputs, run_sample


def example(number, task="pointwise"):
    responses = ("a",) if task == "pointwise" else ("a", "b")
    return Example(f"{task}-{number}", task, (Message("user", f"ask {number}"),), responses, Rubric("Is it good?"), 1)


EXAMPLES = [example(number) for number in range(5)]
SETTINGS = SampleConfig(n=3, block=2)


def sample(folder, generator=None, examples=EXAMPLES, settings=SETTINGS):
    generator = generator or ScriptedGenerator()
    return run_sample(folder, generator=generator, examples=examples, settings=settings, origin="sft", seed=0)


def test_every_input_gets_n_judgements_in_its_order(tmp_path):
    facts = sample(tmp_path)
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["example_id"] for row in rows] == [e.id for e in EXAMPLES for _ in range(3)]
    assert len({row["id"] for row in rows}) == len(rows) == facts["judgements"] == 15
    assert facts["inputs"] == 5
    assert facts["malformed"] == 0
    assert {row["origin"] for row in rows} == {"sft"}


@pytest.mark.parametrize("kept", [0, 1, 7, 10_000, 10_001])
def test_a_cut_file_is_completed_to_the_same_bytes(tmp_path, kept):
    (tmp_path / "whole").mkdir()
    sample(tmp_path / "whole")
    whole = (tmp_path / "whole" / "samples.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "samples.jsonl").write_bytes(whole[: len(whole) * kept // 10_000])
    sample(tmp_path / "cut")
    assert (tmp_path / "cut" / "samples.jsonl").read_bytes() == whole


def test_finished_blocks_are_not_asked_for_again(tmp_path):
    sample(tmp_path, examples=EXAMPLES[:4])
    generator = ScriptedGenerator()
    sample(tmp_path, generator)
    assert [request.id for request in generator.seen] == ["pointwise-4"]


def test_malformed_text_is_counted_and_gets_no_label(tmp_path):
    generator = ScriptedGenerator(lambda request: ["no verdict", "good [RESULT] 1", "bad [RESULT] 9"])
    facts = sample(tmp_path, generator)
    assert facts["malformed"] == 10
    assert facts["right"] == 5
    assert facts["labels"] == {"pointwise": {"1": 5, "malformed": 10}}


def test_an_input_the_engine_can_not_take_is_counted_as_an_error(tmp_path):
    facts = sample(tmp_path, ScriptedGenerator(context=1))
    assert facts["errors"] == facts["malformed"] == 15


POINTWISE = [example(number) for number in range(20)]
PAIRWISE = [example(number, "pairwise") for number in range(10)]


def chosen(t, **settings):
    rows = choose_inputs(POINTWISE, PAIRWISE, SampleConfig(**settings), iteration=t, seed=3)
    return {row.id for row in rows}


def test_iterations_see_different_inputs_while_there_are_enough():
    first, second = chosen(1, inputs=(8, 6)), chosen(2, inputs=(8, 6))
    assert (len(first), len(second)) == (8, 6)
    assert first.isdisjoint(second)
    assert sum(name.startswith("pairwise") for name in first) == 4


def test_the_last_number_of_inputs_serves_further_iterations_and_rows_wrap_around():
    third = chosen(3, inputs=(8, 6))
    assert len(third) == 6
    assert sum(name.startswith("pairwise") for name in third) == 3


def test_the_pairwise_share_is_a_setting_and_no_more_rows_than_there_are_are_taken():
    assert not any(name.startswith("pairwise") for name in chosen(1, inputs=(8,), pairwise_share=0.0))
    assert len(chosen(1, inputs=(5000,))) == 30
