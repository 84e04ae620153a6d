"""The best-of-N filter, on samples whose outcome is known."""

from __future__ import annotations

import math

import pytest

from experiments.best_of_n import best_of_n
from recipe.data.records import Example, Message, Rubric
from tests.evaluation.test_baselines import pool, sample


def example(name: str, label: int | None) -> Example:
    return Example(name, "pointwise", (Message("user", "Q"),), ("R",), Rubric("Good?"), label, rationale="given")


def test_best_of_n_keeps_a_right_sample_as_the_rationale() -> None:
    rows = best_of_n(
        [example("a", 3), example("b", 1), example("c", None)], [*pool("a", 1, 3, 3), *pool("b", 2, 5)], 10
    )
    assert [(row.id, row.label, row.rationale, row.origin) for row in rows] == [("a", 3, "because 1", "a:sft:1")]


def test_of_several_right_samples_the_surest_is_kept() -> None:
    samples = [
        sample("a", k, 3, label_logprobs={3: math.log(p), 4: math.log(1 - p)}) for k, p in enumerate((0.5, 0.9, 0.7))
    ]
    assert best_of_n([example("a", 3)], samples, n=3)[0].rationale == "because 1"
    assert best_of_n([example("a", 3)], samples, n=1)[0].rationale == "because 0"


@pytest.mark.parametrize("changes", [{"finish": "forced"}, {"finish": "length"}, {"rationale": ""}])
def test_a_sample_that_the_model_did_not_end_itself_is_not_kept(changes: dict[str, str]) -> None:
    assert best_of_n([example("a", 3)], [sample("a", 0, 3, **changes)], 1) == []
