"""The run folder: done markers, hashes, atomic writes, whole blocks."""

import concurrent.futures
import errno
import json
import multiprocessing
import os
import threading

import pytest

from recipe import storage
from recipe.errors import SreError
from recipe.pipeline.stage_cache import Content, Made, RunFolder
from recipe.storage import (
    append_jsonl,
    atomic,
    atomic_folder,
    fingerprint,
    read_jsonl,
    read_markers,
    write_json,
)
from tests.stages import MADE, counting


def test_a_stage_runs_once_and_its_marker_holds_the_facts(tmp_path):
    calls, work = counting()
    run = RunFolder(tmp_path / "run")
    first = run.do("merged", work, a=1)
    assert run.do("merged", work, a=1) == first
    assert calls == [tmp_path / "run" / "merged"]
    marker = json.loads((tmp_path / "run" / "merged" / "done.json").read_text())
    assert {"hash", "versions", "wall_s", "peak_rss_mb"} <= marker.keys()
    assert marker["tokens"] == 5
    assert sorted(p.name for p in (tmp_path / "run" / "merged").iterdir()) == ["done.json", "made.txt"]


def test_another_setting_is_an_error_that_names_both_hashes_and_the_key(tmp_path):
    _, work = counting()
    run = RunFolder(tmp_path)
    before = run.do("merged", work, merge={"method": "exact", "weight": 0.5})
    with pytest.raises(SreError, match=r"differs in: merge\.method") as caught:
        run.do("merged", work, merge={"method": "svd", "weight": 0.5})
    assert before["hash"][:12] in str(caught.value)


def test_no_fact_of_a_stage_takes_the_place_of_what_its_hash_stands_for(tmp_path):
    run = RunFolder(tmp_path)
    run.do("seed", counting()[1])
    run.do(
        "merged",
        lambda folder, **given: {"inputs": 24, "hash": "x", "tokens": 7},
        a=1,
        before=Made(run.path, "seed", "made.txt"),
    )
    assert read_markers(run.path)[-1]["tokens"] == 7
    with pytest.raises(SreError, match=r"differs in: a\)"):
        run.do("merged", counting()[1], a=2, before=Made(run.path, "seed", "made.txt"))


def test_a_changed_input_stage_is_noticed_downstream(tmp_path):
    _, work = counting()
    run = RunFolder(tmp_path)
    run.do("seed", work, model="a")
    run.do("merged", work, before=Made(run.path, "seed", "made.txt"))
    other = RunFolder(tmp_path)
    (tmp_path / "seed" / "done.json").unlink()
    other.do("seed", work, model="b")
    with pytest.raises(SreError, match="differs in: seed"):
        other.do("merged", work, before=Made(run.path, "seed", "made.txt"))


def test_a_stage_needs_the_ones_before_it(tmp_path):
    with pytest.raises(SreError, match="needs stage 'seed'"):
        RunFolder(tmp_path).do("merged", counting()[1], before=Made(tmp_path, "seed", "made.txt"))


def test_an_interrupted_stage_is_redone(tmp_path):
    calls, work = counting()
    run = RunFolder(tmp_path)

    def fail(folder, **given):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run.do("merged", fail, a=1)
    assert not (tmp_path / "merged" / "done.json").exists()
    with pytest.raises(SreError, match="differs in: a"):
        run.do("merged", work, a=2)
    run.do("merged", work, a=1)
    assert len(calls) == 1


def test_steps_of_one_folder_have_markers_of_their_own(tmp_path):
    _, work = counting()
    run = RunFolder(tmp_path)
    run.do("iter-1:sample", work)
    run.do("iter-1:curate", work, before=Made(run.path, "iter-1:sample", "made.txt"))
    assert (tmp_path / "iter-1" / "sample.done.json").exists()
    assert [stage["stage"] for stage in read_markers(run.path)] == ["iter-1:sample", "iter-1:curate"]


def test_no_space_leaves_the_old_file_whole_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    write_json(path, {"old": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SreError, match="no space left"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_no_space_while_appending_takes_the_block_back(tmp_path, monkeypatch):
    path = tmp_path / "samples.jsonl"
    append_jsonl(path, [{"a": 1}])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SreError, match="no space left"):
        append_jsonl(path, [{"a": 2}, {"a": 3}])
    assert read_jsonl(path) == [{"a": 1}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_a_users_error():
    with pytest.raises(SreError, match="no space left"):
        append_jsonl(__import__("pathlib").Path("/dev/full"), [{"a": 1}])


def test_a_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "text"
    path.write_text("old")

    def fail():
        with atomic(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_keeps_the_old_one(tmp_path):
    path = tmp_path / "adapter"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")

    def fail():
        with atomic_folder(path) as folder:
            (folder / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(SreError, match=r"samples\.jsonl, line 2"):
        read_jsonl(path)


def test_a_forgotten_stage_does_not_go_on_from_what_it_left(tmp_path):
    run = RunFolder(tmp_path)

    def draw(folder, *, temperature):
        (folder / "unfinished").mkdir(exist_ok=True)
        with (folder / "rows.jsonl").open("a") as rows:
            rows.write(f"{temperature}\n")
        return {}

    for temperature in (1.0, 0.5):
        run.do("sample", draw, makes=("rows.jsonl", "unfinished"), temperature=temperature)
        assert (tmp_path / "sample" / "rows.jsonl").read_text() == f"{temperature}\n"
        run.forget("sample")


def _hold(path, held, release):
    with RunFolder(path).locked():
        held.set()
        release.wait(20)


def test_two_processes_do_not_share_a_run_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)
    with pytest.raises(SreError, match=r"another process .* wait for it"), RunFolder(tmp_path).locked():
        pass
    release.set()
    process.join()
    with RunFolder(tmp_path).locked():
        pass


@pytest.fixture
def second(tmp_path, monkeypatch):
    """The same run folder as the second process of a launch sees it."""
    with monkeypatch.context() as launched:
        launched.setenv("RANK", "1")
        launched.setenv("WORLD_SIZE", "2")
        return RunFolder(tmp_path)


def in_two_processes(main, second, stage, work, helping, **options):
    """Both do the stage, the second from before the main one; what each got."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(second.do, stage, helping, **options)
        assert not concurrent.futures.wait([waiting], timeout=0.5).done
        return main.do(stage, work, **options), waiting.result(20)


def test_the_main_process_does_a_stage_and_the_others_get_what_it_found(tmp_path, second):
    (calls, work), (helped, helping) = counting(), counting()
    ours, theirs = in_two_processes(RunFolder(tmp_path), second, "merged", work, helping)
    assert ours == theirs
    assert (len(calls), len(helped)) == (1, 0)


def test_all_processes_work_on_a_stage_that_they_do_together_and_one_writes_its_marker(tmp_path, second):
    (_, work), (helped, _) = counting(), counting()
    begun = threading.Event()

    def helping(folder, **given):
        helped.append(folder)
        begun.set()
        return {"tokens": 7}

    def waits(folder, **given):
        assert begun.wait(20)
        return work(folder, **given)

    ours, theirs = in_two_processes(RunFolder(tmp_path), second, "merged", waits, helping, together=True)
    assert ours == theirs
    assert ours["tokens"] == 5
    assert helped == [tmp_path / "merged"]


def test_the_others_do_not_begin_what_the_main_process_refuses(tmp_path, second):
    write_json(tmp_path / "merged" / "started.json", {"stage": "merged", "hash": "0" * 64})
    calls, work = counting()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(second.do, "merged", work, a=1, together=True)
        with pytest.raises(SreError, match="differs in: a"):
            RunFolder(tmp_path).do("merged", work, a=1, together=True)
        assert not concurrent.futures.wait([waiting], timeout=0.5).done
        assert not calls
        (tmp_path / "merged" / "started.json").unlink()  # lets the waiting process end
        RunFolder(tmp_path).do("merged", work, a=1)


def test_each_process_of_a_launch_holds_the_folder(tmp_path, second):
    held = RunFolder(tmp_path).locked(), second.locked()
    with held[0], held[1], pytest.raises(SreError, match="another process"), second.locked():
        pass


# --- done is what is there, whole and unchanged ---


@pytest.mark.parametrize("name", ["made.txt", "adapter/weights"])
@pytest.mark.parametrize("lose", [lambda file: file.unlink(), lambda file: file.write_text("")], ids=["gone", "empty"])
def test_a_stage_whose_files_are_gone_or_empty_is_done_again(name, lose, done, caplog):
    do, calls, folder = done
    before = do()
    lose(folder / name)
    again = do()
    assert len(calls) == 2
    assert again["made"] == before["made"]
    assert name in caplog.text


def test_a_file_that_was_changed_is_refused_and_kept(done):
    do, calls, folder = done
    (folder / "made.txt").write_text("mine")
    with pytest.raises(SreError, match="changed since stage 'merged' made it") as refused:
        do()
    assert refused.value.file == folder / "made.txt"
    assert (folder / "made.txt").read_text() == "mine"
    assert len(calls) == 1


def test_a_stage_that_needs_what_is_lost_says_so(done, tmp_path):
    _, _, folder = done
    (folder / "made.txt").unlink()
    with pytest.raises(SreError, match="missing, and stage 'sft' needs it"):
        RunFolder(tmp_path).do("sft", counting()[1], before=Made(tmp_path, "merged", "made.txt"))


def test_a_redone_stage_with_another_result_is_noticed_downstream(tmp_path):
    results = iter("ab")

    def work(folder, **given):
        (folder / "made.txt").write_text(next(results))
        return {}

    run = RunFolder(tmp_path)
    run.do("merged", work, makes=MADE)
    run.do("sft", counting()[1], before=Made(tmp_path, "merged", "made.txt"))
    (tmp_path / "merged" / "made.txt").unlink()
    run.do("merged", work, makes=MADE)
    with pytest.raises(SreError, match="differs in: merged"):
        run.do("sft", counting()[1], before=Made(tmp_path, "merged", "made.txt"))


def test_files_from_outside_are_told_by_what_they_hold(tmp_path):
    file = tmp_path / "model"
    run = RunFolder(tmp_path / "run")
    for text in ("one", "two"):
        file.write_text(text)
        content = Content(tmp_path, (file,))
        if text == "one":
            run.do("seed", lambda folder, content: {"path": str(content)}, content=content)
            continue
        with pytest.raises(SreError, match=r"differs in: content\.model"):
            run.do("seed", counting()[1], content=content)
    assert run.marker("seed")["path"] == str(tmp_path)


def test_a_large_file_is_told_by_pieces_of_it(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    with file.open("wb") as out:
        out.truncate(300_000_000)
    monkeypatch.setattr(storage, "hash_file", None)  # not all of it is read
    before = fingerprint(file)
    with file.open("r+b") as out:
        out.seek(-1, os.SEEK_END)
        out.write(b"x")
    assert fingerprint(file) != before


ODD = ["", "[]", "null", "7", '"text"', "{", "\xff", "{}", '{"stage": 1, "hash": "a"}', "[" * 100_000, '{"hash": {}}']
ODD += [
    '{"stage": "merged", "hash": "a", "finished": 1, "wall_s": 1, "tokens": 0, "made": {"a": 1}}',
    '{"stage": "merged"}',
]
ODD_WHEN_DONE = [
    '{"stage": "merged", "hash": "a"}',
    '{"stage": "m", "hash": "a", "finished": "x", "wall_s": 1, "tokens": 0}',
]


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, text) for name in ("done.json", "started.json") for text in ODD]
    + [("done.json", t) for t in ODD_WHEN_DONE],
)
def test_a_marker_of_another_shape_is_named(name, content, tmp_path):
    marker = tmp_path / "merged" / name
    marker.parent.mkdir()
    marker.write_text(content, encoding="latin-1")
    for read in (lambda: RunFolder(tmp_path).do("merged", counting()[1], makes=MADE), lambda: read_markers(tmp_path)):
        with pytest.raises(SreError, match="remove") as refused:
            read()
        assert refused.value.file == marker
