"""The Python API of a finished judge. Knows no files of judgements (judge_file.py) and no training.

with Judge.from_gguf("judge.gguf") as judge:
    judgement = judge.score("Name two fruits.", "Apple and brick.", "Are both items fruits?")
    judgement.label, judgement.rationale, judgement.expected_score, judgement.confidence
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from recipe.data.columns import RESPONSES
from recipe.data.records import Example, Judgement, Message, Task, exchanged
from recipe.data.rubrics import AnyRubric, read_rubric
from recipe.data.values import conversation_id, short, to_conversation, to_text
from recipe.errors import SreError, did_you_mean, printable
from recipe.gguf.header import read_metadata
from recipe.inference.base import Closing, Completion, Generator, Request, to_judgement
from recipe.inference.calibration import Calibration, read_calibrations, write_calibrations
from recipe.judge.aggregate import Answer, BothOrders, Consensus, combined, judgements_of
from recipe.judge.options import JudgeOptions, check_bool, check_whole
from recipe.prompts import Prompts
from recipe.storage import hash_file

PROMPT_KEY = "sre.prompts."
DEFAULT = JudgeOptions()
_log = logging.getLogger("recipe.judge")

Conversation = str | Sequence[Message | Mapping[str, str]]


class Judge(Closing):
    """A model that judges, with its prompts. Use as a context manager, or call `close`.

    Calls from several threads wait for each other; `AsyncJudge` batches them instead.

    Attributes:
        errors: example id -> why the engine could not judge it. Each call of `judge` clears it.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Prompts | None = None,
        *,
        name: str | None = None,
        path: Path | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> None:
        """Make a judge of any generator.

        Args:
            generator: runs the model.
            prompts: the package's own where left out.
            name: the origin of the judgements. [default: the generator's name]
            path: the model's file, if any.
            calibrations: task -> the calibration of its label log-probabilities.
        """
        if isinstance(generator, str | Path):
            raise SreError("expected a Generator; Judge.from_gguf opens a file", field="generator")
        self.generator = generator
        self.prompts = prompts or Prompts()
        self.name = name or generator.name
        self.path = path
        self.calibrations = dict(calibrations or {})
        self.errors: dict[str, str] = {}
        self._closed = False
        self._lock = threading.RLock()

    @classmethod
    def from_gguf(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        context: int = 4096,
        parallel: int = 16,
        memory: int | str | None = None,
        gpu_layers: int | None = None,
        calibrated: bool = True,
    ) -> Judge:
        """Open a GGUF file with llama.cpp. The prompts are the file's own (`sre.prompts.*`), if it has any.

        Args:
            path: the file, or a run folder with its judge.gguf.
            threads: CPU threads. [default: all cores]
            context: the most tokens of one prompt with its judgement.
            parallel: judgements decoded at once.
            memory: the most that the KV cache may take, in bytes or as "2GB". [default: what the rest needs]
            gpu_layers: how many layers go to the GPU, -1 for all. [default: all where llama.cpp has one, else none]
            calibrated: correct label probabilities, and expected scores with them, by the calibration that export
                fitted on held-out rows (`sre.label_calibration`), where the file has one. Labels stay as they are.

        Raises:
            SreError: the file or llama-cpp-python is missing, the file is damaged, `memory` is no size, or there is no
                GPU for the layers that were asked for.
        """
        if not isinstance(path, str | PathLike):
            raise SreError(f"expected a GGUF file or a run folder, not {path!r}", field="path")
        for argument, given, least in (("threads", threads, 1), ("gpu_layers", gpu_layers, -1)):
            check_whole(least if given is None else given, argument, least)
        check_whole(context, "context", 1)
        check_whole(parallel, "parallel", 1)
        check_bool(calibrated, "calibrated")
        path = Path(path)
        name = path.stem
        if (path / "config.toml").is_file():
            path, name = path / "judge.gguf", path.name
            if not path.is_file():
                raise SreError("this run folder has no judge.gguf yet; finish it with `sre run`", file=path.parent)
        if path.is_dir():
            there = sorted(file.name for file in path.glob("*.gguf"))
            advice = f"give its {there[0]}" if there else "give a .gguf file, or a folder that `sre run` made"
            raise SreError(f"this folder is no run folder: it has no config.toml; {advice}", file=path)
        if not path.is_file():
            raise SreError("no such model file; expected a .gguf file or a run folder", file=path)
        limit = None if memory is None else to_bytes(memory)
        metadata = read_metadata(path)
        calibrations = read_calibrations(metadata) if calibrated else {}
        from recipe.inference.llamacpp.generator import LlamaCppGenerator

        generator = LlamaCppGenerator(
            path, threads=threads, context=context, parallel=parallel, memory=limit, gpu_layers=gpu_layers
        )
        return cls(generator, Prompts(prompts_in(metadata), path), name=name, path=path, calibrations=calibrations)

    @property
    def identity(self) -> dict[str, str]:
        """What tells this judge from another: its file's SHA-256 or its generator's name, calibrations and prompts."""
        name = hash_file(self.path) if self.path else self.generator.name
        model = f"{name} with {write_calibrations(self.calibrations)}" if self.calibrations else name
        return {"model": model, "prompts": self.prompts.digest}

    # --- one example ---

    def score(self, /, conversation: Conversation, response: str, rubric: AnyRubric, **options: Any) -> Judgement:
        """Score one response by a rubric. The label is on the rubric's scale, 1 to 5 where it describes none.

        Args:
            conversation: one user turn as text, or a list of Message or {role, content}.
            response: the text to judge.
            rubric: a ready rubric's name, a file, criteria as text, a Rubric, or {criteria, descriptions}.
            **options: `reference`, an answer that deserves the top score; and fields of JudgeOptions.

        Raises:
            SreError: bad input, or the engine fails, e.g. on a prompt longer than the context.
        """
        return cast(Judgement, self.ask(*_question(conversation, (response,), rubric, options)))

    def compare(
        self, /, conversation: Conversation, response_a: str, response_b: str, rubric: AnyRubric, **options: Any
    ) -> Judgement:
        """Say which response is better: label 1 for `response_a`, 2 for `response_b`.

        The other arguments and the errors are those of `score`.
        """
        return cast(Judgement, self.ask(*_question(conversation, (response_a, response_b), rubric, options)))

    def compare_both_orders(
        self, /, conversation: Conversation, response_a: str, response_b: str, rubric: AnyRubric, **options: Any
    ) -> BothOrders:
        """`compare` in both orders, because a judge may favour a position. Arguments and errors are as there.

        Of the options, `tie` says what label a pair gets whose orders disagree, see `aggregate.both_orders`.
        """
        options["swap"] = True
        asked = _question(conversation, (response_a, response_b), rubric, options, several=True)
        return cast(BothOrders, self.ask(*asked))

    def consensus(
        self, /, conversation: Conversation, response: str | tuple[str, str], rubric: AnyRubric, **options: Any
    ) -> Consensus:
        """The majority of several judgements: self-consistency. Arguments and errors are those of `score`.

        A `response` may be a pair (a tuple). Of the options, `samples` is 5 and `temperature` 1 where they are left
        out; fewer than two samples are an error.
        """
        options = {"samples": 5, **options}
        check_whole(options["samples"], "samples", 2)
        responses = tuple(response) if isinstance(response, tuple | list) else (response,)
        return cast(Consensus, self.ask(*_question(conversation, responses, rubric, options, several=True)))

    def ask(self, example: Example, options: JudgeOptions) -> Answer:
        """Answer one example, see `answers`. Raises SreError when the engine fails at it."""
        with self._lock:
            (answer,) = self.answers([example], options)
            for part in judgements_of(answer):
                if part.finish == "error":
                    raise SreError(f"not judged: {self.errors[part.example_id]}")
        return answer

    # --- many ---

    def judge(self, examples: Sequence[Example], options: JudgeOptions = DEFAULT) -> Iterator[Judgement]:
        """Stream `options.samples` judgements of each example as they finish, in any order; `example_id` says whose.

        Where the engine fails, the label is None, the finish "error", and the reason is in `errors`. Raises SreError
        when two examples share an id.
        """
        if self._closed:
            raise SreError("this judge is closed; open it again")
        if odd := next((one for one in examples if not isinstance(one, Example)), None):
            raise SreError(f"expected examples, as `read_examples` gives them, not {short(odd)}", field="examples")
        by_id = {example.id: example for example in examples}
        if len(by_id) < len(examples):
            raise SreError("two examples have the same id; ids must differ")
        self.errors = {}
        return self._judgements(by_id, options)

    def answers(self, examples: Sequence[Example], options: JudgeOptions = DEFAULT) -> Iterator[Answer]:
        """Stream one answer for each example, as its last judgement finishes, in any order.

        It is a Judgement; where `options` ask for several samples, a Consensus; for both orders of a pair, BothOrders.
        """
        orders = [(example.id, order) for example in examples for order in orders_of(example, options)]
        owner = {order.id: name for name, order in orders}
        expected = Counter(owner.values())
        waiting: dict[str, list[Judgement]] = {name: [] for name in expected}
        for judgement in self.judge([order for _, order in orders], options):
            name = owner[judgement.example_id]
            waiting[name].append(judgement)
            if len(waiting[name]) == expected[name] * options.samples:
                found = sorted(waiting.pop(name), key=lambda one: (one.example_id != name, one.sample))
                yield combined(found, options.tie)

    # --- the two halves of a judgement, for callers that run the generator themselves (service.py) ---

    def request(self, example: Example, options: JudgeOptions = DEFAULT) -> Request:
        """What to ask the generator about `example`; its id is the example's. `options.sampling` goes with it."""
        messages = self.prompts.judge(example, label_only=options.label_only)
        force = options.constrain and not options.label_only
        return Request(example.id, messages, example.labels, force, options.label_only)

    def judgement(self, example: Example, completion: Completion, options: JudgeOptions = DEFAULT) -> Judgement:
        """What the generator's answer to `request(example, options)` says."""
        calibration = self.calibrations.get(example.task)
        # It was fitted on labels that follow a rationale.
        if calibration and completion.label_logprobs and not options.label_only:
            completion = replace(completion, label_logprobs=calibration.apply(completion.label_logprobs))
        # A constrained judgement always has its label, also where the model wrote no rationale before it.
        need_rationale = not (options.constrain or options.label_only)
        return to_judgement(example, completion, self.name, need_rationale=need_rationale)

    def _judgements(self, by_id: Mapping[str, Example], options: JudgeOptions) -> Iterator[Judgement]:
        with self._lock:
            requests, refused = self._requests(by_id.values(), options)
            for completion in itertools.chain(refused, self.generator.generate(requests, options.sampling)):
                if completion.finish == "error":
                    self.errors[completion.request_id] = completion.error
                    _log.warning("%s: not judged: %s", *map(printable, (completion.request_id, completion.error)))
                yield self.judgement(by_id[completion.request_id], completion, options)

    def _requests(self, examples: Iterable[Example], options: JudgeOptions) -> tuple[list[Request], list[Completion]]:
        """What to ask, and "error" completions of the examples at which a template fails: the others go on."""
        requests, refused = list[Request](), list[Completion]()
        for example in examples:
            try:
                requests.append(self.request(example, options))
            except SreError as error:
                why, numbers = str(error), range(options.samples)
                refused += [Completion(example.id, k, "", (), "error", 0, error=why) for k in numbers]
        return requests, refused

    def close(self) -> None:
        """Free the model."""
        if not self._closed:
            self._closed = True
            self.generator.close()


def orders_of(example: Example, options: JudgeOptions) -> list[Example]:
    """What is judged for an answer about the example: itself, and with `options.swap` a pair in the other order too."""
    return [example, exchanged(example)] if options.swap and example.task == "pairwise" else [example]


def _question(
    conversation: Conversation,
    responses: Sequence[str],
    rubric: AnyRubric,
    options: dict[str, Any],
    *,
    several: bool = False,
) -> tuple[Example, JudgeOptions]:
    example = to_example(conversation, responses, rubric, options.pop("reference", ""))
    known = [option.name for option in fields(JudgeOptions)]
    for name in options.keys() - known:
        raise SreError(f"no such option; expected reference, {', '.join(known)}{did_you_mean(name, known)}", field=name)
    found = JudgeOptions(**options)
    if not several and (found.samples > 1 or found.swap):
        raise SreError("this gives one judgement; `consensus` takes samples, `compare_both_orders` swaps")
    return example, found


def to_example(
    conversation: Conversation, responses: Sequence[str], rubric: AnyRubric, reference: str = "", *, id: str = ""
) -> Example:
    """What `score` (one response) and `compare` (two) judge, as an Example; a bad argument raises SreError.

    id: the draws of samples follow from it. [default: the task's name]
    """
    if len(responses) not in (1, 2):
        raise SreError(f"expected one response or two, not {len(responses)}", field="response")
    turns = to_conversation(conversation)
    task: Task = "pointwise" if len(responses) == 1 else "pairwise"
    texts = tuple(to_text(text, name) for text, name in zip(responses, RESPONSES[task], strict=True))
    return Example(
        id=id or task,
        task=task,
        conversation=turns,
        responses=texts,
        rubric=read_rubric(rubric, task).rubric,
        reference=to_text(reference, "reference"),
        prompt_id=conversation_id(turns),
    )


def to_bytes(size: int | str) -> int:
    """Bytes of 1000000, "512MiB" or "2GB". Raises SreError for anything else, and for less than one."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        found = int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        found = 0
    if found < 1:
        raise SreError(f"expected a size such as 2GB, 512MiB or a number of bytes, not {size!r}", field="memory")
    return found


def prompts_in(metadata: Mapping[str, object]) -> dict[str, str]:
    """The prompt templates in a GGUF file's metadata, by name: what stands under `sre.prompts.<name>`."""
    return {key.removeprefix(PROMPT_KEY): str(text) for key, text in metadata.items() if key.startswith(PROMPT_KEY)}
