"""Judges in Ray actors, on this machine or a cluster.

When a worker dies, Ray starts it again, and it does its share once more.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError, install
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import result_rows
from recipe.judge.workers import Message, OpenJudge, Pool, identity

RESTARTS = 3
"""Of one worker, and of one share."""
ADDRESS_VARIABLE = "RAY_ADDRESS"


class RayPool(Pool):
    """Up to `count` judges of `threads` cores each. A Ray that it started ends with it.

    Uses the Ray that this process has, else the cluster that RAY_ADDRESS names, else one of its own on this machine. On
    a cluster, every node needs this package, and the model under the same path. `open_judge` is as for `Workers`; it is
    called here too, to know who judges. Raises SreError: it can't be opened, Ray isn't installed or can't be reached.
    """

    share = 64  # rows come when a share is done, and a worker that dies does its share again: so they are small

    def __init__(self, open_judge: OpenJudge, count: int, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise SreError(f"this engine needs the extra: {install('ray')}") from None
        with open_judge() as judge:
            self.identity = identity(judge)
        self.count = count
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, count * threads)
        actor = ray.remote(num_cpus=threads, max_restarts=RESTARTS, max_task_retries=RESTARTS)(_Worker)
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
            raise SreError(f"{message}, with fewer workers if memory ran out ({_brief(error)})") from error
        if isinstance(answer, str):
            raise SreError(answer)
        return self._waiting.pop(done), answer

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._started:
            self._started = False
            self._ray.shutdown()


class _Worker:
    """One judge, in a process of Ray's. Opened at the first rows, so that its failure is an answer."""

    def __init__(self, open_judge: OpenJudge, expected: dict[str, str]) -> None:
        self._open_judge, self._expected = open_judge, expected
        self._judge: Judge | None = None

    def judge(self, examples: list[Example], options: JudgeOptions) -> Message | str:
        """The rows of all examples, or why they can't be judged."""
        try:
            rows = list(result_rows(self._opened(), examples, options)) if examples else []
        except SreError as error:
            return str(error)
        return rows, len(examples)

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
