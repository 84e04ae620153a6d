"""Many callers, one model: a thread owns the engine's session and batches requests together as they come.

Knows nothing of HTTP (server/) and nothing of asyncio (async_judge.py); both wait for the futures it gives.
"""

import contextlib
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from recipe.data.records import Example
from recipe.errors import SreError
from recipe.inference.base import Closing, Completion, Piece, Request, Sampling, Session
from recipe.judge.aggregate import Answer, combined
from recipe.judge.judge import DEFAULT, Judge, orders_of
from recipe.judge.options import JudgeOptions, check_whole
from recipe.storage import hash_object

_log = logging.getLogger("recipe.judge")
QUEUE = 64  # requests that may be unfinished at once
FAILURES = 3  # an engine that failed so often, with no answer in between, is broken
OnPiece = Callable[[Piece], None]


class QueueFull(SreError):
    """No place is free. `retry_after`: seconds after which a caller should try again."""

    retry_after = 2

    def __init__(self, queue: int) -> None:
        super().__init__(f"all {queue} places of the queue are taken; try again in {self.retry_after} s")


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
    alone: bool = False  # it ran when the engine failed: it runs again with nothing beside it
    # Characters written and characters passed on, by (request id, sample): they differ while a job runs again.
    written: Counter[tuple[str, int]] = field(default_factory=Counter)
    shown: Counter[tuple[str, int]] = field(default_factory=Counter)

    def show(self, piece: Piece) -> None:
        """Pass on what the caller has not seen yet."""
        key = piece.request_id, piece.sample
        self.written[key] += len(piece.text)
        fresh = self.written[key] - self.shown[key]
        if self.on_piece and fresh > 0:
            self.shown[key] += fresh
            self.on_piece(replace(piece, text=piece.text[-fresh:]))

    def end(self, error: BaseException | None, result: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # ended already
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(error) if error else self.future.set_result(result)


class Service(Closing):
    """Runs the requests of all its callers on one judge, whose generator nobody else may use meanwhile.

    Use as a context manager, or call `close`; the judge stays open. `queue`: requests that may be unfinished at once;
    one more raises QueueFull. Cancelling a future frees its places at once, and its sequences before the next decode.
    When the engine fails while it works on several jobs, each runs again alone: the one that fails then raises the
    error, the others get their answers. When the engine can't be opened again, every future raises its error, which
    `error` keeps.
    """

    def __init__(self, judge: Judge, *, queue: int = QUEUE) -> None:
        check_whole(queue, "queue", 1)
        open_session = getattr(judge.generator, "session", None)
        if open_session is None:
            raise SreError(f"the engine of {judge.name!r} takes no requests as they come; open a GGUF file")
        open_session().close()  # where there is no memory for its cache, that is said here, not in the thread
        self.owner = judge
        self.queue = queue
        self.error: BaseException | None = None
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        # Under the condition: what callers hand over.
        self._taken = 0
        self._arrived: list[_Job] = []
        self._closing = False
        # The thread's own: jobs held back, and those under way by the ids of their requests.
        self._held: list[_Job] = []
        self._running: dict[str, _Job] = {}
        self._failures = 0  # of jobs that ran alone, since the last answer
        # A daemon, so that a program that forgets to close the service can end.
        self._thread = threading.Thread(target=self._run, args=[open_session], name="judge-service", daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
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
        """Queue requests that belong together; one whose id is under way already waits until that one is done.

        on_piece: called with each piece of text as it is written, from the service's thread: it must not block. read:
        makes the future's result of the completions, in the order of the requests and of their samples. QueueFull and
        Stopped are raised here. The future raises Refused, Stopped, or the engine's own error.
        """
        job = _Job(tuple(requests), sampling, on_piece, read)
        with self._changed:
            if self.error is not None:
                raise Stopped(f"the engine has failed and the service must be started again: {self.error}")
            if self._closing:
                raise Stopped("the service is closed")
            if self._taken + len(requests) > self.queue:
                raise QueueFull(self.queue)
            self._taken += len(requests)
            self._arrived.append(job)
            # Called once, by whoever ends the future: this thread, the service's, or one that cancels it.
            job.future.add_done_callback(lambda _: self._free(len(job.requests)))
            self._changed.notify()
        return job.future

    def ask(
        self, example: Example, options: JudgeOptions = DEFAULT, *, on_piece: OnPiece | None = None
    ) -> Future[Answer]:
        """Queue one example. The future gives what `Judge.answers` does.

        The samples that are drawn depend on the seed and the example's content, not on its id. Errors as for `submit`.
        """
        name = hash_object(replace(example, id="").to_json())[:16]
        if not options.temperature:  # nothing is drawn: equal requests need not wait for each other
            name = f"{name}-{next(self._numbers)}"
        asked = {order.id: order for order in orders_of(replace(example, id=name), options)}

        def read(completions: list[Completion]) -> Answer:
            found = [self.owner.judgement(asked[one.request_id], one, options) for one in completions]
            return combined(found, options.tie)

        requests = [self.owner.request(order, options) for order in asked.values()]
        return self.submit(requests, options.sampling, on_piece=on_piece, read=read)

    def close(self) -> None:
        """End the thread; unfinished futures raise Stopped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

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
                    self._find_guilty(error)
                finally:
                    session.close()
        except BaseException as error:
            self.error = error
        with self._changed:
            self._closing = True
            left = [*self._jobs(), *self._held, *self._arrived]
        for job in left:
            job.end(self.error or Stopped("the service was closed before this was answered"))

    def _find_guilty(self, error: Exception) -> None:
        """Give the engine's error to the job that ran alone. Of several, each runs again alone, the newest first."""
        jobs = self._jobs()
        self._running.clear()
        if len(jobs) > 1:
            for job in jobs:
                job.alone = True
                job.completions.clear()
                job.written.clear()
            self._held = jobs[::-1] + self._held
            return
        self._failures += 1
        for job in jobs:
            job.end(Refused(str(error)) if isinstance(error, SreError) else error)
        for job in self._held:  # found, so that the others need not wait for each other
            job.alone = False

    def _jobs(self) -> list[_Job]:
        """Those under way: each once, however many requests it has."""
        return list(dict.fromkeys(self._running.values()))

    def _turn(self, session: Session) -> bool:
        """Take in what has come, let go what was cancelled, decode once. False when it is time to end."""
        with self._changed:
            while not (self._closing or self._arrived or self._held or self._running):
                self._changed.wait()
            if self._closing:
                return False
            self._held += self._arrived
            self._arrived = []
        for job in self._jobs():
            if job.future.cancelled():
                self._forget(job, session)
        for job in tuple(self._held):
            if self._running and (job.alone or any(other.alone for other in self._jobs())):
                break
            if not any(request.id in self._running for request in job.requests):
                self._held.remove(job)
                self._begin(job, session)
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
        try:
            for request in job.requests:
                session.submit(request, job.sampling)
        except Exception as error:  # e.g. messages that the chat template refuses: this caller's fault alone
            self._forget(job, session)
            job.end(Refused(str(error) or type(error).__name__))

    def _deliver(self, event: Piece | Completion, session: Session) -> None:
        job = self._running.get(event.request_id)
        if job is None:
            return
        try:
            if isinstance(event, Piece):
                job.show(event)
                return
            if event.finish == "error":
                raise Refused(event.error)
            job.completions.append(event)
            if len(job.completions) < len(job.requests) * job.sampling.n:
                return
            place = [request.id for request in job.requests].index
            result = job.read(sorted(job.completions, key=lambda done: (place(done.request_id), done.sample)))
        except Exception as error:  # this caller's own: the others go on
            self._forget(job, session)
            job.end(error)
            return
        self._forget(job, session)
        self._failures = 0
        job.end(None, result)

    def _forget(self, job: _Job, session: Session) -> None:
        for request in job.requests:
            self._running.pop(request.id, None)
            session.cancel(request.id)
