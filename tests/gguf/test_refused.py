"""What can't be exported, or is interrupted, ends in an SreError that says so and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.gguf.export import export_problem, write_gguf
from recipe.gguf.header import read_metadata

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def change(folder: Path, name: str, **settings: Any) -> None:
    data = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**data, **settings}), encoding="utf-8")


def refused(match: str, out: Path, folder: Path, **arguments: Any) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(SreError, match=match):
        write_gguf(folder, out, **arguments)
    assert sorted(out.parent.iterdir()) == before, "nothing may be left behind"


def test_adapter_of_another_base(models: Any, build: Any, make_adapter: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    make_adapter(models("qwen2"), tmp_path / "wide", target_modules=ALL)
    refused("adapter of another base.*factors are", out, models("qwen3"), adapter=tmp_path / "wide")
    for layers, match in ((3, "nothing for model.layers.2"), (1, "no model.layers.1")):
        other = build("qwen2", "qwen2", num_hidden_layers=layers)
        refused(f"adapter of another base.*{match}", out, other, adapter=tmp_path / "wide")


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("fan_in_fan_out", True)],
)
def test_adapter_that_is_no_plain_sum(field: str, value: Any, models: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(models("llama"), tmp_path / "adapter", target_modules=["q_proj"])
    change(tmp_path / "adapter", "adapter_config.json", **{field: value})
    refused(field, tmp_path / "out.gguf", models("llama"), adapter=tmp_path / "adapter")


def test_what_llama_cpp_can_not_hold_is_refused(build: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    folder = build("llama", "smollm")
    config = json.loads((folder / "config.json").read_text())
    for match, changes in {
        "LlamaForCausalLM, MistralForCausalLM": {"architectures": ["GPT2LMHeadModel"]},
        "not silu": {"hidden_act": "gelu"},
        "'dynamic' is not supported": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "lack model.layers.2": {"num_hidden_layers": 3},
        "no tensor 'model.layers.1": {"num_hidden_layers": 1},
        "quantised": {"quantization_config": {"quant_method": "bitsandbytes"}},
        "intermediate_size": {"intermediate_size": None},
    }.items():
        kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))
        refused(match, out, folder)
        assert re.search(match, export_problem(folder))
    (folder / "config.json").write_text(json.dumps(config))
    assert export_problem(folder) == ""
    write_gguf(folder, out)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("gemma3", {"hidden_activation": "silu"}),
        ("gemma3", {"layer_types": ["sliding_attention"] * 7}),
        ("gemma3", {"query_pre_attn_scalar": 16}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("gemma3", {"attention_bias": True}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
        ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}}),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}}),
        ("gemma3", {"sliding_window": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
    ],
)
def test_what_llama_cpp_computes_otherwise_for_gemma(
    case: str, change: dict[str, Any], models: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models(case), folder)
    assert export_problem(folder) == ""
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, **change}))
    refused(next(iter(change)), tmp_path / "out.gguf", folder)


def test_pairs_that_sentencepiece_would_not_join(models: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models("gemma3"), folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    merges = data["model"]["merges"]
    for changed in (
        merges[:-1],
        [*merges[-1:], *merges[:-1]],
        merges[1:],
        [*merges[20:40], *merges[:20], *merges[40:]],
    ):
        data["model"]["merges"] = changed
        (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
        refused("merges", tmp_path / "out.gguf", folder)
    data["model"]["merges"], data["normalizer"] = merges, {"type": "NFKC"}
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    refused("normaliser", tmp_path / "out.gguf", folder)


def test_unknown_tokeniser(build: Any, tmp_path: Path) -> None:
    folder = build("llama", "smollm")
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = data["pre_tokenizer"]["pretokenizers"]
    for changed in (
        [pieces[1], pieces[0]],
        [{"type": "Whitespace"}, pieces[1]],
        [{**pieces[1], "use_regex": False}],
    ):
        data["pre_tokenizer"]["pretokenizers"] = changed
        change(folder, "tokenizer.json", **data)
        refused("no known name", tmp_path / "out.gguf", folder)
    (folder / "tokenizer.json").unlink()
    refused(r"no tokenizer\.json", tmp_path / "out.gguf", folder)


def test_values_too_large_for_f16(build: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = build("llama", "smollm")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.full((96, 64), 1e5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused("F16 can't hold", tmp_path / "out.gguf", folder)
    write_gguf(folder, tmp_path / "out.gguf", type_name="BF16")


def test_metadata_comes_back(models: Any, tmp_path: Path) -> None:
    pairs = {"sre.prompts.pointwise": "<BEGIN X>\n{{ é }}\n", "general.name": "judge"}
    write_gguf(models("llama"), tmp_path / "out.gguf", metadata={**pairs, "sre.empty": ""})  # an empty text is left out
    read = read_metadata(tmp_path / "out.gguf")
    assert {key: read[key] for key in pairs} == pairs
    assert read["general.architecture"] == "llama"
    assert all(key.startswith(("general.", "sre.")) for key in read)
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "out.gguf").read_bytes()[:5000])
    (tmp_path / "no.gguf").write_bytes(b"PK" * 50)
    for name, match in (("cut", "cut short"), ("no", "not a GGUF"), ("missing", "can't be read")):
        with pytest.raises(SreError, match=match):
            read_metadata(tmp_path / f"{name}.gguf")


def test_interrupted_write_leaves_nothing(models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recipe.gguf.export as module

    out = tmp_path / "out.gguf"
    write_gguf(models("llama"), out)
    before = out.read_bytes()
    calls = iter(range(3))
    write = module._write

    def interrupted(*arguments: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_gguf(models("llama"), out, type_name="F32")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert out.read_bytes() == before


def test_full_disk(models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file-size limit of the process stands in for the disk's end: the write itself fails."""
    script = f"""
        import resource
        from pathlib import Path
        from recipe.gguf.export import write_gguf
        from recipe.errors import SreError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_gguf(Path({str(models("llama"))!r}), Path({str(tmp_path / "out.gguf")!r}))
        except SreError as error:
            print("refused:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "can't write" in done.stdout
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    refused("GiB are needed", tmp_path / "out.gguf", models("llama"))


def test_odd_tokenizer_settings(build: Any, tmp_path: Path) -> None:
    folder = build("llama", "smollm")
    for text in ("{", "[]", '{"eos_token": 5, "chat_template": 7}'):
        (folder / "tokenizer_config.json").write_text(text)
        (folder / "config.json").write_text((folder / "config.json").read_text().replace('"eos_token_id"', '"eos"'))
        refused("tokeniser", tmp_path / "out.gguf", folder)
