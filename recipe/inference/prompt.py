"""Requests become prompts: token ids that fit the context, and the places where labels stand. Runs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.labels import LabelPlaces, LabelTokens, Tokenizer, shared_token


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request with its token ids."""

    request: Request
    sampling: Sampling
    ids: NDArray[np.int32]  # the prompt's tokens; where only the label is read, its marker is among them
    reserve: int  # the most tokens that one answer decodes
    places: LabelPlaces | None = None  # where labels stand, if the request has any
    label_tokens: LabelTokens | None = None  # the tokens of the labels, where only the label is read
    lead: int = 0  # how many of `ids` are the marker
    choices: tuple[list[int], ...] = ()  # the tokens of each choice
    follow: tuple[int, ...] = ()  # what every answer begins with: of a prompt that is echoed, all tokens but the first
    opened: bytes = b""  # the tag of reasoning (`<think>`) that the prompt ends with; it belongs to the answer
    grammar: Callable[[], Any] | None = None  # makes the grammar of one answer, see llamacpp/grammar.py

    @property
    def samples(self) -> int:
        return self.request.samples(self.sampling)

    @property
    def size(self) -> int:
        """The tokens of the prompt itself."""
        return len(self.ids) - self.lead

    @property
    def at_once(self) -> bool:
        """Whether the logits after the prompt give the answer: a label alone, of one token."""
        return bool(self.label_tokens) and shared_token(self.label_tokens or {}) is None

    def failed(self, index: int, why: str) -> Completion:
        """The completion of a sample that can't go on."""
        return Completion(self.request.id, index, "", (), "error", self.size, error=why)


@dataclass
class PromptReader:
    """Reads requests by one model's vocabulary."""

    tokenizer: Tokenizer
    encode: Callable[[Request], tuple[list[int], bytes]]  # -> a prompt's ids, the tag of reasoning that it ends with
    context: int  # the most tokens of a prompt with its answer
    # A JSON schema, or GBNF -> what makes a grammar of it; None where the engine has none.
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
                prompts.append(self.read(request, sampling))
            except Exception as error:
                why = str(error) if isinstance(error, SreError) else f"{type(error).__name__}: {error}"
                numbers = range(request.samples(sampling))
                refused += [Completion(request.id, k, "", (), "error", 0, error=why) for k in numbers]
        return prompts, refused

    def read(self, request: Request, sampling: Sampling) -> Prompt:
        """The prompt. Raises SreError where it is empty, doesn't fit, or asks for what this model can't do."""
        prompt = self._prompt(request, sampling)
        size = len(prompt.ids)
        if not size:
            raise SreError("the prompt is empty")
        if size + prompt.reserve > self.context:
            answer = f" and its answer needs {prompt.reserve}" if prompt.reserve else ""
            needed = f"the prompt has {size} tokens{answer}, more than the context of {self.context}"
            raise SreError(f"{needed}; a larger one (--context) takes it, up to what the model was trained for")
        return prompt

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
            return Prompt(request, sampling, all_ids, places.extra, places, label_tokens, len(lead), opened=opened)
        lead_out = places.extra + places.longest * request.force_label if places else 0
        if sampling.fit:
            left = max(1, self.context - len(ids) - lead_out)
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, left))
        grammar = self.grammar(request.grammar) if request.grammar and self.grammar else None
        reserve = sampling.max_tokens + lead_out
        all_ids, follow = np.array(ids, np.int32), tuple(ids[1:]) if request.echo else ()
        if follow:
            sampling = replace(sampling, max_tokens=sampling.max_tokens + len(follow))
            all_ids, reserve = all_ids[:1], reserve + len(follow)
        return Prompt(request, sampling, all_ids, reserve, places, follow=follow, opened=opened, grammar=grammar)
