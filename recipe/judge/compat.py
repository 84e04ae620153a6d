"""The calls of prometheus-eval, on a judge of this project: change the imports, and the model.

from recipe.judge.compat import ABSOLUTE_PROMPT, SCORE_RUBRIC_TEMPLATE, VLLM, PrometheusEval

judge = PrometheusEval(model=VLLM(model="judge.gguf"), absolute_grade_template=ABSOLUTE_PROMPT)
rubric = SCORE_RUBRIC_TEMPLATE.format(criteria="Is it short?", score1_description="No.", ..., score5_description="Yes.")
feedback, score = judge.single_absolute_grade(instruction="...", response="...", rubric=rubric)

A judge carries its own prompts, so a template of this module only says whether the reference answer is shown. It judges
greedily and always gives a label, so nothing is tried again. A model that litellm reaches is asked with the same
prompts, and can't be held to a label. A template of your own is asked as it stands, and the answer read by
`parse_output`. What could not be judged is (None, None) in its place, with the reason in a warning of the logger
"recipe.judge". Every error is a ValueError.
"""

import asyncio
import contextlib
import inspect
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recipe.data.records import Example, Judgement, Message
from recipe.data.rubrics import read_rubric, ready_rubrics
from recipe.data.values import missing
from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Request, Sampling
from recipe.judge.judge import Judge, to_example
from recipe.judge.options import JudgeOptions
from recipe.system import read_table
from recipe.verdict import answer_begin, open_reasoning

_log = logging.getLogger("recipe.judge")

ABS_SYSTEM_PROMPT = "You score a response by the rubric given, and by nothing else."
REL_SYSTEM_PROMPT = "You compare two responses by the rubric given, and by nothing else."
SCORE_RUBRIC_TEMPLATE = "[{criteria}]\n" + "\n".join(f"Score {k}: {{score{k}_description}}" for k in range(1, 6))
_REFERENCE = "\n\n### Reference answer\n{reference_answer}"
# By mode: without a place for a reference answer, and with it.
_TEMPLATES: dict[str, tuple[str, str]] = {
    mode: (template.replace(_REFERENCE, ""), template) for mode, template in read_table(__file__).items()
}
(ABSOLUTE_PROMPT_WO_REF, ABSOLUTE_PROMPT), (RELATIVE_PROMPT_WO_REF, RELATIVE_PROMPT) = _TEMPLATES.values()
_RENAMED = {"factual_validity": "factuality", "honesty": "truthfulness"}
_PARAMS = {"max_tokens", "temperature", "seed"}
# A score at the end, after "result" or "score" in any of the ways in which models write it.
_SCORE = re.compile(
    r"(?i)[\[(]?\b(?:result|score)(?:[\s:*\[\]()]|\b(?:of|result|score))*([1-5])(?:\.0+)?"
    r"\s*(?:/\s*5|out\s*of\s*5)?[\s*\])\"'.!]*\Z"
)
_CHOICE = re.compile(
    r"(?im)(?:\[result\b:?\]?|\[response\b|^\s*result\b:?)[\s:*\[(]*(?:response\s+)?([AB])\b[\s*\])\"'.!]*\Z"
)

Texts = str | Iterable[Any]
Graded = tuple[list[str | None], list[Any]]


class ModeError(ValueError, AssertionError):
    """Neither "absolute" nor "relative"; prometheus-eval's parse_output asserts that."""


def get_prompt_template(grading_format: str, include_reference: bool) -> str:
    """The template for "absolute" or "relative" grading, with a place for a reference answer or without."""
    if grading_format not in _TEMPLATES:
        raise ModeError(f"expected absolute or relative, not {grading_format!r}")
    return _TEMPLATES[grading_format][bool(include_reference)]


def load_rubric(criteria: str, grading_format: str) -> str:
    """A ready rubric (see `sre rubrics`) as text; for "relative" grading its criteria alone."""
    get_prompt_template(grading_format, False)
    name = _RENAMED.get(criteria, criteria).replace("_", "-")
    if name not in (ready := ready_rubrics()):
        raise ValueError(f"expected one of {', '.join(ready)}, not {criteria!r}")
    rubric = ready[name].rubric
    levels = {f"score{score}_description": text for score, text in rubric.descriptions.items()}
    text = SCORE_RUBRIC_TEMPLATE.format(criteria=rubric.criteria, **levels)
    return text if grading_format == "absolute" else text.partition("\n")[0]


HELPFULNESS_RUBRIC, HARMLESSNESS_RUBRIC, HONESTY_RUBRIC, FACTUAL_VALIDITY_RUBRIC, REASONING_RUBRIC = (
    load_rubric(name, "absolute")
    for name in ("helpfulness", "harmlessness", "honesty", "factual_validity", "reasoning")
)


def parse_output(output: str | None, mode: str) -> tuple[str | None, Any]:
    """(feedback, score) of a text, the score 1 to 5 ("absolute") or "A" or "B" ("relative"); (None, None) without one.

    More ways to write a score are read than a judge of this project is held to, e.g. `Score: 4/5` and `[Response B]`.
    """
    get_prompt_template(mode, False)
    if not output or open_reasoning(output):
        return None, None
    answer = output[answer_begin(output) :]
    found = (_SCORE if mode == "absolute" else _CHOICE).search(answer)
    if found is None:
        return None, None
    feedback, result = answer[: found.start()].strip(), found[1]
    return feedback, int(result) if mode == "absolute" else result.upper()


def VLLM(model: str | Path = "", *, name: str | Path = "", max_model_len: int = 4096, **ignored: object) -> Judge:
    """A judge in a GGUF file, opened by the call that code for prometheus-eval makes. Some of it says `name`."""
    with _value_errors():
        return Judge.from_gguf(model or name, context=max_model_len)


class LiteLLM:
    """A model that the package litellm reaches. `api_base`: the address of its server, if it is no public one."""

    batch_size = 1  # requests at a time

    def __init__(self, name: str, api_base: str | None = None) -> None:
        try:
            import litellm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ValueError("this model needs the package litellm: pip install litellm") from None
        self.name, self._complete = name, partial(litellm.batch_completion, model=name, api_base=api_base)

    def completions(self, messages: Sequence[Any], **params: Any) -> Any:
        """The answer to each list of messages; "" where the model fails, with the reason in a warning."""
        replies = self._complete(messages=messages, max_workers=self.batch_size, **params)
        for failed in (reply for reply in replies if isinstance(reply, Exception)):
            _log.warning("not answered: %s", failed)
        return ["" if isinstance(one, Exception) else one.choices[0].message.content or "" for one in replies]


class AsyncLiteLLM(LiteLLM):
    """`LiteLLM`, `batch_size` requests at a time; nothing limits those of a minute."""

    def __init__(
        self, name: str, batch_size: int = 100, requests_per_minute: int = 100, api_base: str | None = None
    ) -> None:
        super().__init__(name, api_base)
        self.batch_size = batch_size

    async def completions(self, messages: Sequence[Any], **params: Any) -> Any:
        return await asyncio.to_thread(super().completions, messages, **params)


class MockLLM:
    """Always gives the same answer: a stand-in for a model in tests."""

    def __init__(self, mode: str | None = None) -> None:
        if mode is not None:
            get_prompt_template(mode, False)
        label = {"absolute": 5, "relative": 1}.get(str(mode))
        self.text = f"Hello [RESULT] {label}" if label else "Hello World!"

    def completions(self, prompts: Sequence[Any], use_tqdm: bool = False, **params: Any) -> Any:
        return [self.text] * len(prompts)


class AsyncMockLLM(MockLLM):
    async def completions(self, prompts: Sequence[Any], use_tqdm: bool = False, **params: Any) -> Any:
        return super().completions(prompts)


class _Writer(Generator):
    """A model by its `completions`, which writes a text for each list of messages and may be a coroutine."""

    def __init__(self, model: Any) -> None:
        self.name, self._model = type(model).__name__, model

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        asked = [[{"role": turn.role, "content": turn.content} for turn in request.messages] for request in requests]
        why = ""
        try:
            said = self._model.completions(asked, max_tokens=sampling.max_tokens, temperature=sampling.temperature)
            if inspect.iscoroutine(said):
                with ThreadPoolExecutor(1) as pool:  # a notebook's own thread runs a loop already
                    said = pool.submit(asyncio.run, said).result()
            texts = list(map(str, said))
            if len(texts) != len(asked):
                raise ValueError(f"{len(asked)} prompts got {len(texts)} texts")
        except Exception as error:
            why = str(error) or type(error).__name__
        for place, request in enumerate(requests):
            text = "" if why else texts[place]
            yield Completion(request.id, 0, text, (), "error" if why else "stop", 0, error=why)

    def close(self) -> None: ...


def _judge_of(model: Any) -> Judge:
    """`model` itself, or a judge that asks it by its `completions`."""
    if isinstance(model, Judge):
        return model
    if isinstance(model, str | Path):
        return VLLM(model)
    if not callable(getattr(model, "completions", None)):
        raise ValueError("model: expected a GGUF file, a Judge, or an object with a method `completions`")
    return Judge(_Writer(model))


class PrometheusEval:
    """Grades with `model`: a GGUF file's path, a Judge, as VLLM gives, or any model whose method `completions` writes
    texts, as LiteLLM's does.

    A template is one of this module's constants; None shows a reference answer wherever one is given. Your own text
    has `{instruction}`, `{response}` (or `{response_A}` and `{response_B}`), `{rubric}` and `{reference_answer}`.
    """

    def __init__(
        self,
        model: Any = None,
        absolute_grade_template: str | None = None,
        relative_grade_template: str | None = None,
        *,
        model_id: str | None = None,
        **ignored: object,
    ) -> None:
        self.model = _judge_of(model_id if model is None else model)
        self.absolute_grade_template = absolute_grade_template
        self.relative_grade_template = relative_grade_template

    def absolute_grade(
        self, *, instructions: Texts, responses: Texts, rubric: Texts, reference_answers: Any = None, params: Any = None
    ) -> Graded:
        """Score n responses: n feedbacks and n scores, in order. Raises ValueError for columns of different lengths.

        Args:
            instructions, responses: a list, a pandas Series, a NumPy array: anything in one dimension, by position.
            rubric: one for all, or one each: SCORE_RUBRIC_TEMPLATE filled in, criteria, or a ready rubric's name.
            reference_answers: as many; None or NaN where there is none.
            params: max_tokens, temperature and seed; others are ignored with a warning.
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
        """Compare n pairs: n feedbacks and n of "A" or "B", in order. Arguments as in `absolute_grade`."""
        columns = {"instructions": instructions, "responses_A": responses_A, "responses_B": responses_B}
        return self._grade("relative", columns, rubric, reference_answers, params)

    def single_absolute_grade(
        self, instruction: str, response: str, rubric: str, reference_answer: str | None = None, params: Any = None
    ) -> tuple[str | None, int | None]:
        """`absolute_grade` of one response: its feedback and its score."""
        columns = {"instructions": [instruction], "responses": [response]}
        (feedback,), (score,) = self._grade("absolute", columns, [rubric], [reference_answer], params)
        return feedback, score

    def single_relative_grade(
        self,
        instruction: str,
        response_A: str,
        response_B: str,
        rubric: str,
        reference_answer: Any = "",
        params: Any = None,
    ) -> tuple[str | None, str | None]:
        """`relative_grade` of one pair: its feedback, and "A" or "B"."""
        columns = {"instructions": [instruction], "responses_A": [response_A], "responses_B": [response_B]}
        (feedback,), (label,) = self._grade("relative", columns, [rubric], [reference_answer], params)
        return feedback, label

    def _grade(self, mode: str, columns: Mapping[str, Any], rubric: Any, references: Any, params: Any) -> Graded:
        template = self.absolute_grade_template if mode == "absolute" else self.relative_grade_template
        instructions = _texts(columns["instructions"], "instructions")
        columns = {**columns, "instructions": instructions, "rubric": rubric, "reference_answers": references}
        rows = zip(*(_texts(values, name, len(instructions)) for name, values in columns.items()), strict=True)
        if not isinstance(params or {}, Mapping):
            raise ValueError("params: expected names and values such as {'max_tokens': 512}")
        taken = {name: value for name, value in (params or {}).items() if name in _PARAMS and value is not None}
        if ignored := sorted((params or {}).keys() - _PARAMS):
            _log.warning("ignored, because a judge samples without them: %s", ", ".join(ignored))
        with _value_errors():
            if template not in (None, *_TEMPLATES[mode]):
                names = [re.sub("s(?=_[AB]$|$)", "", name) for name in columns]  # a template's fields are singular
                return self._ask(mode, template, [dict(zip(names, row, strict=True)) for row in rows], taken)
            examples = []
            for place, (instruction, *responses, criteria, reference) in enumerate(rows):
                shown = "" if template == _TEMPLATES[mode][False] else reference
                made = read_rubric(criteria, files=False).rubric
                examples.append(to_example(instruction, responses, made, shown, id=str(place)))
            judgements = self.model.judge(examples, JudgeOptions(**taken))
            found = {judgement.example_id: judgement for judgement in judgements}
        graded = [_graded(example, found[example.id]) for example in examples]
        return [feedback for feedback, _ in graded], [score for _, score in graded]

    def _ask(self, mode: str, template: str, rows: Sequence[Mapping[str, str]], taken: Mapping[str, Any]) -> Graded:
        """Grade with a template of the caller's own."""
        system = Message("system", ABS_SYSTEM_PROMPT if mode == "absolute" else REL_SYSTEM_PROMPT)
        try:
            asked = [template.format_map(row) for row in rows]
        except (LookupError, ValueError, AttributeError) as error:
            fields = ", ".join(f"{{{name}}}" for name in rows[0])
            raise ValueError(f"template: expected no other fields than {fields} ({error!r})") from None
        requests = [Request(str(place), (system, Message("user", text))) for place, text in enumerate(asked)]
        completions = self.model.generator.generate(requests, replace(JudgeOptions(**taken).sampling, fit=True))
        said = {completion.request_id: completion for completion in completions}
        for completion in said.values():
            if completion.error:
                _log.warning("not graded: %s", completion.error)
        graded = [parse_output(said[request.id].text, mode) for request in requests]
        return [feedback for feedback, _ in graded], [score for _, score in graded]


def _texts(values: Any, field: str, number: int | None = None) -> list[str]:
    """The texts of a column by position, whatever labels they have. One rubric, or None, stands for all rows."""
    if number is not None and (values is None or (field == "rubric" and isinstance(values, str))):
        values = [values] * number
    if isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) != 1 or not isinstance(values, Iterable):
        raise ValueError(f"{field}: expected a list of texts, not {type(values).__name__}")
    texts = [_text(value, field) for value in values]
    if number not in (None, len(texts)):
        raise ValueError(f"{field}: {number} instructions need as many, not {len(texts)}")
    return texts


def _text(value: Any, field: str) -> str:
    if field == "reference_answers" and missing(value):
        return ""
    if isinstance(value, tuple) and len(value) == 1:  # `text = "...",` as in the samples of prometheus-eval
        value = value[0]
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text, not {type(value).__name__}")
    return value


def _graded(example: Example, judgement: Judgement) -> tuple[str | None, Any]:
    pair = example.task == "pairwise"
    if judgement.label is not None:
        return judgement.rationale, "AB"[judgement.label - 1] if pair else judgement.label
    feedback, score = parse_output(judgement.text, "relative" if pair else "absolute")
    return (feedback, score) if pair or score in example.labels else (None, None)


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    try:
        yield
    except SreError as error:
        raise ValueError(str(error)) from error
