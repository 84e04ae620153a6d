"""Nothing but the texts tells the label of a seed row: computed from the committed files, by rubric and split."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import correlation, fmean

import pytest

from tools.seed_data.reading import CLAIM
from tools.seed_data.tasks import TASKS

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "dev", "test")
LENGTHS: tuple[Callable[[str], int], ...] = (len, lambda text: len(text.split()))
Row = dict[str, str]
every_split = pytest.mark.parametrize("split", SPLITS)
every_length = pytest.mark.parametrize("length", LENGTHS, ids=("characters", "words"))


def rows_of(split: str, kind: str) -> list[Row]:
    lines = (ROOT / "data" / split / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def by_rubric(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[row["aspect"]].append(row)
    assert set(found) == set(TASKS)
    return found


def pearson(rows: list[Row], length: Callable[[str], int]) -> float:
    return correlation([length(row["orig_response"]) for row in rows], [int(row["orig_score"]) for row in rows])


def longer_wins(rows: list[Row], length: Callable[[str], int]) -> float:
    sizes = [(length(row["orig_response_A"]), length(row["orig_response_B"])) for row in rows]
    assert all(a != b for a, b in sizes)
    return fmean((a > b) == (row["orig_preference"] == "A") for (a, b), row in zip(sizes, rows, strict=True))


@every_split
@every_length
def test_length_does_not_go_with_the_score(split: str, length: Callable[[str], int]) -> None:
    rows = rows_of(split, "pointwise")
    assert abs(pearson(rows, length)) <= 0.05
    for aspect, some in by_rubric(rows).items():
        assert abs(pearson(some, length)) <= 0.15, aspect
    # The quickstart's share of the rows.
    assert abs(pearson([row for row in rows if row["aspect"].endswith("_given")], length)) <= 0.1


@every_split
@every_length
def test_the_longer_response_wins_in_half_of_the_pairs(split: str, length: Callable[[str], int]) -> None:
    rows = rows_of(split, "pairwise")
    assert 0.45 <= longer_wins(rows, length) <= 0.55
    assert 0.45 <= longer_wins([row for row in rows if row["aspect"].endswith("_given")], length) <= 0.55
    for aspect, some in by_rubric(rows).items():  # dev has five rows of a rubric
        assert 0.4 <= longer_wins(some, length) <= 0.6, aspect


@every_split
def test_place_and_rubric_tell_nothing(split: str) -> None:
    for some in by_rubric(rows_of(split, "pointwise")).values():
        assert fmean(int(row["orig_score"]) for row in some) == 3
    for some in by_rubric(rows_of(split, "pairwise")).values():
        labels = Counter(row["orig_preference"] for row in some)
        assert abs(labels["A"] - labels["B"]) <= len(some) % 2
    pairs = rows_of(split, "pairwise")
    cells = Counter((r["orig_preference"], len(r["orig_response_A"]) > len(r["orig_response_B"])) for r in pairs)
    assert max(cells.values()) - min(cells.values()) <= 0.05 * len(pairs)


@every_split
def test_no_reference_answer_tells_the_score(split: str) -> None:
    assert {row["orig_reference_answer"] for row in rows_of(split, "pointwise")} == {""}


def claims_of(row: Row) -> list[bool]:
    return [bool(CLAIM.search(value)) for column, value in row.items() if column.startswith("orig_response")]


def test_some_training_responses_claim_a_verdict_and_keep_their_label() -> None:
    rows = [row for row in rows_of("train", "pointwise") if any(claims_of(row))]
    assert 0.03 * 600 <= len(rows) <= 0.07 * 600
    assert Counter(row["orig_score"] for row in rows) == {str(score): 6 for score in range(1, 6)}
    pairs = [row for row in rows_of("train", "pairwise") if any(claims_of(row))]
    assert 0.03 * 400 <= len(pairs) <= 0.07 * 400
    # The better and the worse one, the first and the second one claim alike.
    cells = Counter((row["orig_preference"], claims_of(row)[0]) for row in pairs)
    assert len(cells) == 4
    assert max(cells.values()) - min(cells.values()) <= 1


@pytest.mark.parametrize("kind", ["pointwise", "pairwise"])
def test_no_held_back_response_claims_a_verdict(kind: str) -> None:
    assert not any(any(claims_of(row)) for split in ("dev", "test") for row in rows_of(split, kind))
