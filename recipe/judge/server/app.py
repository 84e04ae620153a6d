"""`sre serve`: one judge behind HTTP. Routes, limits and the page, put together; runs it with uvicorn."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from recipe import __version__
from recipe.data.records import SWAPPED
from recipe.errors import SreError
from recipe.judge.judge import Judge, to_example
from recipe.judge.rubrics import ready_rubrics
from recipe.judge.server.bodies import CompareBody, Judging, ScoreBody, judgements_of, to_reply
from recipe.judge.server.chat import ChatRoutes
from recipe.judge.server.connections import Server
from recipe.judge.server.errors import Problem, invalid, problem, unrouted
from recipe.judge.server.guard import Guard, Settings
from recipe.judge.server.metrics import Metrics
from recipe.judge.server.waiting import Stream, event, events, whole
from recipe.judge.service import QUEUE, Answer, OnPiece, Service

PAGE = Path(__file__).with_name("page.html")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_log = logging.getLogger("recipe.judge")


class JudgeRoutes:
    """`/v1/judge/...`: the judge itself."""

    def __init__(self, service: Service, metrics: Metrics, timeout: float) -> None:
        self._service, self._metrics, self._timeout = service, metrics, timeout
        self._library = ready_rubrics()

    async def score(self, body: ScoreBody, http: HttpRequest) -> Any:
        """Score one response by a rubric."""
        return await self._answer(body, (body.response,), http)

    async def compare(self, body: CompareBody, http: HttpRequest) -> Any:
        """Say which of two responses is better: label 1 for response_a, 2 for response_b."""
        return await self._answer(body, (body.response_a, body.response_b), http)

    async def rubrics(self) -> list[dict[str, Any]]:
        """The ready rubrics, by name."""
        return [{"name": name, "task": one.task, **asdict(one.rubric)} for name, one in self._library.items()]

    async def _answer(self, body: Judging, responses: tuple[str, ...], http: HttpRequest) -> Any:
        rubric = body.resolve_rubric("pointwise" if len(responses) == 1 else "pairwise")
        example = to_example(body.turns(), responses, rubric, body.reference)

        def submit(on_piece: OnPiece | None = None) -> Future[Answer]:
            return self._service.ask(example, body.options, on_piece=on_piece)

        if body.stream:
            return events(self._stream(Stream(http.scope, submit, self._timeout)))
        return self._reply(await whole(http.scope, submit(), self._timeout))

    async def _stream(self, stream: Stream) -> AsyncIterator[str]:
        async for piece in stream.pieces():
            yield event(
                {"order": int(piece.request_id.endswith(SWAPPED)), "sample": piece.sample, "text": piece.text}, "piece"
            )
        yield event(self._reply(stream.result()), "result")

    def _reply(self, answer: Answer) -> dict[str, Any]:
        self._metrics.judged(judgements_of(answer))
        return to_reply(answer, self._service.owner.name)


def create_app(judge: Judge, settings: Settings | None = None, *, queue: int = QUEUE) -> FastAPI:
    """The server of one judge as an ASGI application. `app.state.service` is running: close it (as the application's
    own end does), then the judge."""
    settings = settings or Settings()
    metrics = Metrics()
    service = Service(judge, queue=queue, observer=metrics.completed)
    metrics.watch_queue(lambda: service.unfinished)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Self-rationalizing judge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    _add_routes(app, service, metrics, settings)
    _add_errors(app)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(Guard, settings=settings, metrics=metrics, paths=paths)
    return app


def _add_routes(app: FastAPI, service: Service, metrics: Metrics, settings: Settings) -> None:
    judging, chat = JudgeRoutes(service, metrics, settings.timeout), ChatRoutes(service, settings.timeout)
    text, policy = _page()

    async def health() -> JSONResponse:
        """200 while the engine works, 503 while it fails at everything or has ended."""
        state = "ok" if service.healthy else "failed" if service.error else "failing"
        return JSONResponse({"status": state, "model": service.owner.name}, 200 if service.healthy else 503)

    async def prometheus() -> Response:
        """Counts, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, **headers})

    async def docs() -> Response:
        """The description of the API as text; FastAPI's own page of it loads its scripts from elsewhere."""
        return Response(json.dumps(app.openapi(), indent=2), media_type="text/plain; charset=utf-8")

    app.add_api_route("/v1/judge/score", judging.score, methods=["POST"])
    app.add_api_route("/v1/judge/compare", judging.compare, methods=["POST"])
    app.add_api_route("/v1/judge/rubrics", judging.rubrics)
    app.add_api_route("/v1/chat/completions", chat.chat, methods=["POST"])
    app.add_api_route("/v1/completions", chat.complete, methods=["POST"])
    app.add_api_route("/v1/models", chat.models)
    app.add_api_route("/v1/models/{name:path}", chat.model)
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", prometheus)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    def answer(found: Callable[[Any], Problem]) -> Any:
        async def handler(request: HttpRequest, error: Exception) -> JSONResponse:
            return found(error).response()

        return handler

    app.add_exception_handler(RequestValidationError, answer(lambda error: invalid(error.errors())))
    app.add_exception_handler(HTTPException, answer(unrouted))
    for kind in (SreError, TimeoutError, Exception):
        app.add_exception_handler(kind, answer(problem))


def _page() -> tuple[str, str]:
    """The page, and a policy by which a browser runs and draws nothing but what stands in it."""
    text = PAGE.read_text(encoding="utf-8")
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
            for inner in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    policy = f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'"
    return text, f"{policy}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def serve(
    judge: Judge,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    queue: int = QUEUE,
    timeout: float = 120.0,
    max_body: int = 1_000_000,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until interrupted (Ctrl-C, SIGTERM). `started` is told the address. The judge stays open.

    port 0 takes a free one. Raises SreError when the address can't be listened on.
    """
    # A page elsewhere may give its own name to 127.0.0.1 and so reach a server that has no key: names are checked.
    local = host in LOOPBACK
    hosts = frozenset(("127.0.0.1", "localhost", "[::1]")) if local and api_key is None else None
    listening = _listen(host, port)
    with listening:
        app = create_app(judge, Settings(api_key, timeout, max_body, hosts), queue=queue)
        if not local and api_key is None:
            _log.warning("%s can be reached from other machines, and this server asks for no key", host)
        started(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        try:
            # uvicorn ends its work on Ctrl-C, and then raises it again.
            with contextlib.suppress(KeyboardInterrupt):
                Server(app, app.state.service.close).run(sockets=[listening])
        finally:
            app.state.service.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise SreError(f"can't listen on {host}, port {port}: {error}; try another --port or --host") from None
