"""Random models are what llama.cpp would make of the same shape: types, sizes, and they run."""

from __future__ import annotations

import gguf
import pytest

from benchmarks import models
from benchmarks.models import SHAPES, tensors, write_model
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.gguf.architecture import read_hyperparameters
from recipe.inference.base import Request, Sampling
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.llamacpp.quantization import quantize


def types(path):
    return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("type_name", ["Q4_K_M", "Q8_0"])
def test_types_are_those_of_llama_cpps_quantisation(type_name, tmp_path, monkeypatch):
    monkeypatch.setitem(SHAPES, "small", {**SHAPES["tiny"], "vocab_size": 512})
    monkeypatch.setattr(models, "_write_vocabulary", lambda writer, size: None)  # reading one takes seconds
    write_model("small", "F16", tmp_path / "f16.gguf")
    write_model("small", type_name, tmp_path / "ours.gguf")
    quantize(tmp_path / "f16.gguf", tmp_path / "theirs.gguf", type_name)
    assert types(tmp_path / "ours.gguf") == types(tmp_path / "theirs.gguf")
    assert len(set(types(tmp_path / "ours.gguf").values())) == {"Q4_K_M": 3, "Q8_0": 2}[type_name]


def test_a_random_model_judges(tmp_path):
    write_model("tiny", "Q8_0", tmp_path / "tiny.gguf")
    request = Request("a", (Message("user", "Is it right?"),), (1, 2), force_label=True)
    with LlamaCppGenerator(tmp_path / "tiny.gguf", context=512, parallel=1) as generator:
        (done,) = generator.generate([request], Sampling(temperature=0, max_tokens=4))
    assert set(done.label_logprobs) == {1, 2}


@pytest.mark.parametrize(
    ("name", "millions"), [("llama3.2-1b", 1236), ("llama3.1-8b", 8030), ("qwen3-1.7b", 1721), ("qwen3-4b", 4022)]
)
def test_shapes_have_as_many_parameters_as_their_models(name, millions):
    count = sum(
        rows * (columns[0] if columns else 1) for _, (rows, *columns) in tensors(read_hyperparameters(SHAPES[name]))
    )
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(("shape", "type_name"), [("llama9", "F16"), ("tiny", "Q3")])
def test_unknown_names_are_refused(shape, type_name, tmp_path):
    with pytest.raises(SreError, match="expected one of"):
        write_model(shape, type_name, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
