"""One llama.cpp model with its KV cache, behind plain numpy. Only tokenization.py and grammar.py call llama.cpp too.

It knows nothing of requests, prompts or sampling. A *cell* holds the keys and values of one token. Several *sequences*
may own the same cell, so sequences share a beginning without a copy.
"""

import ctypes
import os
import re
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError, gpu_build
from recipe.gguf.header import read_header
from recipe.inference.llamacpp.product_check import products_are_right
from recipe.inference.llamacpp.tokenization import token_ids
from recipe.inference.llamacpp.trial import ERROR
from recipe.inference.llamacpp.untrusted import check_model, reason
from recipe.inference.special_tokens import is_structure

# ctypes structures are opaque to the type checker.
_C: Any = llama_cpp.llama_cpp
_log_tail: deque[str] = deque(maxlen=8)
_started = False

MIN_CELLS = 64
GRAIN = 256  # llama.cpp rounds a cache's length up to a multiple
MICRO_BATCH = 512
# Types (Q4_0, Q2_K, Q4_K, IQ4_NL) that llama.cpp rearranges into a copy of its own. Mapped, the file would count twice.
REARRANGED = {2, 10, 12, 20}
FLASH_ATTENTION = _C.LLAMA_FLASH_ATTN_TYPE_ENABLED
Tokens = Sequence[int] | NDArray[np.int32]


@_C.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Print nothing, but keep the last errors for SreError's message."""
    if level == ERROR:
        _log_tail.append(text.decode("utf-8", "replace"))


def wants_kernels(name: Literal["native", "amx"]) -> bool:
    """Whether the user asks for the kernels of native/, or for AMX. By default nothing is compiled or changed."""
    return os.environ.get("SRE_KERNELS") == name


def start_backend(*, native: bool = True) -> None:
    """Start llama.cpp once in this process, silently; `native`: with the native kernels, if the user asks for them."""
    global _started
    _log_tail.clear()
    _C.llama_log_set(_on_log, ctypes.c_void_p(0))
    if not _started:
        _C.llama_backend_init()
        _started = True
    if native and wants_kernels("native"):
        from recipe.inference.llamacpp.native.kernels import install

        install(_C.llama_print_system_info())


def offloaded_layers(asked: int | None) -> int:
    """How many layers go to the GPU, -1 for all of them. None asks for all where llama.cpp has a GPU, else for none."""
    has_gpu = bool(_C.llama_supports_gpu_offload())
    if asked and not has_gpu:
        raise SreError(f"llama.cpp finds no GPU here. To build it for one: {gpu_build()}", field="gpu_layers")
    return -int(has_gpu) if asked is None else asked


def last_log() -> str:
    """llama.cpp's last errors, for a message."""
    return reason([*_log_tail])


class KVCache:
    """A loaded model and its cache. `open` it, fill the next batch with `add`, and run it with `decode`.

    Where `shares` is false, sequences can't share a beginning: a model with recurrent layers keeps one state for each.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        cells: int,
        memory: int,
        sequences: int,
        batch: int,
        threads: int,
        gpu_layers: int | None = None,
    ) -> None:
        """Load a GGUF file. Raises SreError where llama.cpp can't, or `memory` holds too few tokens.

        context: the most tokens of one sequence, unless the model was trained for less. memory: the most bytes of the
        cache; where it is 0, `cells` is its most tokens. batch: the most tokens of one `decode`.
        """
        layers = offloaded_layers(gpu_layers)
        start_backend(native=not layers)
        self.path = path
        check_model(path)
        self._model: Any = _C.llama_model_load_from_file(os.fsencode(path), model_params(layers, path))
        if not self._model:
            raise SreError(f"llama.cpp can't load this file: {last_log()}", file=path)
        self._free_model = weakref.finalize(self, _C.llama_model_free, self._model)
        self._free_context: Callable[[], Any] = lambda: None
        self._ctx: Any = None
        self._memory: Any = None
        self._length = 0  # of the open cache
        self._vocab = _C.llama_model_get_vocab(self._model)
        self.vocab_size = int(_C.llama_vocab_n_tokens(self._vocab))
        self.cells = memory // self.cell_bytes() if memory else cells
        if self.cells < MIN_CELLS:
            self.close()
            raise SreError(f"{memory:,} bytes hold {self.cells} tokens of its KV cache, too few to judge", file=path)
        trained = int(_C.llama_model_n_ctx_train(self._model))
        self.context = min(context, self.cells, trained if trained > 0 else context)
        self.shares = not (_C.llama_model_is_recurrent(self._model) or _C.llama_model_is_hybrid(self._model))
        self.sequences, self.batch = sequences, batch
        self._threads = threads
        self.piece, self.is_end, self.special = cache(self._piece), cache(self._is_end), cache(self._special)
        self.damaged = False  # set it when logits were not finite: `open` then overwrites the cells
        self.filled = 0  # tokens in the next batch
        self._allocate()

    def open(self, length: int = 0) -> None:
        """Make the cache empty, with at least `length` cells (0: all). Raises SreError where memory is short."""
        self._check_open()
        self.filled = 0
        length = min(-(-length // GRAIN) * GRAIN, self.cells) if length else self.cells
        if self._length >= length:
            self.wipe(whole=self.damaged)
            return
        self._length = 0
        self._free_context()
        params = _C.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length, self.sequences
        params.n_batch, params.n_ubatch = self.batch, MICRO_BATCH
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = params.no_perf = True
        # A layer with a sliding window keeps all its cells too: another prompt may begin with the early ones.
        params.swa_full = True
        params.flash_attn_type = FLASH_ATTENTION
        self._ctx = _C.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise SreError(f"llama.cpp can't make a context of {length} cells: {last_log()}", file=self.path)
        self._free_context = weakref.finalize(self, _C.llama_free, self._ctx)
        self._memory, self._length = _C.llama_get_memory(self._ctx), length

    def wipe(self, *, whole: bool = True) -> None:
        """Empty the open cache. whole: overwrite its cells too, which takes longer the larger the cache is."""
        _C.llama_memory_clear(self._memory, whole)
        self.damaged = False

    def close(self) -> None:
        self._free_context()
        self._free_model()

    def _check_open(self) -> None:
        if not self._free_model.alive:
            raise SreError("the model has been closed", file=self.path)

    def cell_bytes(self) -> int:
        """Bytes of one token's keys and values: 2 for each number, in every layer."""
        model = self._model
        meta = self.metadata()
        prefix = f"{meta.get('general.architecture')}.attention."
        # A model without attention has no heads, and whatever it likes under the other names.
        size = int(_C.llama_model_n_embd(model)) // max(1, int(_C.llama_model_n_head(model)))
        told = (meta.get(f"{prefix}{name}", "") for name in ("key_length", "value_length"))
        sizes = sum(int(text) if text.isdecimal() else size for text in told)
        return max(1, int(_C.llama_model_n_layer(model)) * int(_C.llama_model_n_head_kv(model)) * sizes * 2)

    def _allocate(self) -> None:
        """Make a llama_batch of arrays that numpy owns. Each token may belong to every sequence."""
        size = self.batch
        self._tokens, self._positions, self._owners = (np.zeros(size, np.int32) for _ in range(3))
        self._outputs = np.zeros(size, np.int8)
        self._ids = np.zeros((size, self.sequences), np.int32)
        int32_p = ctypes.POINTER(ctypes.c_int32)
        self._rows = (int32_p * size)(*(row.ctypes.data_as(int32_p) for row in self._ids))
        self._batch = _C.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int32_p),
            embd=None,
            pos=self._positions.ctypes.data_as(int32_p),
            n_seq_id=self._owners.ctypes.data_as(int32_p),
            seq_id=self._rows,
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    # --- vocabulary ---

    @cached_property
    def _longest_token(self) -> int:
        return max(len(_C.llama_vocab_get_text(self._vocab, token)) for token in range(self.vocab_size))

    def tokenize(self, text: str) -> list[int]:
        """`token_ids` of `text`. Raises SreError, and doesn't begin, where no context of this size can hold it."""
        self._check_open()
        if len(text) > self.context and len(text) > self.context * self._longest_token:
            raise SreError(f"the text has {len(text):,} characters, more than the context of {self.context} can hold")
        return token_ids(self._vocab, text)

    def _piece(self, token: int) -> bytes:
        self._check_open()
        return _read_text(lambda buffer, size: _C.llama_token_to_piece(self._vocab, token, buffer, size, 0, False))

    def _is_end(self, token: int) -> bool:
        return bool(_C.llama_vocab_is_eog(self._vocab, token))

    def _special(self, token: int) -> str | None:
        """The text of a token that only a chat template may write (see special_tokens.py), None for any other."""
        self._check_open()
        attributes = int(_C.llama_vocab_get_attr(self._vocab, token))
        text = str(_C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))
        control = bool(attributes & (_C.LLAMA_TOKEN_ATTR_CONTROL | _C.LLAMA_TOKEN_ATTR_UNKNOWN)) or self.is_end(token)
        added = control or bool(attributes & _C.LLAMA_TOKEN_ATTR_USER_DEFINED)
        return text if added and is_structure(text, control=control) else None

    def special_text(self, name: str) -> str:
        """The text of the "bos" or "eos" token, "" where there is none."""
        self._check_open()
        token = int(getattr(_C, f"llama_vocab_{name}")(self._vocab))
        return "" if token < 0 else str(_C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def metadata(self) -> dict[str, str]:
        """The scalar pairs of the GGUF file, as text."""
        self._check_open()

        def text(call: Any, index: int) -> str:
            return _read_text(partial(call, self._model, index)).decode("utf-8", "replace")

        return {
            text(_C.llama_model_meta_key_by_index, index): text(_C.llama_model_meta_val_str_by_index, index)
            for index in range(_C.llama_model_meta_count(self._model))
        }

    # --- sequences ---

    def share(self, source: int, target: int, length: int | None = None) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source` (None: all of them).

        The tokens may be decoded already or wait in the next batch. Nothing is copied.
        """
        _C.llama_memory_seq_cp(self._memory, source, target, -1, -1 if length is None else length)
        filled = slice(0, self.filled)
        owned = (self._ids[filled] == source) & (np.arange(self.sequences) < self._owners[filled, None])
        rows = np.flatnonzero(owned.any(axis=1))
        if length is not None:
            rows = rows[self._positions[rows] < length]
        self._ids[rows, self._owners[rows]] = target
        self._owners[rows] += 1

    def drop(self, sequence: int) -> None:
        """Make a sequence empty."""
        _C.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    # --- batches ---

    def add(self, tokens: Tokens, position: int, sequence: int, outputs: int) -> None:
        """Append tokens to the next batch: a run that begins at `position` of its sequence.

        `decode` returns logits for the last `outputs` of them.
        """
        begin, end = self.filled, self.filled + len(tokens)
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = range(position, position + len(tokens))
        self._owners[begin:end] = 1
        self._ids[begin:end, 0] = sequence
        self._outputs[begin:end] = 0
        self._outputs[end - outputs : end] = 1
        self.filled = end

    def decode(self) -> NDArray[np.float32]:
        """Run the batch. Returns its logits [outputs, vocabulary], a view that the next `decode` overwrites."""
        self._check_open()
        count = int(self._outputs[: self.filled].sum())
        self._batch.n_tokens, self.filled = self.filled, 0
        code = int(_C.llama_decode(self._ctx, self._batch))
        if code != 0:
            raise SreError(f"llama_decode failed with code {code}: {last_log()}", file=self.path)
        if count == 0:
            return np.zeros((0, self.vocab_size), np.float32)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(
            _C.llama_get_logits(self._ctx), shape=(count, self.vocab_size)
        )
        return logits


def _read_text(call: Callable[[Any, int], int]) -> bytes:
    """What a function of llama.cpp writes into a buffer: it tells the size that it needs, negative or not."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = int(call(buffer, size))
        if 0 <= length < size:
            return buffer.raw[:length]
        size = abs(length) + 1


def vocabulary_ids(path: Path, text: str) -> list[int]:
    """`token_ids` of `text` by the vocabulary alone of a GGUF file that was written here."""
    start_backend(native=False)
    params = _C.llama_model_default_params()
    params.vocab_only = True
    model = _C.llama_model_load_from_file(os.fsencode(path), params)
    try:
        return token_ids(_C.llama_model_get_vocab(model), text)
    finally:
        _C.llama_model_free(model)


def features() -> list[str]:
    """What llama.cpp was compiled for, such as "AVX512"."""
    return re.findall(r"(\w+) = 1", _C.llama_print_system_info().decode())


def model_params(gpu_layers: int = 0, path: Path | None = None) -> Any:
    """llama.cpp's defaults, with `gpu_layers` layers on a GPU, and with AMX only where SRE_KERNELS=amx asks for it.

    The file at `path` is mapped into memory, unless llama.cpp makes a copy of its weights anyway.
    llama.cpp configures AMX's tiles once for each thread. PyTorch's 16-bit products change them, and the next product
    of llama.cpp on that thread ends the process.
    """
    params = _C.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    if "AMX_INT8" in features():
        params.use_extra_bufts = copies = wants_kernels("amx") and products_are_right()
    else:
        copies = path is not None and not gpu_layers and not REARRANGED.isdisjoint(read_header(path).types)
    if copies:
        params.load_mode = _C.LLAMA_LOAD_MODE_NONE
    return params
