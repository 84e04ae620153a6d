"""Which tokens write a label, on the tokenisers of every family; and what two tokens make of its probability."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recipe.inference.labels import LabelPlaces, shared_token, whole_logprobs
from recipe.inference.pytorch.batch import TorchTokenizer
from recipe.verdict import parse_verdict
from tests.model_fixtures import SENTENCEPIECE, SPECIAL, train_sentencepiece

SCALES = [(1, 2, 3, 4, 5), tuple(range(1, 11)), tuple(range(11)), (0, 5, 10), (1, 10)]


@pytest.fixture(scope="module", params=["smollm", "qwen2", "llama-bpe", *SENTENCEPIECE])
def tokenizer(request: pytest.FixtureRequest, train_tokenizer: Callable[..., Any]) -> TorchTokenizer:
    """As those of the families: SentencePiece's never join a digit to anything, Llama 3's has a token for 10."""
    from transformers import PreTrainedTokenizerFast

    if request.param in SENTENCEPIECE:
        corpus = ["So so, it is fine. [RESULT] "] * 50 + ["0123456789"]
        learnt = train_sentencepiece(request.param, corpus, 40)
        made = PreTrainedTokenizerFast(tokenizer_object=learnt, eos_token=SPECIAL[2])
    else:
        made = train_tokenizer(request.param)
    ends = SimpleNamespace(eos_token_id=2)
    return TorchTokenizer(made, SimpleNamespace(config=ends, generation_config=ends))


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("written", ["", "So so.", "So so. [RESULT]", "So so. [RESULT] ", "<think>Hm"])
def test_every_label_is_written_in_one_or_two_tokens(
    tokenizer: TorchTokenizer, scale: tuple[int, ...], written: str
) -> None:
    places = LabelPlaces(scale, tokenizer)
    lead, tokens = places.lead_in(written.encode())
    assert len(lead) <= places.longest
    assert places.extra == 2 * (shared_token(tokens) is not None)
    for label in scale:
        assert len(tokens[label]) == 1 or label == 10
        text = written + b"".join(map(tokenizer.piece, [*lead, *tokens[label]])).decode()
        verdict = parse_verdict(text, scale, need_rationale=False)
        assert verdict is not None
        assert verdict.label == label
        before = text[: -len(str(label))].encode()
        found = places.at(before, tokenizer.piece(tokens[label][0]).lstrip())
        assert found is not None
        assert {len(run) for run in found.values()} <= {1, 2}


def test_the_probabilities_of_whole_labels_are_products() -> None:
    draw = np.random.default_rng(0)
    place, after = draw.normal(size=(2, 40)).astype(np.float32)
    p, q = (np.exp(row) / np.exp(row).sum() for row in (place.astype(float), after.astype(float)))
    tokens = {label: (20 + label,) for label in range(1, 10)} | {10: (21, 20)}
    first = {label: math.log(p[run[0]]) for label, run in tokens.items()}
    found = whole_logprobs(first, after, tokens, range(20, 30))
    wanted = {label: p[20 + label] for label in range(2, 10)}
    wanted |= {10: p[21] * q[20], 1: p[21] * (1 - q[20:30].sum())}
    assert {label: math.exp(value) for label, value in found.items()} == pytest.approx(wanted)
