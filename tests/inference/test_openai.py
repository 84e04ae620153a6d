"""OpenAIGenerator against real HTTP servers on this machine: our own, and one that misbehaves as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import serving as llama_server
from recipe.data.examples import read_examples
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.openai import OpenAIGenerator
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.options import JudgeOptions
from tests.scripted import ScriptedGenerator

pytest.importorskip("openai", reason="the extra openai brings it")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve brings it")

SCALE = (1, 2, 3, 4, 5)
JUDGING = Sampling(temperature=0, stop_at_label=True)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an ASGI application that runs in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def our_server(script: Any, settings: Any = None, *, context: int | None = None) -> Iterator[str]:
    from recipe.judge.server.app import create_app
    from recipe.judge.server.guard import Settings

    with serving(create_app(Judge(ScriptedGenerator(script, context=context)), settings or Settings())) as address:
        yield address


def token(text: str, logprob: float = -0.1, **others: float) -> dict[str, Any]:
    """A token as OpenAI's API tells it; `others`: alternatives, `_4` for " 4"."""
    told = [{"token": name.replace("_", " "), "logprob": value, "bytes": None} for name, value in others.items()]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": told}


def choice(*tokens: dict[str, Any], text: str | None = None, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(t["token"] for t in tokens) if text is None else text}
    return {"index": 0, "message": message, "finish_reason": finish, "logprobs": {"content": list(tokens)}}


GOOD = choice(token("Fine."), token(" [RESULT]"), token(" 4", -0.2, _4=-0.2, _5=-2.0))


class Fake:
    """Answers the n-th request with the n-th of `replies`, then with GOOD: choices, or (status, headers, body).

    A field named in `refuses` is refused wherever it is asked for.
    """

    def __init__(
        self, *replies: Any, models: tuple[str, ...] = ("fake",), pace: float = 0.0, refuses: str = ""
    ) -> None:
        self.replies, self.models, self.pace, self.refuses = list(replies), models, pace, refuses
        self.seen: list[dict[str, Any]] = []
        self.under_way = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/models"):
            return await self._send(send, 200, {}, {"data": [{"id": name} for name in self.models]})
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        self.seen.append(json.loads(body))
        reply = self.replies.pop(0) if self.replies else GOOD
        if self.refuses in self.seen[-1]:
            reply = refusal(422, "no", self.refuses)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.pace)
        self.under_way -= 1
        if isinstance(reply, tuple):
            return await self._send(send, *reply)
        choices = reply if isinstance(reply, list) else [reply]
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "fake"}
        await self._send(send, 200, {}, {**head, "choices": choices, "usage": usage})

    async def _send(self, send: Any, status: int, headers: dict[str, str], body: Any) -> None:
        lines = [
            (key.encode(), value.encode()) for key, value in {"content-type": "application/json", **headers}.items()
        ]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send(
            {
                "type": "http.response.body",
                "body": body.encode() if isinstance(body, str) else json.dumps(body).encode(),
            }
        )


def refusal(status: int, message: str, param: str | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    return status, headers, {"error": {"message": message, "type": "x", "param": param, "code": None}}


def requests(*names: str, **more: Any) -> list[Request]:
    return [Request(name, (Message("user", f"Judge {name}."),), **{"labels": SCALE} | more) for name in names]


def ask(address: str, *names: str, sampling: Sampling = JUDGING, parallel: int = 4, **more: Any) -> list[Completion]:
    with OpenAIGenerator(address, parallel=parallel) as generator:
        done = list(generator.generate(requests(*names, **more), sampling))
    return sorted(done, key=lambda completion: (completion.request_id, completion.sample))


def write_rows(path: Path, count: int, response: str = "a") -> Path:
    row = {"orig_instruction": "q", "orig_response": response, "orig_criteria": "c"}
    path.write_text("".join(json.dumps({**row, "id": f"r{k}"}) + "\n" for k in range(count)))
    return path


def lines(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


# --- our own server ---


def test_a_file_judged_by_our_own_server(tmp_path: Path) -> None:
    with our_server(lambda request: ["It is so. [RESULT] 4"]) as address, Judge(OpenAIGenerator(address)) as judge:
        summary = judge_file(judge, write_rows(tmp_path / "rows.jsonl", 20), tmp_path / "out.jsonl")
    assert (summary.rows, summary.labels, summary.errors) == (20, {4: 20}, 0)
    row = lines(tmp_path / "out.jsonl")["r7"]
    assert row["rationale"] == "It is so."
    assert row["label_probabilities"] == pytest.approx({"4": 0.8, **dict.fromkeys("1235", 0.05)})
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text())["model"] == "scripted"


def test_a_server_that_refuses_log_probabilities_is_asked_without_and_the_user_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(fake := Fake(refuses="logprobs")) as address, caplog.at_level(logging.WARNING):
        done = ask(address, "a", "b", parallel=2)
    assert [one.text for one in done] == ["Fine. [RESULT] 4"] * 2
    assert [body.get("top_logprobs") for body in fake.seen].count(None) == 2
    assert len([record for record in caplog.records if "no log-probabilities" in record.getMessage()]) == 1


def test_samples_of_our_own_server_make_a_consensus(tmp_path: Path) -> None:
    texts = ["One. [RESULT] 3", "Two. [RESULT] 5", "Three. [RESULT] 3", "None."]
    settings = JudgeOptions(samples=4, constrain=False)
    with our_server(lambda request: texts) as address, Judge(OpenAIGenerator(address)) as judge:
        judge_file(judge, write_rows(tmp_path / "rows.jsonl", 3), tmp_path / "out.jsonl", options=settings)
    row = lines(tmp_path / "out.jsonl")["r1"]
    assert (row["votes"], row["malformed"], row["label"]) == ({"3": 2, "5": 1}, 1, 3)


def test_a_row_that_is_too_long_is_an_error_row_and_the_others_are_judged(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    with rows.open("a") as file:
        file.write(write_rows(tmp_path / "long.jsonl", 3, "word " * 2000).read_text().splitlines()[2] + "\n")
    with our_server(lambda r: ["Yes. [RESULT] 5"], context=1000) as address, Judge(OpenAIGenerator(address)) as judge:
        summary = judge_file(judge, rows, tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors, summary.labels) == (3, 1, {5: 2})
    assert "refused it (400)" in (error := lines(tmp_path / "out.jsonl")["r2"]["error"])
    assert "more than the context of 1000" in error


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.judge.server.guard import Settings as Limits

    with our_server(lambda request: ["Yes. [RESULT] 5"], Limits(api_key="right")) as address:
        with pytest.raises(SreError, match="OPENAI_API_KEY"):
            OpenAIGenerator(address)
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert [done.text for done in ask(address, "a")] == ["Yes. [RESULT] 5"]


# --- servers in trouble ---


def test_a_server_that_asks_to_wait_and_fails_loses_nothing(tmp_path: Path) -> None:
    fake = Fake(refusal(429, "slow down", **{"retry-after": "1"}), refusal(500, "oops"))
    begin = time.monotonic()
    with serving(fake) as address, Judge(OpenAIGenerator(address, parallel=2)) as judge:
        summary = judge_file(judge, write_rows(tmp_path / "rows.jsonl", 12), tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors, summary.labels) == (12, 0, {4: 12})
    assert sorted(lines(tmp_path / "out.jsonl")) == sorted(f"r{k}" for k in range(12))
    assert len(fake.seen) == 14
    assert time.monotonic() - begin >= 1


def test_no_more_requests_at_once_than_asked_for() -> None:
    fake = Fake(pace=0.05)
    with serving(fake) as address:
        assert len(ask(address, *"abcdefghij", parallel=3)) == 10
    assert fake.most == 3


def test_no_server_is_the_users_error_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SreError, match=rf"127.0.0.1:{port}/v1: no answer .*is the server running"):
        OpenAIGenerator(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "OPENAI_API_KEY"), (404, "the model's name right"), (429, "too many requests"), (503, "overloaded")],
)
def test_trouble_that_is_not_the_rows_ends_the_run(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.inference.openai.RETRIES", 0)
    with serving(Fake(GOOD, refusal(status, "because"))) as address, pytest.raises(SreError, match=said) as caught:
        ask(address, "a", "b", parallel=1)
    assert "because" in str(caught.value)


def test_an_answer_that_is_none_is_an_error_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.inference.openai.RETRIES", 0)
    page = (200, {"content-type": "text/html"}, "<html>")
    broken = (200, {}, "{")
    withheld = choice(text="", finish="content_filter")
    with serving(Fake(refusal(500, "a bug"), [], page, broken, withheld)) as address:
        done = ask(address, *"abcdef", parallel=1)
    assert [completion.finish for completion in done] == ["error"] * 5 + ["stop"]
    for completion, said in zip(
        done, ("a bug", "chat completion", "<html>", "can't be read", "withheld"), strict=False
    ):
        assert said in completion.error


ODD = {
    "content that is a number": {"choices": [{"message": {"content": 4}}]},
    "content that is an object": {"choices": [{"message": {"content": {"text": "Fine. [RESULT] 4"}}}]},
    "no message": {"choices": [{"message": None}]},
    "a choice that is null": {"choices": [None]},
    "choices that are null": {"choices": None},
    "choices that are an object": {"choices": {"0": GOOD}},
    "a list": [1, 2],
    "null": None,
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_a_reply_of_another_shape_is_an_error_of_its_row_alone(body: Any) -> None:
    with serving(Fake((200, {}, json.dumps(body)), GOOD)) as address:
        bad, good = ask(address, "a", "b", parallel=1)
    assert (bad.finish, good.finish, good.label_logprobs) == ("error", "stop", {4: -0.2, 5: -2.0})
    assert "can't be read" in bad.error


LEGACY = {
    "tokens": ["Fine.", " [RESULT]", " 4"],
    "token_logprobs": [-0.1, None, -0.2],
    "top_logprobs": [None, None, {" 4": -0.2, " 5": -2.0}],
}
READABLE = {
    "usage that is empty": ({**GOOD}, {}, {4: -0.2, 5: -2.0}),
    "usage that is partial": ({**GOOD}, {"completion_tokens": 3, "prompt_tokens": None}, {4: -0.2, 5: -2.0}),
    "usage that is null": ({**GOOD}, None, {4: -0.2, 5: -2.0}),
    "logprobs of the older API": ({"message": {"content": "Fine. [RESULT] 4"}, "logprobs": LEGACY}, {}, {}),
    "logprobs of a third kind": ({"message": {"content": "Fine. [RESULT] 4"}, "logprobs": {"a": [1]}}, {}, {}),
    "logprobs that are a list": ({"message": {"content": "Fine. [RESULT] 4"}, "logprobs": [0.5]}, {}, {}),
    "no number as logprob": (
        choice(token("Fine. [RESULT] "), token("4", math.nan, **{"4": math.nan, "5": -2.0})),
        {},
        {5: -2.0},
    ),
}


@pytest.mark.parametrize(("one", "usage", "labels"), READABLE.values(), ids=READABLE)
def test_an_unusual_reply_is_read_as_far_as_it_goes(one: Any, usage: Any, labels: dict[int, float]) -> None:
    with serving(Fake((200, {}, json.dumps({"choices": [one], "usage": usage})))) as address:
        (done,) = ask(address, "a")
    assert (done.text, done.finish, done.label_logprobs) == ("Fine. [RESULT] 4", "stop", labels)


def test_only_a_verdict_after_the_reasoning_counts() -> None:
    texts = ["<think>Is it [RESULT] 2?</think>Fine. [RESULT] 4", "<think>Is it [RESULT] 2? It is [RESULT] 3."]
    with serving(Fake(*(choice(text=text) for text in texts))) as address, Judge(OpenAIGenerator(address)) as judge:
        whole, unfinished = (judge.score("q", "a", "c", constrain=False) for _ in texts)
    assert (whole.label, whole.rationale) == (4, "Fine.")
    assert (unfinished.label, unfinished.text) == (None, texts[1])


def test_a_password_in_the_address_is_refused_and_never_shown() -> None:
    addresses = ["http://me:open-sesame@here/v1", "ftp://me:open-sesame@here", "http://me:open/sesame@/v1"]
    addresses += [
        "me:open-sesame@here:80",
        "http:/me:open-sesame@here",
        "http:\\\\me:open-sesame@here",
        "http:sesame@here",
    ]
    for address in [*addresses, "http://me%3aopen-sesame%40here/v1", "https://sesame@here/v1"]:
        with pytest.raises(SreError, match="expected an address") as caught:
            OpenAIGenerator(address)
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 500])
def test_a_model_without_a_place_for_the_system_gets_its_text_with_the_first_turn(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.inference.openai.RETRIES", 0)
    fake = Fake(refusal(status, "System role not supported"))
    with serving(fake) as address, Judge(OpenAIGenerator(address)) as judge:
        assert [judge.score("q", "a", "c").label for _ in range(2)] == [4, 4]
    refused, folded, again = (body["messages"] for body in fake.seen)
    assert [turn["role"] for turn in refused] == ["system", "user"]
    assert [[turn["role"] for turn in asked] for asked in (folded, again)] == [["user"]] * 2
    assert folded[0]["content"] == "\n\n".join(turn["content"] for turn in refused)


def test_a_web_site_is_no_such_server() -> None:
    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await Fake()._send(send, 200, {"content-type": "text/html"}, "<html>Welcome</html>")

    with serving(site) as address, pytest.raises(SreError, match="end in /v1"):
        OpenAIGenerator(f"{address}/welcome")


def test_of_several_models_one_must_be_named() -> None:
    with serving(Fake(models=("small", "large"))) as address:
        with pytest.raises(SreError, match="small, large"):
            OpenAIGenerator(address)
        assert OpenAIGenerator(address, model="large").name == "large"


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://here/v1", "here"])
def test_an_address_without_http_is_refused(address: str) -> None:
    with pytest.raises(SreError, match="http://127"):
        OpenAIGenerator(address)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(SreError, match=r"\[openai\]"):
        OpenAIGenerator("http://127.0.0.1:1/v1")


# --- what comes of an answer ---


def test_label_logprobs_are_those_of_the_labels_in_the_form_written() -> None:
    alternatives = {"_4": -0.2, "_5": -2.0, "_2": -3.0, "3": -1.0, "_9": -4.0}
    reply = choice(token("Fine."), token(" [RES"), token("ULT]"), token(" 4", -0.2, **alternatives), token(" (not 5)"))
    with serving(Fake(reply)) as address:
        (done,) = ask(address, "a")
    assert done.label_logprobs == {4: -0.2, 5: -2.0, 2: -3.0}
    assert (done.text, done.finish, done.token_ids) == ("Fine. [RESULT] 4", "stop", ())


def test_a_label_drawn_against_the_odds_has_its_logprob_too() -> None:
    reply = choice(token("Fine. [RESULT] "), token("2", -5.0, **{"4": -0.2, "5": -2.0}))
    with serving(Fake(reply)) as address:
        assert ask(address, "a")[0].label_logprobs == {2: -5.0, 4: -0.2, 5: -2.0}


def test_a_1_that_may_begin_a_10_counts_only_where_10_is_a_token() -> None:
    for more, found in (({}, {}), ({"10": -3.0}, {1: -0.2, 2: -2.0, 10: -3.0})):
        with serving(Fake(choice(token("Fine. [RESULT] "), token("1", -0.2, **{"2": -2.0} | more)))) as address:
            assert ask(address, "a", labels=tuple(range(1, 11)))[0].label_logprobs == found


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(choice(token("Fine. [RESULT] 4", -0.2, x=-1, y=-2)), id="not a token of its own"),
        pytest.param(choice(token("Fine. [RESULT]"), token(" 4", -0.2)), id="no alternatives"),
        pytest.param({**choice(text="Fine. [RESULT] 4"), "logprobs": None}, id="none at all"),
        pytest.param(choice(token("Other text"), text="Fine. [RESULT] 4"), id="of another text"),
    ],
)
def test_label_logprobs_that_are_not_told_are_left_empty(reply: dict[str, Any]) -> None:
    with serving(Fake(reply)) as address:
        (done,) = ask(address, "a")
    assert (done.text, done.label_logprobs) == ("Fine. [RESULT] 4", {})


def test_the_last_well_formed_label_counts() -> None:
    text = "Not [RESULT] 9 nor [RESULT] 3.5. [RESULT] 2\n[RESULT] 5 é"
    with serving(Fake(choice(text=text), choice(text=text), choice(text="No label.", finish="length"))) as address:
        assert ask(address, "a")[0].text == text.removesuffix(" é")
        assert ask(address, "a", sampling=Sampling())[0].text == text
        (without,) = ask(address, "a", force_label=True)
    assert (without.text, without.finish, without.label_logprobs) == ("No label.", "length", {})


def test_what_is_asked_for() -> None:
    fake = Fake()
    with serving(fake) as address:
        ask(address, "a", sampling=Sampling(temperature=0.5, max_tokens=7, seed=3))
    assert fake.seen == [
        {
            "model": "fake",
            "messages": [{"role": "user", "content": "Judge a."}],
            "max_tokens": 7,
            "temperature": 0.5,
            "seed": 3,
            "n": 1,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ]


def test_a_server_that_gives_one_choice_at_a_time_is_asked_again_with_another_seed() -> None:
    fake = Fake()
    with serving(fake) as address:
        done = ask(address, "a", sampling=Sampling(n=3, seed=10))
    assert [completion.sample for completion in done] == [0, 1, 2]
    assert [(body["n"], body["seed"]) for body in fake.seen] == [(3, 10), (2, 11), (1, 12)]


def test_many_samples_are_asked_for_in_parts() -> None:
    fake = Fake([GOOD] * 32, [GOOD] * 8)
    with serving(fake) as address:
        assert len(ask(address, "a", sampling=Sampling(n=40))) == 40
    assert [(body["n"], body["seed"]) for body in fake.seen] == [(32, 0), (8, 32)]


def test_a_refusal_midway_keeps_the_samples_that_came() -> None:
    with serving(Fake([GOOD], refusal(400, "enough"))) as address:
        done = ask(address, "a", sampling=Sampling(n=3))
    assert [completion.finish for completion in done] == ["stop", "error", "error"]


def test_a_label_alone_is_one_sample() -> None:
    fake = Fake(choice(text="[RESULT] 2"))
    with serving(fake) as address:
        (done,) = ask(address, "a", sampling=Sampling(n=5, stop_at_label=True), label_only=True)
    assert (done.text, fake.seen[0]["n"]) == ("[RESULT] 2", 1)


def test_probabilities_of_a_judgement_sum_to_one_over_the_labels_told() -> None:
    with serving(Fake()) as address, Judge(OpenAIGenerator(address)) as judge:
        judgement = judge.score("q", "a", "c")
    assert judgement.label == 4
    assert judgement.label_probabilities == pytest.approx({4: 1 / (1 + math.exp(-1.8)), 5: 1 / (1 + math.exp(1.8))})


def test_what_a_server_can_not_do_is_refused() -> None:
    with serving(Fake()) as address, OpenAIGenerator(address) as generator:
        with pytest.raises(SreError, match="use a GGUF file"):
            list(generator.generate([Request("a", (), choices=("x",))], JUDGING))
        generator.close()
        with pytest.raises(SreError, match="closed"):
            list(generator.generate([], JUDGING))


def test_a_reader_that_stops_early_ends_what_is_under_way() -> None:
    fake = Fake(GOOD, pace=0.1)
    with serving(fake) as address, OpenAIGenerator(address, parallel=1) as generator:
        completions = generator.generate(requests(*"abcdef"), JUDGING)
        next(completions)
        completions.close()  # type: ignore[attr-defined]
        seen = len(fake.seen)
        time.sleep(0.5)
    assert len(fake.seen) <= seen + 1 < 6  # the next one may have been on its way


@pytest.mark.slow
def test_llama_server_judges_as_the_file_does(smollm2: Callable[[str], Path]) -> None:
    """Needs SRE_TEST_LLAMA_SERVER, the path of llama.cpp's llama-server."""
    binary = os.environ.get("SRE_TEST_LLAMA_SERVER") or pytest.skip("SRE_TEST_LLAMA_SERVER is not set")
    model = smollm2("F16")
    rows = read_examples("seed-data", task="pointwise", split="test", limit=6)
    with Judge.from_gguf(model) as judge:
        ours = {judgement.example_id: judgement for judgement in judge.judge(rows, JudgeOptions(constrain=False))}
    options: dict[str, Any] = {"slots": 2, "cells": 2 * 1024, "threads": 2}
    with (
        llama_server(Path(binary), model, **options) as port,
        Judge(OpenAIGenerator(f"http://127.0.0.1:{port}", parallel=2)) as judge,
    ):
        theirs = {judgement.example_id: judgement for judgement in judge.judge(rows, JudgeOptions(constrain=False))}
    assert sum(ours[row.id].rationale == theirs[row.id].rationale for row in rows) >= 4
    for row in rows:
        if ours[row.id].rationale == theirs[row.id].rationale and ours[row.id].label is not None:
            assert theirs[row.id].label_probabilities == pytest.approx(ours[row.id].label_probabilities, abs=0.02)
