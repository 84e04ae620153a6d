"""TorchGenerator on a tiny random Llama, against transformers' own passes and against llama.cpp's engine."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.data.records import Judgement, Message
from recipe.errors import SreError
from recipe.inference.base import Completion, Request, Sampling, completions_by_request
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.labels import LabelPlaces
from recipe.inference.pytorch.generator import TorchGenerator
from recipe.verdict import MARKER, parse_verdict

SCALE = (1, 2, 3, 4, 5)
TO_TEN = tuple(range(1, 11))
QUESTIONS = ("Is the sky blue?", "Name a fruit, and say why you like it.", "2 + 2 = ?", "Say 日本語 in “French”.")
EXACT = {"abs": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def float32() -> Iterator[None]:
    """Compared with float32 passes, whatever this machine computes in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipe.inference.pytorch.engines.compute_dtype", lambda: torch.float32)
        yield


@pytest.fixture(scope="module")
def folder(models: Callable[..., Path]) -> Path:
    return models("llama")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[TorchGenerator]:
    with opened(folder) as generator:
        yield generator


@pytest.fixture(scope="module")
def model(folder: Path, load: Callable[[Path], tuple[Any, Any]]) -> Any:
    return load(folder)[0]


def opened(folder: Path, **settings: Any) -> TorchGenerator:
    return TorchGenerator(
        folder, **{"adapter": None, "name": "tiny", "parallel": 5, "engine": "transformers", **settings}
    )


def ask(text: str) -> tuple[Message, ...]:
    return (Message("system", "You judge."), Message("user", text))


def by_id(generator: Any, requests: list[Request], sampling: Sampling) -> dict[str, list[Completion]]:
    return completions_by_request(generator.generate(requests, sampling))


def tokens(generator: TorchGenerator, text: str) -> list[int]:
    return generator._tokenizer.tokenize(text)


def prompt_of(generator: TorchGenerator, request: Request) -> list[int]:
    return tokens(generator, ChatTemplate.of(generator._tokenizer.inner).render(request.messages))


def logprobs_of(model: Any, prompt: list[int], following: list[int]) -> list[float]:
    """Log-softmax of every token of `following`, from one pass without padding."""
    with torch.inference_mode():
        rows = model(torch.tensor([prompt + following])).logits[0].double().log_softmax(-1)
    return [float(rows[len(prompt) - 1 + i, token]) for i, token in enumerate(following)]


# --- drawing ---


def test_greedy_equals_transformers(judge: TorchGenerator, model: Any) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    ours = by_id(judge, requests, Sampling(temperature=0, max_tokens=24))
    for request in requests:
        prompt = prompt_of(judge, request)
        assert ours[request.id][0].prompt_tokens == len(prompt) == len(judge._encoder.encode(request.messages))
        theirs = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=sorted(judge._tokenizer.ends),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert list(ours[request.id][0].token_ids) == theirs


def test_the_logprobs_of_drawn_tokens_are_those_of_a_pass_over_the_sequence(judge: TorchGenerator, model: Any) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    done = by_id(judge, requests, Sampling(temperature=0.8, n=6, max_tokens=40, alternatives=0))
    for request in requests:
        assert [c.sample for c in done[request.id]] == list(range(6))
        for completion in done[request.id]:
            wanted = logprobs_of(model, prompt_of(judge, request), list(completion.token_ids))
            drawn_at = [token.logprob for token in completion.tokens]  # without the end token, or half a character
            assert drawn_at == pytest.approx(wanted[: len(drawn_at)], **EXACT)
            assert len(drawn_at) >= len(wanted) - 1
    finishes = {c.finish for group in done.values() for c in group}
    assert finishes <= {"stop", "length"}
    without = by_id(judge, requests, Sampling(temperature=0.8, n=6, max_tokens=40))
    assert without[QUESTIONS[0]][0].token_ids == done[QUESTIONS[0]][0].token_ids
    assert without[QUESTIONS[0]][0].tokens == ()


def test_end_token_is_counted_but_not_written(judge: TorchGenerator, model: Any) -> None:
    request = Request("a", ask("x"))
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_of(judge, request)])).logits[0, -1]
    ends, judge._tokenizer.ends = judge._tokenizer.ends, frozenset({int(logits.argmax())})
    try:
        (done,) = judge.generate([request], Sampling(temperature=0))
    finally:
        judge._tokenizer.ends = ends
    assert (done.text, done.finish, done.token_ids) == ("", "stop", (int(logits.argmax()),))


def test_samples_differ_and_come_again_whoever_their_neighbours_are(judge: TorchGenerator, folder: Path) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    sampling = Sampling(n=4, max_tokens=12, seed=7)
    first = list(judge.generate(requests, sampling))
    assert len({c.token_ids for c in first}) == 16
    assert list(judge.generate(requests, sampling)) == first
    with opened(folder, parallel=3) as other:
        alone = by_id(other, requests[1:2], sampling)[QUESTIONS[1]]
    assert [c.token_ids for c in alone] == [c.token_ids for c in completions_by_request(first)[QUESTIONS[1]]]
    assert list(judge.generate(requests, Sampling(n=4, max_tokens=12, seed=8))) != first


def test_rows_end_at_their_own_token_whoever_their_neighbours_are(folder: Path) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    sampling = Sampling(n=4, max_tokens=30, seed=3)
    found = []
    for parallel in (16, 1):
        with opened(folder, parallel=parallel) as generator:
            generator._tokenizer.ends |= frozenset(range(0, 512, 5))
            found.append(by_id(generator, requests, sampling))
    together, alone = ([[c.token_ids for c in group[q]] for q in QUESTIONS] for group in found)
    assert together == alone
    assert len({len(ids) for question in together for ids in question}) > 1


def test_pieces_join_to_the_text(judge: TorchGenerator, strings: list[str]) -> None:
    for text in strings:
        written = b"".join(map(judge._tokenizer.piece, tokens(judge, text)))
        assert written.decode() == text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def test_the_folders_own_generation_settings_do_not_count(
    judge: TorchGenerator, folder: Path, adapted: Path, tmp_path: Path
) -> None:
    strange = shutil.copytree(folder, tmp_path / "strange")
    settings = {"do_sample": True, "repetition_penalty": 9.0, "top_k": 1, "max_length": 5, "eos_token_id": [2, 77]}
    (strange / "generation_config.json").write_text(json.dumps(settings))
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    sampling = Sampling(n=2, max_tokens=8)
    for adapter in (None, adapted):
        with opened(strange, adapter=adapter) as other, opened(folder, adapter=adapter) as plain:
            assert 77 in other._tokenizer.ends
            other._tokenizer.ends = plain._tokenizer.ends
            assert list(other.generate(requests, sampling)) == list(plain.generate(requests, sampling))


# --- labels ---


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("stop", [False, True])
def test_forced_labels_are_never_malformed(judge: TorchGenerator, model: Any, temperature: float, stop: bool) -> None:
    requests = [Request(q, ask(q), labels=SCALE, force_label=True) for q in QUESTIONS]
    sampling = Sampling(temperature, n=3, max_tokens=9, stop_at_label=stop)
    for completion in judge.generate(requests, sampling):
        verdict = parse_verdict(completion.text, SCALE, need_rationale=False)
        assert verdict is not None
        assert completion.finish == "forced"  # a random model writes no label of its own
        assert verdict.label == max(SCALE, key=lambda k: completion.label_logprobs[k])
        prompt = prompt_of(judge, next(r for r in requests if r.id == completion.request_id))
        wanted = logprobs_of(model, prompt, list(completion.token_ids))[-1]
        assert completion.label_logprobs[verdict.label] == pytest.approx(wanted, **EXACT)
        assert sum(map(math.exp, completion.label_logprobs.values())) <= 1 + 1e-6


def test_an_end_without_a_label_leads_on_to_one(judge: TorchGenerator) -> None:
    request = Request("a", ask("x"), labels=SCALE, force_label=True)
    (free,) = judge.generate([Request("a", ask("x"))], Sampling(temperature=0, max_tokens=4))
    ends, judge._tokenizer.ends = judge._tokenizer.ends, frozenset(free.token_ids[2:3])
    try:
        (done,) = judge.generate([request], Sampling(temperature=0, max_tokens=30))
    finally:
        judge._tokenizer.ends = ends
    end = free.token_ids.index(free.token_ids[2])
    assert done.token_ids[:end] == free.token_ids[:end]
    assert done.finish == "forced"
    assert done.token_ids[end] != free.token_ids[2]
    assert parse_verdict(done.text, SCALE, need_rationale=False) is not None


def test_label_only_and_no_tokens_read_the_same_label(judge: TorchGenerator, model: Any) -> None:
    places = LabelPlaces(SCALE, judge._tokenizer)
    lead, label_tokens = places.lead_in(b"")
    only = by_id(judge, [Request(q, ask(q), SCALE, label_only=True) for q in QUESTIONS], Sampling(n=3))
    drawn = by_id(judge, [Request(q, ask(q), SCALE, force_label=True) for q in QUESTIONS], Sampling(max_tokens=0))
    for question in QUESTIONS:
        (completion,) = only[question]
        prompt = prompt_of(judge, Request(question, ask(question)))
        wanted = {k: logprobs_of(model, prompt, [*lead, *label_tokens[k]])[-1] for k in SCALE}
        assert completion.label_logprobs == pytest.approx(wanted, **EXACT)
        assert completion.text == f"{MARKER} {max(SCALE, key=lambda k: wanted[k])}" == drawn[question][0].text
        assert completion.finish == drawn[question][0].finish == "forced"
        assert completion.prompt_tokens == len(prompt)


def test_labels_of_two_tokens_are_read_exactly(judge: TorchGenerator, model: Any) -> None:
    digits = [tokens(judge, str(digit))[0] for digit in range(10)]
    only = by_id(judge, [Request(q, ask(q), TO_TEN, label_only=True) for q in QUESTIONS], Sampling())
    requests = [Request(q, ask(q), TO_TEN, force_label=True) for q in QUESTIONS]
    forced = by_id(judge, requests, Sampling(max_tokens=9, n=3, stop_at_label=True))
    for question in QUESTIONS:
        prompt = prompt_of(judge, Request(question, ask(question)))
        for completion in (*only[question], *forced[question]):
            written = completion.text.rpartition(" ")[2]
            ids = [*prompt, *completion.token_ids[: -len(written)], digits[1]]
            with torch.inference_mode():
                place, after = model(torch.tensor([ids])).logits[0, -2:].double().softmax(-1)[:, digits].log().tolist()
            wanted = {k: place[k] for k in range(1, 10)}
            wanted |= {10: place[1] + after[0], 1: place[1] + math.log1p(-sum(map(math.exp, after)))}
            assert completion.label_logprobs == pytest.approx(wanted, **EXACT)
            assert int(written) == max(TO_TEN, key=lambda k: wanted[k])
            assert completion.finish == "forced"
            shares = Judgement("a:0", "a", "pointwise", "", "", 1, label_logprobs=completion.label_logprobs)
            assert sum(shares.label_probabilities.values()) == pytest.approx(1)


def test_drawn_label_is_recorded_and_stops(judge: TorchGenerator, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that writes what it is told: every other token is hidden from it."""
    written = tokens(judge, "Good. [RESULT] 4 and more [RESULT] 3.5")
    real = judge._model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = real(*args, **kwargs)
        output.logits[:, -1, written[forward.step]] += 1000  # type: ignore[attr-defined]
        forward.step += 1  # type: ignore[attr-defined]
        return output

    monkeypatch.setattr(judge._model, "forward", forward)
    request = Request("a", ask("x"), labels=SCALE)
    forward.step = 0  # type: ignore[attr-defined]
    (stopped,) = judge.generate([request], Sampling(max_tokens=len(written), stop_at_label=True))
    assert (stopped.text, stopped.finish) == ("Good. [RESULT] 4", "stop")
    forward.step = 0  # type: ignore[attr-defined]
    (free,) = judge.generate([request], Sampling(max_tokens=len(written)))
    assert (free.text, free.finish) == ("Good. [RESULT] 4 and more [RESULT] 3.5", "length")
    assert free.label_logprobs == stopped.label_logprobs
    assert max(SCALE, key=lambda k: free.label_logprobs[k]) == 4


def test_a_choice_is_written_token_by_token(judge: TorchGenerator, model: Any) -> None:
    choices = tuple(f'["ITEM{a}", "ITEM{b}"]' for a in range(1, 7) for b in range(1, 7) if a != b)
    requests = [Request(q, ask(q), choices=choices) for q in QUESTIONS]
    for completion in judge.generate(requests, Sampling(n=2)):
        prompt = prompt_of(judge, Request("", ask(completion.request_id)))
        scores = [logprobs_of(model, prompt, tokens(judge, choice)) for choice in choices]
        # The first token that differs decides, then the next.
        best = max(range(len(choices)), key=lambda c: [round(float(score), 3) for score in scores[c]])
        assert (completion.text, completion.finish, completion.sample) == (choices[best], "forced", 0)
        assert list(completion.token_ids) == tokens(judge, choices[best])


# --- what can't be run ---


def test_too_long_a_prompt_is_an_error_completion(folder: Path) -> None:
    with opened(folder, context=60) as small:
        done = by_id(small, [Request("long", ask("word " * 60)), Request("a", ask("Hi"))], Sampling(n=2, max_tokens=8))
    assert [c.finish for c in done["long"]] == ["error", "error"]
    assert "more than the context of 60" in done["long"][0].error
    assert [c.finish != "error" for c in done["a"]] == [True, True]


def test_the_context_is_at_most_what_the_model_was_trained_for(judge: TorchGenerator) -> None:
    assert judge.context == 512


def test_refusals(judge: TorchGenerator, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SreError, match="same id"):
        list(judge.generate([Request("a", ask("x")), Request("a", ask("y"))], Sampling()))
    (done,) = judge.generate([Request("a", ask("x"), force_label=True)], Sampling())
    assert "names none" in done.error
    (done,) = judge.generate([Request("a", (), prompt="x")], Sampling())
    assert "no text prompt" in done.error
    with pytest.raises(SreError, match="not a model folder"):
        opened(tmp_path)
    with pytest.raises(SreError, match="not an adapter folder"):
        opened(folder, adapter=tmp_path)
    closing = opened(folder)
    running = closing.generate([Request("a", ask("x"))], Sampling(n=9, max_tokens=2))
    next(running)
    closing.close()
    closing.close()
    with pytest.raises(SreError, match="closed"):
        list(running)
    with pytest.raises(SreError, match="closed"):
        next(closing.generate([Request("a", ask("x"))], Sampling(max_tokens=2)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 5, "max_position_embeddings": "x"}'])
def test_a_damaged_file_of_the_model_is_one_error(folder: Path, tmp_path: Path, name: str, text: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / name).write_text(text)
    with pytest.raises(SreError, match=str(copy)):
        opened(copy)


# --- adapters, and the other engine ---


@pytest.fixture(scope="module")
def adapted(folder: Path, make_adapter: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    make_adapter(folder, out, target_modules=["q_proj", "v_proj", "down_proj"])
    return out


def test_an_adapter_changes_what_is_written(judge: TorchGenerator, folder: Path, adapted: Path) -> None:
    requests = [Request(question, ask(question)) for question in QUESTIONS]
    sampling = Sampling(temperature=0, max_tokens=12)
    with opened(folder, adapter=adapted) as other:
        changed = by_id(other, requests, sampling)
    assert all(changed[r.id][0].text != by_id(judge, [r], sampling)[r.id][0].text for r in requests)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_llamacpp_gives_the_same(
    folder: Path, adapted: Path, tmp_path: Path, with_adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    from recipe.gguf.export import write_gguf
    from recipe.inference.llamacpp import kv_cache
    from recipe.inference.llamacpp.generator import LlamaCppGenerator

    default = llama_cpp.llama_cpp.llama_context_default_params

    def exact() -> Any:
        params = default()
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32  # F16, its default, hides what is tested
        return params

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_context_default_params", exact)
    monkeypatch.setattr(kv_cache, "FLASH_ATTENTION", llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    adapter = adapted if with_adapter else None
    write_gguf(folder, tmp_path / "tiny.gguf", adapter=adapter, type_name="F32")
    plain = [Request(question, ask(question)) for question in QUESTIONS]
    forced = [Request(question, ask(question), SCALE, force_label=True) for question in QUESTIONS]
    only = [Request(question, ask(question), SCALE, label_only=True) for question in QUESTIONS]
    to_ten = [
        replace(request, labels=TO_TEN) for request in (*forced, *[replace(one, id=f"{one.id} ") for one in only])
    ]
    ours = opened(folder, adapter=adapter)
    with ours, LlamaCppGenerator(tmp_path / "tiny.gguf", threads=1, context=512) as theirs:
        for requests, size in ((plain, 24), (forced, 9), (only, 9), (to_ten, 9)):
            sampling = Sampling(temperature=0, max_tokens=size)
            a, b = by_id(ours, requests, sampling), by_id(theirs, requests, sampling)
            for request in requests:
                (x,), (y,) = a[request.id], b[request.id]
                assert (x.text, x.token_ids, x.finish) == (y.text, y.token_ids, y.finish)
                assert x.prompt_tokens == y.prompt_tokens
                assert x.label_logprobs == pytest.approx(y.label_logprobs, abs=1e-3)
