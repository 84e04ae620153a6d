"""Many callers, one model: a thread owns the engine's session and batches requests together as they come.

Knows nothing of HTTP (server.py) and nothing of asyncio (async_judge.py); both wait for the futures it gives.

with Judge.from_gguf("judge.gguf") as judge, Service(judge) as service:
    future = service.ask(to_example("Name two fruits.", ["Apple and brick."], "Are both items fruits?"))
    judgement = future.result()
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from recipe.data.records import Example, Judgement, exchanged
from recipe.errors import SreError
from recipe.inference.base import Completion, Piece, Request, Sampling, Session
from recipe.judge.aggregate import BothOrders, Consensus, both_orders, consensus
from recipe.judge.judge import DEFAULT, Judge
from recipe.judge.options import JudgeOptions
from recipe.storage import hash_object

_log = logging.getLogger("recipe.judge")
QUEUE = 64
"""Requests that may be unfinished at once."""

FAILURES = 3
"""So many jobs in a row that fail in the engine are a broken engine's."""

Answer = Judgement | Consensus | BothOrders
OnPiece = Callable[[Piece], None]
Observer = Callable[[Sequence[Completion]], None]


class QueueFull(SreError):
    """No place is free. `retry_after`: seconds after which one may be, whole and at least 1."""

    def __init__(self, queue: int, retry_after: int) -> None:
        super().__init__(f"all {queue} places of the queue are taken; try again in {retry_after} s")
        self.retry_after = retry_after


class Refused(SreError):
    """The engine can't take this request, e.g. because its prompt is longer than the context."""


class Stopped(SreError):
    """The service was closed, or its engine failed: it answers nothing any more."""


@dataclass(eq=False)
class _Job:
    """What one caller waits for: all samples of one or more requests."""

    requests: tuple[Request, ...]
    sampling: Sampling
    on_piece: OnPiece | None
    read: Callable[[list[Completion]], Any]
    future: Future[Any] = field(default_factory=Future)
    completions: list[Completion] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)
    # Characters written and characters passed on, by (request id, sample): they differ while a job runs again.
    written: Counter[tuple[str, int]] = field(default_factory=Counter)
    shown: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def expected(self) -> int:
        return sum(1 if r.label_only or r.choices else self.sampling.n for r in self.requests)

    def show(self, piece: Piece) -> None:
        """Pass on what the caller has not seen yet."""
        key = (piece.request_id, piece.sample)
        self.written[key] += len(piece.text)
        fresh = self.written[key] - self.shown[key]
        if fresh > 0 and self.on_piece:
            self.shown[key] += fresh
            self.on_piece(replace(piece, text=piece.text[-fresh:]))

    def in_order(self) -> list[Completion]:
        place = {request.id: index for index, request in enumerate(self.requests)}
        return sorted(self.completions, key=lambda c: (place[c.request_id], c.sample))


class Service:
    """Runs the requests of all its callers on one judge, whose generator nobody else may use meanwhile.

    queue: requests that may be unfinished at once; one more raises QueueFull. observer: called with the completions of
    each job that succeeds, from the service's thread. Use as a context manager, or call `close` (twice is fine); the
    judge stays open.

    Cancelling a future frees its places at once, and its sequences before the next decode. When the engine fails while
    it works on several jobs, each runs again alone: the one that fails then gets the error, the others their answers.
    When the engine can't be opened again, every unfinished future raises its error, and `error` keeps it.
    """

    def __init__(self, judge: Judge, *, queue: int = QUEUE, observer: Observer | None = None) -> None:
        if queue < 1:
            raise SreError(f"expected a queue of at least 1 place, not {queue}", field="queue")
        # Only a SessionGenerator has it.
        open_session = getattr(judge.generator, "session", None)
        if open_session is None:
            raise SreError(f"the engine of {judge.name!r} takes no requests as they come; open a GGUF file")
        open_session().close()  # where there is no memory for its cache, that is said here, not in the thread
        self.owner = judge
        self.queue = queue
        self.error: BaseException | None = None
        self._observer = observer
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        # Under the condition: what callers hand over.
        self._taken = 0
        self._arrived: list[_Job] = []
        self._closing = False
        self._seconds = 1.0
        # The thread's own: jobs held back, and those under way by the ids of their requests.
        self._held: list[_Job] = []
        self._running: dict[str, _Job] = {}
        self._suspects: list[_Job] = []  # ran when the engine failed; the newest is the last
        self._trial: _Job | None = None  # the one of them that runs alone, or ran last
        self._failures = 0  # of jobs, one after the other
        # A daemon, so that a program that forgets to close the service can end.
        self._thread = threading.Thread(target=self._run, args=[open_session], name="judge-service", daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Requests that wait or run: places of the queue in use."""
        return self._taken

    @property
    def healthy(self) -> bool:
        """True while it answers requests, not just with errors of the engine."""
        return not self._closing and self._failures < FAILURES

    # --- what callers do, from any thread ---

    def submit(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        on_piece: OnPiece | None = None,
        read: Callable[[list[Completion]], Any] = list,
    ) -> Future[Any]:
        """Queue requests that belong together; the future gives `read(completions)`, in the order of the requests and
        of their samples.

        on_piece: called with each piece of text as it is written, from the service's thread: it must not block. A
        request whose id is under way already waits until that one is finished. The future raises Refused when the
        engine can't take one of the requests, and Stopped or the engine's own error when the service ends first.

        Raises QueueFull and Stopped.
        """
        job = _Job(tuple(requests), sampling, on_piece, read)
        if not job.requests or len({request.id for request in requests}) < len(requests):
            raise SreError("expected one or more requests with ids that differ")
        with self._changed:
            self._refuse_if_stopped()
            if self._taken + len(requests) > self.queue:
                raise QueueFull(self.queue, max(1, math.ceil(self._seconds)))
            self._taken += len(requests)
            self._arrived.append(job)
            # Called once, by whoever ends the future: this thread, the service's, or one that cancels it.
            job.future.add_done_callback(lambda _: self._free(len(job.requests)))
            self._changed.notify()
        return job.future

    def ask(
        self, example: Example, options: JudgeOptions = DEFAULT, *, on_piece: OnPiece | None = None
    ) -> Future[Answer]:
        """Queue one example: a Judgement, a Consensus for two or more samples, or BothOrders with `options.swap`.

        The samples that are drawn depend on the seed and the example's content, not on its id. Errors as for `submit`;
        SreError for a pointwise example to be swapped.
        """
        if options.swap and example.task != "pairwise":
            raise SreError("both orders need a pair of responses", field="swap")
        example = replace(example, id=self._name(example, options))
        examples = {asked.id: asked for asked in ([example, exchanged(example)] if options.swap else [example])}

        def read(completions: list[Completion]) -> Answer:
            found = [self.owner.judgement(examples[c.request_id], c, options) for c in completions]
            if options.swap:
                return both_orders(found[0], found[1], options.tie)
            return consensus(found) if options.samples > 1 else found[0]

        requests = [self.owner.request(asked, options) for asked in examples.values()]
        return self.submit(requests, options.sampling, on_piece=on_piece, read=read)

    def _name(self, example: Example, options: JudgeOptions) -> str:
        """An id made of what is judged, so that a seed gives the same samples again. At temperature 0 it is made
        unique, because requests of one id wait for each other."""
        digest = hash_object(replace(example, id="").to_json())[:16]
        return digest if options.temperature else f"{digest}-{next(self._numbers)}"

    def close(self) -> None:
        """End the thread; unfinished futures raise Stopped. Calling it again does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _refuse_if_stopped(self) -> None:
        if self.error is not None:
            raise Stopped(f"the engine has failed and the service must be started again: {self.error}")
        if self._closing:
            raise Stopped("the service is closed")

    def _free(self, places: int) -> None:
        with self._changed:
            self._taken -= places

    # --- the thread ---

    def _run(self, open_session: Callable[[], Session]) -> None:
        try:
            while not self._closing:
                session = open_session()
                try:
                    while self._turn(session):
                        pass
                except Exception as error:
                    _log.warning("the engine failed and begins anew: %r", error)
                    self._sort_out(error)
                finally:
                    session.close()
        except BaseException as error:
            self.error = error
        with self._changed:
            self._closing = True
            left = [*self._running.values(), *self._suspects, *self._held, *self._arrived]
        for job in dict.fromkeys(left):  # a job stands there once for each of its requests
            _end(job.future, self.error or Stopped("the service was closed before this was answered"))

    def _sort_out(self, error: Exception) -> None:
        """Whose fault it was that the engine failed: a job's that ran alone; those of several will show alone."""
        jobs = [job for job in dict.fromkeys(self._running.values()) if not job.future.cancelled()]
        self._running.clear()
        if len(jobs) > 1:
            self._suspects += jobs
            return
        self._failures += 1
        for job in jobs:
            _end(job.future, Refused(str(error)) if isinstance(error, SreError) else error)
        # The others are cleared.
        self._held = self._suspects + self._held
        self._suspects = []

    def _turn(self, session: Session) -> bool:
        """Take in what has come, let go what was cancelled, decode once. False when it is time to end."""
        with self._changed:
            while not (self._closing or self._arrived or self._held or self._running or self._suspects):
                self._changed.wait()
            if self._closing:
                return False
            self._held += self._arrived
            self._arrived = []
        for job in dict.fromkeys(self._running.values()):
            if job.future.cancelled():
                self._forget(job, session)
        if self._suspects and not self._running:
            self._trial = self._suspects.pop()
            self._begin(self._trial, session)
        alone = self._suspects or self._trial in self._running.values()
        for job in () if alone else tuple(self._held):
            if not any(request.id in self._running for request in job.requests):
                self._begin(job, session)
                self._held.remove(job)
        if self._running:
            if not session.busy:
                raise RuntimeError("the engine has lost a request")
            for event in session.step():
                self._deliver(event, session)
        return True

    def _begin(self, job: _Job, session: Session) -> None:
        if job.future.cancelled():
            return
        self._running |= {request.id: job for request in job.requests}
        job.completions.clear()
        job.written.clear()
        try:
            for request in job.requests:
                session.submit(request, job.sampling)
        except Exception as error:  # e.g. messages that the chat template refuses: this caller's fault alone
            self._forget(job, session)
            _end(job.future, Refused(str(error) or type(error).__name__))

    def _deliver(self, event: Piece | Completion, session: Session) -> None:
        job = self._running.get(event.request_id)
        if job is None:
            return
        try:
            if isinstance(event, Piece):
                job.show(event)
                return
            job.completions.append(event)
            if event.finish == "error":
                raise Refused(event.error)
            if len(job.completions) < job.expected:
                return
            result = job.read(job.in_order())
        except Exception as error:  # this caller's own: the others go on
            self._forget(job, session)
            _end(job.future, error)
            return
        self._forget(job, session)
        self._failures = 0
        self._seconds += 0.2 * (time.monotonic() - job.begin - self._seconds)
        if self._observer:
            self._observer(job.completions)
        _end(job.future, None, result)

    def _forget(self, job: _Job, session: Session) -> None:
        for request in job.requests:
            self._running.pop(request.id, None)
            session.cancel(request.id)


def _end(future: Future[Any], error: BaseException | None, result: Any = None) -> None:
    """Give a future its end, unless it was cancelled."""
    with contextlib.suppress(RuntimeError):  # ended already
        if future.set_running_or_notify_cancel():
            future.set_exception(error) if error else future.set_result(result)
