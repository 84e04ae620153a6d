"""One llama.cpp model with its KV cache, behind plain numpy: the only file that calls llama.cpp.

Knows nothing of requests, prompts or sampling. A *cell* holds one token's keys and values, and may belong to several
*sequences*: to share a beginning copies nothing. Every handle is freed by `close`, also when opening fails halfway.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from recipe.errors import SreError
from recipe.inference.llamacpp import kernels
from recipe.inference.llamacpp.trial import ERROR
from recipe.inference.llamacpp.untrusted import check_model, reason
from recipe.inference.special_tokens import is_structure

# ctypes structures are opaque to the type checker.
_C: Any = llama_cpp.llama_cpp
_model_defaults = _C.llama_model_default_params
_log_tail: deque[str] = deque(maxlen=8)
_verbose = False
_started = False


@_C.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Keep the last errors for SreError's message; print all only when verbose."""
    line = text.decode("utf-8", "replace")
    if level == ERROR:
        _log_tail.append(line)
    if _verbose:
        sys.stderr.write(line)


def start_backend(verbose: bool = False) -> None:
    """Initialise llama.cpp once a process, with our kernels, and silence its log."""
    global _started, _verbose
    _verbose = verbose
    _log_tail.clear()
    _C.llama_log_set(_on_log, ctypes.c_void_p(0))
    if not _started:
        _C.llama_backend_init()
        kernels.install(_C.llama_print_system_info())
        _started = True


def last_log() -> str:
    """llama.cpp's last errors, for a message."""
    return reason([*_log_tail])


MIN_CELLS = 64
GRAIN = 256  # llama.cpp rounds a cache's length up to a multiple
Tokens = Sequence[int] | NDArray[np.int32]


class KVCache:
    """A loaded model and its cache. `open` it, fill the next batch with `add`, and run it with `decode`.

    Attributes:
        cells: the most tokens that the cache holds.
        context: the most tokens of one sequence.
        sequences: how many there are.
        batch: the most tokens of one `decode`.
        shares: whether sequences can share a beginning. Recurrent layers keep one state for each, which can be forked
            whole and not cut.
        damaged: set it when logits were not finite: the cells that gave them are wiped before they are used again.
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
        micro_batch: int,
        threads: int,
        flash: bool,
        verbose: bool,
    ) -> None:
        start_backend(verbose)
        self.path = path
        self._model: Any = _load(path)
        self._free = weakref.finalize(self, _free, None, self._model)
        self._vocab = _C.llama_model_get_vocab(self._model)
        self.vocab_size = int(_C.llama_vocab_n_tokens(self._vocab))
        trained = int(_C.llama_model_n_ctx_train(self._model))
        self.cells = memory // self.cell_bytes() if memory else cells
        if self.cells < MIN_CELLS:
            self._free()
            raise SreError(f"{memory:,} bytes hold {self.cells} tokens of its KV cache, too few to judge", file=path)
        self.context = min(context, self.cells, trained if trained > 0 else context)
        self.shares = not (_C.llama_model_is_recurrent(self._model) or _C.llama_model_is_hybrid(self._model))
        self.sequences, self.batch = sequences, batch
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._special: dict[int, str | None] = {}
        self._micro_batch, self._threads, self.flash = min(micro_batch, batch), threads, flash
        self._length = 0  # of the open cache
        self.damaged = False
        self._ctx: Any = None
        self._memory: Any = None
        self._allocate()

    def open(self, length: int = 0) -> None:
        """Make an empty cache of at least `length` cells, or of all. What follows doesn't depend on what came before.

        Raises SreError where there is no memory for it.
        """
        self._check_open()
        self._filled = 0
        length = min(-(-length // GRAIN) * GRAIN, self.cells) if length else self.cells
        if self._length >= length:
            self.wipe(whole=self.damaged)
            return
        self._close_context()
        params = _C.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length, self.sequences
        params.n_batch, params.n_ubatch = self.batch, self._micro_batch
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = params.no_perf = True
        # Whole, also where a layer sees a window alone: a beginning that is cut back to must still be there.
        params.swa_full = True
        params.flash_attn_type = _C.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash else _C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        ctx = _C.llama_init_from_model(self._model, params)
        if not ctx:
            raise SreError(f"llama.cpp can't make a context of {params.n_ctx} cells: {last_log()}", file=self.path)
        self._own(ctx)
        self._ctx, self._memory, self._length = ctx, _C.llama_get_memory(ctx), length

    def wipe(self, *, whole: bool = True) -> None:
        """Empty the open cache. whole: overwrite the cells too, which takes as long as the cache is large."""
        _C.llama_memory_clear(self._memory, whole)
        self.damaged = False

    def _close_context(self) -> None:
        if self._length:
            ctx, self._ctx, self._memory, self._length = self._ctx, None, None, 0
            self._own(None)
            _C.llama_free(ctx)

    def _own(self, ctx: Any) -> None:
        """Let `close` free this context, and no other. At no moment is there nothing to free."""
        before, self._free = self._free, weakref.finalize(self, _free, ctx, self._model)
        before.detach()

    def cell_bytes(self) -> int:
        """Bytes of one token's keys and values: 2 a number, in every layer."""
        model = self._model
        meta = self.metadata()
        prefix = f"{meta.get('general.architecture')}.attention."
        size = int(_C.llama_model_n_embd(model)) // int(_C.llama_model_n_head(model))
        sizes = sum(int(meta.get(f"{prefix}{name}", size)) for name in ("key_length", "value_length"))
        return int(_C.llama_model_n_layer(model)) * int(_C.llama_model_n_head_kv(model)) * sizes * 2

    def _allocate(self) -> None:
        """Batch arrays owned by numpy, so that there is no llama_batch to free. One token may name every sequence."""
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
        self._filled = 0

    @property
    def closed(self) -> bool:
        return not self._free.alive

    def close(self) -> None:
        """Free context and model. Twice is fine."""
        self._free()

    def _check_open(self) -> None:
        if self.closed:
            raise SreError("the model has been closed", file=self.path)

    # --- vocabulary ---

    def tokenize(self, text: str) -> list[int]:
        """Ids of `text`: special tokens written in it are recognised, none are added."""
        self._check_open()
        raw = text.encode("utf-8")
        size = len(raw) + 8
        while True:
            ids = (ctypes.c_int32 * size)()
            count = int(_C.llama_tokenize(self._vocab, raw, len(raw), ids, size, False, True))
            if count >= 0:
                return list(ids[:count])
            size = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token writes; a control token writes none."""
        if token not in self._pieces:
            self._check_open()
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                count = int(_C.llama_token_to_piece(self._vocab, token, buffer, size, 0, False))
                if count >= 0:
                    break
                size = -count
            self._pieces[token] = buffer.raw[:count]
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """True for every token that ends a generation (end of text, end of turn)."""
        if token not in self._ends:
            self._ends[token] = bool(_C.llama_vocab_is_eog(self._vocab, token))
        return self._ends[token]

    def special(self, token: int) -> str | None:
        """The text of a token that only a chat template may write (see special_tokens.py), None for any other."""
        if token not in self._special:
            self._check_open()
            attributes = int(_C.llama_vocab_get_attr(self._vocab, token))
            text = str(_C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))
            control = bool(attributes & (_C.LLAMA_TOKEN_ATTR_CONTROL | _C.LLAMA_TOKEN_ATTR_UNKNOWN)) or self.is_end(
                token
            )
            added = control or bool(attributes & _C.LLAMA_TOKEN_ATTR_USER_DEFINED)
            self._special[token] = text if added and is_structure(text, control=control) else None
        return self._special[token]

    def special_text(self, name: str) -> str:
        """The written form of the "bos" or "eos" token, "" where there is none."""
        self._check_open()
        token = int(getattr(_C, f"llama_vocab_{name}")(self._vocab))
        return "" if token < 0 else str(_C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def metadata(self) -> dict[str, str]:
        """Every scalar key of the GGUF header, as text."""
        self._check_open()
        pairs = {}
        for index in range(_C.llama_model_meta_count(self._model)):
            key = self._meta(_C.llama_model_meta_key_by_index, index)
            pairs[key] = self._meta(_C.llama_model_meta_val_str_by_index, index)
        return pairs

    def _meta(self, call: Any, index: int) -> str:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = int(call(self._model, index, buffer, size))
            if length < size:
                return buffer.raw[: max(length, 0)].decode("utf-8", "replace")
            size = length + 1

    # --- sequences ---

    def share(self, source: int, target: int, length: int | None = None) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source` (default: all), be they
        decoded or in the batch being filled. Nothing is copied.
        """
        _C.llama_memory_seq_cp(self._memory, source, target, -1, -1 if length is None else length)
        filled = slice(0, self._filled)
        owned = (self._ids[filled] == source) & (np.arange(self.sequences) < self._owners[filled, None])
        rows = np.flatnonzero(owned.any(axis=1))
        if length is not None:
            rows = rows[self._positions[rows] < length]
        self._ids[rows, self._owners[rows]] = target
        self._owners[rows] += 1

    def cut(self, sequence: int, length: int) -> int:
        """Keep the first `length` tokens of a sequence. Returns how many are left: 0 where the model's memory can't be
        cut (recurrent layers).
        """
        if _C.llama_memory_seq_rm(self._memory, sequence, length, -1):
            return length
        self.drop(sequence)
        return 0

    def drop(self, sequence: int) -> None:
        _C.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    # --- batches ---

    @property
    def filled(self) -> int:
        """Tokens in the batch being filled."""
        return self._filled

    @property
    def room(self) -> int:
        """Tokens that still fit the batch being filled."""
        return self.batch - self._filled

    def add(self, tokens: Tokens, position: int, sequences: Sequence[int], outputs: int) -> None:
        """Append a run of tokens at `position`, ... of the given sequences; its last `outputs` tokens give logits."""
        begin, end = self._filled, self._filled + len(tokens)
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = range(position, position + len(tokens))
        self._owners[begin:end] = len(sequences)
        self._ids[begin:end, : len(sequences)] = sequences
        self._outputs[begin:end] = 0
        self._outputs[end - outputs : end] = 1
        self._filled = end

    def decode(self, *, exact: bool = False) -> NDArray[np.float32]:
        """Run the batch. Returns its logits [outputs, vocabulary], a view until the next `decode`.

        exact: round as llama.cpp's own kernels do; the native ones round less where they may.
        """
        self._check_open()
        if not self._length:
            raise SreError("the model has no open cache", file=self.path)
        count = int(self._outputs[: self._filled].sum())
        self._batch.n_tokens, self._filled = self._filled, 0
        with kernels.together(not exact):
            code = int(_C.llama_decode(self._ctx, self._batch))
        if code != 0:
            raise SreError(f"llama_decode failed with code {code}: {last_log()}", file=self.path)
        if count == 0:
            return np.zeros((0, self.vocab_size), np.float32)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(
            _C.llama_get_logits(self._ctx), shape=(count, self.vocab_size)
        )
        return logits


def _free(ctx: Any, model: Any) -> None:
    if ctx is not None:
        _C.llama_free(ctx)
    _C.llama_model_free(model)


def _load(path: Path) -> Any:
    check_model(path)
    model = _C.llama_model_load_from_file(os.fsencode(path), model_params())
    if not model:
        raise SreError(f"llama.cpp can't load this file: {last_log()}", file=path)
    return model


def model_params() -> Any:
    """llama.cpp's defaults, without its AMX kernels: as GCC 12 (Debian 12) compiles them they lack half of their set-up
    (GCC's bug 114098), and the process dies of an illegal instruction at the first 4- or 8-bit weight.
    """
    params = _model_defaults()
    params.use_extra_bufts = b"AMX_INT8 = 1" not in _C.llama_print_system_info()
    return params


def open_llama(path: Path, **options: Any) -> Any:
    """llama-cpp-python's high-level object, its model loaded with `model_params`, for which it has no argument."""
    _C.llama_model_default_params = model_params
    try:
        return llama_cpp.Llama(str(path), verbose=False, **options)
    finally:
        _C.llama_model_default_params = _model_defaults


def quantize_file(source: Path, target: Path, ftype: str, threads: int, *, requantize: bool) -> None:
    """llama.cpp's own quantisation; `ftype` is a name such as "Q4_K_M"."""
    start_backend()
    params = _C.llama_model_quantize_default_params()
    params.ftype, params.nthread = quantization_types()[ftype], threads
    params.allow_requantize = requantize
    if _C.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) != 0:
        raise SreError(f"llama.cpp can't quantise it to {ftype}: {last_log()}", file=source)


def quantization_types() -> dict[str, int]:
    """Names of llama.cpp's file types, e.g. {"F16": 1, "Q8_0": 7}."""
    names = {name: value for name, value in vars(_C).items() if name.startswith("LLAMA_FTYPE_")}
    return {
        name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): int(value)
        for name, value in names.items()
        if name != "LLAMA_FTYPE_GUESSED"
    }
