"""Sampling: N judgements of each input, in whole blocks, the same after a cut as without one."""

import itertools

import pytest

from recipe.config import SampleConfig
from recipe.data.records import Example, Message, Rubric
from recipe.prompts import Prompts
from recipe.storage import read_jsonl
from recipe.training.sample import choose_inputs, run_sample
from tests.scripted import ScriptedGenerator


def example(number, task="pointwise"):
    responses = ("a",) if task == "pointwise" else ("a", "b")
    return Example(f"{task}-{number}", task, (Message("user", f"ask {number}"),), responses, Rubric("Is it good?"), 1)


EXAMPLES = [example(number) for number in range(5)]
SETTINGS = SampleConfig(n=3, block=2)


def sample(folder, generator=None, examples=EXAMPLES, settings=SETTINGS):
    generator = generator or ScriptedGenerator()
    return run_sample(
        folder, generator=generator, examples=examples, settings=settings, prompts=Prompts(), origin="sft", seed=0
    )


def test_every_input_gets_n_judgements_in_its_order(tmp_path):
    facts = sample(tmp_path)
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["example_id"] for row in rows] == [e.id for e in EXAMPLES for _ in range(3)]
    assert len({row["id"] for row in rows}) == len(rows) == facts["judgements"] == 15
    assert facts["examples"] == 5
    assert facts["malformed"] == 0
    assert {row["origin"] for row in rows} == {"sft"}


@pytest.fixture
def part(monkeypatch):
    """`sample` as process `number` of `processes`."""

    def run(folder, number, processes, *args, **options):
        with monkeypatch.context() as launched:
            launched.setenv("RANK", str(number))
            launched.setenv("WORLD_SIZE", str(processes))
            return sample(folder, *args, **options)

    return run


class Dies(ScriptedGenerator):
    """Dies in its second block."""

    def generate(self, requests, sampling):
        if self.seen:
            raise KeyboardInterrupt
        return super().generate(requests, sampling)


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "whole").mkdir()
    sample(tmp_path / "whole")
    return (tmp_path / "whole" / "samples.jsonl").read_bytes()


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_several_processes_write_the_bytes_of_one(tmp_path, whole, part, processes):
    (tmp_path / "shared").mkdir()
    generators = [ScriptedGenerator() for _ in range(processes)]
    for number in reversed(range(processes)):
        facts = part(tmp_path / "shared", number, processes, generators[number])
    assert (tmp_path / "shared" / "samples.jsonl").read_bytes() == whole
    assert list((tmp_path / "shared").iterdir()) == [tmp_path / "shared" / "samples.jsonl"]
    assert facts["judgements"] == 15
    asked = [[request.id for request in generator.seen] for generator in generators]
    assert asked[0] == ["pointwise-0", "pointwise-1", *(["pointwise-4"] if processes == 2 else [])]
    assert sorted(itertools.chain(*asked)) == [row.id for row in EXAMPLES]


def test_killed_and_resumed_equals_uninterrupted(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path, Dies())
    assert not (tmp_path / "samples.jsonl").exists()
    generator = ScriptedGenerator()
    sample(tmp_path, generator)
    assert (tmp_path / "samples.jsonl").read_bytes() == whole
    assert [request.id for request in generator.seen] == ["pointwise-2", "pointwise-3", "pointwise-4"]


def test_a_finished_file_is_not_drawn_again_and_a_cut_one_is(tmp_path, whole):
    generator = ScriptedGenerator()
    (tmp_path / "samples.jsonl").write_bytes(whole)
    assert sample(tmp_path, generator)["judgements"] == 15
    assert not generator.seen
    (tmp_path / "samples.jsonl").write_bytes(whole[:-7])
    sample(tmp_path, generator)
    assert (tmp_path / "samples.jsonl").read_bytes() == whole


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_goes_on_from_what_two_began(tmp_path, whole, part, processes):
    folder = tmp_path / "shared"
    part(folder, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        part(folder, 0, 2, Dies())
    generators = [ScriptedGenerator() for _ in range(processes)]
    for number in reversed(range(processes)):
        part(folder, number, processes, generators[number])
    assert (folder / "samples.jsonl").read_bytes() == whole
    assert [path.name for path in folder.iterdir()] == ["samples.jsonl"]
    assert [request.id for generator in generators for request in generator.seen] == ["pointwise-4"]


def test_malformed_text_is_counted_and_gets_no_label(tmp_path):
    generator = ScriptedGenerator(lambda request: ["no verdict", "good [RESULT] 1", "bad [RESULT] 9"])
    facts = sample(tmp_path, generator)
    assert facts["malformed"] == 10
    assert facts["right"] == 5


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


def test_a_round_that_is_not_named_takes_a_tenth():
    assert [len(chosen(t, inputs=(20,))) for t in (1, 2, 3)] == [20, 2, 2]
    assert [len(chosen(t, inputs=(20, 16))) for t in (2, 3)] == [16, 2]


def test_rows_wrap_around_and_one_task_alone_takes_them_all():
    assert len(chosen(2, inputs=(20, 18))) == 18
    rows = choose_inputs(POINTWISE, [], SampleConfig(inputs=(12,)), iteration=1, seed=3)
    assert [row.task for row in rows] == ["pointwise"] * 12


def test_the_pairwise_share_is_a_setting_and_no_more_rows_than_there_are_are_taken():
    assert not any(name.startswith("pairwise") for name in chosen(1, inputs=(8,), pairwise_share=0.0))
    assert len(chosen(1, inputs=(5000,))) == 30
