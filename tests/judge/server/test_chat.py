"""OpenAI's own client on the chat route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from recipe.judge.server.guard import Settings

WAIT = 10


@pytest.fixture(scope="module")
def client(running: Callable[..., Any], echo: Any) -> Iterator[openai.OpenAI]:
    with running(echo) as (address, _):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=WAIT)


def ask(client: Any, text: str = "Say mark-7", **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="scripted", messages=messages, **options)


def test_openais_client_lists_the_model_and_chats(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    reply = ask(client, max_tokens=50, temperature=0, seed=3)
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "I saw mark-7. [RESULT] 1")
    assert (choice.finish_reason, reply.usage.completion_tokens, reply.usage.prompt_tokens) == ("stop", 6, 3)
    assert reply.usage.total_tokens == 9


def test_openais_client_gets_n_choices_cut_at_max_tokens(client: Any) -> None:
    reply = ask(client, n=2, max_completion_tokens=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert {(choice.message.content, choice.finish_reason) for choice in reply.choices} == {("I saw", "length")}


def test_openais_client_streams_with_usage(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, n=2))
    for index in (0, 1):
        deltas = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in deltas) == "I saw mark-7. [RESULT] 1"
        assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["stop"]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [12]
    assert len({chunk.id for chunk in chunks}) == 1


def test_openais_client_raises_the_errors_it_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    for options, field in (({"top_p": 0.5}, "top_p"), ({"tools": []}, "tools"), ({"temperature": 3}, "temperature")):
        with pytest.raises(openai.UnprocessableEntityError) as bad:
            ask(client, **options)
        assert bad.value.param == field
    ask(client, top_p=1, presence_penalty=0, user="me")


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
