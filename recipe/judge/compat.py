"""The calls of prometheus-eval's `PrometheusEval`, on a judge of this project: change the import line, and the model.

from recipe.judge.compat import ABSOLUTE_PROMPT, SCORE_RUBRIC_TEMPLATE, VLLM, PrometheusEval

judge = PrometheusEval(model=VLLM(model="judge.gguf"), absolute_grade_template=ABSOLUTE_PROMPT)
rubric = SCORE_RUBRIC_TEMPLATE.format(criteria="Is it short?", score1_description="No.", ..., score5_description="Yes.")
feedback, score = judge.single_absolute_grade(instruction="...", response="...", rubric=rubric)

What differs, on purpose: a judge carries its own prompts, so the templates only say whether the reference answer is
shown; judging is greedy and the label is forced unless told otherwise, so that no retries are needed; what could not
be judged is (None, None) in its place, with the reason in a warning of the logger "recipe.judge".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.data.examples import to_rubric
from recipe.data.records import Example, Judgement, Rubric
from recipe.errors import SreError
from recipe.judge.judge import Judge, to_example
from recipe.judge.options import JudgeOptions

SCORE_RUBRIC_TEMPLATE = "[{criteria}]\n" + "\n".join(f"Score {k}: {{score{k}_description}}" for k in range(1, 6))
ABSOLUTE_PROMPT = "{instruction} {response} {reference_answer} {rubric}"
ABSOLUTE_PROMPT_WO_REF = "{instruction} {response} {rubric}"
RELATIVE_PROMPT = "{instruction} {response_A} {response_B} {reference_answer} {rubric}"
RELATIVE_PROMPT_WO_REF = "{instruction} {response_A} {response_B} {rubric}"
_ABSOLUTE = (ABSOLUTE_PROMPT, ABSOLUTE_PROMPT_WO_REF)
_RELATIVE = (RELATIVE_PROMPT, RELATIVE_PROMPT_WO_REF)

_LEVEL = re.compile(r"^[ \t]*Score[ \t]*([0-9])[ \t]*:", re.MULTILINE)
_log = logging.getLogger("recipe.judge")

Graded = tuple[list[str | None], list[int | None]]


class PrometheusEval:
    """Grades with a judge. Use as a context manager, or call `close`, to free a model that was opened here.

    model: a GGUF file's path, or a Judge (which stays its owner's to close). Templates: the constants of this module;
    None, the default, shows a reference answer wherever one is given. constrain: False lets the judge leave out the
    score; that row is (None, None). Raises SreError for another template, or a model that can't be opened.
    """

    def __init__(
        self,
        model: Judge | str | Path,
        absolute_grade_template: str | None = None,
        relative_grade_template: str | None = None,
        *,
        constrain: bool = True,
    ) -> None:
        for template, known in ((absolute_grade_template, _ABSOLUTE), (relative_grade_template, _RELATIVE)):
            if template is not None and template not in known:
                raise SreError(
                    "a judge carries its own prompts; expected one of the templates in recipe.judge.compat, or None",
                    field="grade_template",
                )
        self.absolute_grade_template = absolute_grade_template
        self.relative_grade_template = relative_grade_template
        self.constrain = constrain
        self._opened = not isinstance(model, Judge)
        self.model = model if isinstance(model, Judge) else Judge.from_gguf(model)

    def absolute_grade(
        self,
        *,
        instructions: Sequence[str],
        responses: Sequence[str],
        rubric: str | Sequence[str],
        reference_answers: Sequence[str | None] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Graded:
        """Score n responses: n feedbacks and n scores, in order.

        rubric: one for all, or one each; SCORE_RUBRIC_TEMPLATE filled in, or criteria alone. params: max_tokens,
        temperature, seed; others are ignored with a warning. Raises SreError for lengths that differ or a rubric
        that can't be read.
        """
        references = self._references(reference_answers, self.absolute_grade_template == ABSOLUTE_PROMPT_WO_REF)
        rows = _examples(instructions, [(response,) for response in responses], rubric, references)
        return self._grade(rows, params)

    def relative_grade(
        self,
        *,
        instructions: Sequence[str],
        responses_A: Sequence[str],
        responses_B: Sequence[str],
        rubric: str | Sequence[str],
        reference_answers: Sequence[str | None] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> tuple[list[str | None], list[str | None]]:
        """Compare n pairs: n feedbacks and n of "A" or "B", in order. The rest as `absolute_grade`."""
        if len(responses_A) != len(responses_B):
            raise SreError(f"{len(responses_A)} responses A and {len(responses_B)} responses B differ in number")
        references = self._references(reference_answers, self.relative_grade_template == RELATIVE_PROMPT_WO_REF)
        pairs = list(zip(responses_A, responses_B, strict=True))
        feedbacks, labels = self._grade(_examples(instructions, pairs, rubric, references), params)
        return feedbacks, [None if label is None else "AB"[label - 1] for label in labels]

    def single_absolute_grade(
        self,
        instruction: str,
        response: str,
        rubric: str,
        reference_answer: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> tuple[str | None, int | None]:
        """One feedback and one score."""
        feedbacks, scores = self.absolute_grade(
            instructions=[instruction],
            responses=[response],
            rubric=[rubric],
            reference_answers=[reference_answer],
            params=params,
        )
        return feedbacks[0], scores[0]

    def single_relative_grade(
        self,
        instruction: str,
        response_A: str,
        response_B: str,
        rubric: str,
        reference_answer: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> tuple[str | None, str | None]:
        """One feedback and "A" or "B"."""
        feedbacks, labels = self.relative_grade(
            instructions=[instruction],
            responses_A=[response_A],
            responses_B=[response_B],
            rubric=[rubric],
            reference_answers=[reference_answer],
            params=params,
        )
        return feedbacks[0], labels[0]

    def close(self) -> None:
        """Free the model, if this object opened it. Twice is fine."""
        if self._opened:
            self.model.close()

    def __enter__(self) -> PrometheusEval:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _references(self, given: Sequence[str | None] | None, hidden: bool) -> Sequence[str | None] | None:
        return None if hidden else given

    def _grade(self, examples: Sequence[Example], params: Mapping[str, Any] | None) -> Graded:
        options = _options(params or {}, self.constrain)
        found: dict[str, Judgement] = {}
        for judgement in self.model.judge(examples, options):
            found[judgement.example_id] = judgement
        judged = [found[example.id] for example in examples]
        feedbacks = [None if one.label is None else one.rationale for one in judged]
        return feedbacks, [one.label for one in judged]


def VLLM(model: str | Path, *, max_model_len: int = 4096, **ignored: object) -> Judge:
    """A judge in a GGUF file, opened by the call that code for prometheus-eval makes. `max_model_len`: tokens of one
    prompt with its judgement; options about GPUs are ignored."""
    return Judge.from_gguf(model, context=max_model_len)


def parse_rubric(text: str) -> Rubric:
    """A Rubric from SCORE_RUBRIC_TEMPLATE's shape, `[criteria]` and lines `Score 1: ...`, or from criteria alone.

    Raises SreError (field "rubric") for no criteria, a score described twice, and what `to_rubric` refuses.
    """
    if not isinstance(text, str):
        raise SreError(f"expected a rubric as a string, not {type(text).__name__}", field="rubric")
    places = list(_LEVEL.finditer(text))
    criteria = text[: places[0].start()] if places else text
    criteria = criteria.strip()
    if criteria.startswith("[") and criteria.endswith("]"):
        criteria = criteria[1:-1]
    ends = [place.start() for place in places[1:]] + [len(text)]
    levels = [(int(p.group(1)), text[p.end() : end].strip()) for p, end in zip(places, ends, strict=False)]
    if len(dict(levels)) < len(levels):
        raise SreError("expected one description of each score; one is described twice", field="rubric")
    return to_rubric(Rubric(criteria.strip(), dict(levels)))


def _examples(
    instructions: Sequence[str],
    responses: Sequence[tuple[str, ...]],
    rubric: str | Sequence[str],
    references: Sequence[str | None] | None,
) -> list[Example]:
    number = len(instructions)
    rubrics = [parse_rubric(rubric)] * number if isinstance(rubric, str) else [parse_rubric(text) for text in rubric]
    answers = [None] * number if references is None else list(references)
    sizes = {"responses": len(responses), "rubric": len(rubrics), "reference_answers": len(answers)}
    for name, size in sizes.items():
        if size != number:
            raise SreError(f"{number} instructions need as many, not {size}", field=name)
    return [to_example(instructions[k], responses[k], rubrics[k], answers[k] or "", id=str(k)) for k in range(number)]


def _options(params: Mapping[str, Any], constrain: bool) -> JudgeOptions:
    known = {"max_tokens", "temperature", "seed"}
    if ignored := sorted(params.keys() - known):
        _log.warning("ignored, as this engine draws without them: %s", ", ".join(ignored))
    given = {name: value for name, value in params.items() if name in known and value is not None}
    return JudgeOptions(constrain=constrain, **given)
