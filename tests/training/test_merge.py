"""The merge against dense arithmetic, for factors and for a real pair of PEFT adapters."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from recipe.config import MergeConfig
from recipe.errors import SreError
from recipe.training.merge import Factors, read_adapter, run_merge, truncate, weighted_sum

TARGETS = ["q_proj", "v_proj", "down_proj"]


def factors(rank, seed, scale=2.0, size=(24, 16)):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, size[1], generator=generator)
    return Factors(a, torch.randn(size[0], rank, generator=generator), scale)


def delta(factors):
    """The dense update [out, in] in float64, which everything else is measured against."""
    return factors.scale * (factors.b.double() @ factors.a.double())


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (1.0, 0.0), (1.5, -0.5)])
@pytest.mark.parametrize("ranks", [(4, 4), (2, 8)])
def test_exact_is_the_sum_of_the_deltas(weights, ranks):
    first, second = factors(ranks[0], 1), factors(ranks[1], 2, scale=0.5)
    merged = weighted_sum([(weights[0], first), (weights[1], second)])
    assert merged.a.shape[0] == sum(ranks)
    assert relative(delta(merged), weights[0] * delta(first) + weights[1] * delta(second)) < 1e-6


def test_svd_is_the_best_approximation_of_its_rank():
    first, second = factors(4, 1), factors(4, 2)
    dense = 0.5 * delta(first) + 0.5 * delta(second)
    u, s, v = torch.linalg.svd(dense)
    best = u[:, :3] * s[:3] @ v[:3]
    merged, squares = truncate(weighted_sum([(0.5, first), (0.5, second)]), 3)
    assert merged.a.shape[0] == 3
    assert relative(delta(merged), best) < 1e-5
    assert float((squares[3:].sum() / squares.sum()) ** 0.5) == pytest.approx(relative(best, dense))
    whole, squares = truncate(weighted_sum([(0.5, first), (0.5, second)]), 8)
    assert relative(delta(whole), dense) < 1e-5
    assert len(squares[8:]) == 0


def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def save_adapter(folder, seed, rank=4):
    model = get_peft_model(
        tiny_model(), LoraConfig(r=rank, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(tmp_path):
    return save_adapter(tmp_path / "pointwise", 1), save_adapter(tmp_path / "pairwise", 2)


def test_a_real_adapter_pair_merges_to_dense_arithmetic(adapters, tmp_path):
    run_merge(
        tmp_path / "merged",
        pointwise=adapters[0],
        pairwise=adapters[1],
        settings=MergeConfig(pointwise_weight=0.4, pairwise_weight=0.6),
        default_rank=4,
    )
    base = {name: value.double() for name, value in tiny_model().state_dict().items()}
    dense = dict(base)
    for folder, weight in zip(adapters, (0.4, 0.6), strict=True):
        saved, scale = load_file(folder / "adapter_model.safetensors"), 8 / 4
        for name in [n for n in saved if "lora_A" in n]:
            target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            b = saved[name.replace("lora_A", "lora_B")].double()
            dense[target] = dense[target] + weight * scale * b @ saved[name].double()
    merged = PeftModel.from_pretrained(tiny_model(), tmp_path / "merged" / "adapter").merge_and_unload().state_dict()
    changed = 0
    for name, wanted in dense.items():
        assert relative(merged[name].double(), wanted) < 1e-5
        changed += not torch.equal(wanted, base[name])
    assert changed == 2 * len(TARGETS)


def test_the_merged_adapter_is_named_default_and_its_error_is_reported(adapters, tmp_path):
    pair = {"pointwise": adapters[0], "pairwise": adapters[1], "default_rank": 4}
    exact = run_merge(tmp_path / "exact", settings=MergeConfig(), **pair)
    assert exact["relative_error"] == 0
    assert "default" in PeftModel.from_pretrained(tiny_model(), tmp_path / "exact" / "adapter").peft_config
    merged, config = read_adapter(tmp_path / "exact" / "adapter")
    assert config["r"] == config["lora_alpha"] == 8
    assert len(merged) == 2 * len(TARGETS)
    error = run_merge(tmp_path / "svd", settings=MergeConfig(method="svd"), **pair)["relative_error"]
    assert json.loads((tmp_path / "svd" / "merge.json").read_text())["relative_error"] == error
    smaller, config = read_adapter(tmp_path / "svd" / "adapter")
    assert config["r"] == 4
    wanted = torch.cat([delta(part).flatten() for part in merged.values()])
    found = torch.cat([delta(smaller[name]).flatten() for name in merged])
    assert error == pytest.approx(relative(found, wanted), rel=1e-4)


def test_an_adapter_of_other_modules_is_refused(adapters, tmp_path):
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(SreError, match="different modules"):
        run_merge(tmp_path, pointwise=adapters[0], pairwise=tmp_path / "other", settings=MergeConfig(), default_rank=4)


def test_a_folder_without_an_adapter_is_refused(adapters, tmp_path):
    with pytest.raises(SreError, match="not an adapter folder"):
        run_merge(tmp_path, pointwise=adapters[0], pairwise=tmp_path, settings=MergeConfig(), default_rank=4)
