"""The search for the most probable of a request's choices, which reads as few tokens as it can. Runs no model."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from recipe.inference.base import Completion
from recipe.inference.labels import label_logprobs
from recipe.inference.prompt import Prompt
from recipe.inference.token_sampling import NOT_FINITE


class ChoiceSearch:
    """A choice's score is the sum of its tokens' log-probabilities, and each further token only lowers it. So a choice
    that leads with its whole sum known has won, and the others need not be read to their ends.
    """

    def __init__(self, prompt: Prompt) -> None:
        self.prompt, self.runs = prompt, prompt.runs
        self._known: dict[tuple[int, ...], dict[int, float]] = {}

    def leader(self) -> tuple[int, bool]:
        """The choice of the greatest sum of what is known (the first of equals), and whether all of it is known."""
        scores = [self._scores(run) for run in self.runs]
        best = max(range(len(scores)), key=lambda choice: (sum(scores[choice]), -choice))
        return best, len(scores[best]) == len(self.runs[best])

    def learn(self, beginning: tuple[int, ...], logits: NDArray[np.float32]) -> None:
        """Note what may follow `beginning`, from the logits [vocabulary] after it."""
        if beginning in self._known:
            return
        size = len(beginning)
        following = sorted({run[size] for run in self.runs if len(run) > size and tuple(run[:size]) == beginning})
        self._known[beginning] = label_logprobs(logits, {token: token for token in following})

    def completion(self, choice: int) -> Completion:
        """The answer."""
        prompt, run = self.prompt, self.runs[choice]
        scores = tuple(self._scores(run))
        if not np.isfinite(scores).all():
            return prompt.failed(0, NOT_FINITE)
        text = prompt.request.choices[choice]
        shown = scores if prompt.sampling.logprobs else ()
        return Completion(prompt.request.id, 0, text, tuple(run), "forced", len(prompt.ids), shown)

    def _scores(self, run: list[int]) -> list[float]:
        """Log-probabilities of its tokens as far as they are known."""
        beginnings = (tuple(run[:size]) for size in range(len(run)))
        known = itertools.takewhile(lambda beginning: beginning in self._known, beginnings)
        return [self._known[beginning][run[len(beginning)]] for beginning in known]
