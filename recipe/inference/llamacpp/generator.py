"""The Generator on llama.cpp: a GGUF file on a CPU (or whatever llama.cpp was built for).

Prompts are rendered with the chat template that the file carries; `kvcache.py` holds the model,
`streams.py` and `scheduler.py` draw, `scoring.py` reads choices. Same call, same machine, same threads: the same
bytes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.gguf.known import remember
from recipe.inference.base import Completion, Piece, Request, Sampling, Session, SessionGenerator
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.labels import LabelPlaces
from recipe.inference.llamacpp import kernels
from recipe.inference.llamacpp.grammar import Grammar, gbnf_of
from recipe.inference.llamacpp.kv_cache import KVCache, quantization_types, quantize_file, stream_length
from recipe.inference.llamacpp.scheduler import Scheduler
from recipe.inference.llamacpp.scoring import Trunk, all_logits, completion_logprobs, read_choice
from recipe.inference.llamacpp.streams import StreamScheduler
from recipe.inference.sequence import Prompt
from recipe.inference.special_tokens import PromptEncoder
from recipe.inference.stats import Stats
from recipe.system import usable_cores
from recipe.verdict import opened_at_end

PROMPT_KEY = "sre.prompts.pointwise"  # in the metadata of every judge that is exported here
# Prompts that a session keeps in the cache for later ones to begin with.
KEPT = 16
MOST_SEQUENCES = 256  # of one llama.cpp context
# From so many tokens in a batch on llama.cpp's attention goes by tiles, which scattered sequences hardly fill.
TILE = 64


def check_parallel(parallel: int, field: str = "parallel") -> None:
    """Raises SreError, naming `field`, for more samples side by side than one context holds with their prompts."""
    most = MOST_SEQUENCES // 2
    if not 1 <= parallel <= most:
        raise SreError(f"llama.cpp decodes 1 to {most} samples side by side, not {parallel}", field=field)


class LlamaCppGenerator(SessionGenerator):
    """Runs one GGUF model.

    context: the most tokens of one prompt with its answer (at most what the model was trained for). parallel: the most
    samples decoded side by side (1 to 128). memory: bytes that the KV cache may take (None: 1024 tokens a place); it
    bounds the context too. batch: the most tokens in one decode. flash: llama.cpp's flash attention. The file is
    read once, when the object is made; `close` (or leaving the `with`) frees it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        context: int = 4096,
        threads: int | None = None,
        parallel: int = 16,
        memory: int | None = None,
        batch: int = 512,
        micro_batch: int = 512,
        flash: bool = True,
        verbose: bool = False,
    ) -> None:
        check_parallel(parallel)
        self.path = Path(path)
        self.name = self.path.stem
        self.stats = Stats()
        self._parallel = parallel
        self._calls = 0
        self._places: dict[tuple[int, ...], LabelPlaces] = {}
        self._template: ChatTemplate | None = None
        self._cache = KVCache(
            self.path,
            context=context,
            memory=memory or 0,
            cells=max(context, parallel * 1024),
            sequences=min(2 * parallel + KEPT + 1, MOST_SEQUENCES),
            # All samples may be led on to their labels at once, by some tokens each.
            batch=max(batch, 16 * parallel),
            micro_batch=micro_batch,
            threads=threads or usable_cores(),
            flash=flash,
            verbose=verbose,
        )
        self.metadata: dict[str, str] = self._cache.metadata()
        unknown = int(self.metadata.get("tokenizer.ggml.unknown_token_id", -1))
        self._encoder = PromptEncoder(self.render, self.tokenize, self._cache.special, unknown)

    @property
    def context(self) -> int:
        """The most tokens of one prompt with its answer."""
        return self._cache.context

    def close(self) -> None:
        """Free model and cache; a generation under way then raises SreError. Twice is fine."""
        self._calls += 1
        self._cache.close()

    def __enter__(self) -> LlamaCppGenerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- prompts ---

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text: the file's chat template, up to where the assistant begins."""
        if self._template is None:
            ends = {name: self._cache.special_text(name) for name in ("bos", "eos")}
            self._template = ChatTemplate(self.metadata.get("tokenizer.chat_template"), **ends, file=self.path)
        return self._template.render(messages)

    def tokenize(self, text: str) -> list[int]:
        """Ids of `text` as it stands: special tokens written in it are recognised, none are added."""
        return self._cache.tokenize(text)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt."""
        return len(self._encoder.encode(messages))

    # --- generation ---

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order. `stats` counts while it runs.

        A prompt that can't fit gives completions that end in "error". Starting another call (of this method
        or of those that score) ends this one: its iterator raises SreError.
        """
        stats, call = self._begin()
        begin = time.perf_counter()
        inner = self._completions(requests, sampling, stats)
        while True:
            if call != self._calls:
                raise SreError("this generation was ended by a later call or by close()", file=self.path)
            completion = next(inner, None)
            now = time.perf_counter()
            stats.python_seconds += now - begin
            if completion is None:
                stats.python_seconds -= stats.decode_seconds
                return
            yield completion
            begin = time.perf_counter()

    def _begin(self) -> tuple[Stats, int]:
        """Fresh counts for a new call, which opens the cache as it needs it."""
        self.stats = Stats()
        self._calls += 1
        return self.stats, self._calls

    def _completions(self, requests: Sequence[Request], sampling: Sampling, stats: Stats) -> Iterator[Completion]:
        if len({request.id for request in requests}) != len(requests):
            raise SreError("two requests of one call have the same id")
        prompts = [self._prompt(request, sampling) for request in requests]
        # Sorted, so that the longest shared beginnings meet.
        prompts.sort(key=lambda prompt: (prompt.ids.tolist(), prompt.request.id))
        fitting: list[Prompt] = []
        for prompt in prompts:
            if refused := self._refusal(prompt):
                yield from refused
            else:
                stats.prompt_tokens_total += len(prompt.ids)
                fitting.append(prompt)
        chosen = [prompt for prompt in fitting if prompt.request.choices]
        if chosen:
            self._cache.open()
            trunk = Trunk(self._cache, stats)
            for prompt in chosen:
                yield read_choice(self._cache, trunk, stats, prompt, logprobs=sampling.logprobs)
        drawn = [prompt for prompt in fitting if not prompt.request.choices]
        if not drawn:
            return
        scheduler = self._offline(drawn, stats)
        for prompt in drawn:
            scheduler.submit(prompt)
        while scheduler.busy:
            for result in scheduler.step():
                if isinstance(result, Completion):
                    yield result

    def _offline(self, prompts: list[Prompt], stats: Stats) -> StreamScheduler | Scheduler:
        """The unified cache where our kernels are at work: cells of others cost them nothing. With llama.cpp's own,
        streams are quicker: as many places as the cache holds at the length that the prompts need, if that is three of
        four places. Recurrent models have the unified one.
        """
        if self._cache.shares and not (self._cache.flash and kernels.installed()):
            wanted = min(self._parallel, sum(prompt.samples for prompt in prompts if not prompt.label_tokens)) or 1
            longest = max(len(prompt.ids) + prompt.reserve for prompt in prompts)
            length = min(stream_length(longest), self._cache.cells)
            places = min(wanted, self._cache.cells // length)
            if 4 * places >= 3 * wanted:
                self._cache.open(places, length)
                return StreamScheduler(self._cache, stats, places=places)
        self._cache.open(length=sum(len(prompt.ids) + prompt.samples * prompt.reserve for prompt in prompts))
        return self._scheduler(stats, keep=1)

    def _scheduler(self, stats: Stats, *, keep: int, stream: bool = False) -> Scheduler:
        ride_along = max(TILE - 1 - self._parallel, 16)
        return Scheduler(self._cache, stats, parallel=self._parallel, ride_along=ride_along, keep=keep, stream=stream)

    def _prompt(self, request: Request, sampling: Sampling) -> Prompt:
        if (request.force_label or request.label_only) and not request.labels:
            raise SreError(f"request {request.id!r} wants a label and names no allowed ones")
        ids, opened = self._prompt_ids(request)
        places = self._label_places(request.labels) if request.labels and not request.choices else None
        lead = places.longest if request.force_label and places else 0
        if sampling.fit:
            left = max(1, self.context - len(ids) - lead)
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, left))
        reserve, label_tokens = sampling.max_tokens + lead, None
        if request.choices:
            reserve = max(len(self.tokenize(choice)) for choice in request.choices)
        elif request.label_only and places and ids:
            tail, label_tokens = places.lead_in(opened)
            ids, reserve = [*ids, *tail], 0
        grammar = None
        if sampling.schema:
            gbnf_of(sampling.schema)  # an unusable one is refused here
            grammar = partial(Grammar, self._cache._vocab, self._cache.vocab_size, sampling.schema)
        prompt_ids = np.array(ids, np.int32)
        return Prompt(request, prompt_ids, places, reserve, sampling, label_tokens, opened, grammar)

    def _prompt_ids(self, request: Request) -> tuple[list[int], bytes]:
        """Its token ids, and the tag of reasoning that it ends with: one that a chat template opens for the model."""
        if request.prompt is None:
            ids = self._encoder.encode(request.messages)
            # A judge that was trained here goes on with its rationale.
            opened = "" if PROMPT_KEY in self.metadata else opened_at_end(self.render([Message("user", "x")]))
            return ids, opened.encode()
        if isinstance(request.prompt, str):
            begin = self.metadata.get("tokenizer.ggml.add_bos_token") == "true"
            return self.tokenize(self._cache.special_text("bos") * begin + request.prompt), b""
        if not all(0 <= token < self._cache.vocab_size for token in request.prompt):
            raise SreError(f"expected token ids from 0 to {self._cache.vocab_size - 1}", field="prompt")
        return list(request.prompt), b""

    def _refusal(self, prompt: Prompt) -> list[Completion]:
        """Completions that end in "error", where the prompt can't be read or its answer doesn't fit."""
        size = len(prompt.ids)
        if size and size + prompt.reserve <= self.context:
            return []
        why = f"the prompt has {size} tokens and its answer needs {prompt.reserve}"
        why = f"{why}, more than the context of {self.context}" if size else "the prompt is empty"
        samples = 1 if prompt.request.choices else prompt.samples
        return [Completion(prompt.request.id, k, "", (), "error", size, error=why) for k in range(samples)]

    def session(self) -> LlamaCppSession:
        """Requests batched as they come; it ends any other call under way, and another call ends it."""
        return LlamaCppSession(self)

    def _label_places(self, labels: tuple[int, ...]) -> LabelPlaces:
        if labels not in self._places:
            self._places[labels] = LabelPlaces(labels, self.tokenize, self._cache.piece)
        return self._places[labels]

    # --- log-probabilities ---

    def sequence_logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[NDArray[np.float64]]:
        """For each (prompt ids, completion ids): the log-softmax (nats) of every completion token."""
        stats, _ = self._begin()
        self._cache.open()
        trunk = Trunk(self._cache, stats)
        results: list[NDArray[np.float64]] = [np.zeros(0)] * len(pairs)
        for index in sorted(range(len(pairs)), key=lambda i: list(pairs[i][0])):
            prompt, completion = pairs[index]
            if len(prompt) + len(completion) > self.context:
                raise SreError(f"{len(prompt)} + {len(completion)} tokens are more than the context of {self.context}")
            results[index] = completion_logprobs(self._cache, trunk, stats, prompt, completion)
        return results

    def prompt_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The raw logits after every token of `ids`: [len(ids), vocabulary]."""
        if len(ids) > self.context:
            raise SreError(f"{len(ids)} tokens are more than the context of {self.context}")
        self._begin()
        return all_logits(self._cache, ids)


class LlamaCppSession(Session):
    """One `Scheduler` kept going; see the Protocol. Prompts stay in the cache for later ones to begin with."""

    def __init__(self, generator: LlamaCppGenerator) -> None:
        self._generator = generator
        self._stats, self._call = generator._begin()
        generator._cache.open()
        self._scheduler = generator._scheduler(self._stats, keep=KEPT, stream=True)
        self._refused: list[Completion] = []

    def submit(self, request: Request, sampling: Sampling) -> None:
        self._check()
        if request.choices:
            raise SreError("a session draws judgements; choices go through generate()")
        prompt = self._generator._prompt(request, sampling)
        if refused := self._generator._refusal(prompt):
            self._refused += refused
            return
        self._stats.prompt_tokens_total += len(prompt.ids)
        self._scheduler.submit(prompt)

    def cancel(self, request_id: str) -> None:
        if self._call == self._generator._calls:
            self._scheduler.cancel(request_id)
        self._refused = [completion for completion in self._refused if completion.request_id != request_id]

    def step(self) -> list[Piece | Completion]:
        self._check()
        refused, self._refused = self._refused, []
        begin, decoding = time.perf_counter(), self._stats.decode_seconds
        results = self._scheduler.step() if self._scheduler.busy else []
        inside = self._stats.decode_seconds - decoding
        self._stats.python_seconds += time.perf_counter() - begin - inside
        return [*refused, *results]

    @property
    def busy(self) -> bool:
        return bool(self._refused or self._scheduler.busy)

    def close(self) -> None:
        if self._call == self._generator._calls:
            self._generator._begin()

    def _check(self) -> None:
        if self._call != self._generator._calls:
            raise SreError("this session was ended by a later call or by close()", file=self._generator.path)


def quantize(
    source: Path | str,
    target: Path | str,
    type_name: str,
    *,
    threads: int | None = None,
    requantize: bool = False,
) -> None:
    """Write `source` (a GGUF) as `target` in another type, e.g. "Q4_K_M"; `target` appears complete or not at
    all.

    requantize: allow a source that is quantised already (its losses add up).
    """
    source, target = Path(source), Path(target)
    types = quantization_types()
    name = type_name.upper()
    if name not in types:
        raise SreError(f"unknown type {type_name!r}; llama.cpp knows {', '.join(sorted(types))}")
    if not source.is_file():
        raise SreError("no such model file (a GGUF was expected)", file=source)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        quantize_file(source, partial, name, threads or usable_cores(), requantize=requantize)
        os.replace(partial, target)
        remember(target)
    except OSError as error:
        raise SreError(f"can't write it: {error}", file=target) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
