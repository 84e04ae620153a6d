"""Decoding on PyTorch without `model.generate`, for models of plain attention (grouped_attention.py names them).

A prompt is prefilled once and forked into the rows that go on from it. The KV cache has its full length from the
start, so that a step is always the same kernels on the same memory: on a GPU they are recorded once as a CUDA graph
and replayed, which takes a small model's step from the time Python needs to launch them to the time they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from recipe.inference.pytorch.grouped_attention import NAME

# Tokens of one prefill: as many prompts as fit, padded to the longest of them.
PREFILL = 8_192
# PyTorch's attention wants a mask whose rows begin at such multiples.
ALIGNED = 16
# A graph costs some three steps to record.
WORTH_RECORDING = 8
# Rotary embeddings whose angles depend on nothing but the place; those of the others change with the longest text.
_FIXED_ANGLES = ("default", "linear", "llama3", "yarn")


class Decoder:
    """The rows of one batch, token by token: `logits` holds what follows `fed`, `step` takes each row one token on.

    fed: the tokens of each row so far; rows fed alike share their prefill. steps: the most tokens that follow, the
    last of which needs no pass. pad: any token. record: on a GPU, replay each step as a CUDA graph (not in NF4, whose
    products decide on the CPU what to launch).
    """

    def __init__(self, model: Any, fed: Sequence[Sequence[int]], *, steps: int, pad: int, record: bool) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._record = record and self._device.type == "cuda"
        self._graph: Any = None
        self._replayed: Any = None
        self._left = steps - 1
        self._place = max(map(len, fed))
        self._capacity = -(-(self._place + steps) // ALIGNED) * ALIGNED
        self._cache: Any = None
        self.logits = self._prefill(fed, pad)
        if self._left:
            lengths = torch.tensor([len(run) for run in fed], device=self._device)
            places = torch.arange(self._capacity, device=self._device)
            seen = (places >= (self._place - lengths)[:, None]) & (places < self._place)
            dtype = self._keys_dtype()
            self._mask = torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None, None]
            self._ids = torch.full((len(fed), 1), pad, device=self._device)
            self._positions = lengths[:, None].clone()

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feed one token a row; returns the logits of the next, [rows, vocabulary], good until the next call."""
        self._ids.copy_(torch.tensor(tokens, device=self._device)[:, None])
        self._mask[..., self._place] = 0.0
        if self._record and self._graph is None and self._left >= WORTH_RECORDING:
            self._capture()
        if self._graph is None:
            logits = self._forward()
        else:
            self._graph.replay()
            logits = self._replayed
        self._place += 1
        self._left -= 1
        self._positions += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self._device)
        self._graph = self._replayed = None
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        self._mask, self._ids, self._positions = self._mask[index], self._ids[index], self._positions[index]

    def _prefill(self, fed: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
        """Fill the cache and return the logits after each row's tokens, [rows, vocabulary]."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, run in enumerate(fed):
            rows_of.setdefault(tuple(run), []).append(row)
        logits, order = [], []
        for runs in _chunks(sorted(rows_of, key=len, reverse=True)):
            rows = [row for run in runs for row in rows_of[run]]
            source = [place for place, run in enumerate(runs) for _ in rows_of[run]]
            logits.append(self._prefill_chunk(runs, rows, source, len(fed), pad))
            order += rows
        return torch.cat(logits)[torch.tensor(order, device=self._device).argsort()]

    def _prefill_chunk(
        self, runs: Sequence[tuple[int, ...]], rows: list[int], source: list[int], size: int, pad: int
    ) -> torch.Tensor:
        """One pass over `runs`: row rows[i] of `size` begins as runs[source[i]]. Returns the logits of these rows."""
        from transformers import Cache, DynamicCache
        from transformers.cache_utils import StaticLayer

        width = len(runs[0])
        ids, mask = left_padded(runs, pad, self._device)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=DynamicCache(),  # it knows of no windows, which the models here don't have
            use_cache=True,
            logits_to_keep=1,
        )
        to, taken = (torch.tensor(places, device=self._device) for places in (rows, source))
        if self._left:
            prefilled = output.past_key_values.layers
            if self._cache is None:
                self._cache = Cache(layers=[StaticLayer(self._capacity) for _ in prefilled])
                for layer, short in zip(self._cache.layers, prefilled, strict=True):
                    shape = (size, *short.keys.shape[1:])
                    layer.lazy_initialization(short.keys[:1].expand(shape), short.values[:1].expand(shape))
                    layer.cumulative_length.fill_(self._place)
            for layer, short in zip(self._cache.layers, prefilled, strict=True):
                layer.keys[to, :, self._place - width : self._place] = short.keys[taken]
                layer.values[to, :, self._place - width : self._place] = short.values[taken]
        logits: torch.Tensor = output.logits[:, -1][taken]
        return logits

    def _keys_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._cache.layers[0].keys.dtype
        return dtype

    def _forward(self) -> torch.Tensor:
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _capture(self) -> None:
        """Record one step. What the unrecorded one before it writes is overwritten by the first replay."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._place)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._replayed = self._forward()


def can_decode(model: Any) -> bool:
    """Whether a model is one of those: grouped decoding was put in, no layer sees but a window, and what was written
    keeps its angles."""
    from transformers import StaticCache

    config = model.config
    if config._attn_implementation != NAME:
        return False
    angles = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = StaticCache(config=config, max_cache_len=ALIGNED).layers
    return angles in _FIXED_ANGLES and not any(layer.is_sliding for layer in layers)


def left_padded(runs: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of runs of tokens, each [runs, longest]."""
    width = max(map(len, runs))
    ids = torch.tensor([[pad] * (width - len(run)) + list(run) for run in runs], device=device)
    mask = torch.tensor([[0] * (width - len(run)) + [1] * len(run) for run in runs], device=device)
    return ids, mask


def _chunks(runs: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
    """Runs (longest first) in groups of at most PREFILL tokens, padding counted, at least one a group."""
    begin = 0
    while begin < len(runs):
        end = begin + max(1, PREFILL // max(1, len(runs[begin])))
        yield runs[begin:end]
        begin = end
