"""SFT's rows: loss on the completion alone, nothing cut, dev rows, reporters."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.config import SftConfig
from recipe.data.examples import read_examples
from recipe.errors import SreError
from recipe.storage import read_json
from recipe.training.sft import collate, make_trainer, run_sft, to_rows
from tests.model_fixtures import open_training


def test_the_mask_covers_the_judgement_and_the_end_token_alone(tmp_path, tiny_model, tiny_data):
    training = open_training(tmp_path, tiny_model, SftConfig())
    tokenizer = training.tokenizer
    examples = read_examples(tiny_data, task="pointwise", split="train")
    for row, example in zip(to_rows(training, examples), examples, strict=True):
        prompt = row["labels"].count(-100)
        trained = row["labels"][prompt:]
        assert trained == row["input_ids"][prompt:]
        assert trained[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(trained[:-1]).endswith(f"[RESULT] {example.label}")


def test_rows_that_are_too_long_are_left_out_whole_and_counted(tmp_path, tiny_model, tiny_data):
    examples = read_examples(tiny_data, task="pointwise", split="train")
    whole = list(to_rows(open_training(tmp_path, tiny_model, SftConfig()), examples))
    middle = sorted(len(row["input_ids"]) for row in whole)[len(whole) // 2]
    kept = list(to_rows(open_training(tmp_path, tiny_model, SftConfig(), max_length=middle), examples))
    assert 0 < len(kept) < len(examples)
    assert kept == [row for row in whole if len(row["input_ids"]) <= middle]


def test_rows_that_are_too_long_are_told(tmp_path, tiny_model, tiny_data, caplog):
    training = open_training(tmp_path, tiny_model, SftConfig())
    assert training.left_out(5, 5, "training rows") == 0
    assert not caplog.text
    assert training.left_out(5, 3, "training rows") == 2
    assert "2 of 5 training rows" in caplog.text


LARGE = """
import itertools, json, sys
from pathlib import Path
from types import SimpleNamespace
import trl.trainer.sft_trainer
from recipe.config import SftConfig
from recipe.data.records import Example, Message, Rubric
from recipe.prompts import Prompts
from recipe.system import measured
from recipe.training import trainer
from recipe.training.sft import to_rows

folder, count, trainer.ROWS_IN_MEMORY = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
words = " ".join(map(str, range(1000, 4000)))

class Words:
    # One token a word.
    chat_template, bos_token, eos_token, eos_token_id, unk_token_id = "x", "<s>", "</s>", 1, None
    name_or_path, added_tokens_decoder = "words", {}
    def get_chat_template(self):
        return "{% for m in messages %}{{ m.content }} {% endfor %}"
    def __call__(self, text, **_):
        return {"input_ids": [len(word) + 1000 * number for number, word in enumerate(text.split())]}

def example(k):
    def text(part, size):
        begin = (131 * k + 17 * part) % 9000
        return f"{k} {words[begin : begin + size]}"
    task, responses = (("pointwise", 1), ("pairwise", 2), ("pairwise", 2))[k % 3]
    rubric = Rubric(text(1, 100), {score: text(score, 120) for score in range(1, 6)})
    given = tuple(text(10 + number, 900) for number in range(responses))
    return Example(str(k), task, (Message("user", text(7, 800)),), given, rubric, 1, text(8, 500), text(9, 900))

loading = SimpleNamespace(max_length=4096)
training = SimpleNamespace(tokenizer=Words(), prompts=Prompts(), loading=loading, settings=SftConfig())
list(to_rows(training, map(example, range(3))))
examples = [example(k) for k in range(count)]
with measured() as before:
    pass
with measured() as whole:
    data = trainer.rows_on_disk(folder / "rows.arrow", to_rows(training, examples))
tokens = trainer.tokens_in(data, "input_ids") / len(data)
print(json.dumps([len(data), tokens, before["peak_rss_mb"], whole["peak_rss_mb"]]))
"""


def made(folder: Path, count: int, in_memory: int) -> tuple[float, float, float]:
    """(mean tokens, MiB before, MiB at the peak) of SFT's rows of so many examples, made in a process of its own."""
    command = [sys.executable, "-c", LARGE, str(folder), str(count), str(in_memory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, tokens, before, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{rows} rows of {tokens:.0f} tokens: {before} MiB with the examples in memory, {peak} MiB at the peak")
    assert rows == count
    return tokens, before, peak


def test_rows_are_not_held_in_memory_when_they_are_made(tmp_path):
    tokens, before, peak = made(tmp_path, 4000, 50)
    held = 4000 * 2 * tokens * 8 / 2**20  # a Python list has a pointer for each token; there are two lists
    assert held > 30
    assert peak - before < held / 2


@pytest.mark.slow
def test_the_rows_of_both_full_collections_take_less_than_4_gb(tmp_path):
    """300,000 examples and what becomes of them, libraries included."""
    _, _, peak = made(tmp_path, 300_000, 1000)
    assert peak * 2**20 < 4e9


def train(folder, tiny_model, tiny_data, limit=12, max_length=2048, dev=(), report_to="none", **settings):
    examples = read_examples(tiny_data, task="pointwise", split="train", limit=limit)
    chosen = {"batch_size": 4, "accumulate": 1, "checkpoints": 0, "learning_rate": 1e-2, **settings}
    setup = {"max_length": max_length, "report_to": report_to, "run": "tiny"}
    training = open_training(folder, tiny_model, SftConfig(**chosen), **setup)
    facts = run_sft(training, examples=examples, dev=dev)
    losses = [entry["loss"] for entry in read_json(folder / "training.json")["history"] if "loss" in entry]
    return facts, losses


def test_positions_in_place_of_the_padding_mask_change_no_real_token(tiny_model):
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    rows = [
        {"input_ids": list(range(5, 17)), "labels": [-100] * 4 + list(range(9, 17))},
        {"input_ids": list(range(9, 30)), "labels": [-100] * 6 + list(range(15, 30))},
    ]
    plain = DataCollatorForLanguageModeling(pad_token_id=0)
    masked, free = plain(rows), collate(plain, rows)
    assert set(free) == {"input_ids", "labels", "position_ids"}
    real = masked["attention_mask"].bool()
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "position_ids")
        given = [{name: batch[name] for name in names if name in batch} for batch in (masked, free)]
        expected, found = (model(**batch, use_cache=False).logits[real] for batch in given)
    assert torch.allclose(expected, found, atol=1e-4)


def dense_loss(model, batches):
    """The mean over all completion tokens of some batches, from whole logits in float64."""
    import torch

    total, tokens = 0.0, 0
    for batch in batches:
        more = {key: batch[key] for key in ("attention_mask", "position_ids") if key in batch}
        logits = model(input_ids=batch["input_ids"], use_cache=False, **more).logits.double()
        logps = torch.log_softmax(logits[:, :-1], dim=-1)
        for row, place in (batch["labels"][:, 1:] != -100).nonzero().tolist():
            total, tokens = total - logps[row, place, int(batch["labels"][row, place + 1])], tokens + 1
    return total / tokens


def test_the_loss_is_the_mean_over_the_tokens_of_a_step(tmp_path, tiny_model, tiny_data, float32):
    import torch

    examples = read_examples(tiny_data, task="pointwise", split="train", limit=8)
    training = open_training(tmp_path, tiny_model, SftConfig(batch_size=3, accumulate=2, checkpoints=0))
    training.put(to_rows(training, examples))
    trainer = make_trainer(training)
    batches = list(itertools.islice(trainer.get_train_dataloader(), 2))
    tokens = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    expected = dense_loss(trainer.model, batches)
    (expected_gradient,) = torch.autograd.grad(expected, [a_lora_weight(trainer.model)])
    losses = [trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens) for batch in batches]
    (gradient,) = torch.autograd.grad(sum(losses), [a_lora_weight(trainer.model)])
    assert float(sum(losses)) == pytest.approx(float(expected), rel=1e-5)
    assert torch.allclose(gradient, expected_gradient.float(), rtol=1e-3, atol=1e-7)


def a_lora_weight(model):
    return next(w for name, w in model.named_parameters() if "layers.0" in name and "v_proj.lora_B" in name)


def test_dev_rows_choose_the_checkpoint_and_may_end_training(tmp_path, tiny_model, tiny_data):
    dev = read_examples(tiny_data, task="pointwise", split="dev")
    options = {"dev": dev, "epochs": 6.0, "checkpoints": 8, "learning_rate": 0.1}
    facts, _ = train(tmp_path, tiny_model, tiny_data, patience=1, **options)
    history = read_json(tmp_path / "training.json")["history"]
    found = [entry for entry in history if "eval_loss" in entry]
    losses = [entry["eval_loss"] for entry in found]
    assert facts["steps"] < 18
    assert losses.index(min(losses)) == len(losses) - 2  # one more without a lower loss


def test_the_log_goes_to_tensorboard_too(tmp_path, tiny_model, tiny_data):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, tiny_model, tiny_data, report_to="auto")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/loss")) == 3


def test_a_reporter_that_is_not_installed_is_an_error_before_training(tmp_path, tiny_model, tiny_data, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else find(name))
    with pytest.raises(SreError, match="pip install trackio"):
        train(tmp_path, tiny_model, tiny_data, report_to="trackio")
    assert not (tmp_path / "adapter").exists()


def test_nothing_left_to_train_on_is_an_error(tmp_path, tiny_model, tiny_data):
    with pytest.raises(SreError, match=r"longer than model\.max_length = 64"):
        train(tmp_path, tiny_model, tiny_data, max_length=64)
