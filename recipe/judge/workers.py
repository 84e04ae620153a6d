"""Several processes, each with a judge of its own over a share of the rows. Writes nothing: the parent does.

A worker opens its judge, says who it is, gets its share, and sends row by row. When the parent dies, a worker ends at
its next row; when a worker dies, the parent says so.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from recipe.data.records import Example
from recipe.errors import SreError
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import JudgedRow, Usage, result_rows
from recipe.system import peak_rss_mb

OpenJudge = Callable[[], Judge]


class Pool(Protocol):
    """Several judges that share the rows of one file; `identity` says whose judgements theirs are."""

    identity: dict[str, str]

    def rows(self, examples: Sequence[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]: ...


class Workers(Pool):
    """`count` judges in processes of their own. Use as a context manager; leaving it ends them.

    open_judge: makes a judge, called in each process; it must be picklable, e.g. functools.partial(Judge.from_gguf,
    path). The processes are spawned: a script of yours needs its `if __name__ == "__main__":`. Raises SreError when a
    worker can't open its judge, with that worker's reason.
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

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process in self._processes]

    def rows(self, examples: Sequence[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]:
        """Like `result_rows`, once. Raises SreError when a worker fails or dies; what came before it is good."""
        for link, share in zip(self._connections, shares(examples, len(self._connections)), strict=True):
            with contextlib.suppress(OSError):  # a dead worker is found below, with its reason
                link.send((share, options))
        waiting = set(self._connections)
        while waiting:
            for link in waiting.intersection(wait(list(waiting))):
                kind, content = self._receive(link)
                if kind == "row":
                    yield content
                else:
                    waiting.remove(link)
                    add_usage(usage, content)

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
    """The examples in `count` lists of about equal length; rows of one prompt stay together, to be decoded once."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt_id or example.id, []).append(example)
    found: list[list[Example]] = [[] for _ in range(count)]
    for group in groups.values():
        min(found, key=len).extend(group)
    return found


def _work(link: Connection, open_judge: OpenJudge) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    usage = Usage()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            with open_judge() as judge:
                link.send(("open", identity(judge)))
                examples, options = link.recv()
                for row in result_rows(judge, examples, options, usage) if examples else ():
                    link.send(("row", row))
            usage.peak_mb = peak_rss_mb()
            link.send(("done", usage))
        except SreError as error:
            link.send(("failed", error))


def add_usage(total: Usage, more: Usage) -> None:
    """Add the counts of `more` to `total`."""
    for name, value in vars(more).items():
        setattr(total, name, getattr(total, name) + value)
