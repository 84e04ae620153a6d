"""Calibrations: fitted on verdicts whose law is known, applied without scikit-learn, read from a file that may lie."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import pytest

from recipe.data.records import Judgement, Task
from recipe.errors import SreError
from recipe.inference.calibration import (
    KEY,
    MIN_ROWS,
    OLD_KEY,
    Calibration,
    fit_calibration,
    read_calibrations,
    write_calibrations,
)

SCALE = (1, 2, 3, 4, 5)


def judged(number: int, logprobs: dict[int, float], truth: int | None, task: Task = "pointwise") -> Judgement:
    return Judgement(f"{number}:j:0", str(number), task, "", "", None, truth, label_logprobs=logprobs)


def fitted(rows: list[Judgement]) -> tuple[Calibration | None, dict[str, object]]:
    return fit_calibration(rows, [row.example_id for row in rows])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_made_a_judge_too_sure_is_found(temperature: float) -> None:
    """Truths are drawn from the distribution; the judge reports it raised to the power of the temperature."""
    draw = random.Random(3)
    rows = []
    for number in range(1000):
        honest = {label: math.log(draw.expovariate(1)) for label in SCALE}
        truth = draw.choices(SCALE, [math.exp(value) for value in honest.values()])[0]
        rows.append(judged(number, {label: value * temperature for label, value in honest.items()}, truth))
    calibration, facts = fitted(rows)
    assert calibration is not None
    assert facts["kind"] == "temperature"
    assert 1 / calibration.weights[0][0] == pytest.approx(temperature, rel=0.15)
    assert calibration.bias == (0, 0, 0, 0, 0)


def test_a_judge_whose_labels_are_exchanged_is_read_right() -> None:
    """The judge is surest of 2 where 4 is true, and of 4 where 2 is: no temperature mends that."""
    draw = random.Random(1)
    rows = []
    for number in range(300):
        truth = draw.choice(SCALE)
        said = {2: 4, 4: 2}.get(truth, truth)
        rows.append(judged(number, {k: (k == said) * 3 + draw.gauss(0, 0.5) for k in SCALE}, truth))
    calibration, facts = fitted(rows)
    assert calibration is not None
    assert facts["kind"] == "regression"
    losses = facts["log_loss"]
    assert isinstance(losses, dict)
    assert losses["regression"] < losses["temperature"] < losses["before"]
    said = calibration.apply({k: 3.0 * (k == 2) for k in SCALE})
    assert max(said, key=lambda label: said[label]) == 4
    assert sum(map(math.exp, said.values())) == pytest.approx(1)


def test_a_preference_for_a_position_is_taken_off() -> None:
    """The judge adds 2 nats to the first response of every pair."""
    draw = random.Random(2)
    rows = []
    for number in range(200):
        truth = draw.choice((1, 2))
        logit = (1 if truth == 2 else -1) + draw.gauss(0, 0.5) - 2
        rows.append(judged(number, {1: 0.0, 2: logit}, truth, "pairwise"))
    calibration, _ = fitted(rows)
    assert calibration is not None
    even = calibration.apply({1: 0.0, 2: -2.0})
    assert abs(even[1] - even[2]) < 0.3
    assert calibration.apply({1: 0.0, 2: -1.0})[2] > math.log(0.5) > calibration.apply({1: 0.0, 2: -3.0})[2]


def test_a_judge_that_knows_nothing_is_read_as_one() -> None:
    draw = random.Random(4)
    rows = [judged(k, {1: 0.0, 2: draw.gauss(0, 3)}, draw.choice((1, 2)), "pairwise") for k in range(200)]
    calibration, _ = fitted(rows)
    assert calibration is not None
    assert abs(calibration.apply({1: 0.0, 2: 5.0})[1] - math.log(0.5)) < 0.5


def test_a_judge_that_is_wrong_about_pairs_is_not_turned_round() -> None:
    draw = random.Random(6)
    rows = [
        judged(k, {1: 0.0, 2: 3 - 2 * t + draw.gauss(0, 1)}, t, "pairwise") for k in range(200) for t in [1 + k % 2]
    ]
    calibration, facts = fitted(rows)
    assert calibration is not None
    assert facts["kind"] == "temperature"
    said = calibration.apply({1: 0.0, 2: 5.0})
    assert said[2] > said[1]


def test_few_rows_or_few_prompts_fit_nothing() -> None:
    rows = [judged(k, {1: -0.1, 2: -2.4}, 1 + k % 2) for k in range(MIN_ROWS)]
    assert fitted(rows[:-1]) == (None, {"rows": MIN_ROWS - 1})
    assert fitted([*rows[:-1], judged(98, {}, 1), judged(99, {1: -0.1, 2: -2.4}, None)])[0] is None
    assert fit_calibration(rows, ["one prompt"] * len(rows))[0] is None
    assert fit_calibration([], []) == (None, {"rows": 0})
    assert fitted(rows)[0] is not None


def test_a_label_without_rows_leaves_the_temperature() -> None:
    draw = random.Random(5)
    rows = [judged(k, {label: draw.gauss(0, 1) for label in SCALE}, 1 + k % 4) for k in range(100)]
    calibration, facts = fitted(rows)
    assert calibration is not None
    assert facts["kind"] == "temperature"


def test_a_calibration_is_the_same_after_the_file() -> None:
    calibration = Calibration((1, 2), ((0.0, 0.5), (-0.25, 1.0)), (0.0, -1.5), 40)
    metadata = write_calibrations({"pairwise": calibration})
    assert read_calibrations(metadata) == {"pairwise": calibration}
    assert read_calibrations({OLD_KEY: metadata[KEY]}) == {"pairwise": calibration}
    assert read_calibrations({}) == {}
    assert write_calibrations({}) == {}


def test_another_scale_and_impossible_labels_are_left_alone() -> None:
    calibration = Calibration((1, 2), ((0.5, 0.0), (0.0, 0.5)), (0.0, 0.0))
    assert calibration.apply({1: -1.0, 2: -2.0, 3: -3.0}) == {1: -1.0, 2: -2.0, 3: -3.0}
    nowhere = {1: -math.inf, 2: -math.inf}
    assert calibration.apply(nowhere) == nowhere
    assert all(map(math.isfinite, calibration.apply({1: 0.0, 2: -math.inf}).values()))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '"text"',
        '{"pointwise": {}}',
        '{"pointwise": {"labels": [1, 2], "weights": [[1, 0]], "bias": [0, 0], "rows": 1}}',
        '{"pointwise": {"labels": [1], "weights": [[1]], "bias": [0], "rows": 1}}',
        '{"pointwise": {"labels": [1, 2], "weights": [[1, NaN], [0, 1]], "bias": [0, 0], "rows": 1}}',
        '{"pointwise": {"labels": [1, 2], "weights": [[1, "x"], [0, 1]], "bias": [0, 0], "rows": 1}}',
        '{"pointwise": {"labels": [1, 2], "weights": 5, "bias": [0, 0], "rows": 1}}',
    ],
)
def test_a_file_with_something_else_is_refused_by_the_key(content: str) -> None:
    with pytest.raises(SreError, match=KEY):
        read_calibrations({KEY: content})


def test_applying_takes_no_scikit_learn() -> None:
    calibration = json.dumps(
        write_calibrations({"pairwise": Calibration((1, 2), ((1.0, 0.0), (0.0, 1.0)), (0.0, 0.0), 9)})
    )
    code = f"""import sys
from recipe.inference.calibration import read_calibrations
read_calibrations({calibration})["pairwise"].apply({{1: -1.0, 2: -2.0}})
print([name for name in ("sklearn", "scipy", "numpy") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
