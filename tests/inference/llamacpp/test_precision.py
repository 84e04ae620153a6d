"""Label probabilities against a full-precision forward pass of the same file, dequantised into a float32 model.

The embedded SmolLM2-135M-Instruct on the test rows of the seed data. `-s` prints for each type of file how far our
engine is from that pass, and how far llama-cpp-python alone is, with caches and attention of either kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import open_llama
from recipe.data.examples import read_examples
from recipe.gguf.importer import import_gguf
from recipe.inference.base import Request, Sampling
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.prompts import Prompts
from recipe.verdict import MARKER

ROWS = 40
WRITTEN = 16  # tokens of a rationale that is then led on to its label
# An F16 file rounds activations to 11 bits, a Q8_0 file to 8 in blocks of 32 (and flash attention keys and values to
# F16, in any file): that, and nothing of ours, is what a label's probability moves by.
BOUNDS = {"F32": 1e-2, "F16": 1e-2, "Q8_0": 0.1}
Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where one label stands: the tokens before it, and the tokens of the labels. ours: their log-probabilities."""

    ids: list[int]
    labels: list[int]
    ours: Logs


@pytest.mark.slow
@pytest.mark.parametrize("type_name", BOUNDS)
def test_label_probabilities_are_those_of_a_float32_pass_over_the_same_weights(
    type_name: str,
    smollm2: Callable[[str], Path],
    at_most: Callable[[int], int],
    logprobs_after: Callable[..., Any],
    tmp_path: Path,
) -> None:
    path = smollm2(type_name)
    import_gguf(path, tmp_path, "float32")
    places = label_places(path, tmp_path, at_most(ROWS))
    exact = float32_logprobs(tmp_path, places)
    ours = [place.ours for place in places]
    print(f"\n{type_name}: {len(places)} labels of {at_most(ROWS)} rows; p(label) differs at most, and on average, by")
    worst, mean = show("our engine", ours, exact)
    by_hand = {}
    for attention in (False, True):
        for cache in ("F16", "F32"):
            name = f"llama-cpp-python, cache {cache}, flash attention {'on' if attention else 'off'}"
            by_hand[name] = show(name, one_by_one(path, places, logprobs_after, attention, cache), exact)
    assert worst < BOUNDS[type_name]
    assert mean < 1e-5 + 2 * max(found[1] for found in by_hand.values())


def label_places(path: Path, folder: Path, rows: int) -> list[Place]:
    """Of every row the label after a written rationale and the label alone, with what our engine reads there. The
    prompts are rendered and tokenised by transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = [
        example
        for task, count in (("pointwise", rows - rows // 2), ("pairwise", rows // 2))
        for example in read_examples("seed-data", task=task, split="test", limit=count)  # type: ignore[arg-type]
    ]
    found = []
    with LlamaCppGenerator(path, context=2048) as generator:
        for alone in (False, True):
            requests = {
                example.id: Request(
                    example.id,
                    Prompts().judge(example, label_only=alone),
                    example.labels,
                    force_label=not alone,
                    label_only=alone,
                )
                for example in examples
            }
            for done in generator.generate([*requests.values()], Sampling(temperature=0, max_tokens=WRITTEN)):
                request = requests[done.request_id]
                turns = [{"role": message.role, "content": message.content} for message in request.messages]
                prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
                lead = tokenizer(f"{MARKER} ").input_ids if alone else list(done.token_ids[:-1])
                ids = [*tokenizer(prompt, add_special_tokens=False).input_ids, *lead]
                labels = [tokenizer(str(label), add_special_tokens=False).input_ids[-1] for label in request.labels]
                assert done.finish == "forced"
                found.append(Place(ids, labels, np.array([done.label_logprobs[label] for label in request.labels])))
    return found


def float32_logprobs(folder: Path, places: Sequence[Place]) -> list[Logs]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = (model(torch.tensor([place.ids]), logits_to_keep=1).logits[0, -1] for place in places)
        return [row.double().log_softmax(-1).numpy()[place.labels] for row, place in zip(rows, places, strict=True)]


def one_by_one(
    path: Path, places: Sequence[Place], read: Callable[..., Logs], attention: bool, cache: str
) -> list[Logs]:
    """By llama-cpp-python's high-level object, one prompt at a time in an empty cache."""
    import llama_cpp

    kind = getattr(llama_cpp, f"GGML_TYPE_{cache}")
    llama = open_llama(path, n_ctx=2048, flash_attn=attention, type_k=kind, type_v=kind)
    try:
        return [read(llama, place.ids)[place.labels] for place in places]
    finally:
        llama.close()


def show(name: str, found: Sequence[Logs], exact: Sequence[Logs]) -> tuple[float, float]:
    """Print and return the most and the mean by which probabilities differ: as they are, and shared out among the
    labels alone, whichever is more."""
    kinds: tuple[Callable[[Logs], Logs], ...] = (np.exp, lambda logs: np.exp(logs) / np.exp(logs).sum())
    moved = [np.concatenate([np.abs(f(a) - f(b)) for a, b in zip(found, exact, strict=True)]) for f in kinds]
    worst, mean = max(float(kind.max()) for kind in moved), max(float(kind.mean()) for kind in moved)
    print(f"  {name:60} {worst:.5f} {mean:.5f}")
    return worst, mean
