"""Both ways to batch a pair give what two whole passes give: log-probabilities and gradients."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from recipe.training import pair_batch
from recipe.training.pair_batch import can_share, pack, token_logps

PAIRS = [
    {"prompt_ids": [5, 6, 7, 8, 9], "chosen_ids": [10, 11, 12, 2], "rejected_ids": [13, 2]},
    {"prompt_ids": [20, 21], "chosen_ids": [22, 2], "rejected_ids": [23, 24, 25, 26, 2]},
]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BOTH = pytest.mark.parametrize("shared", [True, False])


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.1))


def gemma3():
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=3))


def model(make=llama):
    torch.manual_seed(0)
    peft_model = get_peft_model(make(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return peft_model


def plain_logps(peft_model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    logps = peft_model(input_ids=ids).logits.log_softmax(-1)
    return torch.stack([logps[0, len(prompt) + k - 1, token] for k, token in enumerate(completion)])


def sides():
    return [(pair["prompt_ids"], pair[f"{side}_ids"]) for side in ("chosen", "rejected") for pair in PAIRS]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pair_batch, "CHUNK", 3)


@BOTH
@pytest.mark.parametrize("make", [llama, gemma2])
def test_log_probabilities_equal_those_of_separate_passes(shared, make):
    peft_model = model(make).eval()
    with torch.no_grad():
        found = token_logps(peft_model, pack(PAIRS, pad=0, shared=shared))
        for row, (prompt, completion) in zip(found, sides(), strict=True):
            wanted = plain_logps(peft_model, prompt, completion)
            assert torch.allclose(row[: len(completion)], wanted, atol=1e-4)
            assert not row[len(completion) :].any()


@pytest.mark.parametrize(("make", "shares"), [(llama, True), (gemma3, False)])
def test_a_model_with_a_sliding_window_keeps_it(make, shares):
    peft_model = model(make).eval()
    assert can_share(peft_model) == shares
    for shared in (can_share(peft_model), True):
        with torch.no_grad():
            found = token_logps(peft_model, pack(PAIRS, pad=0, shared=shared))
            wanted = [plain_logps(peft_model, *side) for side in sides()]
        equal = [torch.allclose(row[: len(one)], one, atol=1e-4) for row, one in zip(found, wanted, strict=True)]
        assert all(equal) == (shared == can_share(peft_model) or shares), "shared, it would lose its window"


@BOTH
def test_gradients_equal_those_of_separate_passes(shared):
    first, second = model(), model()
    weights = (1.0, 0.5, -1.0, -2.0)
    (token_logps(first, pack(PAIRS, pad=0, shared=shared)).sum(1) * torch.tensor(weights)).sum().backward()
    sum(w * plain_logps(second, *side).sum() for w, side in zip(weights, sides(), strict=True)).backward()
    compared = 0
    for (name, one), (_, two) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, atol=1e-4), name
            compared += 1
    assert compared == 8


def test_logits_are_never_in_memory_for_more_than_a_chunk(monkeypatch):
    seen = []
    plain = pair_batch.output_logits

    def counted(causal_lm, hidden):
        seen.append(len(hidden))
        return plain(causal_lm, hidden)

    monkeypatch.setattr(pair_batch, "output_logits", counted)
    token_logps(model(), pack(PAIRS, pad=0, shared=True)).sum().backward()
    assert max(seen) == 3
    assert sum(seen) == 2 * sum(len(completion) for _, completion in sides())  # forward, and again backward


def test_a_shared_sequence_is_as_long_as_its_parts():
    assert pack(PAIRS, pad=0, shared=True)["input_ids"].shape == (2, 11)
    assert pack(PAIRS, pad=0, shared=False)["input_ids"].shape == (4, 9)
