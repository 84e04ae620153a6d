"""One pass with a shared prompt gives what two whole passes give: log-probabilities and gradients."""

import contextlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from recipe.training.shared_prompt import PackedPair, SharedPrompt, completion_logps, pack

PAIRS = [
    PackedPair([5, 6, 7, 8, 9], [10, 11, 12, 2], [13, 2]),
    PackedPair([20, 21], [22, 2], [23, 24, 25, 26, 2]),
]


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    peft_model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return peft_model


def plain_logps(peft_model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    logps = peft_model(input_ids=ids).logits.log_softmax(-1)
    return sum(logps[0, len(prompt) + k - 1, token] for k, token in enumerate(completion))


def shared(peft_model):
    batch = pack(PAIRS, pad=0)
    return completion_logps(SharedPrompt(peft_model, batch, contextlib.nullcontext)().logits, batch)


def test_log_probabilities_equal_those_of_separate_passes():
    peft_model = model().eval()
    with torch.no_grad():
        found = shared(peft_model)
        wanted = [plain_logps(peft_model, p.prompt, p.chosen) for p in PAIRS]
        wanted += [plain_logps(peft_model, p.prompt, p.rejected) for p in PAIRS]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-4)


def test_gradients_equal_those_of_separate_passes():
    first, second = model(), model()
    (shared(first) * torch.tensor([1.0, 0.5, -1.0, -2.0])).sum().backward()
    weights = (1.0, 0.5, -1.0, -2.0)
    sides = [(p.prompt, p.chosen) for p in PAIRS] + [(p.prompt, p.rejected) for p in PAIRS]
    sum(w * plain_logps(second, *side) for w, side in zip(weights, sides, strict=True)).backward()
    compared = 0
    for (name, one), (_, two) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, atol=1e-4), name
            compared += 1
    assert compared == 8


def test_the_short_view_is_the_prompts_last_token_and_the_completion():
    batch = pack(PAIRS, pad=0)
    assert batch["input_ids"][0].tolist() == [9, 10, 11, 12, 2, 0]
    assert batch["completion_mask"][2].tolist() == [0, 1, 1, 0, 0, 0]
    assert batch["packed_ids"].shape == (2, 11)
