"""OpenAI's own client on the chat and completion routes, and the calls that other clients make, as plain requests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.inference.base import Request
from recipe.inference.openai import OpenAIGenerator
from recipe.judge import Judge
from recipe.judge.judge_file import judge_file
from recipe.judge.server.guard import Settings

WAIT = 30
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "scripted", "messages": [{"role": "user", "content": "Say mark-7"}]}
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
TOOL = {"type": "function", "function": {"name": "grade", "description": "d", "parameters": SCHEMA}}
REPLY = "I saw mark-7. [RESULT] 1"


@pytest.fixture(scope="module")
def shared(running: Callable[..., Any], echo: Any) -> Iterator[tuple[str, Any]]:
    def script(request: Request) -> list[str]:
        return ["I saw mark-7. [RESULT] 1"] if request.prompt is not None else echo(request)

    with running(script) as (address, app):
        yield address, app


@pytest.fixture(scope="module")
def client(shared: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared[0]}/v1", api_key="none", max_retries=0, timeout=WAIT)


def ask(client: Any, text: str = "Say mark-7", **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="scripted", messages=messages, **options)


def test_openais_client_lists_the_model_and_chats(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").id == "scripted"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt/9")
    reply = ask(client, max_tokens=50, temperature=0, seed=3)
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content, choice.logprobs) == ("assistant", REPLY, None)
    assert (choice.finish_reason, reply.usage.completion_tokens, reply.usage.prompt_tokens) == ("stop", 6, 3)
    assert reply.usage.total_tokens == 9


def test_openais_client_gets_n_choices_cut_at_max_tokens(client: Any) -> None:
    reply = ask(client, n=2, max_completion_tokens=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert {(choice.message.content, choice.finish_reason) for choice in reply.choices} == {("I saw", "length")}


def test_openais_client_streams_with_usage(client: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 2}
    chunks = list(ask(client, **options, logprobs=True, top_logprobs=5))
    for index in (0, 1):
        deltas = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in deltas) == REPLY
        assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["stop"]
        told = [one for choice in deltas if choice.logprobs for one in choice.logprobs.content]
        assert "".join(one.token for one in told) == REPLY
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [12]
    assert len({chunk.id for chunk in chunks}) == 1


def test_openais_client_gets_log_probabilities_and_a_stop_text(client: Any) -> None:
    (choice,) = ask(client, logprobs=True, top_logprobs=5, stop=["nothing", "[RES"]).choices
    assert (choice.message.content, choice.finish_reason) == ("I saw mark-7. ", "stop")
    (choice,) = ask(client, logprobs=True, top_logprobs=5).choices
    last = choice.logprobs.content[-1]
    assert (last.token, bytes(last.bytes), len(last.top_logprobs)) == (" 1", b" 1", 5)
    assert sum(math.exp(one.logprob) for one in last.top_logprobs) == pytest.approx(1)


def test_openais_client_completes_texts_and_token_ids(client: Any) -> None:
    reply = client.completions.create(model="scripted", prompt="Say", max_tokens=50, logprobs=2)
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason, choice.logprobs.text_offset[:3]) == (REPLY, "stop", [0, 1, 5])
    assert choice.logprobs.top_logprobs[-1][" 1"] == choice.logprobs.token_logprobs[-1]
    reply = client.completions.create(model="scripted", prompt=["a", "b", "c"], n=2)
    assert [(choice.index, choice.text) for choice in reply.choices] == [(index, REPLY) for index in range(6)]
    assert client.completions.create(model="scripted", prompt=[1, 2, 3]).choices[0].text == REPLY
    chunks = list(client.completions.create(model="scripted", prompt=[[1], [2]], stream=True))
    for index in (0, 1):
        parts = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(part.text for part in parts) == REPLY
        assert parts[-1].finish_reason == "stop"


def test_openais_client_measures_a_text_by_echoing_it(client: Any) -> None:
    options = {"model": "scripted", "prompt": ["A fruit", "One"], "logprobs": 1, "echo": True}
    for most, text in ((0, ""), (50, f" {REPLY}")):
        choices = client.completions.create(**options, max_tokens=most, temperature=0).choices
        assert [choice.text for choice in choices] == [f"A fruit{text}", f"One{text}"]
        assert choices[0].logprobs.tokens[:2] == ["A", " fruit"]
        first, *others = choices[0].logprobs.token_logprobs
        assert first is None
        assert all(value <= 0 for value in others)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "grade"}}])
def test_openais_client_gets_the_call_that_it_asked_for(client: Any, choice: Any) -> None:
    """How LangChain and instructor ask for an object: the arguments of the one function that must be called."""
    (answer,) = ask(client, tools=[TOOL], tool_choice=choice).choices
    (call,) = answer.message.tool_calls
    assert (call.function.name, call.function.arguments, call.type) == ("grade", REPLY, "function")
    assert (answer.message.content, answer.finish_reason) == (None, "tool_calls")
    chunks = [chunk.choices[0].delta for chunk in ask(client, tools=[TOOL], tool_choice=choice, stream=True)]
    calls = [delta.tool_calls[0] for delta in chunks]
    assert [one.function.name for one in calls if one.function.name] == ["grade"]
    assert "".join(one.function.arguments or "" for one in calls) == REPLY
    assert [one.id is not None for one in calls] == [True] + [False] * (len(calls) - 1)


def test_a_call_is_held_to_its_parameters(shared: Any) -> None:
    seen = shared[1].state.service.owner.generator.seen
    body = {**ASKED, "tools": [TOOL], "tool_choice": "required"}
    assert httpx.post(f"{shared[0]}{CHAT}", json=body, timeout=WAIT).status_code == 200
    assert json.loads(seen[-1].grammar) == SCHEMA


def test_a_schema_beside_json_object_is_kept(shared: Any) -> None:
    """As llama-server and Together take it."""
    seen = shared[1].state.service.owner.generator.seen
    body = {**ASKED, "response_format": {"type": "json_object", "schema": SCHEMA}}
    assert httpx.post(f"{shared[0]}{CHAT}", json=body, timeout=WAIT).status_code == 200
    assert json.loads(seen[-1].grammar) == SCHEMA


def test_a_body_without_its_header_is_told_which(shared: Any) -> None:
    """What curl's -d sends."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = httpx.post(f"{shared[0]}{CHAT}", content=json.dumps(ASKED), headers=form)
    assert reply.status_code == 422
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_an_address_without_v1_is_told(shared: Any) -> None:
    for path in ("/chat/completions", "/v1/v1/chat/completions"):
        reply = httpx.post(f"{shared[0]}{path}", json=ASKED)
        assert reply.status_code == 404
        assert "/v1/" in reply.json()["error"]["message"]


def test_openais_client_raises_the_errors_it_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    for options, field in (({"top_p": 0}, "top_p"), ({"presence_penalty": 1}, "presence_penalty"), ({"n": 99}, "n")):
        with pytest.raises(openai.UnprocessableEntityError) as bad:
            ask(client, **options)
        assert bad.value.param == field


def test_openais_client_is_told_of_a_full_queue_and_a_wrong_key(
    running: Callable[..., Any], echo: Any, until: Any
) -> None:
    with running(echo, Settings(api_key="right"), queue=1, pace=0.005) as (address, app):
        with pytest.raises(openai.AuthenticationError):
            ask(openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0))
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="right", max_retries=0)
        with ask(client, "forever", stream=True, max_tokens=9000):
            until(lambda: app.state.service.unfinished == 1)
            with pytest.raises(openai.RateLimitError):
                ask(client)
        until(lambda: app.state.service.unfinished == 0)


# What clients send, by who sends it: path and the fields beside model and messages.
TURNS = [
    {"role": "system", "content": "You grade.", "name": "sys"},
    {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "mark-7"}]},
]
SENT: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "LangChain, ChatOpenAI": {"stream": False, "temperature": 0.7, "n": 1, "stop": None},
    "LangChain, streaming": {"stream": True, "stream_options": {"include_usage": True}},
    "LangChain, json mode": {"response_format": {"type": "json_object"}},
    "LangChain, structured output": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "G", "schema": SCHEMA, "strict": True}},
        "parallel_tool_calls": False,
    },
    "LiteLLM": {"messages": TURNS, "extra_body": {}, "max_tokens": 64, "temperature": 0, "drop_params": True},
    "LiteLLM, nulls": dict.fromkeys(
        ("functions", "function_call", "tools", "tool_choice", "logit_bias", "user", "response_format", "seed", "stop")
    ),
    "DeepEval": {"temperature": 0, "logprobs": True, "top_logprobs": 20},
    "DeepEval, schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "R", "schema": SCHEMA}}},
    "inspect_ai": {
        "max_completion_tokens": 2048,
        "seed": 42,
        "temperature": 0.5,
        "top_p": 0.95,
        "tools": [],
        "tool_choice": None,
        "logprobs": False,
        "extra_headers": {"x-irid": "1"},
        "reasoning_effort": "low",
    },
    "inspect_ai, choices": {"n": 3, "num_choices": 3, "stop": ["\n\n"]},
    "promptfoo": {"temperature": 0, "max_tokens": 1024, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0},
    "promptfoo, text": {"response_format": {"type": "text"}, "stop": []},
    "lm-eval, local-chat-completions": {"max_tokens": 256, "temperature": 0, "stop": ["</s>"], "seed": 1234},
    "lm-eval, more stops": {"max_gen_toks": 256, "do_sample": False, "stop": ["Q:", "\n\n", "User:"], "seed": 1},
    "Ragas": {"temperature": 0.01, "n": 3, "top_p": 0.1},
    "OpenAI's evals": {"store": True, "metadata": {"run": "1"}, "service_tier": "auto", "user": "me"},
    "Open WebUI": {"stream": True, "chat_id": "1", "session_id": "2", "features": {}, "tool_ids": []},
    "vLLM's fields": {"top_k": 40, "repetition_penalty": 1.0, "min_p": 0.0, "ignore_eos": False, "guided_json": None},
    "a developer's turn": {"messages": [{"role": "developer", "content": "Be brief."}, *ASKED["messages"]]},
    "earlier answers": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": None, "audio": None},
            *ASKED["messages"],
        ]
    },
    "an answer of nothing": {"messages": [{"role": "assistant", "content": None}, *ASKED["messages"]]},
    "cache hints": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "mark-7", "cache_control": {"type": "ephemeral"}}],
            }
        ]
    },
    "modalities": {"modalities": ["text"], "audio": None, "prediction": None, "verbosity": "low"},
    "tools that may not be called": {"tools": [TOOL], "tool_choice": "none"},
    "an empty bias": {"logit_bias": {}, "functions": []},
    "more tokens than there are": {"max_tokens": 1_000_000},
}
COMPLETED: dict[str, dict[str, Any]] = {
    "LangChain, OpenAI": {"prompt": ["a", "b"], "temperature": 0.7, "max_tokens": 256, "n": 1, "logit_bias": {}},
    "lm-eval, local-completions": {"prompt": ["Q: 1+1"], "max_tokens": 64, "temperature": 0, "stop": ["Q:"], "seed": 1},
    "lm-eval, loglikelihood": {
        "prompt": [[1, 2, 3], [4, 5]],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    },
    "lm-eval, token ids": {"prompt": [[1, 2, 3]], "max_tokens": 64, "temperature": 0, "seed": 1234},
    "promptfoo, openai:completion": {"prompt": "a", "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0},
    "guidance": {"prompt": "a", "stream": True, "logprobs": 5, "echo": False, "suffix": None},
}
REFUSED: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "penalties": (CHAT, {"frequency_penalty": 0.5}, "frequency_penalty"),
    "another penalty": (CHAT, {"repetition_penalty": 1.2}, "repetition_penalty"),
    "bias": (CHAT, {"logit_bias": {"50256": -100}}, "logit_bias"),
    "tools to choose from": (CHAT, {"tools": [TOOL]}, "tools"),
    "one of two tools": (CHAT, {"tools": [TOOL, TOOL], "tool_choice": "required"}, "tools"),
    "a tool that isn't there": (
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tools",
    ),
    "functions": (CHAT, {"functions": [{"name": "f"}]}, "functions"),
    "pictures": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0.type",
    ),
    "a tool's turn": (CHAT, {"messages": [{"role": "tool", "content": "4"}]}, "messages.0.role"),
    "no turns": (CHAT, {"messages": []}, "messages"),
    "sound": (CHAT, {"audio": {"voice": "x"}}, "audio"),
    "an odd format": (CHAT, {"response_format": {"type": "xml"}}, "response_format"),
    "a format without schema": (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
    "vLLM's choices": (CHAT, {"guided_choice": ["A", "B"]}, "guided_choice"),
    "vLLM's newer form": (CHAT, {"structured_outputs": {"choice": ["A"]}}, "structured_outputs"),
    "llama-server's grammar": (CHAT, {"grammar": 'root ::= "a"'}, "grammar"),
    "Ollama's format": (TEXT, {"prompt": "a", "format": "json"}, "format"),
    "too many stops": (CHAT, {"stop": ["x"] * 99}, "stop"),
    "a suffix": (TEXT, {"prompt": "a", "suffix": "z"}, "suffix"),
    "too many prompts": (TEXT, {"prompt": ["a"] * 999}, "prompt"),
}


@pytest.mark.parametrize("fields", SENT.values(), ids=SENT)
def test_what_clients_send_is_answered(shared: Any, fields: dict[str, Any]) -> None:
    reply = httpx.post(f"{shared[0]}{CHAT}", json={**ASKED, **fields}, timeout=WAIT)
    assert reply.status_code == 200, reply.text
    if fields.get("stream"):
        assert reply.text.rstrip().endswith("data: [DONE]")
        return
    choices = reply.json()["choices"]
    assert len(choices) == fields.get("n", 1)
    assert choices[0]["message"]["content"].startswith("I saw mark-7.")


@pytest.mark.parametrize("fields", COMPLETED.values(), ids=COMPLETED)
def test_what_clients_send_to_be_completed_is_answered(shared: Any, fields: dict[str, Any]) -> None:
    reply = httpx.post(f"{shared[0]}{TEXT}", json={"model": "scripted", **fields}, timeout=WAIT)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(("path", "fields", "param"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_offered_is_refused_in_one_line_that_names_the_field(
    shared: Any, path: str, fields: dict[str, Any], param: str | None
) -> None:
    body = {**(ASKED if path == CHAT else {"model": "scripted"}), **fields}
    reply = httpx.post(f"{shared[0]}{path}", json=body, timeout=WAIT)
    error = reply.json()["error"]
    assert (reply.status_code in (400, 422), error["type"]) == (True, "invalid_request_error")
    assert error["param"] == param
    assert "\n" not in error["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/audio/speech"])
def test_what_is_no_route_is_one_clear_line(shared: Any, path: str) -> None:
    reply = httpx.post(f"{shared[0]}{path}", json={"model": "scripted", "input": "x"})
    assert reply.status_code == 404
    assert "/docs" in reply.json()["error"]["message"]


def test_nulls_are_left_open_on_the_judges_routes_too(shared: Any) -> None:
    body = {"conversation": "mark-7", "response": "x", "rubric": "Is it said?"}
    body |= dict.fromkeys(("reference", "samples", "temperature", "seed", "max_tokens", "constrain", "stream"))
    assert httpx.post(f"{shared[0]}/v1/judge/score", json=body).json()["label"] == 1


def test_max_tokens_are_cut_to_what_the_context_leaves(running: Callable[..., Any]) -> None:
    with running(lambda request: ["w " * 900], context=100) as (address, _):
        reply = httpx.post(f"{address}{CHAT}", json={**ASKED, "max_tokens": 5000}).json()
        assert reply["usage"]["total_tokens"] == 100
        assert reply["choices"][0]["finish_reason"] == "length"
        long = {**ASKED, "messages": [{"role": "user", "content": "w " * 200}]}
        assert httpx.post(f"{address}{CHAT}", json=long).status_code == 400


def test_a_file_judged_by_this_server_keeps_its_label_probabilities(tmp_path: Path, shared: Any) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    row = {"orig_instruction": "Say mark-7 now", "orig_response": "a", "orig_criteria": "Is it said?"}
    rows.write_text("".join(json.dumps({**row, "id": f"r{k}"}) + "\n" for k in range(4)))
    with Judge(OpenAIGenerator(shared[0])) as judge:
        judge_file(judge, rows, out)
    judged = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["label"] for one in judged] == [1] * 4
    for one in judged:
        assert one["label_probabilities"] == pytest.approx({"1": 0.8, **dict.fromkeys("2345", 0.05)})


# Whatever is sent, the server answers in its own words and goes on.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**9) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = {
    CHAT: ["messages", "max_tokens", "temperature", "stop", "stream", "n", "response_format", "tools", "tool_choice"],
    TEXT: ["prompt", "max_tokens", "logprobs", "stop", "stream", "n", "seed", "echo"],
    "/v1/judge/score": ["conversation", "response", "rubric", "samples", "temperature", "max_tokens", "stream", "seed"],
    "/v1/judge/compare": ["conversation", "response_a", "response_b", "rubric", "swap", "tie", "samples", "reference"],
}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: ASKED,
    TEXT: {"model": "scripted", "prompt": "a"},
    "/v1/judge/score": {"conversation": "mark-7", "response": "x", "rubric": "c"},
    "/v1/judge/compare": {"conversation": "mark-7", "response_a": "x", "response_b": "y", "rubric": "c"},
}


@st.composite
def odd_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    path = draw(st.sampled_from(list(NAMES)))
    body = {**GOOD[path], **draw(st.dictionaries(st.sampled_from(NAMES[path]), json_values, max_size=3))}
    text = json.dumps(draw(st.just(body) | json_values)).encode()
    return path, draw(st.just(text) | st.just(text[:-2]) | st.binary(max_size=20))


@pytest.fixture(scope="module")
def web(shared: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared[0], timeout=WAIT, headers={"Content-Type": "application/json"}) as client:
        yield client


def check_bodies(client: httpx.Client, path: str, content: bytes) -> None:
    reply = client.post(path, content=content)
    assert reply.status_code in (200, 400, 404, 422), (path, content, reply.text)
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(odd_bodies())
def test_any_body_is_answered(web: httpx.Client, sent: tuple[str, bytes]) -> None:
    check_bodies(web, *sent)


@pytest.mark.slow
@settings(deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
@given(odd_bodies())
def test_any_of_ten_thousand_bodies_is_answered(web: httpx.Client, sent: tuple[str, bytes]) -> None:
    check_bodies(web, *sent)
