"""A config.json as its makers publish it is read whole."""

from __future__ import annotations

import json
from pathlib import Path

from recipe.gguf.architecture import read_hyperparameters
from recipe.planning.shapes import KNOWN, shape_of

# Gemma 3 4B's text part names these alone.
TEXT = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
TEXT |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
GEMMA_3_4B = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": TEXT}


def test_gemma_3_4b(tmp_path: Path) -> None:
    shape = read_hyperparameters(GEMMA_3_4B)
    assert (shape.arch, shape.layers, shape.hidden, shape.intermediate) == ("gemma3", 34, 2560, 10240)
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.vocab) == (8, 4, 256, 262208)
    assert (shape.rope_theta, shape.rope_scale, shape.context) == (1e6, 8.0, 131072)
    assert shape.gemma == {"attention.sliding_window": 1024}
    assert shape.tied
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3_4B))
    assert shape_of(str(tmp_path)) == KNOWN["google/gemma-3-4b-it"]
