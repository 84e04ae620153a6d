"""Several judges that share the rows of one file; here in processes of this machine (in Ray's: ray_pool.py).

They write nothing: the parent does. A worker opens its judge, gets a share of the rows, sends what it made of them, and
gets the next share.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError
from recipe.judge.judge import Closing, Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import WINDOW, JudgedRow, in_windows, result_rows

OpenJudge = Callable[[], Judge]
Message = tuple[list[JudgedRow], int | None]
"""Rows, and at the end of a share how many examples it had."""


class Pool(Closing, ABC):
    """Workers, known by their number. Use as a context manager: `close` ends them."""

    identity: dict[str, str]  # whose judgements theirs are
    count: int
    share: int  # rows that a worker gets at a time, at most

    @abstractmethod
    def _send(self, worker: int, examples: list[Example], options: JudgeOptions) -> None: ...

    @abstractmethod
    def _receive(self) -> tuple[int, Message]:
        """The next message of any worker. Raises SreError when one fails or dies."""

    def rows(self, examples: Iterable[Example], options: JudgeOptions) -> Iterator[JudgedRow]:
        """Like `result_rows`, reading on as workers get done. Raises SreError when one fails or dies; what came before
        it is good."""
        windows = in_windows(examples, self.count * self.share)
        parts = (part for window in windows for part in shares(window, self.count) if part)
        for worker in range(self.count):
            self._send(worker, [], options)  # it answers once it is up; one that never is gets no rows
        part, under_way = next(parts, None), 0
        while part or under_way:
            worker, (rows, ended) = self._receive()
            if ended is not None:
                under_way -= ended
                if part:
                    self._send(worker, part, options)
                    under_way += len(part)
                    part = next(parts, None)
            yield from rows


class Workers(Pool):
    """`count` judges in processes of their own. When the parent dies, a worker ends at its next row.

    `open_judge` makes a judge, in each process; it must be picklable, e.g. functools.partial(Judge.from_gguf, path).
    The processes are spawned: a script of yours needs its `if __name__ == "__main__":`. Raises SreError when a worker
    can't open its judge, with that worker's reason.
    """

    share = WINDOW // 2

    def __init__(self, open_judge: OpenJudge, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        self._processes = []
        self._links: list[Connection] = []
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, open_judge), daemon=True)
                process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                self._processes.append(process)
                self._links.append(ours)
            self.identity, *_ = [self._read(worker) for worker in range(count)]
        except BaseException:
            self.close()
            raise

    def _send(self, worker: int, examples: list[Example], options: JudgeOptions) -> None:
        with contextlib.suppress(OSError):  # a dead worker is found by _read
            self._links[worker].send((examples, options))

    def _receive(self) -> tuple[int, Message]:
        worker = self._links.index(wait(self._links)[0])  # type: ignore[arg-type]  # these are Connections
        return worker, self._read(worker)

    def _read(self, worker: int) -> Any:
        try:
            message = self._links[worker].recv()
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join(5)
            message = f"a worker process ended early (exit code {process.exitcode}); use --resume to go on"
            raise SreError(f"{message}, with fewer workers if memory ran out") from None
        if isinstance(message, SreError):
            raise message
        return message

    def close(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._processes, self._links = [], []


def _work(link: Connection, open_judge: OpenJudge) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            with open_judge() as judge:
                link.send(identity(judge))
                while True:
                    examples, options = link.recv()
                    for row in result_rows(judge, examples, options):
                        link.send(([row], None))
                    link.send(([], len(examples)))
        except SreError as error:
            link.send(error)


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
