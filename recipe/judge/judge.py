"""The Python API of a finished judge. Knows no files of judgements (batch.py) and no training.

with Judge.from_gguf("judge.gguf") as judge:
    judgement = judge.score("Name two fruits.", "Apple and brick.", "Are both items fruits?")
    judgement.label, judgement.rationale, expected_score(judgement)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.engines.base import Completion, Generator, Request, Sampling
from recipe.engines.gguf_header import read_metadata
from recipe.engines.judgements import to_judgement, to_request
from recipe.errors import SreError
from recipe.prompts import Prompts
from recipe.rows import Example, Judgement, Message, Rubric, Task
from recipe.run import hash_file
from recipe.sources import conversation_id, to_conversation, to_rubric

PROMPT_KEY = "sre.prompts."
MAX_TOKENS = 512
_log = logging.getLogger("recipe.judge")

Conversation = str | Sequence[Message | Mapping[str, str]]
AnyRubric = Rubric | Mapping[str, Any] | str


class Judge:
    """A model that judges, with its prompts. Use as a context manager, or call `close` (twice is fine).

    `errors` maps the ids of examples that the engine could not judge (e.g. a prompt longer than the context)
    to the reason; it is cleared by each call of `judge`.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Prompts | None = None,
        *,
        name: str | None = None,
        path: Path | None = None,
    ) -> None:
        """`name`: the judgements' origin (default: the generator's). `path`: the model's file, if any."""
        self.generator = generator
        self.prompts = prompts or Prompts()
        self.name = name or generator.name
        self.path = path
        self.errors: dict[str, str] = {}
        self._closed = False

    @classmethod
    def from_gguf(
        cls, path: str | Path, *, threads: int | None = None, context: int = 4096, parallel: int = 16
    ) -> Judge:
        """Open a GGUF file with llama.cpp. The prompts are the file's own (`sre.prompts.*`), if it has any.

        threads: None takes the engine's default. context: tokens that one prompt with its judgement may take.
        parallel: judgements decoded at once. Raises SreError when the file or llama-cpp-python is missing.
        """
        path = Path(path)
        if not path.is_file():
            raise SreError("no such model file; expected a .gguf file made by `sre export`", file=path)
        prompts = Prompts(prompts_in(read_metadata(path)))
        from recipe.engines.llamacpp import LlamaCppGenerator

        generator = LlamaCppGenerator(path, threads=threads, context=context, parallel=parallel)
        return cls(generator, prompts, name=path.stem, path=path)

    @property
    def fingerprint(self) -> str:
        """What tells this judge's model from another: the SHA-256 of its file, or the generator's name."""
        return hash_file(self.path) if self.path else self.generator.name

    def score(
        self,
        conversation: Conversation,
        response: str,
        rubric: AnyRubric,
        *,
        reference: str = "",
        constrain: bool = True,
        max_tokens: int = MAX_TOKENS,
    ) -> Judgement:
        """Score one response by the rubric: label on the rubric's scale (1..5 where it describes none).

        conversation: one user turn as text, or a list of Message or {role, content}. constrain: always end
        with a label; False leaves it None where the model writes none. Raises SreError for bad input and
        when the engine fails, e.g. on a prompt longer than the context.
        """
        return self._one("pointwise", conversation, (response,), rubric, reference, constrain, max_tokens)

    def compare(
        self,
        conversation: Conversation,
        response_a: str,
        response_b: str,
        rubric: AnyRubric,
        *,
        reference: str = "",
        constrain: bool = True,
        max_tokens: int = MAX_TOKENS,
    ) -> Judgement:
        """Say which response is better: label 1 for `response_a`, 2 for `response_b`. The rest as `score`."""
        responses = (response_a, response_b)
        return self._one("pairwise", conversation, responses, rubric, reference, constrain, max_tokens)

    def judge(
        self,
        examples: Sequence[Example],
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        constrain: bool = True,
        label_only: bool = False,
        samples: int = 1,
        seed: int = 0,
    ) -> Iterator[Judgement]:
        """Stream `samples` judgements of each example as they finish, in any order; `example_id` says whose.

        max_tokens: of one judgement. temperature: 0 is the most probable token each time. label_only: no
        rationale, the label is read from one prefill. Where the engine fails the label is None, the finish
        "error", and the reason is in `errors`; nothing is raised. Raises SreError, at once, for examples that
        share an id.
        """
        if self._closed:
            raise SreError("this judge is closed; open it again")
        by_id = {example.id: example for example in examples}
        if len(by_id) < len(examples):
            raise SreError("two examples have the same id; ids must differ")
        self.errors = {}
        requests = [
            to_request(
                example,
                self.prompts.judge(example, label_only=label_only),
                force_label=constrain and not label_only,
                label_only=label_only,
            )
            for example in examples
        ]
        sampling = Sampling(temperature, samples, max_tokens, seed, stop_at_label=True)
        # A constrained judgement always has its label, also where the model wrote no rationale before it.
        need_rationale = not (constrain or label_only)
        return (
            to_judgement(by_id[completion.request_id], completion, self.name, need_rationale=need_rationale)
            for completion in self._complete(requests, sampling)
        )

    def _complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for completion in self.generator.generate(requests, sampling):
            if completion.finish == "error":
                self.errors[completion.request_id] = completion.error
                _log.warning("%s: not judged: %s", completion.request_id, completion.error)
            yield completion

    def _one(
        self,
        task: Task,
        conversation: Conversation,
        responses: tuple[str, ...],
        rubric: AnyRubric,
        reference: str,
        constrain: bool,
        max_tokens: int,
    ) -> Judgement:
        turns = to_conversation(conversation)
        if not all(isinstance(text, str) for text in (*responses, reference)):
            raise SreError("expected responses and reference as strings", field="response")
        example = Example(
            id=task,
            task=task,
            conversation=turns,
            responses=responses,
            rubric=to_rubric(rubric),
            reference=reference,
            prompt_id=conversation_id(turns),
        )
        (judgement,) = self.judge([example], max_tokens=max_tokens, constrain=constrain)
        if judgement.finish == "error":
            raise SreError(f"not judged: {self.errors[example.id]}")
        return judgement

    def close(self) -> None:
        """Free the model. Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self.generator.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def prompts_in(metadata: Mapping[str, object]) -> dict[str, str]:
    """The prompt templates in a GGUF file's metadata, by name: what stands under `sre.prompts.<name>`."""
    return {key.removeprefix(PROMPT_KEY): str(text) for key, text in metadata.items() if key.startswith(PROMPT_KEY)}


def label_probabilities(judgement: Judgement) -> dict[int, float]:
    """Each allowed label's probability at the label's place, summing to 1; empty where not recorded."""
    if not judgement.label_logprobs:
        return {}
    most = max(judgement.label_logprobs.values())
    weights = {label: math.exp(value - most) for label, value in judgement.label_logprobs.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in sorted(weights.items())}


def expected_score(judgement: Judgement) -> float | None:
    """The mean label, sum of k * p(k): finer than the label itself. None where not recorded.

    For a pairwise judgement this is 1 + the probability that the second response is better.
    """
    probabilities = label_probabilities(judgement)
    return sum(label * p for label, p in probabilities.items()) if probabilities else None
