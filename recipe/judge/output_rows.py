"""Examples -> the rows of an output file. Knows no files.

A row is the input's columns, and beside them (`--samples` and `--swap` add the fields of their own):

    {"id": "rows-7", "task": "pointwise", "label": 3, "expected_score": 2.8, "confidence": 0.41, "rationale": "A
     brick is no fruit.", "finish": "stop", "label_probabilities": {"1": 0.02, ..., "5": 0.1}, "truth": 3,
     "input_hash": "8f0c1e..."}

An input column of such a name is kept as `input_<name>`. `truth` is there where the source has a label, `truth_note`
where that is a tie or none at all. `rubric` is there where the row's own columns don't hold it. `error` is there where
the row could not be read or judged (`finish` is then "error"), `malformed_text` where the model wrote no label.
`input_hash` is a hash of what was judged. Samples: `samples`, `malformed`, `votes`, `mean`, `spread`; both orders:
`consistent`, `preference`, `first_label`, `swapped_label` (see aggregate.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.data.benchmark_formats import KEPT, ORDERS, RESULTS, SAMPLES
from recipe.data.examples import ReadRow
from recipe.data.records import Example, Judgement, Rubric
from recipe.data.values import writable
from recipe.judge.aggregate import BothOrders, Consensus
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.storage import hash_object

JudgedRow = dict[str, Any]
WINDOW = 1024
"""Examples that the engine is given at once: what they have in common is read once. Memory doesn't grow beyond."""


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

    def add(self, more: Usage) -> None:
        """Add the counts of another one."""
        for name, value in vars(more).items():
            setattr(self, name, getattr(self, name) + value)


def in_windows(examples: Iterable[Example], size: int = WINDOW) -> Iterator[list[Example]]:
    """Lists of `size` examples, the last one shorter."""
    stream = iter(examples)
    while window := list(itertools.islice(stream, size)):
        yield window


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


def bad_row(bad: ReadRow) -> JudgedRow:
    """The row of what could not be read."""
    empty: JudgedRow = dict.fromkeys(("task", "label", "expected_score", "confidence"))
    found = {"finish": "error", "error": writable(str(bad.error)), "input_hash": input_hash(bad)}
    return {"id": bad.id, **empty, "rationale": "", "label_probabilities": {}, **found}


def with_columns(row: JudgedRow, read: ReadRow, options: JudgeOptions, given: Collection[Rubric]) -> JudgedRow:
    """The judged row with the columns of the row that it judges.

    Args:
        row: what was made of it.
        read: the row of the source.
        options: tell which names are taken.
        given: rubrics that stand in no column; the row's is added to it if it is one of them.
    """
    taken = {*RESULTS, *(SAMPLES if options.samples > 1 else ()), *(ORDERS if options.swap else ())}
    rubric = read.example.rubric if read.example else None
    added: dict[str, Any] = {}
    if rubric and any(rubric is one for one in given):
        levels = {str(score): text for score, text in rubric.descriptions.items()}
        added["rubric"] = {"criteria": rubric.criteria, "descriptions": levels}
    else:
        taken.remove("rubric")
    columns = read.raw.row if isinstance(read.raw.row, dict) else {}
    kept: dict[str, Any] = {}
    for name, value in columns.items():
        same = name in ("id", "task") and value == row[name]
        if not same:
            kept[KEPT + name if name in taken or name == "id" else name] = writable(value)
    return {"id": row["id"], **kept, **row, **added}


def input_hash(row: ReadRow | Example) -> str:
    """Of what the judge sees: a corrected label or rationale changes nothing."""
    example = row if isinstance(row, Example) else row.example
    if example is None:
        return hash_object(str(row.error))[:16]  # type: ignore[union-attr]  # an Example is never None
    rubric = {"criteria": example.rubric.criteria, "descriptions": sorted(example.rubric.descriptions.items())}
    turns = [(turn.role, turn.content) for turn in example.conversation]
    return hash_object([example.task, turns, example.responses, rubric, example.reference])[:16]


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
        "input_hash": input_hash(example),
    }
    if example.label is not None:
        row["truth"] = example.label
    if example.label_note:
        row["truth_note"] = example.label_note
    malformed = next((j for j in judgements if j.label is None), None)
    if failed:
        row["error"] = judge.errors[failed.example_id]
    elif answer.label is None and malformed:
        row["malformed_text"] = malformed.text
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
