"""The judge's routes over a scripted engine: answers, streams, errors; and many clients at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from recipe.data.rubrics import ready_rubrics
from recipe.inference.base import Request

WAIT = 10
QUESTION = {"conversation": "Say mark-0 now", "rubric": "Is it said?"}
SCORE: dict[str, Any] = {**QUESTION, "response": "Fine."}
COMPARE: dict[str, Any] = {**QUESTION, "response_a": "Yes.", "response_b": "No."}


@pytest.fixture(scope="module")
def shared(running: Callable[..., Any], echo: Any) -> Iterator[httpx.Client]:
    """One server for the tests that leave nothing behind."""
    with running(echo) as (address, _), httpx.Client(base_url=address, timeout=WAIT) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_a_request_that_the_engine_fails_at_leaves_the_others_alone(running: Callable[..., Any], echo: Any) -> None:
    def script(request: Request) -> list[str]:
        if "mark-bad" in request.messages[-1].content:
            raise ZeroDivisionError("it divides by nothing")
        return ["w " * 24 + text for text in echo(request)]

    async def ask(address: str) -> list[httpx.Response]:
        marks = [f"mark-{'bad' if k % 4 == 3 else k}" for k in range(12)]
        async with httpx.AsyncClient(base_url=address, timeout=WAIT) as client:
            bodies = [{**SCORE, "conversation": f"Say {mark} now"} for mark in marks]
            return await asyncio.gather(*(client.post("/v1/judge/score", json=body) for body in bodies))

    with running(script, pace=0.002) as (address, _):
        for k, reply in enumerate(asyncio.run(ask(address))):
            assert reply.status_code == (500 if k % 4 == 3 else 200)
            assert k % 4 == 3 or f"I saw mark-{k}." in reply.json()["rationale"]
        assert httpx.get(f"{address}/health").status_code == 200


# The judge.


def test_score_answers_with_label_rationale_and_distribution(shared: httpx.Client) -> None:
    reply = shared.post("/v1/judge/score", json={**SCORE, "reference": "Said."}).raise_for_status().json()
    assert (reply["label"], reply["rationale"], reply["task"], reply["malformed"]) == (
        1,
        "I saw mark-0.",
        "pointwise",
        0,
    )
    assert reply["label_probabilities"] == pytest.approx({"1": 0.8, "2": 0.05, "3": 0.05, "4": 0.05, "5": 0.05})
    assert reply["expected_score"] == pytest.approx(1.5)
    (one,) = reply["judgements"]
    assert (one["text"], one["finish"], one["tokens"]) == ("I saw mark-0. [RESULT] 1", "stop", 5)


def test_compare_in_both_orders_says_whether_they_agree(shared: httpx.Client) -> None:
    alone = shared.post("/v1/judge/compare", json=COMPARE).json()
    assert (alone["label"], alone["consistent"], len(alone["judgements"])) == (1, None, 1)
    both = shared.post("/v1/judge/compare", json={**COMPARE, "swap": True, "tie": "tie"}).json()
    assert (both["label"], both["consistent"]) == (None, False)
    assert both["preference"] == pytest.approx(0.5)
    assert [part["label"] for part in both["judgements"]] == [1, 1]


def test_samples_are_combined_and_all_of_them_listed(shared: httpx.Client) -> None:
    reply = shared.post("/v1/judge/score", json={**SCORE, "samples": 6}).json()
    assert (reply["label"], reply["votes"]) == (1, {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1})
    assert len(reply["judgements"]) == 6
    assert reply["mean"] == pytest.approx(16 / 6)


def test_label_only_writes_no_rationale_and_unconstrained_text_may_be_malformed(running: Callable[..., Any]) -> None:
    with running(lambda request: ["Four, I would say."]) as (address, _):
        reply = httpx.post(f"{address}/v1/judge/score", json={**SCORE, "label_only": True}).json()
        assert (reply["label"], reply["rationale"], reply["judgements"][0]["finish"]) == (1, "", "forced")
        reply = httpx.post(f"{address}/v1/judge/score", json={**SCORE, "constrain": False}).json()
        assert (reply["label"], reply["malformed"], reply["expected_score"]) == (None, 1, None)
        assert reply["judgements"][0]["text"] == "Four, I would say."
        assert "sre_malformed_total 1.0" in httpx.get(f"{address}/metrics").text


def test_a_rubric_is_text_an_object_or_a_ready_ones_name(running: Callable[..., Any]) -> None:
    seen: list[Request] = []

    def script(request: Request) -> list[str]:
        seen.append(request)
        return ["Fine. [RESULT] 1"]

    name, ready = next((k, v) for k, v in ready_rubrics().items() if v.task in (None, "pointwise"))
    whole = {"criteria": "Is it short?", "descriptions": {"0": "No.", "1": "Yes."}}
    with running(script) as (address, _):
        for rubric in ("Is it said?", name, whole, "Is it short?\n- Score 0: No.\n- Score 1: Yes."):
            httpx.post(f"{address}/v1/judge/score", json={**SCORE, "rubric": rubric}).raise_for_status()
    texts = [request.messages[-1].content for request in seen]
    assert "Is it said?" in texts[0]
    assert ready.rubric.criteria in texts[1]
    assert "Is it short?" in texts[2]
    assert seen[2].labels == seen[3].labels == (0, 1)
    assert seen[2].messages == seen[3].messages


def test_a_rubrics_name_never_opens_a_file(shared: httpx.Client, tmp_path: Any) -> None:
    file = tmp_path / "secret.toml"
    file.write_text('criteria = "mark-secret"')
    reply = shared.post("/v1/judge/score", json={**SCORE, "rubric": str(file)})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "rubric")
    assert "secret" not in reply.text


def test_the_ready_rubrics_are_listed(shared: httpx.Client) -> None:
    listed = shared.get("/v1/judge/rubrics").json()
    assert [each["name"] for each in listed] == list(ready_rubrics())
    assert set(listed[0]["descriptions"]) == set("12345")


def test_a_stream_brings_the_pieces_and_then_the_whole_answer(shared: httpx.Client, events: Any) -> None:
    whole = shared.post("/v1/judge/compare", json={**COMPARE, "swap": True}).json()
    response = shared.post("/v1/judge/compare", json={**COMPARE, "swap": True, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(response.text)
    assert last == ("result", whole)
    for order in (0, 1):
        written = "".join(piece["text"] for name, piece in pieces if name == "piece" and piece["order"] == order)
        assert written == whole["judgements"][order]["text"]


def test_a_seed_repeats_draws_and_a_conversation_may_have_turns(shared: httpx.Client) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say mark-turn now"}]
    body = {**SCORE, "conversation": turns, "temperature": 1.0, "seed": 5}
    replies = [shared.post("/v1/judge/score", json=body).json() for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0]["rationale"] == "I saw mark-turn."


# What is wrong is named.


@pytest.mark.parametrize(
    ("route", "change", "status", "field"),
    [
        ("score", {"response": None}, 422, "response"),
        ("score", {"response": "a\0b"}, 422, "response"),
        ("score", {"response": "\ud800"}, 422, "response"),
        ("score", {"conversation": []}, 400, "conversation"),
        ("score", {"conversation": [{"role": "user"}]}, 422, "conversation.0.content"),
        ("score", {"conversation": [{"role": "robot", "content": "x"}]}, 422, "conversation.0.role"),
        ("score", {"rubric": ""}, 400, "rubric"),
        ("score", {"rubric": "helpfulnes"}, 400, "rubric"),
        ("score", {"rubric": "Is it said? Rate it from 1 to 10."}, 400, "rubric"),
        ("score", {"rubric": {"criteria": "c", "descriptions": {"1": "only one"}}}, 400, "rubric"),
        ("score", {"rubric": {"descriptions": {}}}, 422, "rubric.criteria"),
        ("score", {"max_tokens": 0}, 422, "max_tokens"),
        ("score", {"samples": 33}, 422, "samples"),
        ("score", {"samples": 2, "label_only": True}, 400, "samples"),
        ("score", {"temperature": float("nan")}, 422, "temperature"),
        ("score", {"swap": True}, 422, "swap"),
        ("score", {"sample": 2}, 422, "sample"),
        ("compare", {"tie": "both"}, 422, "tie"),
        ("compare", {"response_b": 3}, 422, "response_b"),
    ],
)
def test_a_bad_field_is_named(
    shared: httpx.Client, route: str, change: dict[str, Any], status: int, field: str
) -> None:
    body = {**(SCORE if route == "score" else COMPARE), **change}
    response = shared.post(f"/v1/judge/{route}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (response.status_code, error_of(response)["param"]) == (status, field)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 5000])
def test_a_body_that_is_no_json_object_is_an_error(shared: httpx.Client, content: bytes) -> None:
    response = shared.post("/v1/judge/score", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert error_of(response)["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_are_errors_of_the_same_shape(shared: httpx.Client) -> None:
    assert (shared.get("/nowhere").status_code, shared.get("/v1/judge/score").status_code) == (404, 405)
    error_of(shared.get("/nowhere"))


def test_a_prompt_longer_than_the_context_is_the_clients_error(
    running: Callable[..., Any], echo: Any, events: Any
) -> None:
    with running(echo, context=700) as (address, _):
        for stream in (False, True):
            response = httpx.post(f"{address}/v1/judge/score", json={**SCORE, "response": "w " * 900, "stream": stream})
            error = events(response.text)[-1][1]["error"] if stream else error_of(response)
            assert (response.status_code, error["code"]) == (200 if stream else 400, "not_judged")
            assert "context of 700" in error["message"]
        assert httpx.post(f"{address}/v1/judge/score", json={**SCORE, "max_tokens": 9}).status_code == 200


def test_the_api_is_described_and_the_page_is_locked_down(shared: httpx.Client) -> None:
    paths = shared.get("/openapi.json").json()["paths"]
    assert {"/v1/judge/score", "/v1/judge/compare", "/v1/chat/completions", "/v1/models", "/health"} <= set(paths)
    page = shared.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.text.startswith("<!doctype html>")


# Many at once.


def test_64_clients_at_once_each_get_their_own_answers(running: Callable[..., Any], echo: Any, events: Any) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(2):
            mark = f"mark-{number}-{turn}"
            body = {**QUESTION, "conversation": f"Say {mark} now"}
            score = await client.post("/v1/judge/score", json={**body, "response": "x"})
            assert score.json()["rationale"] == f"I saw {mark}."
            pair = {**body, "response_a": "x", "response_b": "y", "stream": True, "swap": True}
            *pieces, (_, result) = events((await client.post("/v1/judge/compare", json=pair)).text)
            assert [part["rationale"] for part in result["judgements"]] == [f"I saw {mark}."] * 2
            assert "".join(piece["text"] for _, piece in pieces if piece["order"]).startswith(f"I saw {mark}.")
            turns = [{"role": "user", "content": mark}]
            chat = await client.post("/v1/chat/completions", json={"model": "scripted", "messages": turns})
            assert chat.json()["choices"][0]["message"]["content"].startswith(f"I saw {mark}.")

    async def everyone(address: str) -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
            await asyncio.gather(*(one(client, number) for number in range(64)))

    with running(echo, queue=256) as (address, app):
        asyncio.run(everyone(address))
        assert app.state.service.unfinished == 0
