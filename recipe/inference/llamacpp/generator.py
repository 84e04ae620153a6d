"""The Generator on llama.cpp: a GGUF file on a CPU (or whatever llama.cpp was built for).

Prompts are rendered with the chat template that the file carries. `kv_cache.py` holds the model, `scheduler.py` draws.
The same call on the same machine with as many threads gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Piece, Request, Sampling, Session
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.llamacpp.grammar import Grammar, gbnf_of
from recipe.inference.llamacpp.kv_cache import KVCache
from recipe.inference.llamacpp.scheduler import Scheduler
from recipe.inference.prompt import PromptReader
from recipe.inference.special_tokens import PromptEncoder
from recipe.system import usable_cores
from recipe.verdict import opened_at_end

TRAINED_HERE = "sre.prompts.pointwise"  # the key is in the metadata of every judge that is exported here
KEPT = 16  # prompts that a session keeps in the cache for later ones to begin with
MOST_SEQUENCES = 256  # of one llama.cpp context
MOST_THREADS = 512  # it ends the process where it is asked for more
MOST_PARALLEL = MOST_SEQUENCES // 2
BATCH = 512  # tokens of one decode at the most, unless more samples are drawn side by side
# From so many tokens in a batch on llama.cpp's attention goes by tiles, which scattered sequences hardly fill.
TILE = 64


def check_parallel(parallel: int, field: str = "parallel") -> None:
    """Raises SreError, naming `field`, for more samples side by side than one context holds with their prompts."""
    if not 1 <= parallel <= MOST_PARALLEL:
        raise SreError(f"llama.cpp decodes 1 to {MOST_PARALLEL} samples side by side, not {parallel}", field=field)


class LlamaCppGenerator(Generator):
    """Runs one GGUF model. `metadata` are the file's scalar pairs, as text."""

    def __init__(
        self,
        path: Path | str,
        *,
        context: int = 4096,
        threads: int | None = None,
        parallel: int = 16,
        memory: int | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        """Load a GGUF file. Raises SreError where that fails, or a setting is out of bounds.

        context: the most tokens of one prompt with its answer, unless the model was trained for less. memory: the most
        bytes of the KV cache, which bound the context too [default: 1024 tokens a sample]. gpu_layers: see
        `offloaded_layers`.
        """
        check_parallel(parallel)
        if threads and threads > MOST_THREADS:
            raise SreError(f"llama.cpp takes {MOST_THREADS} threads at most, not {threads}", field="threads")
        self.path = Path(path)
        self.name = self.path.stem
        self.parallel = parallel
        self.latest: LlamaCppSession | None = None  # the session that may use the cache
        self.cache = KVCache(
            self.path,
            context=context,
            memory=memory or 0,
            cells=max(context, parallel * 1024),
            sequences=min(2 * parallel + KEPT + 1, MOST_SEQUENCES),
            # All samples may be led on to their labels at once, by some tokens each.
            batch=max(BATCH, 16 * parallel),
            threads=threads or usable_cores(),
            gpu_layers=gpu_layers,
        )
        self.context, self.tokenize = self.cache.context, self.cache.tokenize
        self.metadata = self.cache.metadata()
        unknown = int(self.metadata.get("tokenizer.ggml.unknown_token_id", -1))
        self._encoder = PromptEncoder(self.render, self.tokenize, self.cache.special, unknown)
        self.reader = PromptReader(self.cache, self._encode, self.context, self._grammar)

    def close(self) -> None:
        """Free model and cache; a generation under way then raises SreError."""
        self.latest = None
        self.cache.close()

    # --- prompts ---

    def render(self, messages: Sequence[Message]) -> str:
        return self._chat_template.render(messages)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        ends = {name: self.cache.special_text(name) for name in ("bos", "eos")}
        return ChatTemplate(self.metadata.get("tokenizer.chat_template"), **ends, file=self.path)

    def _encode(self, request: Request) -> tuple[list[int], bytes]:
        """A request's token ids, and the tag (`<think>`) of reasoning that the chat template opens for the model."""
        if request.prompt is None:
            ids = self._encoder.encode(request.messages)
            # A judge that was trained here goes on with its rationale.
            opened = "" if TRAINED_HERE in self.metadata else opened_at_end(self.render([Message("user", "x")]))
            return ids, opened.encode()
        if isinstance(request.prompt, str):
            begin = self.metadata.get("tokenizer.ggml.add_bos_token") == "true"
            return self.tokenize(self.cache.special_text("bos") * begin + request.prompt), b""
        if not all(0 <= token < self.cache.vocab_size for token in request.prompt):
            raise SreError(f"expected token ids from 0 to {self.cache.vocab_size - 1}", field="prompt")
        return list(request.prompt), b""

    def _grammar(self, rules: str) -> Callable[[], Grammar]:
        """Makes grammars of a JSON schema or GBNF. Raises SreError for a schema that can't be followed."""
        return partial(Grammar, self.cache._vocab, gbnf_of(rules))

    # --- generation ---

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, in any order.

        A request that can't be read or doesn't fit gives completions that end in "error". Another call of this method,
        or a session, ends this one: its iterator raises SreError.
        """
        if any(request.prompt is None for request in requests):
            _ = self._chat_template  # raises here where there is none, and not once for each request
        prompts, refused = self.reader.read_all(requests, sampling)
        # Sorted, so that the longest shared beginnings meet.
        prompts.sort(key=lambda prompt: (prompt.ids.tolist(), prompt.request.id))
        yield from refused
        if not prompts:
            return
        cells = sum(len(prompt.ids) + prompt.samples * prompt.reserve for prompt in prompts)
        session = LlamaCppSession(self, cells)
        for prompt in prompts:
            session.scheduler.submit(prompt)
        while session.busy:
            for completion in session.step():
                session.check_latest()
                assert isinstance(completion, Completion)
                yield completion

    def session(self) -> LlamaCppSession:
        """Requests batched as they come; it ends any other call under way, and another call ends it."""
        return LlamaCppSession(self)


class LlamaCppSession(Session):
    """One `Scheduler` on the generator's cache; see the Protocol."""

    def __init__(self, generator: LlamaCppGenerator, cells: int = 0) -> None:
        """Open the cache, which ends every other session.

        cells: the tokens that all its requests need. 0 where they come one by one, as to a server; then pieces of text
        are returned too, and prompts stay in the cache for later ones to begin with.
        """
        self._generator = generator
        generator.latest = self
        generator.cache.open(cells)
        self.scheduler = Scheduler(
            generator.cache,
            parallel=generator.parallel,
            ride_along=max(TILE - 1 - generator.parallel, 16),
            keep=1 if cells else KEPT,
            stream=not cells,
        )

    def submit(self, request: Request, sampling: Sampling) -> None:
        self.check_latest()
        self.scheduler.submit(self._generator.reader.read(request, sampling))

    def cancel(self, request_id: str) -> None:
        if self._generator.latest is self:
            self.scheduler.cancel(request_id)

    def step(self) -> list[Piece | Completion]:
        self.check_latest()
        return self.scheduler.step()

    @property
    def busy(self) -> bool:
        return self.scheduler.busy

    def close(self) -> None:
        if self._generator.latest is self:
            self._generator.latest = None

    def check_latest(self) -> None:
        """Raises SreError where a later session, or closing the generator, has ended this one."""
        if self._generator.latest is not self:
            raise SreError("this session was ended by a later call or by close()", file=self._generator.path)
