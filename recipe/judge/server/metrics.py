"""What the server counts, as Prometheus reads it at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recipe.data.records import Judgement
from recipe.inference.base import Completion

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter("sre_requests", "HTTP requests", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "sre_request_seconds", "Time to the last byte", ["route"], buckets=_SECONDS, registry=own
        )
        self._tokens = Counter("sre_tokens", "Tokens of finished requests", ["kind"], registry=own)
        self._judgements = Counter("sre_judgements", "Judgements written", registry=own)
        self._malformed = Counter("sre_malformed", "Judgements without a label", registry=own)
        self._queue = Gauge("sre_queue_depth", "Requests that wait or run", registry=own)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        self._queue.set_function(depth)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def completed(self, completions: Sequence[Completion]) -> None:
        """A prompt counts once, however many samples it has."""
        prompts = {completion.request_id: completion.prompt_tokens for completion in completions}
        self._tokens.labels("prompt").inc(sum(prompts.values()))
        self._tokens.labels("new").inc(sum(len(completion.token_ids) for completion in completions))

    def judged(self, judgements: Sequence[Judgement]) -> None:
        self._judgements.inc(len(judgements))
        self._malformed.inc(sum(judgement.label is None for judgement in judgements))

    def text(self) -> bytes:
        text: bytes = generate_latest(self._registry)
        return text
