"""The calls of prometheus-eval, on a judge of this project: change the imports, and the model.

from recipe.judge.compat import ABSOLUTE_PROMPT, SCORE_RUBRIC_TEMPLATE, VLLM, PrometheusEval

judge = PrometheusEval(model=VLLM(model="judge.gguf"), absolute_grade_template=ABSOLUTE_PROMPT)
rubric = SCORE_RUBRIC_TEMPLATE.format(criteria="Is it short?", score1_description="No.", ..., score5_description="Yes.")
feedback, score = judge.single_absolute_grade(instruction="...", response="...", rubric=rubric)

A judge carries its own prompts, so for it a template only says whether the reference answer is shown. It judges
greedily and always gives a label unless told otherwise, so nothing is tried again. Any other model (MockLLM, LiteLLM,
or a class of your own with `completions`) gets the prompts of this module, and is asked again while its answer has no
score. What could not be judged is (None, None) in its place, with the reason in a warning of the logger
"recipe.judge". Every error is a ValueError.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recipe.data.records import Example, Judgement, Rubric
from recipe.errors import SreError
from recipe.judge.judge import Judge, to_example
from recipe.judge.options import JudgeOptions
from recipe.judge.rubrics import read_rubric, ready_rubrics
from recipe.verdict import answer_begin, open_reasoning

_log = logging.getLogger("recipe.judge")

ABS_SYSTEM_PROMPT = "You score a response by the rubric given, and by nothing else."
REL_SYSTEM_PROMPT = "You compare two responses by the rubric given, and by nothing else."
SCORE_RUBRIC_TEMPLATE = "[{criteria}]\n" + "\n".join(f"Score {k}: {{score{k}_description}}" for k in range(1, 6))
_REFERENCE = "\n\n### Reference answer\n{reference_answer}"
# By mode: how a template begins and how it ends; a reference answer goes between.
_PARTS = {
    "absolute": (
        "### Instruction\n{instruction}\n\n### Response\n{response}",
        "\n\n### Rubric\n{rubric}\n\nWrite a rationale that names the evidence in the response, then the score that "
        "fits it, a whole number between 1 and 5, in this form: <rationale> [RESULT] <score>",
    ),
    "relative": (
        "### Instruction\n{instruction}\n\n### Response A\n{response_A}\n\n### Response B\n{response_B}",
        "\n\n### Rubric\n{rubric}\n\nWrite a rationale that names the evidence in both responses, then the better "
        "one, A or B, in this form: <rationale> [RESULT] <A or B>",
    ),
}
_TEMPLATES = {mode: (one + end, one + _REFERENCE + end) for mode, (one, end) in _PARTS.items()}
(ABSOLUTE_PROMPT_WO_REF, ABSOLUTE_PROMPT), (RELATIVE_PROMPT_WO_REF, RELATIVE_PROMPT) = _TEMPLATES.values()
_RENAMED = {"factual_validity": "factuality", "honesty": "truthfulness"}
RETRIES = 10
_PARAMS = {"max_tokens": 1024, "temperature": 1.0, "top_p": 0.9}
# A score at the end, after "result" or "score" in any of the ways in which models write it.
_SCORE = re.compile(
    r"(?i)[\[(]?\b(?:result|score)\b(?:[\s:*\[\]()]|\b(?:of|result|score)\b)*([1-5])"
    r"\s*(?:/\s*5|out\s*of\s*5)?[\s*\])\"'.!]*\Z"
)
_CHOICE = re.compile(
    r"(?im)(?:\[result\b:?\]?|\[response\b|^\s*result\b:?)[\s:*\[(]*(?:response\s+)?([AB])\b[\s*\])\"'.!]*\Z"
)

Texts = str | Iterable[Any]
Graded = tuple[list[str | None], list[Any]]


class GradeError(SreError, ValueError):
    """What SreError is, for code that expects a ValueError."""


class ModeError(ValueError, AssertionError):
    """Neither "absolute" nor "relative"."""


def get_prompt_template(grading_format: str, include_reference: bool) -> str:
    """The template for "absolute" or "relative" grading, with a place for a reference answer or without."""
    if grading_format not in _TEMPLATES:
        raise GradeError(f"expected absolute or relative, not {grading_format!r}", field="grading_format")
    return _TEMPLATES[grading_format][bool(include_reference)]


def load_rubric(criteria: str, grading_format: str) -> str:
    """A ready rubric (see `sre rubrics`) as text; for "relative" grading its criteria alone."""
    get_prompt_template(grading_format, False)
    name = _RENAMED.get(criteria, criteria).replace("_", "-")
    if name not in (ready := ready_rubrics()):
        raise GradeError(f"expected one of {', '.join(ready)}, not {criteria!r}", field="criteria")
    rubric = ready[name].rubric
    levels = {f"score{score}_description": text for score, text in rubric.descriptions.items()}
    text = SCORE_RUBRIC_TEMPLATE.format(criteria=rubric.criteria, **levels)
    return text if grading_format == "absolute" else text.partition("\n")[0]


HELPFULNESS_RUBRIC, HARMLESSNESS_RUBRIC, HONESTY_RUBRIC, FACTUAL_VALIDITY_RUBRIC, REASONING_RUBRIC = (
    load_rubric(name, "absolute")
    for name in ("helpfulness", "harmlessness", "honesty", "factual_validity", "reasoning")
)


def parse_rubric(text: str) -> Rubric:
    """A Rubric from SCORE_RUBRIC_TEMPLATE's shape, from criteria alone, or from a ready rubric's name."""
    with _value_errors():
        return read_rubric(text, files=False).rubric


def parse_output(output: str | None, mode: str) -> tuple[str | None, Any]:
    """(feedback, score) of a text, the score 1 to 5 ("absolute") or "A" or "B" ("relative"); (None, None) without one.

    More ways to write a score are read than a judge of this project is held to, e.g. `Score: 4/5` and `[Response B]`.
    """
    if mode not in _TEMPLATES:
        raise ModeError(f"expected absolute or relative, not {mode!r}")
    if not output or open_reasoning(output):
        return None, None
    answer = output[answer_begin(output) :]
    found = (_SCORE if mode == "absolute" else _CHOICE).search(answer)
    if found is None:
        return None, None
    feedback, result = answer[: found.start()].strip(), found[1]
    return feedback, int(result) if mode == "absolute" else result.upper()


def VLLM(model: str | Path = "", *, name: str | Path = "", max_model_len: int = 4096, **ignored: object) -> Judge:
    """A judge in a GGUF file, opened by the call that code for prometheus-eval makes. `max_model_len`: tokens of one
    prompt with its judgement; options about GPUs are ignored."""
    with _value_errors():
        return Judge.from_gguf(model or name, context=max_model_len)


class MockLLM:
    """Always gives the same answer: a stand-in for a model in tests."""

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def completions(self, prompts: Sequence[Any], **ignored: object) -> Any:
        """One answer for each prompt."""
        answer = {"absolute": "Hello [RESULT] 5", "relative": "Hello [RESULT] A"}.get(str(self.mode), "Hello World!")
        return [answer for _ in prompts]


class LiteLLM:
    """A model that the package litellm reaches: OpenAI's, a vLLM server at `api_base`, and many more."""

    def __init__(self, name: str, api_base: str | None = None) -> None:
        try:
            import litellm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise GradeError("this model needs the package litellm: pip install litellm") from None
        self.name, self.api_base = name, api_base
        self._litellm = litellm

    def validate_litellm(self) -> bool:
        """Whether it takes conversations in place of prompts."""
        return True

    def completions(self, messages: Sequence[Any], **params: Any) -> Any:
        """The texts that answer conversations (lists of {role, content})."""
        return [self._litellm.completion(**self._call(turns, params)).choices[0].message.content for turns in messages]

    def _call(self, turns: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        return {**params, "model": self.name, "api_base": self.api_base, "messages": turns}


class AsyncLiteLLM(LiteLLM):
    """`LiteLLM` with many requests at once: `batch_size` side by side, `requests_per_minute` begun in a minute."""

    def __init__(self, name: str, batch_size: int = 100, requests_per_minute: int = 100, **more: Any) -> None:
        super().__init__(name, **more)
        self.batch_size, self.requests_per_minute = batch_size, requests_per_minute

    async def completions(self, messages: Sequence[Any], **params: Any) -> Any:
        """The texts that answer conversations, in their order."""
        places = asyncio.Semaphore(self.batch_size)

        async def ask(number: int, turns: Any) -> Any:
            await asyncio.sleep(60 * (number // self.requests_per_minute))
            async with places:
                return (await self._litellm.acompletion(**self._call(turns, params))).choices[0].message.content

        return await asyncio.gather(*(ask(number, turns) for number, turns in enumerate(messages)))


class PrometheusEval:
    """Grades with a judge, or with a model that writes text. Use as a context manager, or call `close`, to free a
    judge that was opened here.

    Args:
        model: a GGUF file's path, a Judge (which stays its owner's to close), or a model with `completions`.
        absolute_grade_template: for a judge one of this module's constants; None, the default, shows a reference
            answer wherever one is given. For other models any text with the constants' fields.
        constrain: False lets a judge leave out the score; that row is (None, None).
    """

    def __init__(
        self,
        model: Any = None,
        absolute_grade_template: str | None = None,
        relative_grade_template: str | None = None,
        *,
        constrain: bool = True,
        model_id: str | None = None,
        **ignored: object,
    ) -> None:
        model = model_id if model is None else model
        self._opened = isinstance(model, str | Path)
        self.model: Any = VLLM(model) if self._opened else model
        if not isinstance(self.model, Judge) and not hasattr(self.model, "completions"):
            raise GradeError("expected a GGUF file, a Judge or a model with `completions`", field="model")
        self.absolute_grade_template = absolute_grade_template
        self.relative_grade_template = relative_grade_template
        self.constrain = constrain
        for mode, template in (("absolute", absolute_grade_template), ("relative", relative_grade_template)):
            if isinstance(self.model, Judge) and template not in (None, *_TEMPLATES[mode]):
                raise GradeError(
                    "a judge carries its own prompts; expected one of the templates in recipe.judge.compat, or None",
                    field=f"{mode}_grade_template",
                )

    def absolute_grade(
        self, *, instructions: Texts, responses: Texts, rubric: Texts, reference_answers: Any = None, params: Any = None
    ) -> Graded:
        """Score n responses: n feedbacks and n scores, in order.

        Args:
            instructions: a list, a pandas Series, a NumPy array: anything in one dimension. Position counts, no label.
            responses: as many.
            rubric: one for all, or one each: SCORE_RUBRIC_TEMPLATE filled in, criteria, or a ready rubric's name.
            reference_answers: as many; None or NaN where there is none.
            params: a judge takes max_tokens, temperature and seed, and ignores others with a warning.

        Raises:
            ValueError: numbers that differ, or a rubric that can't be read.
        """
        columns = {"instructions": instructions, "responses": responses}
        return self._grade("absolute", columns, rubric, reference_answers, params)

    def relative_grade(
        self,
        *,
        instructions: Texts,
        responses_A: Texts,
        responses_B: Texts,
        rubric: Texts,
        reference_answers: Any = None,
        params: Any = None,
    ) -> Graded:
        """Compare n pairs: n feedbacks and n of "A" or "B", in order. The rest as `absolute_grade`."""
        columns = {"instructions": instructions, "responses_A": responses_A, "responses_B": responses_B}
        return self._grade("relative", columns, rubric, reference_answers, params)

    def single_absolute_grade(
        self, instruction: str, response: str, rubric: str, reference_answer: str | None = None, params: Any = None
    ) -> tuple[str | None, int | None]:
        """One feedback and one score."""
        columns = {"instructions": [instruction], "responses": [response]}
        feedbacks, scores = self._grade("absolute", columns, [rubric], [reference_answer], params)
        return feedbacks[0], scores[0]

    def single_relative_grade(
        self,
        instruction: str,
        response_A: str,
        response_B: str,
        rubric: str,
        reference_answer: Any = "",
        params: Any = None,
    ) -> tuple[str | None, str | None]:
        """One feedback and "A" or "B"."""
        columns = {"instructions": [instruction], "responses_A": [response_A], "responses_B": [response_B]}
        feedbacks, labels = self._grade("relative", columns, [rubric], [reference_answer], params)
        return feedbacks[0], labels[0]

    def close(self) -> None:
        """Free the model, if this object opened it. Twice is fine."""
        if self._opened:
            self.model.close()

    def __enter__(self) -> PrometheusEval:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _grade(self, mode: str, columns: Mapping[str, Any], rubric: Any, references: Any, params: Any) -> Graded:
        rows = _rows({**columns, "rubric": rubric, "reference_answers": references})
        template = self.absolute_grade_template if mode == "absolute" else self.relative_grade_template
        if not isinstance(self.model, Judge):
            return self._ask(mode, rows, template or _TEMPLATES[mode][references is not None], params or _PARAMS)
        if template == _TEMPLATES[mode][False]:
            rows = [{**row, "reference_answer": ""} for row in rows]
        with _value_errors():
            examples = [_example(row, number) for number, row in enumerate(rows)]
            options = _options(params or {}, self.constrain)
            found = {judgement.example_id: judgement for judgement in self.model.judge(examples, options)}
        graded = [_graded(example, found[example.id]) for example in examples]
        return [feedback for feedback, _ in graded], [score for _, score in graded]

    def _ask(self, mode: str, rows: Sequence[Mapping[str, str]], template: str, params: Mapping[str, Any]) -> Graded:
        """Grade with a model that writes text; answers without a score are asked for again."""
        system = ABS_SYSTEM_PROMPT if mode == "absolute" else REL_SYSTEM_PROMPT
        texts = [template.format(**row) for row in rows]
        inputs: list[Any] = [f"{system}\n\n{text}" for text in texts]
        if hasattr(self.model, "validate_litellm"):
            inputs = [[{"role": "system", "content": system}, {"role": "user", "content": text}] for text in texts]
        graded: list[tuple[str | None, Any]] = [(None, None)] * len(inputs)
        left, tries = list(range(len(inputs))), 0
        while left and tries <= RETRIES:
            answers = _finished(self.model.completions([inputs[number] for number in left], **params))
            for number, answer in zip(left, answers, strict=True):
                graded[number] = parse_output(answer, mode)
            left, tries = [number for number in left if graded[number][1] is None], tries + 1
        if left:
            _log.warning("%d of %d answers have no score, after %d tries", len(left), len(graded), tries)
        return [feedback for feedback, _ in graded], [score for _, score in graded]


def _rows(columns: Mapping[str, Any]) -> list[dict[str, str]]:
    """One mapping of template fields to texts for each place of the columns, which must be equally long."""
    number = len(_column(columns["instructions"], "instructions"))
    lists: dict[str, list[Any]] = {}
    for name, values in columns.items():
        every = values is None or (name == "rubric" and isinstance(values, str))
        lists[name] = [values] * number if every else _column(values, name)
        if len(lists[name]) != number:
            raise GradeError(f"{number} instructions need as many, not {len(lists[name])}", field=name)
    single = {name: name.replace("responses", "response").removesuffix("s") for name in lists}
    return [{single[name]: _text(cells[k], name) for name, cells in lists.items()} for k in range(number)]


def _column(values: Any, field: str) -> list[Any]:
    """The values by position, whatever labels they have."""
    if isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) != 1 or not isinstance(values, Iterable):
        raise GradeError(f"expected a list of texts, not {type(values).__name__}", field=field)
    return list(values)


def _text(value: Any, field: str) -> str:
    if field == "reference_answers" and (value is None or value != value):  # NaN, as pandas fills a column
        return ""
    if isinstance(value, tuple) and len(value) == 1:  # `text = "...",` as in the samples of prometheus-eval
        value = value[0]
    if not isinstance(value, str):
        raise GradeError(f"expected text, not {type(value).__name__}", field=field)
    return value


def _example(row: Mapping[str, str], number: int) -> Example:
    responses = [text for name, text in row.items() if name.startswith("response")]
    rubric = parse_rubric(row["rubric"])
    return to_example(row["instruction"], responses, rubric, row["reference_answer"], id=str(number))


def _graded(example: Example, judgement: Judgement) -> tuple[str | None, Any]:
    pair = example.task == "pairwise"
    if judgement.label is not None:
        return judgement.rationale, "AB"[judgement.label - 1] if pair else judgement.label
    feedback, score = parse_output(judgement.text, "relative" if pair else "absolute")
    return (feedback, score) if pair or score in example.labels else (None, None)


def _finished(found: Any) -> Any:
    """The result, waited for in a loop of its own where it is a coroutine's: this works in notebooks too."""
    if not inspect.iscoroutine(found):
        return found
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, found).result()


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    try:
        yield
    except SreError as error:
        if isinstance(error, ValueError):
            raise
        same = GradeError("")
        same.args, same.file, same.line, same.field = error.args, error.file, error.line, error.field
        raise same from None


def _options(params: Mapping[str, Any], constrain: bool) -> JudgeOptions:
    known = {name: params[name] for name in ("max_tokens", "temperature", "seed") if params.get(name) is not None}
    if ignored := sorted(params.keys() - {"max_tokens", "temperature", "seed"}):
        _log.warning("ignored, because a judge samples without them: %s", ", ".join(ignored))
    return JudgeOptions(**known, constrain=constrain)
