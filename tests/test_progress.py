"""The bar of long work, as a log shows it."""

from __future__ import annotations

import re

import pytest

from recipe import progress


def test_what_was_done_before_counts_for_the_place_and_not_for_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 30.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("SFT", 20, "steps", begun=10) as advance:
        advance(3)
        advance(3)
    begun, *lines = capsys.readouterr().err.splitlines()
    assert "10 of 20" in begun
    assert [re.findall(r"(\d+)/20 .*\((\S+)/s, (\d+) s left", line) for line in lines] == [
        [("13", "0.10", "70")],
        [("16", "0.10", "40")],
    ]


def test_it_shows_that_work_goes_on_before_the_first_row_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress.bar("judging", None, "rows") as advance:
        progress.time.sleep(1.3)
        assert re.search(r"judging: 0/\? rows \(\d s so far\)", capsys.readouterr().err)
        advance(1)


def test_the_bar_moves_with_each_item(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(30.0 * k for k in range(1, 4))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("sampling", 3, "judgements") as advance:
        assert list(progress.each(["a", "b", "c"], advance)) == ["a", "b", "c"]
    shown = capsys.readouterr().err
    assert re.findall(r"(\d)/3", shown) == ["1", "2", "3"]
