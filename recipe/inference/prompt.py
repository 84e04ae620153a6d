"""Requests become prompts: token ids that fit the context, and the places where labels stand. Runs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.labels import LabelPlaces, LabelTokens, Tokenizer


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request with its token ids.

    Attributes:
        ids: The prompt's tokens. Where only the label is read, its marker is among them.
        reserve: The most tokens that one answer decodes.
        places: Where labels stand, if the request has any.
        label_tokens: The tokens of the labels, where only the label is read.
        lead: How many of `ids` are the marker.
        choices: The tokens of each choice, if the request has any.
        opened: The tag of reasoning (`<think>`) that the prompt ends with; it belongs to the answer.
        grammar: Makes the grammar of one answer, see llamacpp/grammar.py.
    """

    request: Request
    sampling: Sampling
    ids: NDArray[np.int32]
    reserve: int
    places: LabelPlaces | None = None
    label_tokens: LabelTokens | None = None
    lead: int = 0
    choices: tuple[list[int], ...] = ()
    opened: bytes = b""
    grammar: Callable[[], Any] | None = None

    @property
    def samples(self) -> int:
        return count_samples(self.request, self.sampling)

    @property
    def size(self) -> int:
        """The tokens of the prompt itself."""
        return len(self.ids) - self.lead

    def failed(self, index: int, why: str) -> Completion:
        """The completion of a sample that can't go on."""
        return Completion(self.request.id, index, "", (), "error", self.size, error=why)


def count_samples(request: Request, sampling: Sampling) -> int:
    """How many completions a request gets. What is read and not drawn comes once."""
    return 1 if request.label_only or request.choices else sampling.n


@dataclass
class PromptReader:
    """Reads requests by one model's vocabulary.

    Attributes:
        tokenizer: The vocabulary.
        encode: A request -> the prompt's token ids, and the tag of reasoning that it ends with.
        context: The most tokens of a prompt with its answer.
        grammar: A JSON schema, or GBNF -> what makes a grammar of it; None where the engine has none.
    """

    tokenizer: Tokenizer
    encode: Callable[[Request], tuple[list[int], bytes]]
    context: int
    grammar: Callable[[str], Callable[[], Any]] | None = None
    _places: dict[tuple[int, ...], LabelPlaces] = field(default_factory=dict)

    def read_all(self, requests: Sequence[Request], sampling: Sampling) -> tuple[list[Prompt], list[Completion]]:
        """The prompts, and "error" completions for the requests that can't be read.

        An error of a template or a tokenizer is that request's alone. Raises SreError if two requests share an id.
        """
        if len({request.id for request in requests}) != len(requests):
            raise SreError("two requests of one call have the same id")
        prompts, refused = list[Prompt](), list[Completion]()
        for request in requests:
            try:
                found = self.read(request, sampling)
            except Exception as error:
                why = str(error) if isinstance(error, SreError) else f"{type(error).__name__}: {error}"
                numbers = range(count_samples(request, sampling))
                found = [Completion(request.id, k, "", (), "error", 0, error=why) for k in numbers]
            if isinstance(found, Prompt):
                prompts.append(found)
            else:
                refused += found
        return prompts, refused

    def read(self, request: Request, sampling: Sampling) -> Prompt | list[Completion]:
        """The prompt, or an "error" completion for each sample where it is empty or doesn't fit.

        Raises SreError for what this model can't do.
        """
        prompt = self._prompt(request, sampling)
        size = len(prompt.ids)
        if size and size + prompt.reserve <= self.context:
            return prompt
        needed = f"the prompt has {size} tokens and its answer needs {prompt.reserve}"
        why = f"{needed}, more than the context of {self.context}" if size else "the prompt is empty"
        return [prompt.failed(k, why) for k in range(prompt.samples)]

    def _prompt(self, request: Request, sampling: Sampling) -> Prompt:
        if (request.force_label or request.label_only) and not request.labels:
            raise SreError(f"request {request.id!r} asks for a label and names none")
        ids, opened = self.encode(request)
        if request.choices:
            choices = tuple(self.tokenizer.tokenize(choice) for choice in request.choices)
            return Prompt(request, sampling, np.array(ids, np.int32), max(map(len, choices)), choices=choices)
        if request.labels and request.labels not in self._places:
            self._places[request.labels] = LabelPlaces(request.labels, self.tokenizer)
        places = self._places.get(request.labels)
        if request.label_only and places:
            lead, label_tokens = places.lead_in(opened) if ids else ([], {})
            all_ids = np.array([*ids, *lead], np.int32)
            return Prompt(request, sampling, all_ids, 0, places, label_tokens, len(lead), opened=opened)
        lead_out = places.longest if request.force_label and places else 0
        if sampling.fit:
            left = max(1, self.context - len(ids) - lead_out)
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, left))
        grammar = self.grammar(request.grammar) if request.grammar and self.grammar else None
        reserve = sampling.max_tokens + lead_out
        all_ids = np.array(ids, np.int32)
        return Prompt(request, sampling, all_ids, reserve, places, opened=opened, grammar=grammar)
