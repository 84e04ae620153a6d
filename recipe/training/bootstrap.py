"""Stage bootstrap: rationales for labelled rows that have none, written by the seed model or a teacher.

As STaR does, each row is judged N times, and once more N times with its label as a hint where no judgement had that
label. A judgement whose label is the row's gives its rationale to SFT; why the others don't is counted.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.config import BootstrapConfig
from recipe.data.records import SWAPPED, Example, Judgement, contradicts_itself, exchanged, in_prompt_names, pools_of
from recipe.inference.base import Generator, Request
from recipe.prompts import Prompts, neutralise
from recipe.storage import read_jsonl, write_jsonl
from recipe.system import process, wait_for
from recipe.training.sample import run_sample
from recipe.verdict import MARKER

# A small model writes no rationale unless it is held to one: whole sentences about the response, then the label.
_GRAMMAR = r"""root ::= {opening} " " sentence (" " sentence)? " {marker} " label
sentence ::= [^ \r\n<>{{}}[\].!?] [^\r\n<>{{}}[\].!?]{{8,160}} [.!?]
label ::= {labels}
"""
_OPENINGS = {"pointwise": '"The response"', "pairwise": '"Response " [12]'}
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", '"', "”", ")")
_SHORTEST = 12  # characters
_REPEATING = 0.45  # of its length; zlib leaves two thirds of ordinary sentences, less where they go round in circles


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

    unhinted/ and hinted/ in `folder` keep all judgements. `held`: hold them to `_GRAMMAR`, which is English.
    """
    kept: dict[str, list[Judgement]] = {}
    dropped, texts, tokens, unhinted = Counter[str](), set[str](), 0, 0
    for hinted in (False, True):
        unhinted = len(kept)
        left = {row.id: row for row in examples if row.id not in kept}
        if not left:
            break

        def ask(row: Example, show: Callable[..., Any] = prompts.hinted if hinted else prompts.judge) -> Request:
            return Request(row.id, show(row), row.labels, force_label=True, grammar=_grammar(row) if held else "")

        part = folder / ("hinted" if hinted else "unhinted")
        part.mkdir(exist_ok=True)
        origin = generator.name + ", told the label" * hinted
        given: dict[str, Any] = {"settings": settings, "prompts": prompts, "origin": origin, "seed": seed, "ask": ask}
        run_sample(part, generator=generator, examples=list(left.values()), **given)
        samples = part / "samples.jsonl"
        wait_for(samples.exists)
        for judgement in read_jsonl(samples, Judgement.from_json):
            tokens += judgement.tokens
            found = kept.get(judgement.example_id, [])
            fault = _fault(judgement, left[judgement.example_id], texts)
            if fault or len(found) == settings.keep:
                dropped[fault or "more than bootstrap.keep of a row"] += 1
            else:
                kept[judgement.example_id] = [*found, judgement]
                texts.add(judgement.rationale)
    if process()[0] == 0:
        rows = [judgement.to_json() for row in examples for judgement in kept.get(row.id, ())]
        write_jsonl(folder / "rationales.jsonl", rows)
    counts = {"rows": len(examples), "unhinted": unhinted, "hinted": len(kept) - unhinted, "tokens": tokens}
    return {"maker": generator.name, **counts, "without": len(examples) - len(kept), "dropped": dict(dropped)}


def _grammar(row: Example) -> str:
    labels = " | ".join(f'"{label}"' for label in row.labels)
    return _GRAMMAR.format(opening=_OPENINGS[row.task], marker=MARKER, labels=labels)


def _fault(judgement: Judgement, row: Example, seen: set[str]) -> str:
    """Why the judgement's rationale is not one to learn from; "" where it is."""
    text = judgement.rationale
    faults = {
        "error": judgement.finish == "error",
        "malformed": judgement.label is None,
        "wrong label": judgement.label != row.label,
        "empty": len(text) < _SHORTEST,
        "repeats the prompt's marks": neutralise(text) != text,
        "speaks of the hint": bool(re.search(r"\bhint\b", text, re.IGNORECASE)),
        "cut off": not text.endswith(_SENTENCE_ENDS),
        "repetition": text in seen or len(zlib.compress(text.encode())) < _REPEATING * len(text.encode()),
        "contradicts its label": contradicts_itself(_explained(row, judgement)),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _explained(row: Example, judgement: Judgement) -> Example:
    return in_prompt_names(replace(row, rationale=judgement.rationale, origin=f"rationale by {judgement.origin}"))


def with_rationales(examples: Sequence[Example], judgements: Sequence[Judgement]) -> Iterator[Example]:
    """The examples that have a rationale, and the others once for each judgement of them: with its rationale."""
    found = pools_of(judgements)
    for example in examples:
        swapped = example.id.endswith(SWAPPED) and example.id not in found
        row = exchanged(example) if swapped else example
        made = [_explained(row, judgement) for judgement in found.get(row.id, ())]
        yield from [example] if example.rationale.strip() else map(exchanged, made) if swapped else made
