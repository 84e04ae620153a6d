"""Examples -> the rows of an output file, under one set of options. Knows no files.

A row, as its judgement finishes (`sre judge --samples` and `--swap` add the fields named below):

    {"id": "rows-7", "task": "pointwise", "label": 3, "expected_score": 2.8, "confidence": 0.41, "rationale": "A
     brick is no fruit.", "finish": "stop", "label_probabilities": {"1": 0.02, ..., "5": 0.1}, "truth": 3,
     "input": "8f0c1e..."}

`truth` is there where the source has a label, `error` where the row could not be read or judged (`finish` is then
"error"), `text` where the model's text is malformed. `input` is a hash of what was judged. Samples: `samples`,
`malformed`, `votes`, `mean`, `spread`; both orders: `consistent`, `preference`, `first_label`, `swapped_label` (see
combine.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.data.examples import BadRow
from recipe.data.records import Example, Judgement
from recipe.judge.aggregate import BothOrders, Consensus
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.storage import hash_object

JudgedRow = dict[str, Any]


@dataclass
class Usage:
    """What the engine did: tokens of all prompts, those of them that it decoded (the rest was reused), new tokens."""

    prompt_tokens: int = 0
    decoded_tokens: int = 0
    new_tokens: int = 0
    peak_mb: int = 0

    def count(self, judge: Judge) -> None:
        """Add the counts of the call that has just ended, where the generator keeps any."""
        stats = getattr(judge.generator, "stats", None)
        self.prompt_tokens += getattr(stats, "prompt_tokens_total", 0)
        self.decoded_tokens += getattr(stats, "prompt_tokens_decoded", 0)
        self.new_tokens += getattr(stats, "new_tokens", 0)


def result_rows(judge: Judge, examples: Sequence[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]:
    """Judge every example; yield one row each, as they finish, in any order. Adds to `usage` at the end."""
    by_id = {example.id: example for example in examples}
    alone = [example for example in examples if not (options.swap and example.task == "pairwise")]
    pairs = [example for example in examples if options.swap and example.task == "pairwise"]
    if options.samples > 1 and alone:
        for agreed in judge.judge_consensus(alone, options):
            yield _consensus_row(by_id[agreed.example_id], agreed, judge)
    elif alone:
        for judgement in judge.judge(alone, options):
            yield _row(by_id[judgement.example_id], judgement, [judgement], judge)
    usage.count(judge)
    if pairs:
        for both in judge.judge_both_orders(pairs, options):
            yield _both_orders_row(by_id[both.example_id], both, judge)
        usage.count(judge)


def bad_row(bad: BadRow) -> JudgedRow:
    """The row of what could not be read."""
    return {
        "id": bad.id,
        "task": None,
        "label": None,
        "expected_score": None,
        "confidence": None,
        "rationale": "",
        "finish": "error",
        "label_probabilities": {},
        "error": str(bad.error),
        "input": input_hash(bad),
    }


def input_hash(row: Example | BadRow) -> str:
    """Of what the judge sees: a corrected label or rationale changes nothing."""
    if isinstance(row, BadRow):
        return hash_object(str(row.error))[:16]
    seen = ("task", "conversation", "responses", "rubric", "reference")
    fields = row.to_json()
    return hash_object({name: fields[name] for name in seen})[:16]


def _row(
    example: Example, answer: Judgement | Consensus | BothOrders, judgements: Sequence[Judgement], judge: Judge
) -> JudgedRow:
    chosen = answer if isinstance(answer, Judgement) else answer.judgement or judgements[0]
    failed = next((j for j in judgements if j.finish == "error"), None)
    row = {
        "id": example.id,
        "task": example.task,
        "label": answer.label,
        "expected_score": answer.expected_score,
        "confidence": answer.confidence,
        "rationale": chosen.rationale,
        "finish": "error" if failed else chosen.finish,
        "label_probabilities": {str(label): p for label, p in answer.label_probabilities.items()},
        "input": input_hash(example),
    }
    if example.label is not None:
        row["truth"] = example.label
    malformed = next((j for j in judgements if j.label is None), None)
    if failed:
        row["error"] = judge.errors[failed.example_id]
    elif answer.label is None and malformed:
        row["text"] = malformed.text
    return row


def _consensus_row(example: Example, agreed: Consensus, judge: Judge) -> JudgedRow:
    return {
        **_row(example, agreed, agreed.samples, judge),
        "samples": len(agreed.samples),
        "malformed": agreed.malformed,
        "votes": {str(label): count for label, count in agreed.votes.items()},
        "mean": agreed.mean,
        "spread": agreed.spread,
    }


def _both_orders_row(example: Example, both: BothOrders, judge: Judge) -> JudgedRow:
    return {
        **_row(example, both, (both.first, both.swapped), judge),
        "consistent": both.consistent,
        "preference": both.preference,
        "first_label": both.first.label,
        "swapped_label": both.swapped_label,
    }
