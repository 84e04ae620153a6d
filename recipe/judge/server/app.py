"""`sre serve`: one judge behind HTTP. Puts the routes, the limits and the page together, and runs them with uvicorn."""

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recipe import __version__
from recipe.data.records import SWAPPED, Example
from recipe.data.rubrics import ready_rubrics
from recipe.errors import SreError
from recipe.inference.base import Piece
from recipe.judge.aggregate import Answer, judgements_of
from recipe.judge.judge import Judge
from recipe.judge.server import chat
from recipe.judge.server.bodies import CompareBody, Judging, ScoreBody, to_reply
from recipe.judge.server.connections import Server
from recipe.judge.server.errors import problem
from recipe.judge.server.guard import Guard, Metrics, Settings
from recipe.judge.server.waiting import Streamed, event, whole
from recipe.judge.service import QUEUE, Service
from recipe.system import user_text

PAGE = Path(__file__).with_name("page.html")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "SRE_API_KEY"
_log = logging.getLogger("recipe.judge")
router = APIRouter()


def create_app(judge: Judge, settings: Settings) -> FastAPI:
    """The server of one judge as an ASGI application. `app.state.service` is running: close it, then the judge."""
    metrics = Metrics()
    service = Service(judge, queue=settings.queue)
    metrics.queue.set_function(lambda: service.unfinished)

    app = FastAPI(title="Self-rationalizing judge", version=__version__, docs_url=None, redoc_url=None)
    app.state.service, app.state.metrics, app.state.timeout = service, metrics, settings.timeout
    app.state.begin = int(time.time())
    app.include_router(router)
    app.include_router(chat.router)
    for kind in (RequestValidationError, HTTPException, SreError, TimeoutError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _explain)
    app.add_middleware(Guard, settings=settings)
    return app


async def _explain(http: HttpRequest, error: Exception) -> JSONResponse:
    return problem(error).response()


@router.post("/v1/judge/score")
async def score(body: ScoreBody, http: HttpRequest) -> Any:
    """Score one response by a rubric."""
    return await _answer(body, body.example(body.response), http)


@router.post("/v1/judge/compare")
async def compare(body: CompareBody, http: HttpRequest) -> Any:
    """Say which of two responses is better: label 1 for response_a, 2 for response_b."""
    return await _answer(body, body.example(body.response_a, body.response_b), http)


async def _answer(body: Judging, example: Example, http: HttpRequest) -> Any:
    service, metrics, timeout = http.app.state.service, http.app.state.metrics, http.app.state.timeout
    submit = partial(service.ask, example, body.options)

    def reply(answer: Answer) -> dict[str, Any]:
        judgements = judgements_of(answer)
        metrics.judgements.inc(len(judgements))
        metrics.malformed.inc(sum(judgement.label is None for judgement in judgements))
        return to_reply(answer, service.owner.name)

    def piece(written: Piece) -> str:
        order = int(written.request_id.endswith(SWAPPED))
        return event({"order": order, "sample": written.sample, "text": written.text}, "piece")

    if body.stream:
        return Streamed(submit, timeout, piece=piece, end=lambda answer: [event(reply(answer), "result")])
    return reply(await whole(http, submit()))


@router.get("/v1/judge/rubrics")
async def rubrics() -> list[dict[str, Any]]:
    """The ready rubrics, by name."""
    return [{"name": name, "task": one.task, **asdict(one.rubric)} for name, one in ready_rubrics().items()]


@router.get("/health")
async def health(http: HttpRequest) -> JSONResponse:
    """200 while the engine works, 503 while it fails at everything or has ended."""
    service = http.app.state.service
    state = "ok" if service.healthy else "failed" if service.error else "failing"
    return JSONResponse({"status": state, "model": service.owner.name}, 200 if service.healthy else 503)


@router.get("/metrics")
async def prometheus(http: HttpRequest) -> Response:
    """Counts, for Prometheus."""
    text = generate_latest(http.app.state.metrics.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def docs(http: HttpRequest) -> Response:
    """The description of the API as text; FastAPI's own page of it loads its scripts from elsewhere."""
    return Response(json.dumps(http.app.openapi(), indent=2), media_type="text/plain; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """A form to try the judge. By its policy a browser runs and draws nothing but what stands in it."""
    nonce = secrets.token_urlsafe(16)
    text = re.sub("<(script|style)>", rf'<\1 nonce="{nonce}">', PAGE.read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, **headers})


def serve(
    judge: Judge,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    queue: int = QUEUE,
    timeout: float = 120.0,
    max_body: int = 1_000_000,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until interrupted (Ctrl-C, SIGTERM). The judge stays open.

    Port 0 takes a free one. `api_key_file` holds the key that clients must send; without it the variable SRE_API_KEY
    does, or none is asked for. `queue`, `timeout` and `max_body` are those of Settings. `started` is told the address.
    """
    api_key = read_key(api_key_file)
    # A page elsewhere may give its own name to 127.0.0.1 and so reach a server that has no key: names are checked.
    local = host in LOOPBACK
    hosts = frozenset(("127.0.0.1", "localhost", "[::1]")) if local and api_key is None else None
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError, TypeError, ValueError) as error:  # of an odd port, of a name that can't be encoded
        raise SreError(f"can't listen on {host}, port {port}: {error}; try another --port or --host") from None
    with listening:
        app = create_app(judge, Settings(api_key, timeout, max_body, hosts, queue))
        if not local and api_key is None:
            _log.warning("%s can be reached from other machines, and this server asks for no key", host)
        started(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        try:
            # uvicorn ends its work on Ctrl-C, and then raises it again.
            with contextlib.suppress(KeyboardInterrupt):
                Server(app, app.state.service.close).run(sockets=[listening])
        finally:
            app.state.service.close()


def read_key(file: Path | None) -> str | None:
    """The key that clients must send; None for none. Raises SreError."""
    try:
        text = os.environ.get(KEY_VARIABLE) if file is None else user_text(file)
    except (OSError, ValueError) as error:
        raise SreError(f"the key can't be read: {error}", file=file) from None
    if text is None:
        return None
    if not text.strip() or not text.strip().isprintable():
        raise SreError("expected a key in one line, not an empty text", file=file or KEY_VARIABLE)
    return text.strip()
