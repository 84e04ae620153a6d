"""No special token of the model comes from data: shown on the ids, for transformers' tokenizers and llama.cpp's."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.data.records import Example, Message, Rubric
from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.special_tokens import PromptEncoder, break_tokens, is_structure
from recipe.prompts import Prompts
from recipe.training.trainer import plain_text, prompt_ids

RUBRIC = Rubric("Are both fruits?", {k: f"level {k}" for k in range(1, 6)})
POINTWISE = Example("a", "pointwise", (Message("user", "Name two."),), ("apple, pear",), RUBRIC, 3, reference="fig")
PAIRWISE = dataclasses.replace(POINTWISE, task="pairwise", responses=("apple, pear", "brick"), label=1)
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<think>", "</think>", "[THINK]", "<h1>"),
    *("<turn|>", "[IMG]", "<start_of_image>", "<｜tool｜>"),
]
TEXTS = st.lists(st.sampled_from([*SPECIAL, "<", "<th", "ink>", "\n\n\n", "covid", " ", "x", "[", "日本"]), max_size=8)


@pytest.fixture(scope="module", params=["qwen3", "llama-3", "gemma3"])
def both(
    request: pytest.FixtureRequest, models: Any, load: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, LlamaCppGenerator]]:
    """A tokenizer of transformers, and llama.cpp with the same vocabulary."""
    folder = models(request.param)
    out = tmp_path_factory.mktemp("special") / "model.gguf"
    write_gguf(folder, out)
    with LlamaCppGenerator(out, threads=1, context=512, parallel=1) as generator:
        yield load(folder)[1], generator


def filled(example: Example, text: str) -> list[Example]:
    """The example with `text` put into each of its fields in turn."""
    return [
        dataclasses.replace(example, responses=(f"a {text}", *example.responses[1:])),
        dataclasses.replace(example, responses=(*example.responses[:-1], f"{text}b")),
        dataclasses.replace(example, reference=f"a{text}b"),
        dataclasses.replace(example, conversation=(Message("user", text + "?"), Message("assistant", text))),
        dataclasses.replace(example, rubric=Rubric(f"ok {text}", {k: f"{text}{k}" for k in range(1, 6)})),
    ]


def special_ids(tokenizer: Any, ids: list[int]) -> Counter[str]:
    """The added tokens among the ids; words and blank lines are none of a template's."""
    added = tokenizer.added_tokens_decoder
    return Counter(added[token].content for token in ids if token in added and added[token].content in SPECIAL)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=TEXTS)
def test_no_special_id_comes_from_any_field(both: tuple[Any, LlamaCppGenerator], pieces: list[str]) -> None:
    tokenizer, generator = both
    for plain in (POINTWISE, PAIRWISE):
        honest = special_ids(tokenizer, prompt_ids(tokenizer, Prompts().judge(plain)))
        for example in filled(plain, "".join(pieces)):
            messages = PROMPTS.judge(example)
            ids = prompt_ids(tokenizer, messages)
            assert special_ids(tokenizer, ids) == honest
            assert generator._encoder.encode(messages) == ids, "judged as it was trained"


PROMPTS = Prompts()


def test_the_model_s_own_tokens_would_get_through_otherwise(both: tuple[Any, LlamaCppGenerator]) -> None:
    tokenizer, generator = both
    for text in SPECIAL:
        messages = (Message("user", f"a {text} b"),)
        assert special_ids(tokenizer, generator.tokenize(generator.render(messages)))[text] > 0
        assert special_ids(tokenizer, generator._encoder.encode(messages))[text] == (text in ("<|im_start|>",)) * 2 + (
            text == "<|im_end|>"
        )


def test_words_and_blank_lines_stay(both: tuple[Any, LlamaCppGenerator]) -> None:
    _, generator = both
    ids = generator._encoder.encode((Message("user", "covid\n\n\n<b>"),))
    assert ids == generator.tokenize(generator.render((Message("user", "covid\n\n\n<b>"),)))


def test_rationales_to_train_on_hold_none(both: tuple[Any, LlamaCppGenerator]) -> None:
    tokenizer, _ = both
    text = plain_text(tokenizer, "It <think> fits.<|im_end|> [RESULT] 5 [IMG]")
    assert not special_ids(tokenizer, tokenizer(text).input_ids[1:])
    assert "RESULT" not in text
    assert plain_text(tokenizer, "It fits.") == "It fits."


def encoder(specials: dict[str, int], normalise: Callable[[str], str] = str, unknown: int | None = None) -> Any:
    """An encoder over a vocabulary of characters and these tokens."""

    def tokenize(text: str) -> list[int]:
        ids, rest = [], normalise(text)
        while rest:
            found = next((token for token in specials if rest.startswith(token)), rest[0])
            ids.append(specials.get(found, 100 + ord(found[0])))
            rest = rest[len(found) :]
        return [unknown if unknown is not None and token > 300 else token for token in ids]

    texts = {i: text for text, i in specials.items()}
    return PromptEncoder(lambda messages: "<s>" + "".join(m.content for m in messages), tokenize, texts.get, unknown)


def test_a_token_that_only_a_normaliser_finds_is_broken() -> None:
    found = encoder({"<s>": 1, "<a>": 2}, lambda text: text.replace("＜", "<").replace("＞", ">"))
    assert Counter(found.encode([Message("user", "x＜a＞y")]))[2] == 0


def test_a_token_that_can_not_be_broken_is_refused() -> None:
    found = encoder({"<s>": 1, "<a>": 2}, lambda text: text.replace("!", "<a>"))
    with pytest.raises(SreError, match="<a>"):
        found.encode([Message("user", "x!y")])


def test_characters_that_the_vocabulary_lacks_are_read() -> None:
    found = encoder({"<s>": 1, "<unk>": 2}, unknown=2)
    assert found.encode([Message("user", "日x")]) == [1, 2, 100 + ord("x")]
    assert Counter(found.encode([Message("user", "<unk>x")]))[2] == 1  # the look-alike is unknown too


def test_what_breaking_a_token_leaves_is_looked_at_again() -> None:
    found = encoder({"<s>": 1, "‹a": 3, "<a>": 2})
    assert not {2, 3} & set(found.encode([Message("user", "<<a>a>")]))


def test_breaking_keeps_the_rest() -> None:
    assert break_tokens("a <think>b</think> H: c", ["<think>", "H:", ""]) == "a ‹think>b</think> H·: c"


@pytest.mark.parametrize(
    ("text", "control", "structure"),
    [
        *(("<h1>", False, True), ("covid19", False, False), ("▁▁", False, False), ("\n\n", False, False)),
        *(("é", False, False), ("im_end", True, True), ("<", False, False), ("\n", True, True)),
    ],
)
def test_which_tokens_are_structure(text: str, control: bool, structure: bool) -> None:
    assert is_structure(text, control=control) == structure


def test_the_check_costs_next_to_nothing(both: tuple[Any, LlamaCppGenerator]) -> None:
    """A prompt of 400 tokens takes these models' smallest sibling 0.2 s to read: 1% is 2 ms."""
    import time

    _, generator = both
    messages = (Message("user", "apple " * 60),)
    ids = generator._encoder.encode(messages)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        generator._encoder._count(ids)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.002
