"""Several processes, each with a judge of its own over a share of the rows. Writes nothing: the parent does.

A worker opens its judge, says who it is, gets a share of the rows, sends row by row, and gets the next share. When the
parent dies, a worker ends at its next row; when a worker dies, the parent says so.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from recipe.data.records import Example
from recipe.errors import SreError
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import WINDOW, JudgedRow, Usage, in_windows, result_rows
from recipe.system import peak_rss_mb

OpenJudge = Callable[[], Judge]
SHARE = WINDOW // 2
"""Rows that a worker gets at a time, at most."""


class Pool(Protocol):
    """Several judges that share the rows of one file; `identity` says whose judgements theirs are."""

    identity: dict[str, str]

    def rows(self, examples: Iterable[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]: ...


class Workers(Pool):
    """`count` judges in processes of their own. Use as a context manager; leaving it ends them.

    `open_judge` makes a judge, in each process; it must be picklable, e.g. functools.partial(Judge.from_gguf, path).
    The processes are spawned: a script of yours needs its `if __name__ == "__main__":`. Raises SreError when a worker
    can't open its judge, with that worker's reason.
    """

    def __init__(self, open_judge: OpenJudge, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = []
        self._connections: list[Connection] = []
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, open_judge), daemon=True)
                process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                self._processes.append(process)
                self._connections.append(ours)
            opened = [self._receive(link)[1] for link in self._connections]
            self.identity = opened[0]
        except BaseException:
            self.close()
            raise

    def rows(self, examples: Iterable[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]:
        """Like `result_rows`, reading on as workers get done. Raises SreError when one fails or dies; what came before
        it is good."""
        count = len(self._connections)
        parts = (part for window in in_windows(examples, count * SHARE) for part in shares(window, count) if part)
        busy: dict[Connection, int] = {}  # worker -> its peak memory

        def send(link: Connection) -> None:
            part = next(parts, None)
            busy.setdefault(link, 0)
            if part is None:
                usage.peak_mb += busy.pop(link)
                return
            with contextlib.suppress(OSError):  # a dead worker is found below, with its reason
                link.send((part, options))

        for link in self._connections:
            send(link)
        while busy:
            for link in [link for link in wait(list(busy)) if link in busy]:
                kind, content = self._receive(link)
                if kind == "row":
                    yield content
                    continue
                busy[link] = content.peak_mb
                content.peak_mb = 0
                usage.add(content)
                send(link)

    def _receive(self, link: Connection) -> tuple[str, Any]:
        try:
            kind, content = link.recv()
        except (EOFError, OSError):
            process = self._processes[self._connections.index(link)]
            process.join(5)
            message = f"a worker process ended early (exit code {process.exitcode}); use --resume to go on"
            raise SreError(f"{message}, with fewer workers if memory ran out") from None
        if kind == "failed":
            raise content
        return kind, content

    def close(self) -> None:
        """End the processes. Calling it again does nothing."""
        for link in self._connections:
            link.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._processes, self._connections = [], []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def identity(judge: Judge) -> dict[str, str]:
    """What tells whose judgements these are: hashes of the model and of the prompts."""
    return {"model": judge.fingerprint, "prompts": judge.prompts.digest}


def shares(examples: Sequence[Example], count: int) -> list[list[Example]]:
    """The examples in `count` lists of equal length, give or take one; rows of one prompt stay side by side."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt_id or example.id, []).append(example)
    ordered = [example for group in groups.values() for example in group]
    cuts = [len(ordered) * k // count for k in range(count + 1)]
    return [ordered[begin:end] for begin, end in pairwise(cuts)]


def _work(link: Connection, open_judge: OpenJudge) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            with open_judge() as judge:
                link.send(("open", identity(judge)))
                while True:
                    examples, options = link.recv()
                    usage = Usage()
                    for row in result_rows(judge, examples, options, usage):
                        link.send(("row", row))
                    usage.peak_mb = peak_rss_mb()
                    link.send(("done", usage))
        except SreError as error:
            link.send(("failed", error))
