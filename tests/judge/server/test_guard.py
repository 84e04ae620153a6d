"""What a server refuses, cuts short, counts and survives; how it begins and ends."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.errors import SreError
from recipe.inference.base import Request
from recipe.judge.server.app import read_key, serve
from recipe.judge.server.guard import Settings

WAIT = 10
SCORE: dict[str, Any] = {"conversation": "Say mark-0 now", "rubric": "Is it said?", "response": "Fine."}


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


# Limits.


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(running: Callable[..., Any], echo: Any) -> None:
    with running(echo, Settings(max_body=2000)) as (address, _):
        large = json.dumps({**SCORE, "response": "x" * 3000}).encode()
        chunks = iter([large[:1500], large[1500:]])
        for content in (large, chunks):
            response = httpx.post(f"{address}/v1/judge/score", content=content)
            assert (response.status_code, error_of(response)["code"]) == (413, "too_large")
        assert httpx.post(f"{address}/v1/judge/score", json=SCORE).status_code == 200


def test_a_body_that_does_not_come_and_an_answer_that_takes_too_long_time_out(
    running: Callable[..., Any], echo: Any, events: Any, until: Any
) -> None:
    with running(echo, Settings(timeout=0.3), pace=0.01) as (address, app):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT) as slow:
            slow.sendall(b"POST /v1/judge/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
            assert b" 408 " in slow.recv(4096)
        body = {**SCORE, "conversation": "forever", "max_tokens": 5000}
        response = httpx.post(f"{address}/v1/judge/score", json=body)
        assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
        last = events(httpx.post(f"{address}/v1/judge/score", json={**body, "stream": True}).text)[-1]
        assert (last[0], last[1]["error"]["code"]) == ("error", "timeout")
        until(lambda: app.state.service.unfinished == 0)


def test_a_full_queue_says_when_to_come_back_and_a_client_that_goes_away_frees_its_place(
    running: Callable[..., Any], echo: Any, until: Any
) -> None:
    body = {**SCORE, "conversation": "forever", "max_tokens": 9000}
    with running(echo, pace=0.005, queue=1) as (address, app):
        service = app.state.service
        for stream in (True, False):
            text = json.dumps({**body, "stream": stream}).encode()
            head = "POST /v1/judge/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(text)}"
            host, port = address.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=WAIT) as client:
                client.sendall(head.encode() + b"\r\n\r\n" + text)
                until(lambda: service.unfinished == 1)
                refused = httpx.post(f"{address}/v1/judge/score", json={**SCORE, "stream": stream})
                assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
                assert int(refused.headers["retry-after"]) >= 1
                assert "sre_queue_depth 1.0" in httpx.get(f"{address}/metrics").text
            until(lambda: service.unfinished == 0)
            assert httpx.post(f"{address}/v1/judge/score", json=SCORE).status_code == 200
        assert 'status="499"' in httpx.get(f"{address}/metrics").text


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_never_logged(
    running: Callable[..., Any], caplog: pytest.LogCaptureFixture, echo: Any
) -> None:
    with caplog.at_level(logging.DEBUG), running(echo, Settings(api_key="ouvre-sésame")) as (address, _):
        for path in ("/v1/models", "/v1/judge/rubrics", "/metrics", "/nowhere"):
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "ouvre-sésame".encode()}):
                refused = httpx.get(f"{address}{path}", headers=given)
                assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
                assert refused.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer ouvre-sésame".encode()}
        assert httpx.get(f"{address}/v1/models", headers=right).status_code == 200
        for path in ("/", "/health", "/openapi.json"):
            assert httpx.get(f"{address}{path}").status_code == 200
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert not any("ouvre" in text for text in ours)


def test_a_server_for_this_machine_answers_to_no_other_name(running: Callable[..., Any], echo: Any) -> None:
    with running(echo, Settings(hosts=frozenset(("127.0.0.1", "[::1]")))) as (address, _):
        for name, status in (("127.0.0.1:80", 200), ("[::1]:80", 200), ("[::1]", 200), ("evil.example:80", 400)):
            assert httpx.get(f"{address}/health", headers={"Host": name}).status_code == status


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "{address}"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "{address}.evil.example"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "{address}"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://the-proxy-in-front"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "{address}"}, False),
    ],
)
def test_a_page_of_another_site_can_not_ask(
    running: Callable[..., Any], echo: Any, headers: dict[str, str], allowed: bool
) -> None:
    with running(echo) as (address, app):
        sent = {name: value.format(address=address) for name, value in headers.items()}
        posted = [path for path, methods in app.openapi()["paths"].items() if "post" in methods]
        assert len(posted) == 4
        for path in posted:
            # As a form of another page sends it: without a type that would need the server's consent.
            response = httpx.post(f"{address}{path}", content=json.dumps(SCORE).encode(), headers=sent)
            refused = response.status_code == 403
            assert refused != allowed
            assert not refused or error_of(response)["code"] == "cross_site"
        assert httpx.get(f"{address}/health", headers=sent).status_code == 200


def test_the_description_of_the_api_loads_nothing(running: Callable[..., Any], echo: Any) -> None:
    with running(echo) as (address, _):
        page = httpx.get(f"{address}/docs")
    assert page.headers["content-type"].startswith("text/plain")
    assert "/v1/judge/score" in json.loads(page.text)["paths"]


def test_a_request_that_fails_in_the_engine_takes_no_other_down(running: Callable[..., Any]) -> None:
    def script(request: Request) -> list[str]:
        if "mark-bad" in request.messages[-1].content:
            raise RuntimeError("no memory at /home/me")
        return ["Fine. [RESULT] 4"]

    with running(script) as (address, _):
        for _ in range(2):
            bad = httpx.post(f"{address}/v1/judge/score", json={**SCORE, "conversation": "mark-bad"})
            assert (bad.status_code, error_of(bad)["code"]) == (500, "internal")
            assert "/home" not in bad.text
            assert httpx.get(f"{address}/health").json() == {"status": "ok", "model": "scripted"}
            assert httpx.post(f"{address}/v1/judge/score", json=SCORE).json()["label"] == 4


def test_health_is_503_while_the_engine_fails_at_everything(running: Callable[..., Any]) -> None:
    def script(request: Request) -> list[str]:
        raise RuntimeError("no memory")

    with running(script) as (address, _):
        assert httpx.get(f"{address}/health").status_code == 200
        for _ in range(3):
            assert httpx.post(f"{address}/v1/judge/score", json=SCORE).status_code == 500
        found = httpx.get(f"{address}/health")
        assert (found.status_code, found.json()["status"]) == (503, "failing")


def test_metrics_count_routes_judgements_and_seconds(running: Callable[..., Any], echo: Any) -> None:
    with running(echo) as (address, _):
        httpx.post(f"{address}/v1/judge/score", json=SCORE)
        httpx.post(f"{address}/v1/judge/score", json={})
        httpx.get(f"{address}/a/path/of/someone")
        text = httpx.get(f"{address}/metrics").text
    assert 'sre_requests_total{route="/v1/judge/score",status="200"} 1.0' in text
    assert 'sre_requests_total{route="/v1/judge/score",status="422"} 1.0' in text
    assert 'sre_requests_total{route="other",status="404"} 1.0' in text
    assert 'sre_request_seconds_count{route="/v1/judge/score"} 2.0' in text
    assert "sre_judgements_total 1.0" in text
    assert "someone" not in text


# Starting and ending.


def test_an_address_in_use_is_an_error_that_says_so(running: Callable[..., Any], echo: Any) -> None:
    with running(echo) as (address, app), pytest.raises(SreError, match=r"can't listen on 127\.0\.0\.1"):
        serve(app.state.service.owner, port=int(address.rpartition(":")[2]))


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "recipe.judge.server.app", None)
    result = CliRunner().invoke(main, ["serve", "--model", str(tmp_path / "judge.gguf")])
    assert result.exit_code == 2
    assert "pip install -c constraints.txt -e '.[serve]' in the checkout" in result.stderr


def test_a_missing_model_is_named_before_anything_listens(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", "--model", str(tmp_path / "judge.gguf")])
    assert result.exit_code == 2
    assert "judge.gguf: no such model file" in result.stderr


def test_the_key_comes_from_a_file_or_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.setenv("SRE_API_KEY", "from-variable")
    assert (read_key(file), read_key(None)) == ("from-file", "from-variable")
    file.write_text("from-file\n", encoding="utf-8-sig")
    assert read_key(file) == "from-file"
    monkeypatch.delenv("SRE_API_KEY")
    assert read_key(None) is None


@pytest.mark.parametrize("text", ["", " \n", "two\nlines"])
def test_a_key_file_must_hold_a_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(SreError, match="expected a key in one line") as caught:
        read_key(file)
    assert caught.value.file == file
