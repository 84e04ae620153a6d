"""Other ways to run the same model, for `python -m benchmarks` to measure beside ours: the fair best of each, no more.

Prompts come as (token ids, new tokens): tokenising costs a peer nothing. End tokens end nothing, so that every way
writes the same number of tokens. Loading and a first token, which pages the weights in, are not timed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recipe.inference.pytorch.loading import compute_dtype, use_threads

Prompt = tuple[Sequence[int], int]
_FEW = 8  # tokens of the untimed prompt


def open_llama(path: Path, **options: Any) -> Any:
    """llama-cpp-python's high-level object. It has no argument for `model_params`, so its defaults are replaced."""
    import llama_cpp

    from recipe.inference.llamacpp.kv_cache import model_params

    library: Any = llama_cpp.llama_cpp
    defaults, params = library.llama_model_default_params, model_params()
    library.llama_model_default_params = lambda: params
    try:
        return llama_cpp.Llama(str(path), verbose=False, **options)
    finally:
        library.llama_model_default_params = defaults


def run_loop(
    path: Path, prompts: Sequence[Prompt], *, samples: int, temperature: float, threads: int
) -> tuple[float, int]:
    """llama-cpp-python's high-level API, one sample after another in one Llama object, whose own prefix cache stays
    as it is by default. Returns (seconds, new tokens).

    `Llama.generate` is the loop inside `create_completion`, without its detokenising at every token: it goes on past an
    end token, where a bias against that token would cost a copy of all logits in Python.
    """
    context = max(len(ids) + count for ids, count in prompts) + 1
    llama = open_llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, flash_attn=True)

    def draw(ids: Sequence[int], count: int, seed: int) -> int:
        llama.set_seed(seed)
        tokens = llama.generate(list(ids), temp=temperature, top_k=0, top_p=1.0, min_p=0.0)
        drawn = list(itertools.islice(tokens, count))
        llama.detokenize(drawn)
        return len(drawn)

    try:
        draw(prompts[0][0][:_FEW], 1, 0)
        begin = time.perf_counter()
        new = sum(draw(ids, count, sample) for ids, count in prompts for sample in range(samples))
        return time.perf_counter() - begin, new
    finally:
        llama.close()


def run_transformers(
    folder: Path, prompts: Sequence[Prompt], *, samples: int, temperature: float, threads: int, parallel: int
) -> tuple[float, int, str]:
    """transformers.generate: num_return_sequences where several samples are drawn of a prompt, else left-padded
    batches of `parallel` prompts, sorted by length. Returns (seconds, new tokens, dtype).
    """
    import torch
    from transformers import GenerationConfig

    from recipe.inference.pytorch.engines import load_base

    use_threads(threads)
    model = load_base(folder, "none").eval()
    # No end token, and nothing of the folder's own settings.
    model.generation_config = GenerationConfig(pad_token_id=0)
    drawing: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}

    def draw(batch: Sequence[Sequence[int]], count: int) -> int:
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=count, num_return_sequences=samples, **drawing
        )
        return int(output.shape[0]) * (int(output.shape[1]) - width)

    with torch.inference_mode():
        draw([prompts[0][0][:_FEW]], 1)
        begin = time.perf_counter()
        new = sum(draw(batch, count) for batch, count in _batches(prompts, 1 if samples > 1 else parallel))
        seconds = time.perf_counter() - begin
    return seconds, new, dtype_name()


def dtype_name() -> str:
    """The precision in which transformers runs here, e.g. "bfloat16"."""
    return str(compute_dtype()).removeprefix("torch.")


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[tuple[list[Sequence[int]], int]]:
    """At most `size` prompts with as many new tokens and of like lengths."""
    ordered = sorted(prompts, key=lambda prompt: (prompt[1], len(prompt[0])))
    for count, group in itertools.groupby(ordered, key=lambda prompt: prompt[1]):
        rows = [ids for ids, _ in group]
        yield from ((rows[begin : begin + size], count) for begin in range(0, len(rows), size))
