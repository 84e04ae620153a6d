"""The Generator on PyTorch: a Hugging Face folder and its LoRA adapter, on a GPU or, slowly, on a CPU.

transformers' `generate` decodes, which reads a prompt once for each sample, and batch.py draws. A sample's draws follow
from (seed, request id, sample), as on llama.cpp; what runs beside it changes rounding alone.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Quantization, Request, Sampling
from recipe.inference.prompt import PromptReader
from recipe.inference.pytorch.batch import Drawing, Row, TorchTokenizer, left_padded
from recipe.inference.pytorch.engines import open_engine
from recipe.inference.pytorch.loading import free_memory
from recipe.inference.sequence import Sample
from recipe.inference.special_tokens import PromptEncoder
from recipe.storage import intact, read_json


class TorchGenerator(Generator):
    """Runs one model folder, with an adapter or without. `close` frees the model."""

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None,
        name: str,
        parallel: int = 16,
        context: int = 4096,
        quantization: Quantization = "none",
        engine: Literal["auto", "unsloth", "transformers"] = "auto",
    ) -> None:
        """Load the model. `name` marks its judgements; `parallel` is the most sequences of one batch.

        context: the most tokens of one prompt with its answer; at most what the model was trained for. engine: "auto"
        takes Unsloth on a GPU where it can be imported, and wherever it is imported already: its patches to
        transformers stay.
        """
        self.path, self.name, self.parallel = model, name, parallel
        file = model / "config.json"
        try:
            with intact(file):
                self.context = min(context, int(read_json(file).get("max_position_embeddings") or context))
        except OSError as error:
            raise SreError(f"not a model folder: {error}", file=file) from None
        self._model, tokenizer = self._load(adapter, quantization, engine)
        self._tokenizer = TorchTokenizer(tokenizer, self._model)
        self._encoder = PromptEncoder.of(tokenizer)
        self._reader = PromptReader(self._tokenizer, self._encode, self.context)
        from transformers import GenerationConfig

        # Nothing of the folder's own settings: no repetition penalty, no filters, no end token but ours.
        wrapped = hasattr(self._model, "get_base_model")  # by PEFT; under vLLM the adapter goes with each call
        for part in (self._model, self._model.get_base_model() if wrapped else self._model):
            part.generation_config = GenerationConfig(pad_token_id=self._tokenizer.pad)
        self._model.eval()

    def _load(self, adapter: Path | None, quantization: Quantization, engine: str) -> tuple[Any, Any]:
        # Samples must come from the model that DPO's reference pass sees. On a CPU, where Unsloth only costs time, it
        # is taken only if this process has it already.
        if engine == "auto" and not (torch.cuda.is_available() or "unsloth" in sys.modules):
            engine = "transformers"
        return open_engine(engine).load_for_inference(self.path, adapter, quantization, self.context)

    def close(self) -> None:
        self._model = None
        free_memory()

    def _encode(self, request: Request) -> tuple[list[int], bytes]:
        if request.prompt is not None:
            raise SreError("PyTorch takes messages alone, no text prompt; use a GGUF file", field="prompt")
        return self._encoder.encode(request.messages), b""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Stream completions, batch by batch, the longest prompts of a kind first.

        A request that can't be read or doesn't fit gives completions that end in "error".
        """
        self._check_open()
        prompts, refused = self._reader.read_all(requests, sampling)
        yield from refused
        rows = [Row(Sample(prompt, index, self._tokenizer)) for prompt in prompts for index in range(prompt.samples)]
        for row in self._run(rows, sampling):
            assert row.completion is not None
            yield row.completion

    def _run(self, rows: list[Row], sampling: Sampling) -> Iterator[Row]:
        """Run rows to their end, in batches of rows with the same number of steps. Yields every row once."""
        rows.sort(key=lambda row: (row.steps, -len(row.prompt.ids), row.prompt.request.id, row.sample.index))
        for steps, alike in itertools.groupby(rows, key=lambda row: row.steps):
            group = list(alike)
            for begin in range(0, len(group), self.parallel):
                batch = group[begin : begin + self.parallel]
                self._run_batch(batch, steps, sampling)
                yield from batch

    def _run_batch(self, rows: list[Row], steps: int, sampling: Sampling) -> None:
        """Draw up to `steps` tokens of every row."""
        self._check_open()
        from transformers import LogitsProcessorList, StoppingCriteriaList

        fed, drawing = [row.begin() for row in rows], Drawing(rows, sampling.temperature)
        device = next(self._model.parameters()).device
        ids, mask = (part.to(device) for part in left_padded(fed, self._tokenizer.pad))
        try:
            with torch.inference_mode():
                self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=steps,
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad,
                    logits_processor=LogitsProcessorList([drawing]),
                    stopping_criteria=StoppingCriteriaList([drawing.finished]),
                )
        except torch.OutOfMemoryError:
            why = f"out of memory with {len(rows)} sequences of {max(map(len, fed))} + {steps} tokens"
            raise SreError(f"{why}; lower sample.parallel", file=self.path) from None

    def _check_open(self) -> None:
        if self._model is None:
            raise SreError("the model has been closed", file=self.path)
