"""The export's arithmetic; whole exports run in tests/pipeline."""

from __future__ import annotations

import random

from recipe.data.records import Judgement
from recipe.training.export import fit_readouts


def judged(number: int, rationale: str = "Because.") -> tuple[Judgement, str]:
    """A judge that is sure of 2 where 1 is true, and of 1 where 2 is true, with noise."""
    draw = random.Random(number)
    truth = 1 + number % 2
    logprobs = {1: draw.gauss(0, 1), 2: draw.gauss(0, 1) + (2 if truth == 2 else -2)}
    fields = {"truth": truth, "label_logprobs": logprobs}
    return Judgement(str(number), str(number), "pairwise", "", rationale, truth, **fields), f"p{number}"


def test_a_readout_is_fitted_on_the_held_out_judgements_of_each_task() -> None:
    readouts, facts = fit_readouts([judged(number) for number in range(60)])
    assert set(readouts) == {"pairwise"}
    assert (readouts["pairwise"].rows, facts["pairwise"]["rows"]) == (60, 60)
    assert "kind" in facts["pairwise"]


def test_without_held_out_rows_nothing_is_fitted_and_nothing_is_said_to_be() -> None:
    assert fit_readouts([]) == ({}, {})
    assert fit_readouts([judged(number, rationale="") for number in range(60)]) == ({}, {})
    readouts, facts = fit_readouts([judged(number) for number in range(5)])
    assert (readouts, facts) == ({}, {"pairwise": {"rows": 5}})
