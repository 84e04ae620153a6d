"""Examples -> the rows of an output file. Knows no files.

A row is the input's columns, and beside them (`--samples` and `--swap` add the fields of their own):

    {"id": "rows-7", "task": "pointwise", "label": 3, "expected_score": 2.8, "confidence": 0.41, "rationale": "A
     brick is no fruit.", "finish": "stop", "label_probabilities": {"1": 0.02, ..., "5": 0.1}, "truth": 3,
     "input_hash": "8f0c1e..."}

An input column of such a name is kept as `input_<name>`. `truth` is there where the source has a label, `truth_note`
where that is a tie or none at all. `won` is there for a pair: the input's column that holds the better response, such
as "chosen". `rubric` is there where the row's own columns don't hold it. `error` is there where
the row could not be read or judged (`finish` is then "error"), `malformed_text` where the model wrote no label.
`input_hash` is a hash of what was judged. Samples: `samples`, `malformed`, `votes`, `mean`, `spread`; both orders:
`consistent`, `preference`, `first_label`, `swapped_label` (see aggregate.py).
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from recipe.data.benchmark_formats import KEPT, ORDERS, RESULTS, SAMPLES
from recipe.data.columns import ReadRow
from recipe.data.records import Example, Judgement, Rubric
from recipe.data.values import writable
from recipe.judge.aggregate import Answer, BothOrders, Consensus, judgements_of
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.storage import hash_object

JudgedRow = dict[str, Any]
WINDOW = 1024
"""Examples that the engine is given at once: what they have in common is read once. Memory doesn't grow beyond."""


def in_windows(examples: Iterable[Example], size: int = WINDOW) -> Iterator[list[Example]]:
    """Lists of `size` examples, the last one shorter."""
    stream = iter(examples)
    while window := list(itertools.islice(stream, size)):
        yield window


def result_rows(judge: Judge, examples: Sequence[Example], options: JudgeOptions) -> Iterator[JudgedRow]:
    """Judge every example; yield one row each, as they finish, in any order."""
    by_id = {example.id: example for example in examples}
    for answer in judge.answers(examples, options):
        yield _row(by_id[answer.example_id], answer, judge)


def _row(example: Example, answer: Answer, judge: Judge) -> JudgedRow:
    judgements = judgements_of(answer)
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
    if isinstance(answer, Consensus):
        row |= {"samples": len(judgements), "votes": {str(label): count for label, count in answer.votes.items()}}
        row |= {name: getattr(answer, name) for name in ("malformed", "mean", "spread")}
    if isinstance(answer, BothOrders):
        row |= {name: getattr(answer, name) for name in ("consistent", "preference", "swapped_label")}
        row["first_label"] = answer.first.label
    return row


def bad_row(bad: ReadRow) -> JudgedRow:
    """The row of what could not be read."""
    empty: JudgedRow = dict.fromkeys(("task", "label", "expected_score", "confidence"))
    found = {"finish": "error", "error": writable(str(bad.error)), "input_hash": input_hash(bad)}
    return {"id": bad.id, **empty, "rationale": "", "label_probabilities": {}, **found}


def with_columns(row: JudgedRow, read: ReadRow, options: JudgeOptions, given: Collection[Rubric]) -> JudgedRow:
    """The judged row with the columns of the row `read` that it judges. `given`: rubrics that stand in no column; the
    row's own is added if it is one of them.
    """
    taken = {"id", *RESULTS, *(SAMPLES if options.samples > 1 else ()), *(ORDERS if options.swap else ())}
    rubric = read.example.rubric if read.example else None
    added: dict[str, Any] = {}  # not in the judge's row, which knows no columns
    if rubric and any(rubric is one for one in given):
        levels = {str(score): text for score, text in rubric.descriptions.items()}
        added["rubric"] = {"criteria": rubric.criteria, "descriptions": levels}
    else:
        taken.remove("rubric")
    if read.example and row["label"] and (sides := read.raw.sides(read.example)):
        added["won"] = sides[row["label"] - 1]
    columns = read.raw.cells if isinstance(read.raw.cells, dict) else {}
    kept = {
        KEPT + name if name in taken else writable(name): writable(value)
        for name, value in columns.items()
        if not (name in ("id", "task") and value == row[name])
    }
    return {"id": row["id"], **kept, **row, **added}


def input_hash(row: ReadRow | Example) -> str:
    """Of what the judge sees: a corrected label or rationale changes nothing."""
    example = row if isinstance(row, Example) else row.example
    if example is None:
        return hash_object(str(row.error))[:16]  # type: ignore[union-attr]  # an Example is never None
    rubric = {"criteria": example.rubric.criteria, "descriptions": sorted(example.rubric.descriptions.items())}
    turns = [(turn.role, turn.content) for turn in example.conversation]
    return hash_object([example.task, turns, example.responses, rubric, example.reference])[:16]
