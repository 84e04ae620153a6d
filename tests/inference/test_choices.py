"""The search finds the choice of the greatest sum, without reading every choice to its end."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.inference.base import Request, Sampling
from recipe.inference.choices import ChoiceSearch
from recipe.inference.prompt import Prompt

from .llamacpp.fakes import logits

runs_of_choices = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=12)


def search_of(runs: list[list[int]]) -> ChoiceSearch:
    request = Request("r", (), choices=tuple(map(str, runs)))
    return ChoiceSearch(Prompt(request, Sampling(logprobs=True), np.array([9], np.int32), 5, runs=tuple(runs)))


def score(run: list[int]) -> list[float]:
    found = []
    for size, token in enumerate(run):
        row = logits([9, *run[:size]]).astype(np.float64)
        found.append(row[token] - row.max() - math.log(np.exp(row - row.max()).sum()))
    return found


@settings(max_examples=100, deadline=None)
@given(runs_of_choices)
def test_the_answer_is_the_most_probable_of_all(runs: list[list[int]]) -> None:
    search, read = search_of(runs), 0
    while not search.leader()[1]:
        run = search.runs[search.leader()[0]]
        read += 1
        for size in range(len(run)):
            search.learn(tuple(run[:size]), logits([9, *run[:size]]))
    best = search.leader()[0]
    assert sum(score(runs[best])) >= max(sum(score(run)) for run in runs) - 1e-6
    assert np.allclose(search.completion(best).token_logprobs, score(runs[best]))
    assert read <= len(runs)


def test_what_is_not_finite_is_no_answer() -> None:
    search = search_of([[1], [2]])
    search.learn((), np.full(40, np.nan, np.float32))
    done = search.completion(search.leader()[0])
    assert done.finish == "error"
    assert "not finite" in done.error
