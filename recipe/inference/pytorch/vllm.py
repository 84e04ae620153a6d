"""The Generator on vLLM, through Unsloth.

All samples of a prompt are one request, so vLLM reads the prompt once. It shows no raw logits, so labels can't be
forced or read. Its GPU memory is free for certain only when its process ends: run it in a process of its own.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from recipe.errors import SreError
from recipe.inference.base import Completion, Quantization, Request, Sampling
from recipe.inference.pytorch.batch import Row
from recipe.inference.pytorch.generator import TorchGenerator
from recipe.storage import hash_object


class VllmGenerator(TorchGenerator):
    """Draws samples from one model folder, with an adapter or without. vLLM batches by itself, as memory allows.

    Draws follow from (seed, request id, sample index), but differ from those of the other engines. No label
    probabilities come back. Raises SreError where vLLM or its GPU is missing.
    """

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions. Raises SreError for requests that want more than samples."""
        forced = any(request.force_label or request.label_only or request.choices for request in requests)
        if forced or sampling.stop_at_label or not sampling.temperature:
            raise SreError(
                "vLLM draws whole samples at temperatures above 0; take the engine torch", field="sample.engine"
            )
        return super().generate(requests, sampling)

    def _load(self, adapter: Path | None, quantization: Quantization, engine: str) -> tuple[Any, Any]:
        if not (torch.cuda.is_available() and importlib.util.find_spec("vllm")):
            # Unsloth would fail on a CPU, and without vLLM go on with its own decoding.
            why = "vLLM needs a GPU, and `pip install vllm vllm-bnb-plugin` beside Unsloth"
            raise SreError(why, field="sample.engine")
        try:
            from recipe.inference.pytorch.unsloth import load_for_vllm
        except (ImportError, NotImplementedError) as error:
            raise SreError(f"vLLM needs Unsloth, which can't be imported ({error}); see `sre doctor`") from None
        model, tokenizer, self._lora = load_for_vllm(
            self.path, adapter, quantization=quantization, max_length=self.context
        )
        return model, tokenizer

    def _run(self, rows: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Run every row to its end, those of one request together."""
        self._check_open()
        if not rows:
            return
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.prompt.request.id, []).append(row)
        outputs = self._model.fast_generate(
            [{"prompt_token_ids": group[0].begin()} for group in groups.values()],
            sampling_params=[self._params(name, len(group), sampling) for name, group in groups.items()],
            lora_request=self._lora,
            use_tqdm=False,
        )
        for group, output in zip(groups.values(), outputs, strict=True):
            for row, found in zip(group, sorted(output.outputs, key=lambda sample: sample.index), strict=True):
                sample = row.sample
                sample.tokens = list(found.token_ids)
                written = (token for token in sample.tokens if not self._tokenizer.is_end(token))
                sample.written += b"".join(map(self._tokenizer.piece, written))
                row.completion = sample.completion("stop" if found.finish_reason == "stop" else "length")
                yield row

    def _params(self, request: str, n: int, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=int(hash_object([sampling.seed, request])[:12], 16),  # vLLM adds the sample's index
            stop_token_ids=sorted(self._tokenizer.ends),
            detokenize=False,
        )
