"""The pool of an input: the judgements that were sampled for it, and what a model said about them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe.config import CurateConfig
from recipe.data.records import Judgement
from recipe.storage import read_jsonl


@dataclass(frozen=True)
class Assessments:
    """What a model said about judgements (assess.py), for the curation methods that need it.

    ratings: from 1 to 5, by judgement id. picks: the ids of the best and the worst rationale by (example id, "right" or
    "wrong"), None where the model disagreed with itself. reversals: poor judgements by example id.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    picks: Mapping[tuple[str, str], tuple[str, str] | None] = field(default_factory=dict)
    reversals: Mapping[str, Sequence[Judgement]] = field(default_factory=dict)


def read_assessments(path: Path) -> Assessments:
    """What assess.py wrote; nothing where there is no file."""
    rows = read_jsonl(path) if path.exists() else []
    reversals = [Judgement.from_json(row["reversal"]) for row in rows if "reversal" in row]
    return Assessments(
        {row["judgement_id"]: row["rating"] for row in rows if row.get("rating") is not None},
        {(row["example_id"], row["side"]): row["pick"] and tuple(row["pick"]) for row in rows if "side" in row},
        pools_of(reversals),
    )


def pools_of(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """The judgements by the id of their input."""
    pools: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        pools[judgement.example_id].append(judgement)
    return dict(pools)


def distinct_texts(pool: Sequence[Judgement]) -> list[Judgement]:
    """The first judgement of each text, in the order of sampling, without those that the engine failed to make."""
    first: dict[str, Judgement] = {}
    for judgement in pool:
        if judgement.finish != "error":
            first.setdefault(judgement.text.strip(), judgement)
    return list(first.values())


def right_and_wrong(
    pool: Sequence[Judgement], truth: int | None, settings: CurateConfig
) -> tuple[list[Judgement], list[Judgement]]:
    """(judgements with the label `truth`, those off by the margin and, if the settings say so, malformed ones)."""
    right = [judgement for judgement in pool if judgement.label == truth and truth is not None]
    return right, [judgement for judgement in pool if _is_wrong(judgement, truth, settings)]


def _is_wrong(judgement: Judgement, truth: int | None, settings: CurateConfig) -> bool:
    if judgement.label is None:
        return settings.reject_malformed
    margin = settings.margin if judgement.task == "pointwise" else 1
    return truth is not None and abs(judgement.label - truth) >= margin
