"""Which of an input's sampled judgements are right, and which are wrong enough to be rejected. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from recipe.config import CurateConfig
from recipe.data.records import Judgement


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
