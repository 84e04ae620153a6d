"""Judges in Ray actors, on this machine or a cluster: Ray Data hands out blocks of rows, and a judge takes each.

Writes nothing: the caller journals the rows by id as blocks finish. When a worker dies, Ray starts it again and does
its block once more; of such a block, what has come already counts.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError, install
from recipe.judge.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.judge.output_rows import JudgedRow, Usage, result_rows
from recipe.judge.workers import OpenJudge, add_usage, identity, shares
from recipe.storage import canonical
from recipe.system import peak_rss_mb

BLOCK = 64
"""Rows that a worker gets at a time, at most: what it does again when it dies."""
RESTARTS = 3
"""Of one worker, and of one block."""
ADDRESS_VARIABLE = "RAY_ADDRESS"


class RayPool:
    """Up to `workers` judges of `threads` cores each. Use as a context manager; a Ray that it started ends with it.

    Uses the Ray that this process has, else the cluster that RAY_ADDRESS names, else one of its own on this machine. On
    a cluster, every node needs this package, and the model under the same path. open_judge: as for `Workers`; called
    here, too, to know who judges. Raises SreError: it can't be opened, Ray isn't installed or can't be reached.
    """

    def __init__(self, open_judge: OpenJudge, workers: int, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            message = f"this engine needs the extra: {install('ray')}"
            raise SreError(message) from None
        with open_judge() as judge:
            self.identity = identity(judge)
        self._ray, self._open_judge, self._workers, self._threads = ray, open_judge, workers, threads
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, workers * threads)

    def rows(self, examples: Sequence[Example], options: JudgeOptions, usage: Usage) -> Iterator[JudgedRow]:
        """Like `result_rows`, in any order, each id once. Raises SreError when a worker fails or dies too often; what
        came before it is good."""
        import ray.data

        # As many blocks for each worker, so that none is idle while the last one is judged.
        count = self._workers * math.ceil(len(examples) / (self._workers * BLOCK))
        ordered = [{"example": canonical(example.to_json())} for example in shares(examples, 1)[0]]
        blocks = ray.data.from_items(ordered, override_num_blocks=min(count, len(ordered)))
        with warnings.catch_warnings():
            # Ray's own default is to start a worker anew for ever, and there is no newer way to bound it.
            warnings.simplefilter("ignore", DeprecationWarning)
            results = blocks.map_batches(
                _Worker,
                batch_size=None,
                fn_constructor_args=(self._open_judge, self.identity, options),
                # One block each at a time: else the first worker that is up takes those of workers still opening.
                compute=ray.data.ActorPoolStrategy(
                    min_size=1,
                    max_size=self._workers,
                    initial_size=self._workers,
                    max_tasks_in_flight_per_actor=1,
                ),
                num_cpus=self._threads,
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
            )
        waiting = {example.id for example in examples}
        peaks: dict[str, int] = {}
        try:
            for result in results.iter_rows():
                answer = json.loads(result["answer"])
                if "failed" in answer:
                    raise SreError(answer["failed"])
                peaks[answer["worker"]] = answer["usage"].pop("peak_mb")
                add_usage(usage, Usage(**answer["usage"]))
                for row in answer["rows"]:
                    if row["id"] in waiting:
                        waiting.remove(row["id"])
                        yield row
        except ray.exceptions.RayTaskError:
            raise  # a fault of this program
        except ray.exceptions.RayError as error:
            message = "a worker ended early, and again when started anew; use --resume to go on"
            raise SreError(f"{message}, with fewer workers if memory ran out ({_brief(error)})") from error
        usage.peak_mb += sum(peaks.values())
        if waiting:
            raise SreError(f"Ray lost {len(waiting)} rows, e.g. {min(waiting)!r}; use --resume to judge them")

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

    def __call__(self, block: dict[str, Any]) -> dict[str, list[str]]:
        examples = [Example.from_json(json.loads(text)) for text in block["example"]]
        usage = Usage()
        try:
            rows = list(result_rows(self._opened(), examples, self._options, usage))
        except SreError as error:
            return {"answer": [canonical({"failed": str(error)})]}
        usage.peak_mb = peak_rss_mb()
        worker = f"{os.uname().nodename}:{os.getpid()}"
        return {"answer": [canonical({"worker": worker, "usage": vars(usage), "rows": rows})]}

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
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
