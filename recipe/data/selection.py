"""Which rows a run trains on, holds out and tests on, by its `[data]` settings.

Where the data has no dev or test split, whole prompts of the training rows take its place and are not trained on.
The prompt alone decides which: they are the same for both tasks, every seed and every limit.
"""

import hashlib
import random
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from recipe.config import Config, DataConfig, SftConfig
from recipe.data.examples import read_examples
from recipe.data.files import Source
from recipe.data.forgery import with_forged
from recipe.data.pairs import pairs_from_scores
from recipe.data.records import Example, Task, contradicts_itself
from recipe.data.split import spread
from recipe.errors import SreError

Split = Literal["train", "dev", "test"]


class Selection:
    """The rows of one run. Bad rows that its settings skip go to files in `folder`; without it they are errors.

    keep: rows that were read stay in memory, for a plan: its checks and its figures ask for the same ones.
    """

    def __init__(self, config: Config, folder: Path | None = None, *, keep: bool = False) -> None:
        self._config, self._folder = config, folder
        self._kept: dict[object, list[Example]] | None = {} if keep else None

    def rows(self, split: Split, task: Task, *, limited: bool = True) -> list[Example]:
        """See `select_rows`."""
        config, rejects = self._config, self._rejects(split, task)
        read = partial(select_rows, config.data, task, split, seed=config.seed, rejects=rejects, limited=limited)
        return self._read((split, task, limited), read)

    def sft_rows(self, task: Task) -> list[Example]:
        """See `select_sft_rows`."""
        config, rejects = self._config, self._rejects("train", task)
        read = partial(select_sft_rows, config.data, config.sft, task, seed=config.seed, rejects=rejects)
        return self._read(task, read)

    def _rejects(self, split: Split, task: Task) -> Path | None:
        return self._folder and self._folder / f"rejects-{split}-{task}.jsonl"

    def _read(self, key: object, read: Callable[[], list[Example]]) -> list[Example]:
        if self._kept is None:
            return read()
        if key not in self._kept:
            self._kept[key] = read()
        return self._kept[key]


def select_rows(
    data: DataConfig,
    task: Task,
    split: Split,
    *,
    seed: int = 0,
    need_rationale: bool = False,
    limited: bool = True,
    rejects: Path | None = None,
) -> list[Example]:
    """The rows of a split; [] where the settings take none of it. Raises SreError for a split without any row.

    need_rationale: only training rows that have one, which none of the pairs from scores has. limited: as many rows as
    the settings say; training rows are then spread over labels, rubrics and prompts. rejects: a file for bad rows.
    """
    limit: int | None = getattr(data, f"{split}_{task}") if limited else None
    rows = _read(data, task, split, limit if split != "train" else None, need_rationale, rejects)
    if split == "train" and limit is not None:
        rows = spread(rows, seed)[:limit]  # a file's first rows may be of one label, rubric or prompt
    if split == "train" and task == "pairwise" and data.pairs_from_scores == "inputs" and not need_rationale:
        rows += pairs_from_scores(_read(data, "pointwise", "train", None, False, rejects), data, seed=seed)
    if split != "train":
        return rows if data.reference_share else _with_references(rows, 0, seed)
    return with_forged(_with_references(rows, data.reference_share, seed), data.forged_share, seed)


def select_sft_rows(
    data: DataConfig, sft: SftConfig, task: Task, *, seed: int = 0, rejects: Path | None = None
) -> list[Example]:
    """The training rows of SFT. Where rationales are bootstrapped, those of rows that need one are empty."""
    if not sft.bootstraps:
        return select_rows(data, task, "train", seed=seed, need_rationale=not sft.label_only, rejects=rejects)
    own = data.model_copy(update={"pairs_from_scores": "off"})
    rows = select_rows(own, task, "train", seed=seed, rejects=rejects)
    return [replace(row, rationale="") if contradicts_itself(row) else row for row in rows]


def _read(
    data: DataConfig, task: Task, split: Split, limit: int | None, need_rationale: bool, rejects: Path | None
) -> list[Example]:
    source, name = data.source(task), {"dev": data.dev_split, "test": data.test_split}.get(split, split)
    if not source or not name or limit == 0:
        return []
    shares = _held_out(data)
    own = split == "train" or Source(source, task, name).has_split()
    try:
        rows = read_examples(
            source,
            task=task,
            split=name if own else "train",
            need_rationale=need_rationale,
            limit=None if shares else limit,
            skip_bad_rows=rejects if data.skip_bad_rows else None,
        )
    except SreError as error:
        if not error.options:
            raise
        # The options are those of `sre split`: a run does not have them.
        command = f"sre split {shlex.quote(source)} -o DIR {error.options}"
        message = f"{error.message}. Prepare the rows: {command}; then add --set data.{task}=DIR"
        raise SreError(message, file=error.file, line=error.line, field=error.field) from None
    if shares and (split == "train" or not own):
        rows = [row for row in rows if _place(row.prompt_id, shares) == split]
    if not rows and split != "train":
        share, without = f"data.{split}_share", f'data.{split}_split = ""'
        message = f"{source} has no {name!r} split, and this share of its prompts leaves no {task} row"
        raise SreError(f"{message}; raise it, or set {without} to do without", field=share)
    return rows[:limit]


def _held_out(data: DataConfig) -> dict[str, float]:
    """The shares of the training prompts that take the place of splits which a task's data doesn't have."""
    splits = (("test", data.test_split, data.test_share), ("dev", data.dev_split, data.dev_share))
    sources = [(data.source(task), task) for task in data.tasks if data.source(task)]
    lacking = {name for _, name, _ in splits if not all(Source(*of, name).has_split() for of in sources)}
    return {split: share for split, name, share in splits if name and name in lacking}


def _place(prompt_id: str, shares: dict[str, float]) -> Split:
    """The split of a prompt: test prompts have the lowest draws and dev prompts the highest."""
    draw = int(hashlib.blake2b(prompt_id.encode(), digest_size=6).hexdigest(), 16) / 256**6
    if draw < shares.get("test", 0):
        return "test"
    return "dev" if draw >= 1 - shares.get("dev", 0) else "train"


def _with_references(examples: Iterable[Example], share: float, seed: int) -> list[Example]:
    """The examples, of which a share keeps its reference answer; `seed` and a row's id decide."""
    return [
        example
        if not example.reference or random.Random(f"{seed}:reference:{example.id}").random() < share
        else replace(example, reference="")
        for example in examples
    ]
