"""The Generator on llama.cpp: a GGUF file on a CPU (or whatever llama.cpp was built for).

Prompts are rendered with the chat template that the file carries. `kv_cache.py` holds the model, `scheduler.py` draws.
The same call on the same machine with as many threads gives the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.gguf.known import remember
from recipe.inference.base import Completion, Piece, Request, Sampling, Session, SessionGenerator, Stats
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.llamacpp.grammar import Grammar, gbnf_of
from recipe.inference.llamacpp.kv_cache import KVCache, quantization_types, quantize_file
from recipe.inference.llamacpp.scheduler import Scheduler
from recipe.inference.prompt import Prompt, PromptReader
from recipe.inference.special_tokens import PromptEncoder
from recipe.system import usable_cores
from recipe.verdict import opened_at_end

PROMPT_KEY = "sre.prompts.pointwise"  # in the metadata of every judge that is exported here
# Prompts that a session keeps in the cache for later ones to begin with.
KEPT = 16
MOST_SEQUENCES = 256  # of one llama.cpp context
BATCH = 512  # tokens of one decode at the most, unless more samples are drawn side by side
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
    bounds the context too. flash: llama.cpp's flash attention. The file is
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
        flash: bool = True,
    ) -> None:
        check_parallel(parallel)
        self.path = Path(path)
        self.name = self.path.stem
        self.stats = Stats()
        self._parallel = parallel
        self._calls = 0
        self._template: ChatTemplate | None = None
        self._cache = KVCache(
            self.path,
            context=context,
            memory=memory or 0,
            cells=max(context, parallel * 1024),
            sequences=min(2 * parallel + KEPT + 1, MOST_SEQUENCES),
            # All samples may be led on to their labels at once, by some tokens each.
            batch=max(BATCH, 16 * parallel),
            threads=threads or usable_cores(),
            flash=flash,
        )
        self.metadata: dict[str, str] = self._cache.metadata()
        unknown = int(self.metadata.get("tokenizer.ggml.unknown_token_id", -1))
        self._encoder = PromptEncoder(self.render, self.tokenize, self._cache.special, unknown)
        self._reader = PromptReader(self._cache, self._encode, self.context, self._grammar)

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
        return self._chat_template().render(messages)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            ends = {name: self._cache.special_text(name) for name in ("bos", "eos")}
            self._template = ChatTemplate(self.metadata.get("tokenizer.chat_template"), **ends, file=self.path)
        return self._template

    def tokenize(self, text: str) -> list[int]:
        """Ids of `text` as it stands: special tokens written in it are recognised, none are added."""
        return self._cache.tokenize(text)

    def _encode(self, request: Request) -> tuple[list[int], bytes]:
        """A request's token ids, and the tag of reasoning that it ends with: one that a chat template opens for the
        model.
        """
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

    def _grammar(self, schema: str) -> Callable[[], Grammar]:
        """Makes grammars of a JSON schema. Raises SreError for one that can't be held to."""
        gbnf_of(schema)
        return partial(Grammar, self._cache._vocab, self._cache.vocab_size, schema)

    # --- generation ---

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order. `stats` counts while it runs.

        A request that can't be read or doesn't fit gives completions that end in "error". Another call of this method,
        or a session, ends this one: its iterator raises SreError.
        """
        if any(request.prompt is None for request in requests):
            self._chat_template()  # raises here where there is none, and not once for each request
        stats, call = self._begin()
        inner = self._completions(requests, sampling, stats)
        while True:
            if call != self._calls:
                raise SreError("this generation was ended by a later call or by close()", file=self.path)
            completion = next(inner, None)
            if completion is None:
                return
            yield completion

    def _begin(self) -> tuple[Stats, int]:
        """Fresh counts for a new call, which opens the cache as it needs it."""
        self.stats = Stats()
        self._calls += 1
        return self.stats, self._calls

    def _completions(self, requests: Sequence[Request], sampling: Sampling, stats: Stats) -> Iterator[Completion]:
        prompts, refused = self._reader.read_all(requests, sampling)
        yield from refused
        stats.prompt_tokens_total += sum(len(prompt.ids) for prompt in prompts)
        # Sorted, so that the longest shared beginnings meet.
        prompts.sort(key=lambda prompt: (prompt.ids.tolist(), prompt.request.id))
        if not prompts:
            return
        self._cache.open(sum(len(prompt.ids) + prompt.samples * prompt.reserve for prompt in prompts))
        scheduler = self._scheduler(stats, keep=1)
        for prompt in prompts:
            scheduler.submit(prompt)
        while scheduler.busy:
            for result in scheduler.step():
                if isinstance(result, Completion):
                    yield result

    def _scheduler(self, stats: Stats, *, keep: int, stream: bool = False) -> Scheduler:
        ride_along = max(TILE - 1 - self._parallel, 16)
        return Scheduler(self._cache, stats, parallel=self._parallel, ride_along=ride_along, keep=keep, stream=stream)

    def session(self) -> LlamaCppSession:
        """Requests batched as they come; it ends any other call under way, and another call ends it."""
        return LlamaCppSession(self)


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
        found = self._generator._reader.read(request, sampling)
        if not isinstance(found, Prompt):
            self._refused += found
            return
        self._stats.prompt_tokens_total += len(found.ids)
        self._scheduler.submit(found)

    def cancel(self, request_id: str) -> None:
        if self._call == self._generator._calls:
            self._scheduler.cancel(request_id)
        self._refused = [completion for completion in self._refused if completion.request_id != request_id]

    def step(self) -> list[Piece | Completion]:
        self._check()
        refused, self._refused = self._refused, []
        results = self._scheduler.step() if self._scheduler.busy else []
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
