"""Stages that count how often they run: what the tests of the run folder and of sharing between runs do."""

import pytest

from recipe.pipeline.stage_cache import RunFolder

MADE = ("made.txt",)


def counting():
    calls = []

    def work(folder, **given):
        calls.append(folder)
        (folder / "made.txt").write_text("made")
        return {"tokens": 5}

    return calls, work


@pytest.fixture
def done(tmp_path):
    """A run whose stage "merged" left a file and a folder, and what was called."""

    def work(folder, **given):
        calls.append(folder)
        (folder / "made.txt").write_text("made")
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights").write_text("weights")
        return {}

    def do(run=None):
        return (run or RunFolder(tmp_path)).do("merged", work, makes=("made.txt", "adapter"), a=1)

    calls = []
    do()
    return do, calls, tmp_path / "merged"
