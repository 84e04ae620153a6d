"""Every way to load a model trains the same tiny adapter: plain, Unsloth where it is installed, and 4-bit on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from recipe.errors import SreError
from recipe.inference.pytorch.engines import open_engine
from recipe.storage import read_json, read_jsonl

STAGES = ("sft-pointwise", "sft-pairwise", "iter-1")
"""Those that train."""


# Each in a process of its own, with its arguments; it prints one line of JSON.
MASKS = """
from recipe.training.trainer import Loading, Training
loading = Loading(name, "none", 4096, False)
loading.open_engine()
from recipe.config import LoraConfig, SftConfig
from recipe.data.examples import read_examples
from recipe.prompts import Prompts
from recipe.training.sft import make_trainer, to_rows
given = {"loading": loading, "prompts": Prompts(), "seed": 0, "adapter": None, "lora": LoraConfig(r=4)}
settings = SftConfig(batch_size=4, checkpoints=0)
training = Training(Path(tempfile.mkdtemp()), model=Path(first), settings=settings, **given)
tokenizer = training.tokenizer
examples = read_examples(second, task="pointwise", split="train")
rows = list(to_rows(training, examples))
training.put(rows)
trainer = make_trainer(training)
known = {tuple(r["input_ids"]): r["labels"] for r in rows}
found = []
for batch in trainer.get_train_dataloader():
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist()):
        (end,) = [k for k in range(len(ids) + 1) if tuple(ids[:k]) in known]
        assert set(ids[end:]) <= {tokenizer.pad_token_id} and set(labels[end:]) <= {-100}
        found.append({"input_ids": ids[:end], "labels": labels[:end], "expected": known[tuple(ids[:end])]})
batches = list(trainer.get_train_dataloader())
weights = [trainer._get_num_items_in_batch([batch], trainer.args.device) for batch in batches]
losses = [trainer.compute_loss(trainer.model, b, num_items_in_batch=w) for b, w in zip(batches, weights)]
said = {"rows": len(rows), "batches": found, "weights": list(map(float, weights)), "losses": list(map(float, losses))}
"""
PAIRS = """
from recipe.training.trainer import Loading, Training
loading = Loading(name, "none", 4096, False)
loading.open_engine()
import torch
from recipe.config import DpoConfig, LoraConfig
from recipe.data.examples import read_examples
from recipe.data.records import Judgement, Preference
from recipe.prompts import Prompts
from recipe.training.dpo import make_trainer, to_rows, with_reference
from recipe.training.pair_batch import pack, token_logps
given = {"loading": loading, "prompts": Prompts(), "seed": 0, "adapter": None, "lora": LoraConfig(r=4)}
settings = DpoConfig(batch_size=2, checkpoints=0, sft_weight=0.5)
training = Training(Path(tempfile.mkdtemp()), model=Path(first), settings=settings, **given)
model = training.model
examples = {row.id: row for row in read_examples(second, task="pointwise", split="train", limit=4)}
def side(row, text, label):
    return Judgement(row.id + text, row.id, row.task, f"{text} [RESULT] {label}", text, label, row.label)
pairs = [Preference(k, k, r.task, side(r, "it fits", r.label), side(r, "none of it", 1 + r.label % 5), "")
         for k, r in examples.items()]
training.put(to_rows(training, examples, pairs))
rows = training.rows
trainer = make_trainer(training)
trainer.train_dataset = with_reference(trainer, rows)
draw = torch.Generator().manual_seed(0)
for key, weight in model.named_parameters():
    if "lora_B" in key:
        weight.data += 0.1 * torch.randn(weight.shape, generator=draw)
losses = []
for batch in trainer.get_train_dataloader():
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    losses.append(float(loss))
norms = [float(w.grad.norm()) for key, w in sorted(model.named_parameters()) if w.grad is not None]
with torch.no_grad(), trainer.accelerator.autocast():
    sums = [token_logps(trainer.model, pack(list(rows), 0, shared=shared)).sum(1).tolist() for shared in (True, False)]
said = {"losses": losses, "gradients": norms, "shared": sums[0], "apart": sums[1]}
"""
DRAWS = """
import torch
from recipe.inference.base import Request, Sampling
from recipe.inference.pytorch.generator import TorchGenerator
from recipe.data.records import Message
requests = [Request(f"r{k}", (Message("user", text),)) for k, text in enumerate(("a b c", "Is it all there?"))]
with TorchGenerator(Path(first), adapter=Path(second), name="j1", context=512, engine=name) as generator:
    drawn = list(generator.generate(requests, Sampling(n=3, max_tokens=16, alternatives=0)))
drawn.sort(key=lambda completion: (completion.request_id, completion.sample))
said = {"texts": [c.text for c in drawn], "logprobs": [t.logprob for c in drawn for t in c.tokens]}
said["a plan for every shape"] = torch.backends.cuda.cudnn_sdp_enabled()
"""


def said_by(script, engine, *arguments):
    if engine == "unsloth" and importlib.util.find_spec("unsloth") is None:
        pytest.skip("Unsloth is not installed")
    head = "import json, sys, tempfile\nfrom pathlib import Path\nname, first, second = sys.argv[1:]\n"
    command = [sys.executable, "-c", f"{head}{script}\nprint(json.dumps(said))", engine, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def run(model, data, folder, until, *overrides):
    """A run of the tiny preset in a process of its own (Unsloth patches the one it is imported in)."""
    settings = [f'model.source="{model}"', f'data.pointwise="{data}"', f'data.pairwise="{data}"', *overrides]
    options = [part for item in settings for part in ("--set", item)]
    command = [sys.executable, "-m", "recipe.cli", "run", "tiny", "--run-dir", str(folder), "--until", until]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def marker(folder, stage="sft-pointwise"):
    return read_json(folder / stage / ("dpo.done.json" if stage.startswith("iter") else "done.json"))


def losses(folder, stage):
    return [entry["loss"] for entry in read_json(folder / stage / "training.json")["history"] if "loss" in entry]


@pytest.fixture(scope="module")
def plain(tiny_model, tiny_data, tmp_path_factory):
    return run(tiny_model, tiny_data, tmp_path_factory.mktemp("plain"), "iter-1:dpo")


def test_the_plain_engine_learns(plain):
    found = marker(plain)
    assert found["engine"] == "transformers"
    assert found["last_loss"] < found["first_loss"]


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed")
def test_unsloth_gives_the_same_pairs_and_losses_within_two_percent(plain, tiny_model, tiny_data, tmp_path):
    fast = run(tiny_model, tiny_data, tmp_path, "iter-1:dpo", 'model.engine="auto"')
    assert {marker(fast, stage)["engine"] for stage in STAGES} == {"unsloth"}
    drawn = [list(read_jsonl(folder / "iter-1" / "preferences.jsonl")) for folder in (plain, fast)]
    pairs = [[(row["chosen"]["text"], row["rejected"]["text"]) for row in rows] for rows in drawn]
    assert pairs[0]
    assert pairs[0] == pairs[1]
    for stage in STAGES:
        assert losses(fast, stage) == pytest.approx(losses(plain, stage), rel=0.02)


@pytest.mark.parametrize("engine", ["transformers", "unsloth"])
def test_the_trainer_takes_the_loss_at_the_completions_tokens_alone(engine, tiny_model, tiny_data):
    found = said_by(MASKS, engine, tiny_model, tiny_data)
    assert len(found["batches"]) == found["rows"] > 0
    for row in found["batches"]:
        assert row["labels"] == row["expected"]


def test_both_engines_weigh_the_label_alike(tiny_model, tiny_data):
    plain, fast = (said_by(MASKS, engine, tiny_model, tiny_data) for engine in ("transformers", "unsloth"))
    assert plain["weights"] == fast["weights"]
    assert fast["losses"] == pytest.approx(plain["losses"], rel=0.01)


def test_both_engines_compute_dpo_alike_with_shared_prompts_and_without(tiny_model, tiny_data):
    plain, fast = (said_by(PAIRS, engine, tiny_model, tiny_data) for engine in ("transformers", "unsloth"))
    assert fast["losses"] == pytest.approx(plain["losses"], rel=0.02)
    assert len(fast["gradients"]) == len(plain["gradients"]) > 0
    assert fast["gradients"] == pytest.approx(plain["gradients"], rel=0.1)
    for said in (plain, fast):
        assert said["apart"] == pytest.approx(said["shared"], rel=0.01)


def test_both_engines_draw_the_same_from_a_trained_adapter(plain, tiny_model):
    """Unsloth's fast decoding, `for_inference`, against plain transformers."""
    found = [said_by(DRAWS, engine, tiny_model, plain / "iter-1" / "adapter") for engine in ("transformers", "unsloth")]
    assert len(set(found[0]["texts"])) > 1
    assert found[0]["texts"] == found[1]["texts"]
    assert found[1]["logprobs"] == pytest.approx(found[0]["logprobs"], abs=0.05)
    assert not any(said["a plan for every shape"] for said in found)


def test_four_bit_trains_on_a_cpu(plain, tiny_model, tiny_data, tmp_path):
    qlora = marker(run(tiny_model, tiny_data, tmp_path, "sft-pointwise", 'model.quantization="nf4"'))
    assert qlora["first_loss"] == pytest.approx(marker(plain)["first_loss"], rel=0.2)
    assert qlora["last_loss"] < qlora["first_loss"]


def test_an_engine_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "recipe.inference.pytorch.unsloth", None)
    with pytest.raises(SreError, match="Unsloth can't be imported"):
        open_engine("unsloth")
    assert open_engine("auto").name == "transformers"
