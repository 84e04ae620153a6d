"""Stages that another run folder has made are taken over: the same files, and nothing that was changed there."""

import pytest

from experiments.sharing import SharingFolder
from recipe.pipeline.stage_cache import Made, RunFolder
from tests.stages import MADE, counting


def test_a_stage_done_in_another_run_is_taken_over_when_its_hash_is_the_same(tmp_path):
    calls, work = counting()
    theirs = RunFolder(tmp_path / "theirs")
    made = theirs.do("merged", work, makes=MADE, a=1)
    ours = SharingFolder(tmp_path / "ours", lenders=(tmp_path / "none", theirs.path))
    assert ours.do("merged", work, makes=MADE, a=1) == {**made, "from": "../theirs"}
    assert len(calls) == 1
    assert (ours.path / "merged" / "made.txt").samefile(theirs.path / "merged" / "made.txt")
    ours.do("sft", work)
    SharingFolder(tmp_path / "other", lenders=(theirs.path,)).do("merged", work, a=2)
    assert calls[1:] == [ours.path / "sft", tmp_path / "other" / "merged"]


def test_of_a_shared_folder_only_what_the_step_makes_is_taken_over_and_rows_are_copied(tmp_path):
    def work(folder, **given):
        for name in ("samples.jsonl", "preferences.jsonl"):
            (folder / name).write_text("{}\n")
        return {}

    theirs = RunFolder(tmp_path / "theirs")
    theirs.do("iter-1:sample", work, makes=("samples.jsonl",))
    theirs.do("iter-1:curate", work, before=Made(theirs.path, "iter-1:sample", "made.txt"))
    ours = SharingFolder(tmp_path / "ours", lenders=(theirs.path,))
    ours.do("iter-1:sample", work, makes=("samples.jsonl", "assessments.jsonl"))
    folder = ours.path / "iter-1"
    assert sorted(path.name for path in folder.iterdir()) == ["sample.done.json", "samples.jsonl"]
    # Rows are appended in place: a link would let one run write into the other.
    assert not (folder / "samples.jsonl").samefile(theirs.path / "iter-1" / "samples.jsonl")


def test_a_stage_that_was_interrupted_is_taken_over_whole(tmp_path):
    calls, work = counting()
    theirs = RunFolder(tmp_path / "theirs")
    theirs.do("merged", work, makes=MADE)

    def fail(folder, **given):
        (folder / "made.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        RunFolder(tmp_path / "ours").do("merged", fail, makes=MADE)
    ours = SharingFolder(tmp_path / "ours", lenders=(theirs.path,))
    ours.do("merged", work, makes=MADE)
    assert len(calls) == 1
    assert (ours.path / "merged" / "made.txt").read_text() == "made"
    assert sorted(path.name for path in (ours.path / "merged").iterdir()) == ["done.json", "made.txt"]


def test_what_was_changed_or_lost_in_another_run_is_not_taken_over(done, tmp_path):
    do, calls, folder = done
    for number, text in enumerate(("", "mine")):
        (folder / "made.txt").write_text(text)
        do(SharingFolder(tmp_path / str(number), lenders=(tmp_path,)))
    assert len(calls) == 3
