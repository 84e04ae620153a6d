"""Progress of long work, on standard error: a bar with rate and time left in a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recipe.system import process

Advance = Callable[..., None]
_LINE_EVERY_S = 20.0


@contextlib.contextmanager
def bar(label: str, total: int | None, unit: str = "") -> Iterator[Advance]:
    """Yield `advance(count=1, note="", total=None)`. `note` is shown behind the rate, e.g. "loss 1.32"; `total`
    corrects a total that was not known at the start. Of several processes that share a run, the main one shows it."""
    if process()[0]:
        yield lambda *_, **__: None
        return
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _lines(label, total, unit)
        return
    rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
    counts = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), rate)
    with Progress(*counts, TimeElapsedColumn(), TimeRemainingColumn(), note, console=console) as view:
        task = view.add_task(label, total=total, rate="", note="")

        def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
            speed = view.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s" if speed else ""
            known = {key: value for key, value in (("note", note), ("total", total)) if value}
            view.update(task, advance=count, rate=rate, **known)  # type: ignore[arg-type]

        yield advance


def follow(advance: Advance) -> Callable[[int, int | None], None]:
    """For work that reports (done so far, of how many, if that is known): moves the bar by what is new."""
    shown = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal shown
        advance(done - shown, total=total)
        shown = done

    return progress


def _lines(label: str, total: int | None, unit: str) -> Advance:
    started = shown = time.monotonic()
    done, goal = 0, total or 0

    def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
        nonlocal done, shown, goal
        done += count
        goal = total or goal
        now = time.monotonic()
        if now - shown >= _LINE_EVERY_S or (goal and done >= goal):
            shown = now
            rate = done / max(now - started, 1e-9)
            left = f", {max(goal - done, 0) / max(rate, 1e-9):.0f} s left" if goal else ""
            sys.stderr.write(f"{label}: {done}/{goal or '?'} {unit} ({rate:.2f}/s{left}) {note}".rstrip() + "\n")
            sys.stderr.flush()

    return advance


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: "9.0 s", "12 min", "3.4 h", "2.1 days"."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            digits = 1 if unit == "h" or seconds / size < 10 else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} days"
