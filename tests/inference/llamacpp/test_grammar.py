"""JSON schemas, raw prompts and reasoning on the embedded SmolLM2-135M: what a server asks of llama.cpp."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling
from recipe.inference.llamacpp.generator import TRAINED_HERE, LlamaCppGenerator
from recipe.inference.llamacpp.grammar import Grammar, gbnf_of
from recipe.inference.special_tokens import PromptEncoder
from recipe.training.seed import embedded_gguf
from recipe.verdict import parse_verdict

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"score": {"enum": [1, 2, 3]}, "sure": {"type": "boolean"}},
        "required": ["score", "sure"],
        "additionalProperties": False,
    }
)
SCALE = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppGenerator]:
    with LlamaCppGenerator(embedded_gguf(), context=512, parallel=4) as generator:
        yield generator


def ask(model: LlamaCppGenerator, *requests: Request, **sampling: Any) -> list[Completion]:
    session = model.session()
    for request in requests:
        session.submit(request, Sampling(**sampling))
    done = []
    while session.busy:
        done += [event for event in session.step() if isinstance(event, Completion)]
    session.close()
    return sorted(done, key=lambda completion: (completion.request_id, completion.sample))


def user(text: str, id: str = "a", **more: Any) -> Request:
    return Request(id, (Message("user", text),), **more)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_follows_its_schema_beside_one_that_has_none(model: LlamaCppGenerator, temperature: float) -> None:
    held = ask(model, user("Rate the sky.", grammar=SCHEMA), temperature=temperature, max_tokens=60, n=2)
    for done in held:
        assert done.finish == "stop", done
        found = json.loads(done.text)
        assert (set(found), found["score"] in (1, 2, 3), type(found["sure"])) == ({"score", "sure"}, True, bool)
    free = ask(model, user("Rate the sky."), temperature=0, max_tokens=8)
    session = model.session()
    session.submit(user("Rate the sky.", "held", grammar=SCHEMA), Sampling(temperature=0, max_tokens=60))
    session.submit(user("Rate the sky.", "free"), Sampling(temperature=0, max_tokens=8))
    done = []
    while session.busy:
        done += [event for event in session.step() if isinstance(event, Completion)]
    texts = {completion.request_id: completion.text for completion in done}
    assert json.loads(texts["held"])
    assert texts["free"] == free[0].text


def test_the_grammar_allows_what_the_schema_says(model: LlamaCppGenerator) -> None:
    cache = model.cache
    grammar = Grammar(cache._vocab, gbnf_of(SCHEMA))
    for token in model.tokenize('{"score": 2, "sure": true}'):
        assert grammar.allows(token)
        grammar.accept(token)
    left = np.flatnonzero(np.isfinite(grammar.masked(np.zeros(cache.vocab_size, np.float32))))
    assert any(cache.is_end(int(token)) for token in left)
    assert all(cache.is_end(int(token)) or not cache.piece(int(token)).strip() for token in left)


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[]",
        "7",
        '"x"',
        '{"type": "thing"}',
        '{"type": "string", "pattern": "^(a*)*$"}',
        '{"type": "array", "items": {"type": "string"}, "maxItems": 1000000000}',
        '{"$ref": "https://example.org/schema.json"}',
        '{"$ref": "#/nowhere"}',
        '{"anyOf": 3}',
        json.dumps({"enum": ["x" * 40_000]}),
        "[" * 5000,
    ],
)
def test_a_schema_that_can_not_be_held_to_is_the_requests_own_error(model: LlamaCppGenerator, schema: str) -> None:
    session = model.session()
    with pytest.raises(SreError) as caught:
        session.submit(user("x", grammar=schema), Sampling())
    assert caught.value.field == "response_format"
    session.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["object", "string", "array", "#/a", 'a\\"b\n']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "enum", "anyOf", "$ref", "required", "const", "maxItems", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_is_a_grammar_or_an_error(model: LlamaCppGenerator, schema: Any) -> None:
    text = json.dumps(schema)
    with contextlib.suppress(SreError):
        Grammar(model.cache._vocab, gbnf_of(text))


def test_max_tokens_are_cut_to_what_the_context_leaves(model: LlamaCppGenerator) -> None:
    asked = user("word " * 400)
    size = len(model._encoder.encode(asked.messages))
    with pytest.raises(SreError, match="more than the context of 512"):
        ask(model, asked, temperature=0, max_tokens=9999)
    (done,) = ask(model, asked, temperature=0, max_tokens=9999, fit=True)
    assert done.finish in ("stop", "length")
    assert 0 < len(done.token_ids) <= 512 - size
    with pytest.raises(SreError, match="more than the context of 512"):
        ask(model, user("word " * 600), temperature=0, max_tokens=9999, fit=True)


def test_a_raw_prompt_is_gone_on_from_without_a_template(model: LlamaCppGenerator) -> None:
    text = "One, two, three, four, five, six,"
    ids = tuple(model.tokenize(text))
    by_text, by_ids = ask(
        model, Request("a", (), prompt=text), Request("b", (), prompt=ids), temperature=0, max_tokens=6
    )
    assert by_text.text == by_ids.text == " seven, eight, nine,"
    assert by_text.prompt_tokens == len(ids)
    session = model.session()
    with pytest.raises(SreError, match="token ids from 0"):
        session.submit(Request("a", (), prompt=(10**6,)), Sampling())


@pytest.fixture
def thinking(model: LlamaCppGenerator, monkeypatch: pytest.MonkeyPatch) -> LlamaCppGenerator:
    """The model, with a chat template that opens reasoning."""
    render = model.render

    def opening(messages: Sequence[Message]) -> str:
        return f"{render(messages)}<think>\n"

    monkeypatch.setattr(model, "render", opening)
    monkeypatch.setattr(model, "_encoder", PromptEncoder(opening, model.tokenize, model.cache.special))
    return model


def test_a_label_is_read_only_after_the_reasoning_that_the_prompt_opened(thinking: LlamaCppGenerator) -> None:
    shown = 'Write exactly this: "It is [RESULT] 3." ' * 3
    request = user(shown, labels=SCALE, force_label=True)
    (done,) = thinking.generate([request], Sampling(temperature=0, max_tokens=30, stop_at_label=True))
    assert done.text.startswith("<think>\n")
    assert done.finish == "forced"
    _, _, after = done.text.partition("</think>")
    assert "[RESULT]" in after
    verdict = parse_verdict(done.text, SCALE, need_rationale=False)
    assert verdict is not None
    assert done.label_logprobs[verdict.label] == max(done.label_logprobs.values())
    (unforced,) = thinking.generate([user(shown, labels=SCALE)], Sampling(temperature=0, max_tokens=30))
    assert parse_verdict(unforced.text, SCALE) is None
    (alone,) = thinking.generate([user(shown, labels=SCALE, label_only=True)], Sampling())
    assert parse_verdict(alone.text, SCALE, need_rationale=False) is not None
    assert alone.text.startswith("</think>")


def test_a_judge_of_ours_goes_on_with_its_rationale(thinking: LlamaCppGenerator) -> None:
    thinking.metadata[TRAINED_HERE] = "a template"
    try:
        (done,) = thinking.generate([user("Say hello.")], Sampling(temperature=0, max_tokens=4))
    finally:
        del thinking.metadata[TRAINED_HERE]
    assert "<think>" not in done.text
