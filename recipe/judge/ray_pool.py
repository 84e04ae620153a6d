"""Judges in Ray actors, on this machine or a cluster: each gets a block of rows at a time.

Writes nothing: the caller journals the rows as blocks finish. When a worker dies, Ray starts it again, and it does its
block once more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError, install
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import JudgedRow, Usage, in_windows, result_rows
from recipe.judge.workers import OpenJudge, Pool, identity, shares
from recipe.system import peak_rss_mb

BLOCK = 64
"""Rows that a worker gets at a time, at most: what it does again when it dies."""
RESTARTS = 3
"""Of one worker, and of one block."""
ADDRESS_VARIABLE = "RAY_ADDRESS"


class RayPool(Pool):
    """Up to `workers` judges of `threads` cores each. Use as a context manager; a Ray that it started ends with it.

    Uses the Ray that this process has, else the cluster that RAY_ADDRESS names, else one of its own on this machine. On
    a cluster, every node needs this package, and the model under the same path. `open_judge` is as for `Workers`; it is
    called here too, to know who judges. Raises SreError: it can't be opened, Ray isn't installed or can't be reached.
    """

    def __init__(self, open_judge: OpenJudge, workers: int, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise SreError(f"this engine needs the extra: {install('ray')}") from None
        with open_judge() as judge:
            self.identity = identity(judge)
        self._ray, self._open_judge, self._workers, self._threads = ray, open_judge, workers, threads
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, workers * threads)

    def rows(self, examples: Iterable[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]:
        """Like `result_rows`, in any order. Raises SreError when a worker fails or dies too often; what came before it
        is good."""
        windows = in_windows(examples, self._workers * BLOCK)
        blocks = (block for window in windows for block in shares(window, self._workers) if block)
        actor = self._ray.remote(num_cpus=self._threads, max_restarts=RESTARTS, max_task_retries=RESTARTS)(_Worker)
        # Those that there is no room for on the cluster never say that they are ready, and get nothing.
        actors = [actor.remote(self._open_judge, self.identity, options) for _ in range(self._workers)]
        waiting = {one.judge.remote([]): one for one in actors}
        peaks: dict[int, int] = {}
        block = next(blocks, None)
        under_way = 0
        try:
            while block or under_way:
                (done,), _ = self._ray.wait(list(waiting), num_returns=1)
                one = waiting.pop(done)
                answer = self._ray.get(done)
                if isinstance(answer, str):
                    raise SreError(answer)
                rows, found = answer
                under_way -= bool(rows)
                peaks[id(one)], found.peak_mb = found.peak_mb, 0
                usage.add(found)
                if block:
                    waiting[one.judge.remote(block)] = one
                    under_way += 1
                    block = next(blocks, None)
                yield from rows
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of this program
        except self._ray.exceptions.RayError as error:
            message = "a worker ended early, and again when started anew; use --resume to go on"
            raise SreError(f"{message}, with fewer workers if memory ran out ({_brief(error)})") from error
        finally:
            for one in actors:
                self._ray.kill(one)
        usage.peak_mb += sum(peaks.values())

    def close(self) -> None:
        """End the Ray that was started here. Calling it again does nothing."""
        if self._started:
            self._started = False
            self._ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Worker:
    """One judge, in a process of Ray's. Opened at the first block, so that its failure is an answer."""

    def __init__(self, open_judge: OpenJudge, expected: dict[str, str], options: JudgeOptions) -> None:
        self._open_judge, self._expected, self._options = open_judge, expected, options
        self._judge: Judge | None = None

    def judge(self, examples: list[Example]) -> tuple[list[JudgedRow], Usage] | str:
        """The rows and what they took, or why they can't be judged."""
        usage = Usage()
        try:
            rows = list(result_rows(self._opened(), examples, self._options, usage)) if examples else []
        except SreError as error:
            return str(error)
        usage.peak_mb = peak_rss_mb()
        return rows, usage

    def _opened(self) -> Judge:
        if self._judge is None:
            judge = self._open_judge()
            if identity(judge) != self._expected:
                judge.close()
                raise SreError(f"the machine {os.uname().nodename} has another model or other prompts under this name")
            self._judge = judge
        return self._judge


def _start(ray: Any, cores: int) -> None:
    """Connect to the cluster, or start a Ray that tells nobody; either prints nothing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get(ADDRESS_VARIABLE)
    own: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(**({"address": address} if address else own), log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SreError(f"Ray can't be reached: {_brief(error)}", field=ADDRESS_VARIABLE if address else None) from error
    logging.getLogger("ray").setLevel(logging.ERROR)


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
