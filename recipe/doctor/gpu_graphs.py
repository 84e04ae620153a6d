"""A step of `sre doctor --gpu-smoke`: Decoder's steps replayed as CUDA graphs against the same steps launched."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from recipe.inference.pytorch.decoder import Decoder, can_decode
from recipe.inference.pytorch.transformers import load_for_inference

SAME_LOGITS = 0.1  # of some 20: the same kernels on the same numbers


def compare_graphs(model: Path, adapter: Path | None, steps: int = 40) -> str | None:
    """The times of replayed and of launched steps, and how far their logits differ; rows are left behind on the way.

    None for a kind of model that Decoder doesn't run. Raises RuntimeError where the logits differ, or nothing was
    recorded on a GPU.
    """
    loaded, _ = load_for_inference(model, adapter, "none")
    if not can_decode(loaded):
        return None
    draw = torch.Generator().manual_seed(0)
    vocabulary = loaded.config.vocab_size
    fed = [torch.randint(vocabulary, (100 + place,), generator=draw).tolist() for place in range(16)]
    tokens = torch.randint(vocabulary, (steps, len(fed)), generator=draw).tolist()
    logits: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    spent = {}
    for record, found in logits.items():
        with torch.inference_mode():
            decoder = Decoder(loaded, fed, steps=steps + 1, pad=0, record=record)
            times = []
            for step, drawn in enumerate(tokens):
                start = time.monotonic()
                if step == steps // 2:
                    decoder.keep(range(0, len(fed), 2))
                found.append(decoder.step(drawn if step < steps // 2 else drawn[::2])[::2].float().cpu())
                times.append(time.monotonic() - start)
            spent[record] = sorted(times)[steps // 2] * 1000
            if record and loaded.device.type == "cuda" and decoder._graph is None:
                raise RuntimeError("no step was recorded as a graph")
    gap = max(float((one - other).abs().max()) for one, other in zip(*logits.values(), strict=True))
    if gap > SAME_LOGITS:
        raise RuntimeError(f"a replayed step's logits differ from a launched one's by {gap:.3f}")
    return f"{spent[True]:.1f} ms a step of 16 rows, {spent[False]:.1f} launched; logits differ by up to {gap:.4f}"
