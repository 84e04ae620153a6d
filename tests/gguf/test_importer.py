"""A GGUF file becomes a Hugging Face folder, and that folder the same GGUF file again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.gguf.importer import import_gguf


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys and the tensors of a GGUF file, its name apart."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if key != "general.name"}
    return fields, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize("case", ["llama-2", "gemma2", "gemma3"])
def test_a_model_comes_back(
    case: str, models: Any, load: Any, inputs_for: Any, mean_kl: Any, strings: list[str], tmp_path: Path
) -> None:
    import torch

    original = models(case)
    write_gguf(original, tmp_path / "first.gguf", type_name="F32")
    folder = tmp_path / original.name
    folder.mkdir()
    import_gguf(tmp_path / "first.gguf", folder, "float32")
    (model, tokenizer), (before, _) = load(folder), load(original)
    inputs = inputs_for(tokenizer)
    with torch.inference_mode():
        logits = [before(torch.tensor([ids])).logits[0].numpy() for ids in inputs]
    assert mean_kl(model, inputs, logits) < 1e-9
    _, own = load(original)
    assert [tokenizer(text).input_ids for text in strings] == [own(text).input_ids for text in strings]
    assert tokenizer.chat_template == own.chat_template
    write_gguf(folder, tmp_path / "second.gguf", type_name="F32")
    (fields, tensors), (others, again) = read(tmp_path / "first.gguf"), read(tmp_path / "second.gguf")
    assert fields == others
    assert tensors.keys() == again.keys()
    assert all(abs(tensors[name] - again[name]).max() < 1e-6 for name in tensors)


def test_another_family_is_refused_by_name(models: Any, tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "phi3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(SreError, match="phi3"):
        import_gguf(tmp_path / "x.gguf", tmp_path)
