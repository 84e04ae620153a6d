"""Rationales for rows with labels alone: unhinted first, then with the label, kept where they lead to it."""

import dataclasses

import pytest

from recipe.config import BootstrapConfig
from recipe.data.records import Example, Message, Rubric, exchanged, in_both_orders
from recipe.inference.base import Request
from recipe.prompts import Prompts
from recipe.storage import read_jsonl
from recipe.training.bootstrap import run_bootstrap, with_rationales
from recipe.training.sample import Judgement
from tests.scripted import ScriptedGenerator

SETTINGS = BootstrapConfig(n=2, block=2)
RUBRIC = Rubric("Is it good?", {k: f"level {k}" for k in range(1, 6)})


def row(number, label=3, task="pointwise"):
    responses = ("apple",) if task == "pointwise" else ("apple", "brick")
    return Example(f"{task}-{number}", task, (Message("user", f"ask {number}"),), responses, RUBRIC, label)


ROWS = [row(number) for number in range(5)]


def told(request: Request) -> bool:
    return "\nHint: " in request.messages[-1].content


def script(request: Request) -> list[str]:
    """Right without a hint for row 0, with it for rows 1 and 2, never for the others."""
    number = int(request.id[-1])
    right = number == 0 or (number < 3 and told(request))
    return [f"It names fruit number {number}, as asked. [RESULT] {3 if right else 1}", "Too short. [RESULT] 5"]


def write(folder, rows=ROWS, script=script, generator=None, **options):
    folder.mkdir(exist_ok=True)
    generator = generator or ScriptedGenerator(script, name="seed")
    given = {"settings": SETTINGS, "prompts": Prompts(), "held": False, "seed": 0, **options}
    facts = run_bootstrap(folder, generator=generator, examples=rows, **given)
    return facts, read_jsonl(folder / "rationales.jsonl")


def test_rows_are_asked_without_a_hint_and_again_with_it_where_no_label_was_right(tmp_path):
    generator = ScriptedGenerator(script, name="seed")
    facts, found = write(tmp_path, generator=generator)
    assert [(j["example_id"], j["origin"]) for j in found] == [
        ("pointwise-0", "seed"),
        ("pointwise-1", "seed, told the label"),
        ("pointwise-2", "seed, told the label"),
    ]
    assert {j["label"] for j in found} == {3}
    assert [request.id[-1] for request in generator.seen] == list("012341234")
    assert [told(request) for request in generator.seen] == [False] * 5 + [True] * 4
    assert "the right number is 3 (level 3)" in generator.seen[-1].messages[-1].content
    assert facts == {
        "maker": "seed",
        "rows": 5,
        "unhinted": 1,
        "hinted": 2,
        "without": 2,
        "tokens": facts["tokens"],
        "dropped": {"wrong label": 15},
    }


BAD = {
    "[RESULT] 3": "malformed",
    "No verdict at all": "malformed",
    "Nice. [RESULT] 3": "empty",
    "<BEGIN RESPONSE> It is a fine answer. [RESULT] 3": "repeats the prompt's marks",
    "As the hint says, it is a fine answer. [RESULT] 3": "speaks of the hint",
    "It is a fine answer because the [RESULT] 3": "cut off",
    "It is fine. " * 20 + "[RESULT] 3": "repetition",
}


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_a_rationale_that_teaches_nothing_is_counted_with_its_reason(tmp_path, text, why):
    class Free(ScriptedGenerator):
        """Forces no label, like a server."""

        def generate(self, requests, sampling):
            return super().generate([dataclasses.replace(r, force_label=False) for r in requests], sampling)

    facts, found = write(tmp_path, ROWS[:1], generator=Free(lambda _: [text]))
    assert (facts["dropped"], facts["without"], found) == ({why: 4}, 1, [])


def test_one_text_is_the_rationale_of_one_row(tmp_path):
    facts, found = write(tmp_path, ROWS[:2], lambda _: ["It is a fine answer. [RESULT] 3"])
    assert [j["example_id"] for j in found] == ["pointwise-0"]
    assert facts["dropped"] == {"repetition": 5}


def test_more_than_one_rationale_of_a_row_is_kept_where_asked_for(tmp_path):
    def two(request):
        return [f"{word} fruit, as asked for. [RESULT] 3" for word in ("It names", "There is")]

    facts, found = write(tmp_path / "one", ROWS[:1], two)
    assert (len(found), facts["dropped"]) == (1, {"more than bootstrap.keep of a row": 1})
    _, found = write(tmp_path / "two", ROWS[:1], two, settings=SETTINGS.model_copy(update={"keep": 2}))
    assert len(found) == 2


def test_a_pairs_rationale_must_argue_for_its_label_and_is_seen_in_both_orders(tmp_path):
    pair = row(0, 1, "pairwise")
    wrong = "Response 2 is better. [RESULT] 1"
    facts, _ = write(tmp_path / "wrong", [pair], lambda _: [wrong])
    assert facts["dropped"] == {"contradicts its label": 4}
    _, found = write(tmp_path / "right", [pair], lambda _: ["Response A names fruit, Response B a brick. [RESULT] 1"])
    first, second = with_rationales(in_both_orders([pair]), [Judgement.from_json(j) for j in found])
    assert first.rationale == "Response 1 names fruit, Response 2 a brick."
    assert second == exchanged(first)
    assert second.rationale == "Response 2 names fruit, Response 1 a brick."
    assert first.origin == "rationale by seed"


def test_rows_with_a_rationale_of_their_own_keep_it(tmp_path):
    _, found = write(tmp_path)
    own = dataclasses.replace(row(9), rationale="Because.")
    rows = list(with_rationales([own, *ROWS], [Judgement.from_json(j) for j in found]))
    assert rows[0] == own
    assert [r.id for r in rows] == ["pointwise-9", "pointwise-0", "pointwise-1", "pointwise-2"]
    assert all(r.rationale for r in rows)


@pytest.mark.parametrize("name", ["unhinted/samples", "hinted/samples"])
@pytest.mark.parametrize("kept", [0, 40, 99])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, name, kept):
    write(tmp_path / "whole")
    write(tmp_path / "cut")
    names = ("unhinted/samples", "hinted/samples", "rationales")
    whole = {n: (tmp_path / "whole" / f"{n}.jsonl").read_bytes() for n in names}
    (tmp_path / "cut" / "rationales.jsonl").unlink()
    if name == "unhinted/samples":
        (tmp_path / "cut" / "hinted" / "samples.jsonl").unlink()
    path = tmp_path / "cut" / f"{name}.jsonl"
    path.write_bytes(whole[name][: len(whole[name]) * kept // 100])
    write(tmp_path / "cut")
    assert {n: (tmp_path / "cut" / f"{n}.jsonl").read_bytes() for n in names} == whole


def test_a_row_that_does_not_fit_is_counted_as_an_error(tmp_path):
    facts, found = write(tmp_path, generator=ScriptedGenerator(script, context=1))
    assert (facts["dropped"], found) == ({"error": 20}, [])


def test_the_seed_model_is_held_to_sentences_about_the_response(tmp_path):
    generator = ScriptedGenerator(script)
    write(tmp_path, [row(0), row(1, 1, "pairwise")], generator=generator, held=True)
    scored, paired = (request.grammar for request in generator.seen[:2])
    assert scored.startswith('root ::= "The response" " " sentence')
    assert scored.endswith('label ::= "1" | "2" | "3" | "4" | "5"\n')
    assert '"Response " [12]' in paired
    assert paired.endswith('label ::= "1" | "2"\n')
