"""Published benchmarks, and the output of `sre judge`, where names of columns are not enough to read them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from recipe.data.columns import Names
from recipe.data.records import TASKS, Rubric, Task
from recipe.data.values import missing, no_label, short, texts_in, to_rubric, whole
from recipe.errors import SreError
from recipe.system import read_table

Cells = Mapping[str, Any]

_TABLES = read_table(__file__)
GENERAL: dict[Task, Rubric] = {task: to_rubric(_TABLES["general"][task]) for task in TASKS}
DIMENSIONS: dict[str, tuple[str, str]] = {aspect: tuple(found) for aspect, found in _TABLES["dimensions"].items()}
"""Safe-RLHF's two questions about each pair, with the column that holds the answer."""


@dataclass(frozen=True)
class Layout:
    """A published layout, told by its `needed` columns. `names` overrule ours, `id_columns` make up a row's id."""

    name: str
    needed: Sequence[str]
    names: Names = field(default_factory=dict)
    id_columns: Sequence[str] = ()
    id_separator: str = ":"


LAYOUTS = [Layout(name, **found) for name, found in _TABLES["layouts"].items()]


def layout_of(row: Cells) -> Layout | None:
    """The first layout whose needed columns are filled in, or None."""
    if "responses" in row or any(str(name).startswith("orig_") for name in row):
        return None
    return next((lay for lay in LAYOUTS if all(not missing(row.get(name)) for name in lay.needed)), None)


def unfolded(row: Cells, layout: Layout | None) -> Iterator[tuple[str, Cells]]:
    """(part, row) of each row to judge that a row of a layout stands for; the part is "" where there is one."""
    if layout and layout.name == "Safe-RLHF":
        pair = {"response_a": row["response_0"], "response_b": row["response_1"]}
        for aspect, (column, question) in DIMENSIONS.items():
            better = whole(row.get(column))  # counted from 0
            if better not in (0, 1) and not no_label(row.get(column)):
                raise SreError(f"expected 0 or 1, not {short(row[column])}", field=column)
            own = {"aspect": aspect, "rubric": question, "preference": None if better is None else 1 + better}
            yield aspect, {**row, **pair, **own}
    elif layout and layout.name == "RewardBench" and (lists := _lists(row)):
        for (k, chosen), (m, rejected) in product(*(enumerate(texts, 1) for texts in lists)):
            yield f"{k}-{m}", {**row, "chosen": chosen, "rejected": rejected}
    else:
        yield "", row


def _lists(row: Cells) -> list[list[str]]:
    """The lists of texts that RewardBench 2 has, also as a table's texts; [] for anything else."""
    lists = [texts_in(row[name]) for name in ("chosen", "rejected")]
    return lists if all(lists) and ("num_correct" in row or isinstance(row["chosen"], list)) else []


# --- the output of `sre judge` ---

RESULTS = (
    *("task", "label", "expected_score", "confidence", "rationale", "finish", "label_probabilities", "truth"),
    *("truth_note", "won", "rubric", "error", "malformed_text", "input_hash"),
)
"""The columns of a judged row beside its id, in the order of a table."""
SAMPLES = ("samples", "malformed", "votes", "mean", "spread")
ORDERS = ("consistent", "preference", "first_label", "swapped_label")
KEPT = "input_"
"""Prefix of an input column whose name one of these columns has taken."""


def judged(row: Cells) -> bool:
    """Whether `sre judge` wrote the row."""
    return all(name in row for name in ("finish", "label_probabilities", "input_hash"))


def has_truth(row: Cells) -> bool:
    """Whether a judged row had a label before, also one that could not be read."""
    return not all(no_label(row.get(name)) for name in ("truth", "truth_note"))


def unjudged(row: Cells) -> dict[str, Any]:
    """The row as it was before it was judged, but for an id or a rubric that it was given."""
    ours = {*RESULTS, *(SAMPLES if "votes" in row else ()), *(ORDERS if "swapped_label" in row else ())}
    kept = {name: row[KEPT + name] for name in (*ours, "id") if KEPT + name in row}
    if kept.get("id") in (None, ""):  # a table has all columns in all rows
        kept.pop("id", None)
    gone = (ours | {KEPT + name for name in kept}) - {"rubric"}
    own_task = {"task": row.get("task")} if "responses" in row else {}
    return own_task | {name: value for name, value in row.items() if name not in gone} | kept
