"""ScriptedGenerator keeps the contract of a Generator without a model."""

from __future__ import annotations

import pytest

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Generator, Piece, Request, Sampling
from recipe.verdict import parse_verdict
from tests.scripted import END, ScriptedGenerator

SCALE = (1, 2, 3, 4, 5)
MESSAGES = (Message("user", "one two three"),)


def test_texts_by_sample_from_a_table_or_a_function() -> None:
    request = Request("a", MESSAGES)
    generator: Generator = ScriptedGenerator({"a": ["Good. [RESULT] 4", "Bad."]})
    assert [c.text for c in generator.generate([request], Sampling(n=3))] == [
        "Good. [RESULT] 4",
        "Bad.",
        "Good. [RESULT] 4",
    ]
    echo = ScriptedGenerator(lambda r: [r.messages[0].content])
    assert next(echo.generate([request], Sampling())).text == "one two three"
    assert echo.seen == [request]


def test_figures_are_the_same_every_time() -> None:
    request = Request("a", MESSAGES, labels=SCALE)
    runs = [list(ScriptedGenerator().generate([request], Sampling(n=5))) for _ in range(2)]
    assert runs[0] == runs[1]
    for completion in runs[0]:
        verdict = parse_verdict(completion.text, SCALE)
        assert verdict is not None
        assert verdict.label == max(SCALE, key=lambda k: completion.label_logprobs[k])
        assert completion.token_ids[-1] == END
    assert {parse_verdict(c.text, SCALE) for c in runs[0]} == {parse_verdict(c.text, SCALE) for c in runs[1]}


def test_limits() -> None:
    generator = ScriptedGenerator({"a": ["So so. [RESULT] 3 and more words"]})
    request = Request("a", MESSAGES, labels=SCALE)
    stopped = next(generator.generate([request], Sampling(stop_at_label=True)))
    assert (stopped.text, stopped.finish) == ("So so. [RESULT] 3", "stop")
    cut = next(generator.generate([request], Sampling(max_tokens=2)))
    assert (cut.text, cut.finish, cut.label_logprobs) == ("So so.", "length", {})
    forced = next(generator.generate([Request("a", MESSAGES, labels=SCALE, force_label=True)], Sampling(max_tokens=2)))
    assert (forced.text, forced.finish) == ("So so. [RESULT] 1", "forced")


def test_label_only_and_choices() -> None:
    generator = ScriptedGenerator({"a": ["Why. [RESULT] 2"], "b": ["y"]})
    requests = [
        Request("a", MESSAGES, labels=(1, 2), label_only=True),
        Request("b", MESSAGES, choices=("x", "y")),
    ]
    done = list(generator.generate(requests, Sampling(n=4)))
    assert [c.text for c in done] == ["[RESULT] 2", "y"]


def test_errors() -> None:
    tight = ScriptedGenerator({}, context=10)
    done = next(tight.generate([Request("a", MESSAGES)], Sampling(max_tokens=9)))
    assert done.finish == "error"
    assert "10" in done.error
    with pytest.raises(SreError, match="no answer to request 'a'"):
        next(ScriptedGenerator({}).generate([Request("a", MESSAGES)], Sampling()))
    with ScriptedGenerator() as closed:
        closed.close()
    with pytest.raises(SreError, match="closed"):
        next(closed.generate([Request("a", MESSAGES)], Sampling()))


def test_a_session_writes_word_by_word_and_ends_as_generate_does() -> None:
    generator = ScriptedGenerator({"a": ["One two three."], "b": ["Yes. [RESULT] 4"], "c": ["[RESULT] 2"]})
    requests = [Request("a", MESSAGES), Request("b", MESSAGES, SCALE), Request("c", MESSAGES, SCALE, label_only=True)]
    session = generator.session()
    for request in requests[:2]:
        session.submit(request, Sampling(n=2))
    events = session.step()
    session.submit(requests[2], Sampling(n=2))
    while session.busy:
        events += session.step()
    completions = [event for event in events if isinstance(event, Completion)]
    assert sorted(completions, key=lambda c: (c.request_id, c.sample)) == list(
        generator.generate(requests, Sampling(n=2))
    )
    for done in completions:
        written = [
            e.text
            for e in events
            if isinstance(e, Piece) and (e.request_id, e.sample) == (done.request_id, done.sample)
        ]
        assert "".join(written) == ("" if done.request_id == "c" else done.text)
    assert session.step() == []


def test_a_cancelled_or_closed_session_gives_nothing_more() -> None:
    session = ScriptedGenerator(lambda request: ["a b c"]).session()
    session.submit(Request("a", MESSAGES), Sampling())
    session.submit(Request("b", MESSAGES), Sampling())
    with pytest.raises(SreError, match="'a' is under way"):
        session.submit(Request("a", MESSAGES), Sampling())
    session.step()
    session.cancel("a")
    session.cancel("unknown")
    assert {event.request_id for event in session.step()} == {"b"}
    session.close()
    assert not session.busy
    assert session.step() == []
