"""Decodes a batch token by token, without `model.generate`, on models that use grouped_attention.py.

Each distinct prompt is read once, then copied to its rows. The KV cache has its full length from the start, so every
step runs the same kernels on the same memory. On a GPU a step is therefore recorded once as a CUDA graph and replayed:
for a small model, launching the kernels from Python takes longer than running them.
"""

from collections.abc import Sequence
from typing import Any

import torch

from recipe.inference.pytorch.grouped_attention import NAME

PREFILL = 8_192  # tokens of one pass over prompts, padding counted; one prompt may have more
ALIGNED = 16  # PyTorch's attention wants masks whose rows begin at multiples of it
WORTH_RECORDING = 8  # steps; recording a graph takes as long as three
# Rotary embeddings whose angles depend on the position alone. Others change with the longest text in the batch.
_FIXED_ANGLES = ("default", "linear", "llama3", "yarn")


class Decoder:
    """One batch. `logits` [rows, vocabulary] follow the prompts; each `step` adds one token to every row."""

    _cache: Any = None

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, steps: int, pad: int, record: bool) -> None:
        """Read the prompts, each row's tokens so far, of a model for which `can_decode` holds.

        steps: the most tokens that follow; the last one needs no pass. pad: any token. record: whether to replay steps
        as CUDA graphs. NF4 can't: its products decide on the CPU what to launch.
        """
        self._model, self._device = model, next(model.parameters()).device
        self._record = record and self._device.type == "cuda"
        self._graph: Any = None
        self._replayed: Any = None
        self._left = steps - 1
        self._place = max(map(len, prompts))
        self._capacity = -(-(self._place + steps) // ALIGNED) * ALIGNED
        self.logits = self._prefill(prompts, pad)
        if self._left:
            lengths = torch.tensor([len(run) for run in prompts], device=self._device)
            places = torch.arange(self._capacity, device=self._device)
            seen = (places >= (self._place - lengths)[:, None]) & (places < self._place)
            dtype: torch.dtype = self._cache.layers[0].keys.dtype
            self._mask = torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None, None]
            self._ids = torch.full((len(prompts), 1), pad, device=self._device)
            self._positions = lengths[:, None].clone()

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to each row. Returns the next logits [rows, vocabulary], valid until the next call."""
        self._ids.copy_(torch.tensor(tokens, device=self._device)[:, None])
        self._mask[..., self._place] = 0.0
        if self._record and self._graph is None and self._left >= WORTH_RECORDING:
            self._capture()
        if self._graph is None:
            logits = self._add()
        else:
            self._graph.replay()
            logits = self._replayed
        self._place += 1
        self._left -= 1
        self._positions += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._device)
        self._graph = self._replayed = None
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        self._mask, self._ids, self._positions = self._mask[index], self._ids[index], self._positions[index]

    def _prefill(self, prompts: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
        """Fill the cache. Returns the logits after each prompt, [rows, vocabulary]."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, run in enumerate(prompts):
            rows_of.setdefault(tuple(run), []).append(row)
        left = sorted(rows_of, key=len, reverse=True)
        logits: dict[int, torch.Tensor] = {}
        while left:
            count = max(1, PREFILL // max(1, len(left[0])))
            chunk, left = left[:count], left[count:]
            found = self._prefill_chunk(chunk, [rows_of[run] for run in chunk], len(prompts), pad)
            logits |= {row: found[place] for place, run in enumerate(chunk) for row in rows_of[run]}
        return torch.stack([logits[row] for row in range(len(prompts))])

    def _prefill_chunk(
        self, runs: Sequence[tuple[int, ...]], rows: list[list[int]], size: int, pad: int
    ) -> torch.Tensor:
        """Read `runs` in one pass; of `size` rows, rows[i] begin with runs[i]. Returns logits [runs, vocabulary]."""
        from transformers import Cache, DynamicCache
        from transformers.cache_utils import StaticLayer

        width = len(runs[0])
        ids, mask = (part.to(self._device) for part in left_padded(runs, pad))
        cache = DynamicCache()
        logits = self._forward(ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0), cache)
        if self._left:
            to = torch.tensor([row for group in rows for row in group], device=self._device)
            taken = torch.tensor([place for place, group in enumerate(rows) for _ in group], device=self._device)
            prefilled = cache.layers
            if self._cache is None:
                self._cache = Cache(layers=[StaticLayer(self._capacity) for _ in prefilled])
                for layer, short in zip(self._cache.layers, prefilled, strict=True):
                    shape = (size, *short.keys.shape[1:])
                    layer.lazy_initialization(short.keys[:1].expand(shape), short.values[:1].expand(shape))
                    layer.cumulative_length.fill_(self._place)
            for layer, short in zip(self._cache.layers, prefilled, strict=True):
                layer.keys[to, :, self._place - width : self._place] = short.keys[taken]
                layer.values[to, :, self._place - width : self._place] = short.values[taken]
        return logits

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        reads = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return self._model(**reads, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _add(self) -> torch.Tensor:
        return self._forward(self._ids, self._mask, self._positions, self._cache)

    def _capture(self) -> None:
        """Record one step. CUDA wants a run beforehand; the first replay overwrites what that one wrote."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._add()
        torch.cuda.current_stream().wait_stream(aside)
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._place)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._replayed = self._add()


def can_decode(model: Any) -> bool:
    """Whether `Decoder` runs this model: it uses grouped attention, and has no sliding window and no moving angles."""
    from transformers import StaticCache

    config = model.config
    if config._attn_implementation != NAME:
        return False
    angles = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = StaticCache(config=config, max_cache_len=ALIGNED).layers
    return angles in _FIXED_ANGLES and not any(layer.is_sliding for layer in layers)


def left_padded(runs: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of runs of tokens, each [runs, longest]; the mask is 0 at the padding."""
    width = max(map(len, runs))
    ids = torch.tensor([[pad] * (width - len(run)) + list(run) for run in runs])
    mask = torch.tensor([[0] * (width - len(run)) + [1] * len(run) for run in runs])
    return ids, mask
