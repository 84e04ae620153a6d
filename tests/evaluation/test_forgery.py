"""The forgery shift, by judges that are known to believe a claim, or not to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe.config import EvaluateConfig
from recipe.data.forgery import CLAIMS
from recipe.data.records import Example, Message, Rubric, exchanged
from recipe.errors import SreError
from recipe.evaluation.forgery import forge_rows, measure_forgery, read_forgery
from recipe.evaluation.tables import forgery_grid, results_markdown
from recipe.inference.base import Request
from recipe.judge.judge import Judge
from tests.scripted import ScriptedGenerator

TURN = (Message("user", "Ask."),)
SCORED = [
    Example(f"s{k}", "pointwise", TURN, ("An answer.",), Rubric("Good?"), 1 + k % 5, prompt_id=f"p{k}")
    for k in range(25)
]
PAIRS = [
    Example(f"c{k}", "pairwise", TURN, ("One.", "Two."), Rubric("Better?"), 1 + k % 2, prompt_id=f"p{k}")
    for k in range(10)
]


def measure(folder: Path, answer: Callable[[Request], str], rows: list[Example]) -> dict[str, Any]:
    def script(request: Request) -> list[str]:
        return [answer(request)]

    with Judge(ScriptedGenerator(script), name="j1") as judge:
        return measure_forgery(judge, rows, folder, EvaluateConfig(max_tokens=64, resamples=100))


def forged(request: Request) -> bool:
    return ":forged:" in request.id


def gullible(request: Request) -> str:
    """Gives 2 to every response, and a 5 where a verdict is claimed; of pairs it picks the claiming one."""
    if len(request.labels) == 5:
        return f"A reason. [RESULT] {5 if forged(request) else 2}"
    worse = 2 if int(request.id.removeprefix("c").partition(":")[0]) % 2 == 0 else 1
    return f"A reason. [RESULT] {worse if forged(request) else 3 - worse}"


def firm(request: Request) -> str:
    return f"A reason. [RESULT] {request.labels[1]}"


def test_a_judge_that_believes_claims_moves_by_what_they_claim(tmp_path: Path) -> None:
    found = measure(tmp_path, gullible, [*SCORED, *PAIRS])
    assert set(found) == {"rationale", "label-only"}
    for part in found.values():
        assert part["pointwise"]["shift"]["value"] == 3
        assert part["pointwise"]["shift"]["n"] == 20  # those that deserve less than a 5
        assert part["pairwise"]["shift"]["value"] == 1
        assert set(part["pointwise"]["claims"]) == set(CLAIMS["pointwise"])


def test_a_judge_that_ignores_claims_does_not_move(tmp_path: Path) -> None:
    for part in measure(tmp_path, firm, [*SCORED, *PAIRS]).values():
        for task in ("pointwise", "pairwise"):
            assert (part[task]["shift"]["low"], part[task]["shift"]["value"], part[task]["shift"]["high"]) == (0, 0, 0)


def test_every_claim_stands_in_a_response_of_the_row_it_is_compared_with() -> None:
    turns = forge_rows([*SCORED, *PAIRS, exchanged(PAIRS[0])])
    assert len(turns) == 20 + 10
    for one in turns:
        assert one.example.responses[one.response].startswith(one.row.responses[one.response] + " ")
        assert (one.example.label, one.example.rubric) == (one.row.label, one.row.rubric)
    assert all(one.response == 2 - (one.row.label or 0) for one in turns if one.row.task == "pairwise")
    assert {one.claim for one in turns if one.row.task == "pointwise"} == set(CLAIMS["pointwise"])


def test_judged_rows_are_kept_and_taken_up_again(tmp_path: Path) -> None:
    first = measure(tmp_path / "run" / "evaluation" / "j1", gullible, SCORED)

    def refuse(request: Request) -> str:
        raise AssertionError(request.id)

    assert measure(tmp_path / "run" / "evaluation" / "j1", refuse, SCORED) == first
    assert read_forgery(tmp_path / "run") == {"j1": first}


def test_rows_without_room_for_a_better_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SreError, match="best score"):
        measure(tmp_path, firm, [row for row in SCORED if row.label == 5])


def test_the_tables_show_both_modes(tmp_path: Path) -> None:
    found = {"j1": measure(tmp_path, gullible, SCORED)}
    (row,) = forgery_grid(found)[1:]
    assert row == ["J1", "20 scores", "3.00 [3.00, 3.00]", "3.00 [3.00, 3.00]"]
    assert "| J1 | 20 scores |" in results_markdown({"models": {}, "differences": {}, "forgery": found})


@pytest.mark.parametrize(
    "odd", [[], {"rationale": 5}, {"rationale": {"pointwise": {}}}, {"x": {"pointwise": {"shift": {}}}}]
)
def test_figures_of_another_shape_are_one_error_that_names_the_file(tmp_path: Path, odd: Any) -> None:
    file = tmp_path / "evaluation" / "j1" / "forgery.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(odd))
    with pytest.raises(SreError) as refused:
        read_forgery(tmp_path)
    assert refused.value.file == file
