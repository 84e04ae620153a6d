"""Rows of an experiment share what they have in common: a stage that another run folder has made is taken over.

The marker of such a stage is that folder's, and "from" names the folder. `lenders` are the folders that are asked.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.config import Config
from recipe.errors import SreError
from recipe.pipeline.context import RunContext
from recipe.pipeline.judge_model import JudgeModel
from recipe.pipeline.stage_cache import RunFolder
from recipe.pipeline.stage_order import Step
from recipe.storage import atomic_folder, replacing
from recipe.system import process


class SharingFolder(RunFolder):
    """A run folder that takes over stages of the same name and hash from the lenders."""

    def __init__(self, path: Path, *, lenders: Sequence[Path], begin: Callable[[], None] = lambda: None) -> None:
        super().__init__(path, begin=begin)
        self.lenders = tuple(lenders)

    def make(
        self, stage: str, head: Mapping[str, Any], work: Callable[[], Mapping[str, Any]], makes: Sequence[str]
    ) -> dict[str, Any]:
        """Put what a lender's stage made into this folder; without a lender, do the work."""
        lender, made = self._lender(stage, head["hash"])
        if lender is None:
            return super().make(stage, head, work, makes)
        theirs, ours = lender.places(stage)[0], self.places(stage)[0]
        for name in makes:
            if (theirs / name).exists():
                share(theirs / name, ours / name)
        return {**made, "from": os.path.relpath(lender.path, self.path)}

    def follow(self, stage: str, digest: str, work: Callable[[], Any] | None) -> dict[str, Any]:
        """What is taken over takes no help."""
        return super().follow(stage, digest, work if self._lender(stage, digest)[0] is None else None)

    def _lender(self, stage: str, digest: str) -> tuple[RunFolder | None, dict[str, Any]]:
        """The first lender that has made the stage, and its marker."""
        for run in map(RunFolder, self.lenders):
            with contextlib.suppress(SreError):  # what was changed there is not taken over
                if made := run.done(stage, digest):
                    return run, made
        return None, {}


@dataclass(frozen=True)
class SharedJudge(JudgeModel):
    """A judge whose GGUF file may be a lender's."""

    lenders: tuple[Path, ...] = field(default=(), compare=False)

    def write_snapshot(self) -> Path:
        if process()[0] == 0 and not self.is_snapshot(self.file):
            files = (run / "gguf" / self.file.name for run in self.lenders)
            if (lent := next(filter(self.is_snapshot, files), None)) is not None:
                share(lent, self.file)
        return super().write_snapshot()


class SharingContext(RunContext):
    """A run that shares."""

    def __init__(self, config: Config, path: Path, lenders: Sequence[Path]) -> None:
        super().__init__(config, path)
        self.lenders = tuple(lenders)
        self.cache = SharingFolder(path, lenders=lenders, begin=self.keep_config)

    def replaced(self, plan: Iterable[Step]) -> Iterator[Step]:
        """The plan with the stages of a baseline in the place of the recipe's."""
        yield from plan

    def judge_model(self, judge: str, *, sampling: bool = False) -> SharedJudge:
        return SharedJudge(**vars(super().judge_model(judge, sampling=sampling)), lenders=self.lenders)


def round_of(stage: str) -> int:
    """The number of the round that a stage such as "iter-2:dpo" belongs to."""
    return int(stage.removeprefix("iter-").partition(":")[0])


def share(source: Path, target: Path) -> None:
    """Put a file or folder of another run in `target`'s place, at no cost where the file system has hard links."""
    if source.is_dir():
        with atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True, copy_function=_link)
    else:
        with replacing(target) as temporary:
            _link(source, temporary)


def _link(source: str | Path, target: str | Path) -> None:
    # Rows are appended in place: a link would let one run write into another. All else is replaced by rename.
    if Path(source).suffix != ".jsonl":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
