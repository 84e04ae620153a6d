"""Labelled rows -> training, development and test splits by whole prompts. Knows no model.

All rows of a prompt are in one split, because a judge does better on prompts that it was trained on. Within each file
labels and prompts take turns, and rows with a rationale come first.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, cycle, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from recipe.data.examples import read_examples
from recipe.data.records import TASKS, Example, in_both_orders
from recipe.errors import SreError
from recipe.storage import atomic_folder, write_jsonl

T = TypeVar("T")
SPLITS = ("train", "dev", "test")


def prepare_splits(
    sources: Mapping[str, str],
    folder: Path,
    *,
    dev: float = 0.0,
    test: float = 0.0,
    numbers: Sequence[int] = (),
    max_chars: int | None = None,
    both_orders: bool = False,
    seed: int = 0,
    skip_bad_rows: bool = False,
    **reading: Any,
) -> dict[str, dict[str, int]]:
    """Read files (name -> file), split their rows and write them to `folder`; returns {split: {task: count}}.

    A name becomes the rows' aspect. dev, test: shares of each file's prompts. numbers: at most so many rows of a file
    in a split, one number for all or one per file. both_orders: in dev and test. skip_bad_rows: into rejects-NAME.jsonl
    in the folder. reading: see `read_examples`. Raises SreError for a bad row or share, a file whose rows are all too
    long, and a split that is there already.
    """
    found = {}
    for name, path in sources.items():
        rejects = folder / f"rejects-{name}.jsonl" if skip_bad_rows else None
        rows = read_examples(path, skip_bad_rows=rejects, **reading)
        rows = [row for row in rows if max_chars is None or characters(row) <= max_chars]
        if not rows:
            raise SreError(f"no row has {max_chars} characters or less", file=path)
        found[name] = [replace(row, aspect=name) for row in rows]
    limits = dict(zip(found, cycle(numbers or (None,)), strict=False))
    splits = split_rows(found, dev=dev, test=test, seed=seed)
    for split, held in splits.items():
        for name, rows in held.items():
            kept = rows[: limits[name]]
            held[name] = in_both_orders(kept) if both_orders and split != "train" else kept
    return write_splits(folder, splits)


def split_rows(
    sources: Mapping[str, Sequence[Example]], *, dev: float, test: float, seed: int
) -> dict[str, dict[str, list[Example]]]:
    """{split: {source: its rows, spread}}. A prompt of two sources is where the first one put it."""
    if min(dev, test) < 0 or dev + test > 1:
        raise SreError(f"the shares held back must be 0 or more, and 1 at most together, not {dev} and {test}")
    ids = Counter(row.id for rows in sources.values() for row in rows)
    twice = next((id for id, count in ids.items() if count > 1), None)
    if twice is not None:
        raise SreError(f"two files have a row {twice!r}; rename one file, or give its rows other ids", field="id")
    place: dict[str, str] = {}
    for name, rows in sources.items():
        prompts = sorted({row.prompt_id for row in rows} - place.keys())
        random.Random(f"{seed}:{name}").shuffle(prompts)
        # Rounded up: a share of few prompts still holds one back.
        tested, held = (math.ceil(share * len(prompts)) for share in (test, dev))
        for k, prompt in enumerate(prompts):
            place[prompt] = "test" if k < tested else "dev" if k < tested + held else "train"
    return {
        split: {name: spread([r for r in rows if place[r.prompt_id] == split], seed) for name, rows in sources.items()}
        for split in SPLITS
    }


def spread(rows: Sequence[Example], seed: int) -> list[Example]:
    """The rows in an order of which any first n have even labels, rubrics and prompts; those with a rationale first.

    Of pairs, the longer response is the better one in every other row of a label, as long as there are such rows.
    """
    ordered: list[Example] = []
    for explained in (True, False):
        some = [row for row in rows if bool(row.rationale.strip()) == explained]
        shuffled = random.Random(seed).sample(some, len(some))
        rubric_and_prompt = (lambda row: row.rubric.criteria, lambda row: row.prompt_id)
        ordered += _evenly(shuffled, (lambda row: row.label, _longer_wins, *rubric_and_prompt))
    return ordered


def _evenly(rows: Sequence[Example], keys: Sequence[Callable[[Example], Any]]) -> list[Example]:
    """The rows with the values of the first key in turn; within one value, those of the second key, and so on."""
    if not keys:
        return list(rows)
    groups: dict[Any, list[Example]] = defaultdict(list)
    for row in rows:
        groups[keys[0](row)].append(row)
    return in_turn([_evenly(group, keys[1:]) for group in groups.values()])


def _longer_wins(row: Example) -> bool:
    lengths = [len(response) for response in row.responses]
    return row.task == "pairwise" and row.label == 1 + lengths.index(max(lengths))


def characters(row: Example) -> int:
    """The length of all a prompt shows of a row and of its rationale; about four to a token of English."""
    texts = [row.rubric.criteria, *row.rubric.descriptions.values(), row.reference, row.rationale, *row.responses]
    return sum(map(len, [*texts, *(turn.content for turn in row.conversation)]))


def write_splits(folder: Path, splits: Mapping[str, Mapping[str, Sequence[Example]]]) -> dict[str, dict[str, int]]:
    """Write folder/<split>/<task>.jsonl of each split that has rows; returns {split: {task: count}}.

    Raises SreError when one of the splits is there already: rows judged before must stay what they were.
    """
    filled = {name: sources for name, sources in splits.items() if any(sources.values())}
    for name in filled:
        if (folder / name).exists():
            raise SreError("is there already; delete it or choose another folder", file=folder / name)
    counts: dict[str, dict[str, int]] = {}
    for name, sources in filled.items():
        rows = list(chain.from_iterable(sources.values()))
        if name == "train":  # SFT takes the first n; elsewhere a pair stays beside itself in the other order
            rows.sort(key=lambda row: not row.rationale.strip())
        with atomic_folder(folder / name) as temporary:
            for task in TASKS:
                of_task = [row.to_json() for row in rows if row.task == task]
                if of_task:
                    write_jsonl(temporary / f"{task}.jsonl", of_task)
                    counts.setdefault(name, {})[task] = len(of_task)
    return counts


def in_turn(groups: Iterable[Sequence[T]]) -> list[T]:
    """The first of each group, then the second of each, and so on."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]
