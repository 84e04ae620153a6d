"""DPO: its loss against plain arithmetic, where the reference comes from, what is left out, resuming, stopping."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from recipe.config import DpoConfig, LoraConfig
from recipe.data.examples import read_examples
from recipe.data.records import Judgement, Preference
from recipe.errors import NothingToTrainError
from recipe.inference.pytorch.engines import TransformersEngine
from recipe.storage import read_json
from recipe.training import dpo
from recipe.training import trainer as training
from recipe.training.dpo import hold_out, make_trainer, run_dpo, to_rows, with_reference
from recipe.verdict import format_verdict
from tests.model_fixtures import open_training

LORA = LoraConfig(r=4, alpha=8)


def judgement(example, text, sample):
    label = int(text[-1]) if text[-1].isdigit() else None
    return Judgement(f"{example.id}:{sample}", example.id, example.task, text, text, label, truth=example.label)


@pytest.fixture(scope="session")
def examples(tiny_data):
    return {row.id: row for row in read_examples(tiny_data, task="pointwise", split="train")}


@pytest.fixture(scope="session")
def preferences(examples):
    """Twelve pairs of different lengths, one of them with a malformed rejected side."""
    pairs = []
    for number, example in enumerate(list(examples.values())[:12]):
        chosen = judgement(example, format_verdict("it fits " * (1 + number % 3), example.label), 0)
        wrong = f"one is missing [RESULT] {1 + example.label % 5}" if number else "none of it"
        rejected = judgement(example, wrong, 1)
        pairs.append(Preference(str(number), example.id, example.task, chosen, rejected, "correct-answer"))
    return pairs


def open_trainer(folder, tiny_model, examples, pairs, **settings):
    """A trainer with its reference."""
    chosen = DpoConfig(**{"batch_size": 4, "accumulate": 1, "checkpoints": 0, **settings})
    opened = open_training(folder, tiny_model, chosen)
    opened.put(to_rows(opened, examples, pairs))
    trainer = make_trainer(opened)
    trainer.train_dataset = with_reference(trainer, opened.rows)
    return trainer


def shift(model):
    """Move the adapter away from the reference."""
    import torch

    draw = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.5 * torch.randn(weight.shape, generator=draw)


def dense_logps(model, row, side):
    """(sum of the completion's log-probabilities, its tokens) from whole logits in float64."""
    import torch

    prompt, completion = row["prompt_ids"], row[f"{side}_ids"]
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].double()
    logps = torch.log_softmax(logits, dim=-1)
    terms = [logps[len(prompt) + k - 1, token] for k, token in enumerate(completion)]
    return float(sum(terms).detach()), len(completion)


def dense_loss(settings, policy, reference):
    """DPO's loss over pairs as published. `policy` and `reference` hold ((chosen, weights), (rejected, weights))."""
    losses, chosen_sum, chosen_weights = [], 0.0, 0.0
    for now, before in zip(policy, reference, strict=True):
        ratios = [n - b for (n, _), (b, _) in zip(now, before, strict=True)]
        losses.append(math.log1p(math.exp(-settings.beta * (ratios[0] - ratios[1]))))
        chosen_sum, chosen_weights = chosen_sum + now[0][0], chosen_weights + now[0][1]
    return sum(losses) / len(losses) - settings.sft_weight * chosen_sum / chosen_weights


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 2.0},
        {"sft_weight": 0.7},
    ],
    ids=str,
)
def test_the_loss_is_that_of_plain_arithmetic(tmp_path, tiny_model, examples, preferences, float32, settings):
    trainer = open_trainer(tmp_path, tiny_model, examples, preferences[:4], **settings)
    chosen = DpoConfig(**settings)
    rows = list(trainer.train_dataset)

    def both(row):
        return [dense_logps(trainer.model, row, side) for side in ("chosen", "rejected")]

    reference = [both(row) for row in rows]
    shift(trainer.model)
    policy = [both(row) for row in rows]
    found = float(trainer.compute_loss(trainer.model, trainer.data_collator(rows)).detach())
    assert found == pytest.approx(dense_loss(chosen, policy, reference), rel=1e-4)
    assert found != pytest.approx(dense_loss(chosen, reference, reference), rel=1e-3)  # the adapter has moved


# --- the reference ---


def test_the_reference_is_the_adapter_before_its_first_step(tmp_path, tiny_model, examples, preferences):
    trainer = open_trainer(tmp_path, tiny_model, examples, preferences)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-3)


# --- what is trained on ---


def train(
    folder,
    tiny_model,
    examples,
    preferences,
    *,
    max_length=2048,
    adapter=None,
    report_to="none",
    **settings,
):
    chosen = {
        "batch_size": 2,
        "accumulate": 1,
        "checkpoints": 0,
        "learning_rate": 1e-2,
        **settings,
    }
    told = {"report_to": report_to, "run": "tiny", "max_length": max_length}
    opened = open_training(folder, tiny_model, DpoConfig(**chosen), adapter=adapter, lora=LORA, **told)
    return run_dpo(opened, examples=examples, preferences=preferences)


def test_a_pair_is_as_long_as_its_prompt_and_its_longer_completion(tmp_path, tiny_model, examples, preferences, caplog):
    rows = list(to_rows(open_training(tmp_path, tiny_model, DpoConfig()), examples, preferences))
    sizes = [len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows]
    limit = sorted(sizes)[6]
    facts = train(tmp_path, tiny_model, examples, preferences, max_length=limit)
    assert facts["pairs"] == sum(size <= limit for size in sizes) < 12
    assert facts["pairs"] + facts["too_long"] == 12
    assert f"{facts['too_long']} of 12 preference pairs" in caplog.text
    assert min(len(r["chosen_ids"]) + len(r["rejected_ids"]) + len(r["prompt_ids"]) for r in rows) > limit


def test_nothing_left_to_train_on_is_an_error(tmp_path, tiny_model, examples, preferences):
    with pytest.raises(NothingToTrainError, match="within 64 tokens"):
        train(tmp_path, tiny_model, examples, preferences, max_length=64)


def test_a_tokenizer_without_a_padding_token_trains(tmp_path, tiny_model, examples, preferences, monkeypatch):
    class Llama3(TransformersEngine):
        def load(self, *args, **more):
            model, tokenizer = super().load(*args, **more)
            tokenizer.pad_token = None
            return model, tokenizer

    monkeypatch.setattr("recipe.training.trainer.open_engine", lambda name: Llama3())
    assert train(tmp_path, tiny_model, examples, preferences[:4])["pairs"] == 4


def test_the_adapter_of_a_4_bit_base_is_not_rounded(tmp_path, tiny_model, examples, preferences):
    import torch

    opened = open_training(tmp_path, tiny_model, DpoConfig(checkpoints=0))
    model = opened.model
    shift(model)
    before = {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}
    assert any(not torch.equal(w, w.bfloat16().float()) for w in before.values())
    model.is_loaded_in_4bit = True  # what TRL goes by
    opened.put(to_rows(opened, examples, preferences[:2]))
    trainer = make_trainer(opened)
    after = {name: w for name, w in trainer.model.named_parameters() if w.requires_grad}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


# --- stopping and going on ---


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_killed_and_resumed_equals_uninterrupted(tmp_path, tiny_model, examples, preferences, monkeypatch):
    import torch

    options = {"checkpoints": 2, "batch_size": 2, "max_kl": 500.0}
    whole = train(tmp_path / "whole", tiny_model, examples, preferences, **options)
    plain = training._progress_callback

    def killing(advance):
        bar = plain(advance)
        on_log = bar.on_log

        def dies(args, state, control, **more):
            if state.global_step == 5:
                raise KeyboardInterrupt
            on_log(args, state, control, **more)

        bar.on_log = dies
        return bar

    with monkeypatch.context() as patch:
        patch.setattr(training, "_progress_callback", killing)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", tiny_model, examples, preferences, **options)
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-4").is_dir()
    resumed = train(tmp_path / "killed", tiny_model, examples, preferences, **options)
    assert resumed == whole
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [read_json(tmp_path / name / "training.json")["history"] for name in ("whole", "killed")]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert not (tmp_path / "whole" / "checkpoints").exists()


def test_training_stops_when_the_kl_passes_its_limit(tmp_path, tiny_model, examples, preferences):
    free = train(tmp_path / "free", tiny_model, examples, preferences, epochs=3.0)
    history = [entry["kl"] for entry in read_json(tmp_path / "free" / "training.json")["history"]]
    assert free["kl"] == pytest.approx(sum(history[-dpo.KL_STEPS :]) / dpo.KL_STEPS)
    assert not free["stopped_early"]
    stopped = train(tmp_path / "stopped", tiny_model, examples, preferences, epochs=3.0, max_kl=free["kl"] / 4)
    assert stopped["stopped_early"]
    assert 1 < stopped["steps"] < free["steps"] == 18
    assert stopped["kl"] > free["kl"] / 4
    assert (tmp_path / "stopped" / "adapter" / "adapter_model.safetensors").is_file()


def test_pairs_are_held_out_by_whole_inputs(preferences):
    twice = [*preferences, *preferences]
    kept, held = hold_out(twice, 0.25, seed=1)
    assert (len(kept), len(held)) == (18, 6)
    assert not {pair.example_id for pair in kept} & {pair.example_id for pair in held}
    assert hold_out(twice, 0.25, seed=1) == (kept, held) != hold_out(twice, 0.25, seed=2)
    assert hold_out(twice, 0.0, seed=1) == (twice, [])


def test_held_out_pairs_choose_the_checkpoint_and_may_end_training(tmp_path, tiny_model, examples, preferences):
    options = {"epochs": 8.0, "checkpoints": 11, "held_out_share": 0.34, "learning_rate": 3e-2}
    facts = train(tmp_path, tiny_model, examples, preferences, patience=1, **options)
    history = read_json(tmp_path / "training.json")["history"]
    dev = [entry for entry in history if "eval_loss" in entry]
    assert facts["pairs"] == 8
    assert {"eval_rewards/accuracies", "eval_rewards/margins", "eval_kl"} <= dev[0].keys()
    losses = [entry["eval_loss"] for entry in dev]
    best = losses.index(min(losses))
    assert facts["stopped_early"]
    assert best == len(losses) - 2  # one more without a lower loss
    shorter = train(tmp_path / "again", tiny_model, examples, preferences, **options)
    assert shorter["steps"] > facts["steps"]


@pytest.mark.parametrize(
    ("report_to", "reporter"), [("auto", "tensorboard"), ("wandb", "wandb"), ("trackio", "trackio")]
)
def test_a_reporter_is_told_loss_margin_kl_and_the_accuracy_on_dev(
    report_to, reporter, tmp_path, tiny_model, examples, preferences, monkeypatch
):
    """A stand-in for what transformers hands the log to."""
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    logged, installed = {}, SimpleNamespace(find_spec=lambda name: name == reporter)

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            logged.update(logs, run=args.run_name)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, reporter, Reporter)
    monkeypatch.setattr(training, "importlib", SimpleNamespace(util=installed))
    options = {"checkpoints": 1, "held_out_share": 0.34, "report_to": report_to}
    train(tmp_path / "iter-1", tiny_model, examples, preferences, **options)
    assert {"loss", "rewards/margins", "kl", "eval_loss", "eval_rewards/accuracies", "eval_kl"} <= logged.keys()
    assert logged["run"] == "tiny/iter-1"
