"""The export's arithmetic; whole exports run in tests/test_pipeline.py."""

from __future__ import annotations

import math
import random

import pytest

from recipe.data.records import Judgement
from recipe.training.export import CALIBRATED_ROWS, Origin, calibrate, model_card

SCALE = (1, 2, 3, 4, 5)


def judged(number: int, logprobs: dict[int, float], truth: int | None) -> Judgement:
    return Judgement(str(number), str(number), "pointwise", "", "", None, truth, label_logprobs=logprobs)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_that_made_a_judge_too_sure_is_found(temperature: float) -> None:
    """Truths are drawn from the distribution; the judge reports it raised to the power of the temperature."""
    draw = random.Random(3)
    rows = []
    for number in range(4000):
        honest = {label: math.log(draw.expovariate(1)) for label in SCALE}
        truth = draw.choices(SCALE, [math.exp(value) for value in honest.values()])[0]
        rows.append(judged(number, {label: value * temperature for label, value in honest.items()}, truth))
    found = calibrate(rows)["pointwise"]
    assert found["rows"] == 4000
    assert found["temperature"] == pytest.approx(temperature, rel=0.1)


def test_a_task_with_few_labelled_rows_is_not_calibrated() -> None:
    sure = {1: -0.1, 2: -2.4}
    rows = [judged(number, sure, 1) for number in range(CALIBRATED_ROWS - 1)]
    assert calibrate(rows) == {}
    assert calibrate([*rows, judged(98, {}, 1), judged(99, sure, None)]) == {}
    assert calibrate([*rows, judged(99, sure, 1)])["pointwise"]["rows"] == CALIBRATED_ROWS


def test_the_card_says_where_the_base_was_in_four_bit() -> None:
    origin = Origin("mine", "base", {"pointwise": "rows"}, "", 1)
    sizes = {"F16": 1, "Q8_0": 1}
    cards = {nf4: model_card(origin, "F16", {}, {"Q8_0": 0.1}, sizes, 10, nf4=nf4) for nf4 in (False, True)}
    assert "4 bit (NF4)" in cards[True]
    assert "4 bit (NF4)" not in cards[False]
