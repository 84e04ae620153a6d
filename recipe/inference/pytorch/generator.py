"""The Generator on PyTorch: a Hugging Face folder and its LoRA adapter, on a GPU (or, slowly, on a CPU).

`decoder.py` runs left-padded batches, each prompt of them prefilled once, and leaves finished rows behind; for a model
it can't run (Unsloth's own, or a kind that grouped_attention.py doesn't name) `model.generate` does, which prefills a
prompt once a sample, and again after every LAP tokens or so, when those that have not ended are gathered into fewer
batches.
`generation_batch.py` decides which token comes next, from the raw logits. Each row draws from its own stream (seed,
request id, sample), as in llama.cpp's engine, and shares nothing with its batch but rounding: batches of another shape
round logits otherwise, which can turn a near tie. The same call on the same machine gives the same batches.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Quantization, Request, Sampling
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.labels import LabelPlaces
from recipe.inference.pytorch.batch import Drawing, Question, Row, Vocabulary
from recipe.inference.pytorch.decoder import Decoder, can_decode, left_padded
from recipe.inference.pytorch.loading import free_memory
from recipe.inference.special_tokens import PromptEncoder, added_tokens
from recipe.inference.token_sampling import stream

LAP = 96
"""Tokens (up to twice as many) that `model.generate` draws before a batch's finished rows are left behind."""

KEPT = 0.5
"""The share of a batch's rows at which the finished ones are left behind (on a GPU a new graph is recorded then)."""


class TorchGenerator(Generator):
    """Runs one model folder, with an adapter or without.

    parallel: the most sequences of one batch. context: the most tokens of one prompt with its answer (at most what
    the model was trained for). engine: "unsloth", "transformers", or "auto": Unsloth on a GPU where it can be
    imported (and wherever it is imported already: its patches to transformers stay). `close` frees the model.
    """

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None,
        name: str,
        parallel: int = 16,
        context: int = 4096,
        quantization: Quantization = "none",
        engine: Literal["auto", "unsloth", "transformers"] = "auto",
    ) -> None:
        self.path, self.name, self.parallel = model, name, parallel
        self.context = min(context, _trained_length(model) or context)
        self._model, tokenizer = self._load(adapter, quantization, engine)
        self._vocabulary = Vocabulary(tokenizer, self._model)
        self._template = ChatTemplate.of(tokenizer)
        special = added_tokens(tokenizer)
        self._encoder = PromptEncoder(self.render, self._vocabulary.tokenize, special.get, tokenizer.unk_token_id)
        self._places: dict[tuple[int, ...], LabelPlaces] = {}
        from transformers import GenerationConfig

        # Nothing of the folder's own settings: no repetition penalty, no filters, no end token but ours.
        wrapped = hasattr(self._model, "get_base_model")  # by PEFT; under vLLM the adapter goes with each call
        for part in (self._model, self._model.get_base_model() if wrapped else self._model):
            part.generation_config = GenerationConfig(pad_token_id=self._vocabulary.pad)
        self._model.eval()
        self._record = quantization == "none"
        self._decodes = can_decode(self._model)

    def _load(self, adapter: Path | None, quantization: Quantization, engine: str) -> tuple[Any, Any]:
        return _load(self.path, adapter, quantization, self.context, engine)

    def close(self) -> None:
        """Free the model. Twice is fine."""
        self._model = None
        free_memory()

    def __enter__(self) -> TorchGenerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text: the tokenizer's chat template, up to where the assistant begins."""
        self._check_open()
        return self._template.render(messages)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt."""
        return len(self._encoder.encode(messages))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, batch by batch, the longest prompts of a kind first.

        A prompt that can't fit gives completions that end in "error".
        """
        if len({request.id for request in requests}) != len(requests):
            raise SreError("two requests of one call have the same id")
        rows: list[Row] = []
        questions: list[Question] = []
        for request in requests:
            ids = self._encoder.encode(request.messages)
            places, needed = self._needs(request, sampling)
            if not ids or len(ids) + needed > self.context:
                yield from _refuse(request, len(ids), needed, self.context, sampling.n)
            elif request.choices:
                questions.append(Question(request, ids, [self._vocabulary.tokenize(c) for c in request.choices]))
            else:
                samples = 1 if request.label_only else sampling.n
                rows += (self._row(request, ids, places, index, sampling) for index in range(samples))
        yield from self._answer(questions, sampling)
        for row in self._run(rows, sampling):
            yield row.completion(sampling)

    def _needs(self, request: Request, sampling: Sampling) -> tuple[LabelPlaces | None, int]:
        """Where its labels stand, and the tokens that one answer may take."""
        if (request.force_label or request.label_only) and not request.labels:
            raise SreError(f"request {request.id!r} wants a label and names no allowed ones")
        if request.choices:
            return None, max(len(self._vocabulary.tokenize(choice)) for choice in request.choices)
        if request.labels and request.labels not in self._places:
            vocabulary = self._vocabulary
            self._places[request.labels] = LabelPlaces(request.labels, vocabulary.tokenize, vocabulary.piece)
        places = self._places[request.labels] if request.labels else None
        marker = places.longest + 1 if places else 0
        if request.label_only:
            return places, marker
        return places, sampling.max_tokens + (marker if request.force_label else 0)

    def _row(self, request: Request, ids: list[int], places: LabelPlaces | None, index: int, sampling: Sampling) -> Row:
        """A row at its beginning. One that draws nothing is fed the way to its label with the prompt."""
        row = Row(request, ids, index, places, stream(sampling.seed, request.id, index), steps=sampling.max_tokens)
        if places and request.force_label:
            row.steps += places.longest + 1
        if places and (request.label_only or (request.force_label and not sampling.max_tokens)):
            lead, row.forced = places.lead_in(b"")
            row.tokens += lead
            row.written += b"".join(map(self._vocabulary.piece, lead))
            row.lead, row.steps = len(lead), 1
        elif not sampling.max_tokens:
            row.finish = "length"
        return row

    def _run(self, rows: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Take rows to their end in batches of one kind each; every row comes back once."""
        yield from (row for row in rows if row.finish)
        left = [row for row in rows if not row.finish]
        while left:
            left.sort(key=lambda row: (row.steps, -len(row.ids) - row.lead, row.request.id, row.index))
            going_on = []
            for steps, alike in itertools.groupby(left, key=lambda row: row.steps):
                group = list(alike)
                # A short rest is not worth another prefill.
                lap = steps if self._decodes or steps < 2 * LAP else LAP
                for begin in range(0, len(group), self.parallel):
                    batch = group[begin : begin + self.parallel]
                    self._check_open()
                    self._run_batch(batch, lap, sampling)
                    yield from (row for row in batch if row.finish)
                    going_on += [row for row in batch if not row.finish]
            for row in going_on:
                row.steps -= LAP  # of `generate`: the decoder takes every row to its end
                row.lead = len(row.tokens)  # fed with the prompt from here on
            left = going_on

    def _run_batch(self, rows: list[Row], steps: int, sampling: Sampling) -> None:
        """Draw up to `steps` tokens of every row."""
        fed = [row.ids + row.tokens[: row.lead] for row in rows]
        run = self._decode if self._decodes else self._run_generate
        try:
            with torch.inference_mode():
                run(fed, Drawing(rows, self._vocabulary, sampling), steps)
        except torch.OutOfMemoryError:
            why = f"out of memory with {len(rows)} sequences of {max(map(len, fed))} + {steps} tokens"
            raise SreError(f"{why}; lower sample.parallel", file=self.path) from None

    def _decode(self, fed: list[list[int]], drawing: Drawing, steps: int) -> None:
        decoder = Decoder(self._model, fed, steps=steps, pad=self._vocabulary.pad, record=self._record)
        logits = decoder.logits
        for _ in range(steps):
            tokens = drawing.draw(logits)
            left = [place for place, row in enumerate(drawing.rows) if not row.finish]
            if not left:
                break
            if len(left) <= len(tokens) * KEPT:
                drawing.rows = [drawing.rows[place] for place in left]
                tokens = [tokens[place] for place in left]
                decoder.keep(left)
            logits = decoder.step(tokens)
        assert all(row.finish for row in drawing.rows)

    def _run_generate(self, fed: list[list[int]], drawing: Drawing, steps: int) -> None:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        ids, mask = left_padded(fed, self._vocabulary.pad, next(self._model.parameters()).device)
        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=steps,
            do_sample=False,
            pad_token_id=self._vocabulary.pad,
            logits_processor=LogitsProcessorList([drawing]),
            stopping_criteria=StoppingCriteriaList([drawing.finished]),
        )

    def _answer(self, questions: list[Question], sampling: Sampling) -> Iterator[Completion]:
        """The most probable choice of each question. Only choices that can still win are run."""
        while questions:
            rows = []
            for question in questions:
                best, known = question.leader()
                if known:
                    yield question.completion(best, sampling)
                else:
                    rows.append(question.row(best))
            for _ in self._run(rows, sampling):
                pass
            running = {row.request.id for row in rows}
            questions = [question for question in questions if question.request.id in running]

    def _check_open(self) -> None:
        if self._model is None:
            raise SreError("the model has been closed", file=self.path)


def _refuse(request: Request, size: int, needed: int, context: int, n: int) -> Iterator[Completion]:
    why = f"the prompt has {size} tokens and its answer needs {needed}, more than the context of {context}"
    for sample in range(1 if request.label_only or request.choices else n):
        yield Completion(request.id, sample, "", (), "error", size, error=why if size else "the prompt is empty")


def _trained_length(model: Path) -> int | None:
    """The longest text that the model was trained for, where its configuration says."""
    file = model / "config.json"
    try:
        length = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError) as error:
        raise SreError(f"not a model folder: {error}", file=file) from None
    return int(length) if length else None


def _load(model: Path, adapter: Path | None, quantization: Quantization, context: int, engine: str) -> tuple[Any, Any]:
    """(model, tokenizer), as the training engine would load them: what samples is what DPO's reference pass sees."""
    gpu = torch.cuda.is_available()
    wanted = engine == "unsloth" or (engine == "auto" and (gpu or "unsloth" in sys.modules))
    if wanted and (engine == "unsloth" or importlib.util.find_spec("unsloth")):
        try:
            from recipe.inference.pytorch import unsloth

            return unsloth.load_for_inference(model, adapter, quantization=quantization, max_length=context)
        except ImportError as error:
            if engine == "unsloth":
                raise SreError(f"Unsloth can't be imported ({error}); see `sre doctor`") from None
    from recipe.inference.pytorch.transformers import load_for_inference

    return load_for_inference(model, adapter, quantization)
