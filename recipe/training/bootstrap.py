"""Stage bootstrap: rationales for labelled rows that have none, written by the seed model or a teacher.

As STaR does, each row is judged N times, and once more N times with its label as a hint where no judgement had that
label. A judgement whose label is the row's gives its rationale to SFT; why the others don't is counted.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.config import BootstrapConfig
from recipe.data.records import SWAPPED, Example, Judgement, contradicts_itself, exchanged, in_prompt_names
from recipe.inference.base import Generator, Request, Sampling, completions_by_request
from recipe.inference.conversion import to_judgement
from recipe.prompts import Prompts, neutralise
from recipe.storage import hash_object, read_jsonl, write_jsonl
from recipe.system import process, wait_for
from recipe.training.blocks import draw_in_blocks
from recipe.verdict import MARKER

# A small model writes no rationale unless it is held to one: whole sentences about the response, then the label.
_GRAMMAR = r"""root ::= {opening} " " sentence (" " sentence)? " {marker} " label
sentence ::= [^ \r\n<>{{}}[\].!?] [^\r\n<>{{}}[\].!?]{{8,160}} [.!?]
label ::= {labels}
"""
_OPENINGS = {"pointwise": '"The response"', "pairwise": '"Response " [12]'}
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", '"', "”", ")")
_SHORTEST = 12  # characters
_REPEATING = (
    0.45  # zlib makes ordinary sentences about two thirds as long, and a text that goes round in circles shorter
)


def run_bootstrap(
    folder: Path,
    *,
    generator: Generator,
    examples: Sequence[Example],
    settings: BootstrapConfig,
    prompts: Prompts,
    held: bool,
    seed: int,
) -> dict[str, Any]:
    """Write rationales.jsonl: the judgements whose rationales are kept, whose `origin` is their maker.

    All judgements are in unhinted.jsonl and hinted.jsonl, which grow in whole blocks.

    Args:
        folder: The stage's folder.
        generator: The seed model or the teacher.
        examples: Labelled rows without a rationale.
        settings: The section `bootstrap`.
        prompts: The templates.
        held: Hold the judgements to `_GRAMMAR`, which is English.
        seed: The run's seed.

    Returns:
        Facts for the done marker.
    """
    kept: dict[str, list[Judgement]] = {}
    why = Counter[str]()
    counts = {"maker": generator.name, "rows": len(examples), "unhinted": 0, "hinted": 0, "tokens": 0}
    seen: set[str] = set()
    for name in ("unhinted", "hinted"):
        left = {row.id: row for row in examples if row.id not in kept}
        origin = generator.name + (", told the label" if name == "hinted" else "")

        def judge(block: Sequence[Example], origin: str = origin, hinted: bool = name == "hinted") -> list[Judgement]:
            requests = []
            for row in block:
                messages = prompts.hinted(row) if hinted else prompts.judge(row)
                grammar = _grammar(row) if held else ""
                requests.append(Request(row.id, messages, row.labels, force_label=True, grammar=grammar))
            draw = int(hash_object([seed, "bootstrap", origin])[:12], 16)
            sampling = Sampling(settings.temperature, settings.n, settings.max_tokens, draw, stop_at_label=True)
            found = completions_by_request(generator.generate(requests, sampling))
            # A request that failed as a whole may have come once.
            return [
                to_judgement(row, (found[row.id] * settings.n)[k], origin) for row in block for k in range(settings.n)
            ]

        path = folder / f"{name}.jsonl"
        label = f"rationales by {origin}"
        draw_in_blocks(path, list(left.values()), judge, n=settings.n, block=settings.block, label=label)
        if process()[0]:  # what the main process has not joined yet would be missing below
            wait_for(lambda path=path: not list(path.parent.glob(f"{path.stem}-*-of-*")))
        for judgement in read_jsonl(path, Judgement.from_json) if path.exists() else ():
            fault = _fault(judgement, left[judgement.example_id], seen)
            found = kept.get(judgement.example_id, [])
            if not fault and len(found) == settings.keep:
                fault = "more than bootstrap.keep of a row"
            if fault:
                why[fault] += 1
            else:
                seen.add(judgement.rationale)
                kept[judgement.example_id] = [*found, judgement]
                counts[name] += not found
            counts["tokens"] += judgement.tokens
    if process()[0] == 0:
        rows = [judgement.to_json() for row in examples for judgement in kept.get(row.id, ())]
        write_jsonl(folder / "rationales.jsonl", rows)
    return {**counts, "without": len(examples) - len(kept), "dropped": dict(sorted(why.items()))}


def _grammar(row: Example) -> str:
    labels = " | ".join(f'"{label}"' for label in row.labels)
    return _GRAMMAR.format(opening=_OPENINGS[row.task], marker=MARKER, labels=labels)


def _fault(judgement: Judgement, row: Example, seen: set[str]) -> str:
    """Why the judgement's rationale is not one to learn from; "" where it is."""
    text = judgement.rationale
    if judgement.finish == "error":
        return "error"
    if judgement.label is None:
        return "malformed"
    if judgement.label != row.label:
        return "wrong label"
    if len(text) < _SHORTEST:
        return "empty"
    if neutralise(text) != text:
        return "repeats the prompt's marks"
    if re.search(r"\bhint\b", text, re.IGNORECASE):
        return "speaks of the hint"
    if not text.endswith(_SENTENCE_ENDS):
        return "cut off"
    if text in seen or len(zlib.compress(text.encode())) < _REPEATING * len(text.encode()):
        return "repetition"
    return "contradicts its label" if contradicts_itself(_explained(row, judgement)) else ""


def _explained(row: Example, judgement: Judgement) -> Example:
    return in_prompt_names(replace(row, rationale=judgement.rationale, origin=f"rationale by {judgement.origin}"))


def with_rationales(examples: Sequence[Example], judgements: Sequence[Judgement]) -> Iterator[Example]:
    """The examples that have a rationale, and the others once for each judgement of them: with its rationale."""
    found: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        found[judgement.example_id].append(judgement)
    for example in examples:
        swapped = example.id.endswith(SWAPPED) and example.id not in found
        row = exchanged(example) if swapped else example
        made = [_explained(row, judgement) for judgement in found[row.id]]
        if example.rationale.strip():
            yield example
        else:
            yield from (exchanged(row) if swapped else row for row in made)
