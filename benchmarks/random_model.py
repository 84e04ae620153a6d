"""A model of a true shape with random weights, and rows that fill its context: what a card has to hold and compute.

Its layers are equal, so that an 8B model is written in a minute. Nothing is downloaded: its tokeniser is that of
another model.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, Judgement, Preference
from recipe.data.split import write_splits
from recipe.errors import SreError
from recipe.gguf.shape import Shape
from recipe.planning.shapes import KNOWN
from recipe.progress import bar
from recipe.prompts import Prompts
from recipe.storage import write_json, write_jsonl
from recipe.training.trainer import completion_ids, prompt_ids
from recipe.verdict import format_verdict

FAMILIES = {"llama": "llama", "smollm": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma-3": "gemma3_text"}
FILLER = " It goes on and on."
DISK_BYTES = 6.3  # a parameter: 16 bit as a folder and as a GGUF file, and twice in 8 bit


def shape_named(text: str) -> tuple[str, Shape]:
    """(name, shape) in the table of shapes, by a part of the name, e.g. "llama3.1-8b". Raises SreError."""

    def letters(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    found = [text] if text in KNOWN else [name for name in KNOWN if letters(text) in letters(name)]
    if len(found) != 1 or not text:
        raise SreError(f"expected a part of one of these names, not {text!r}: {', '.join(KNOWN)}", field="SHAPE")
    return found[0], KNOWN[found[0]]


def write_random_model(folder: Path, name: str, shape: Shape, tokenizer: Path) -> None:
    """Write a model folder in 16 bit."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    family = next((kind for part, kind in FAMILIES.items() if part in name.lower()), None)
    if family is None:
        raise SreError(f"no random model of this family; take one of {', '.join(FAMILIES)}", field="SHAPE")
    needed, free = DISK_BYTES * shape.parameters, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise SreError(
            f"{needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free; set TMPDIR", file=folder.parent
        )
    weights = shutil.ignore_patterns("*.safetensors*", "config.json", "generation_config.json")
    shutil.copytree(tokenizer, folder, ignore=weights)
    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    config = AutoConfig.for_model(
        family,
        vocab_size=max(shape.vocab, len(words)),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        **{f"{end}_token_id": getattr(words, f"{end}_token_id") for end in ("bos", "eos", "pad")},
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    layer, places, drawn = re.compile(r"layers\.(\d+)\."), {}, {}
    sizes = {key: value.shape for key, value in model.state_dict().items()}
    for key in sizes.keys() - ({"lm_head.weight"} if shape.tied else set()):
        found = layer.search(key)
        places[key] = f"model-{found[1] if found else 'rest'}.safetensors"
    with bar("writing random weights", shape.layers + 1, "files") as advance:
        for file in set(places.values()):
            part = {}
            for key in (key for key, place in places.items() if place == file):
                kind = layer.sub("", key)
                if kind not in drawn:
                    draw = torch.ones if "norm" in key else torch.randn
                    drawn[kind] = draw(sizes[key], dtype=torch.bfloat16) * (1 if "norm" in key else 0.02)
                part[key] = drawn[kind]
            save_file(part, folder / file, metadata={"format": "pt"})
            advance(1)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def write_long_rows(folder: Path, model: Path, longest: int) -> None:
    """A data folder of some rows of the seed data, with responses so long that each row has about `longest` tokens."""
    from transformers import AutoTokenizer

    tokenizer, prompts = AutoTokenizer.from_pretrained(model, trust_remote_code=False), Prompts()
    each = len(tokenizer(FILLER * 100, add_special_tokens=False)["input_ids"]) / 100

    def lengthened(row: Example) -> Example:
        used = len(prompt_ids(tokenizer, prompts.judge(row))) + 16
        used += len(completion_ids(tokenizer, format_verdict(row.rationale, row.label or 1)))
        filler = FILLER * int(max(0, longest - used) / each / len(row.responses))
        return replace(row, responses=tuple(text + filler for text in row.responses))

    tasks = {task: read_examples("seed-data:counted", task=task, limit=8) for task in TASKS}
    write_splits(folder, {"train": {task: [*map(lengthened, rows)] for task, rows in tasks.items()}})


def write_pairs(folder: Path, *, examples: list[Example]) -> dict[str, Any]:
    """In the place of curation: pairs of each row's own judgement and one with another label. A random model writes no
    judgement that could be chosen."""
    pairs = []
    for row in examples:
        sides = {
            label: Judgement(f"{row.id}:{label}", row.id, row.task, format_verdict(row.rationale, label), "", label)
            for label in row.labels
        }
        chosen = sides.pop(row.label or 1)
        pairs += [Preference(side.id, row.id, row.task, chosen, side) for side in sides.values()]
    write_jsonl(folder / "preferences.jsonl", [pair.to_json() for pair in pairs])
    return {"pairs": len(pairs)}
