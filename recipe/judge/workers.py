"""Several judges that share the rows of one file, in processes of this machine or of Ray.

They write nothing: the parent does. A worker opens its judge, judges a share of the rows, and gets the next share.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError, first_line, install
from recipe.inference.base import Closing
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import WINDOW, JudgedRow, in_windows, result_rows

RESTARTS = 3  # how often Ray starts a worker again, and tries a share again
ADDRESS_VARIABLE = "RAY_ADDRESS"
OpenJudge = Callable[[], Judge]
Message = tuple[list[JudgedRow], bool]  # rows, and whether their worker is ready for the next share


class Pool(Closing):
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
        """Like `result_rows`. Reads on as workers get ready. Raises SreError when one fails or dies."""
        windows = in_windows(examples, self.count * self.share)
        parts = (part for window in windows for part in shares(window, self.count) if part)
        for worker in range(self.count):
            self._send(worker, [], options)  # it answers once it is up; one that never is gets no rows
        part, awaited = next(parts, None), 0
        while part or awaited:
            worker, (rows, ready) = self._receive()
            awaited -= len(rows)
            if ready and part:
                self._send(worker, part, options)
                awaited += len(part)
                part = next(parts, None)
            yield from rows


class Workers(Pool):
    """`count` judges in processes of their own. When the parent dies, a worker ends at its next row.

    Each process calls `open_judge`, e.g. functools.partial(Judge.from_gguf, path), which must be picklable. A script
    that uses this needs `if __name__ == "__main__":`. Raises SreError, with the reason, when a judge can't be opened.
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
                link.send(judge.identity)
                while True:
                    for row in result_rows(judge, *link.recv()):
                        link.send(([row], False))
                    link.send(([], True))
        except SreError as error:
            link.send(error)


class RayPool(Pool):
    """Judges as Ray actors. A worker that dies does its share once more.

    It uses the Ray of this process, else the cluster that RAY_ADDRESS names, else it starts one on this machine and
    ends it at `close`. Every node of a cluster needs this package, and the model under the same path. `open_judge` is
    called here too, to know who judges. `threads`: cores of each judge.
    """

    share = 64  # small, because rows come when a share is done, and a worker that dies does its share again

    def __init__(self, open_judge: OpenJudge, count: int, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise SreError(f"this engine needs the extra: {install('ray')}") from None
        with open_judge() as judge:
            self.identity = judge.identity
        self.count = count
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            _start_ray(ray, count * threads)
        actor = ray.remote(num_cpus=threads, max_restarts=RESTARTS, max_task_retries=RESTARTS)(_RayWorker)
        self._actors = [actor.remote(open_judge, self.identity) for _ in range(count)]
        self._waiting: dict[Any, int] = {}

    def _send(self, worker: int, examples: list[Example], options: JudgeOptions) -> None:
        self._waiting[self._actors[worker].judge.remote(examples, options)] = worker

    def _receive(self) -> tuple[int, Message]:
        (done,), _ = self._ray.wait(list(self._waiting), num_returns=1)
        try:
            answer = self._ray.get(done)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of this program
        except self._ray.exceptions.RayError as error:
            message = "a worker ended early, and again when started anew; use --resume to go on"
            raise SreError(f"{message}, with fewer workers if memory ran out ({first_line(error)})") from error
        if isinstance(answer, str):
            raise SreError(answer)
        return self._waiting.pop(done), (answer, True)

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._started:
            self._started = False
            self._ray.shutdown()


class _RayWorker:
    """One judge, in a process of Ray's. Opened at the first rows, so that its failure is an answer."""

    def __init__(self, open_judge: OpenJudge, expected: dict[str, str]) -> None:
        self._open_judge, self._expected = open_judge, expected
        self._judge: Judge | None = None

    def judge(self, examples: list[Example], options: JudgeOptions) -> list[JudgedRow] | str:
        """The rows, or why they can't be judged."""
        try:
            return list(result_rows(self._opened(), examples, options)) if examples else []
        except SreError as error:
            return str(error)

    def _opened(self) -> Judge:
        if self._judge is None:
            judge = self._open_judge()
            if judge.identity != self._expected:
                judge.close()
                raise SreError(f"the machine {os.uname().nodename} has another model or other prompts under this name")
            self._judge = judge
        return self._judge


def _start_ray(ray: Any, cores: int) -> None:
    """Connect to the cluster, or start a Ray that tells nobody; either prints nothing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get(ADDRESS_VARIABLE)
    own: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(**({"address": address} if address else own), log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        field = ADDRESS_VARIABLE if address else None
        raise SreError(f"Ray can't be reached: {first_line(error)}", field=field) from error
    logging.getLogger("ray").setLevel(logging.ERROR)


def shares(examples: Sequence[Example], count: int) -> list[list[Example]]:
    """The examples in `count` lists of equal length, give or take one; rows of one prompt stay side by side."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt_id or example.id, []).append(example)
    ordered = [example for group in groups.values() for example in group]
    cuts = [len(ordered) * k // count for k in range(count + 1)]
    return [ordered[begin:end] for begin, end in pairwise(cuts)]
