"""Progress of long work, on standard error: one line that a terminal keeps up to date, a line now and then in a log."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from recipe.errors import printable
from recipe.system import process

Advance = Callable[..., None]
T = TypeVar("T")


@contextlib.contextmanager
def bar(label: str, total: int | None, unit: str = "", begun: int = 0) -> Iterator[Advance]:
    """Yield `advance(count=1, note="", total=None)`. `note` is shown behind the rate, e.g. "loss 1.32"; `total`
    corrects an unknown total; `begun` were done before, at no known rate. Of several processes the main one shows it.
    """
    if process()[0]:
        yield lambda *_, **__: None
        return
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 20.0
    ended = threading.Event()
    started = shown = time.monotonic()
    done, goal = begun, total or 0
    if begun:
        print(f"{label}: resumes after {begun} of {total} {unit}", file=sys.stderr, flush=True)

    def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
        nonlocal done, shown, goal
        done, goal, now = done + count, total or goal, time.monotonic()
        if now - shown < every and not 0 < goal <= done:
            return
        shown = now
        rate = (done - begun) / max(now - started, 1e-9)
        left = f", {max(goal - done, 0) / rate:.0f} s left" if goal and rate else ""
        told = f"{rate:.2f}/s{left}" if rate else f"{now - started:.0f} s so far"
        line = printable(f"{label}: {done}/{goal or '?'} {unit} ({told}) {note}".rstrip())
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"\r{line[:width]:{width}}"
        print(line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def wait() -> None:
        """Show that work goes on until the first row is done, which may take minutes."""
        while not ended.wait(max(every, 1.0)) and done == begun:
            advance(0)

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield advance
    finally:
        ended.set()
        if terminal:
            print(file=sys.stderr)


def each(items: Iterable[T], advance: Advance) -> Iterator[T]:
    """The items; the bar moves as each of them comes."""
    for item in items:
        advance()
        yield item


def follow(advance: Advance) -> Callable[[int, int | None], None]:
    """For work that reports (done so far, of how many, if that is known): moves the bar by what is new."""
    shown = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal shown
        advance(done - shown, total=total)
        shown = done

    return progress


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: "9.0 s", "12 min", "3.4 h", "2.1 days"."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            digits = 1 if unit == "h" or seconds / size < 10 else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} days"
