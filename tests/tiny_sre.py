"""`sre` for the docs' tests: the same command line, but every model that it trains is the tiny one, for a few steps."""

from __future__ import annotations

import os
from typing import Any

import recipe.config as config

_load = config.load


def load(source: Any, overrides: Any = ()) -> config.Config:
    """The config as written, with a tiny model and a handful of rows."""
    asked = _load(source, overrides)
    changes: dict[str, dict[str, Any]] = {
        "model": {"source": os.environ["SRE_TINY_MODEL"], "engine": "transformers", "max_length": 1024},
        "data": {"train_pointwise": 8, "train_pairwise": 4, "test_pointwise": 4, "test_pairwise": 4},
        "lora": {"r": 4, "alpha": 8},
        "sft": {"checkpoints": 0, "batch_size": 4},
        "sample": {"inputs": (8, 8), "n": 4, "max_tokens": 16, "engine": "llamacpp"},
        "dpo": {"checkpoints": 0},
        "rounds": {"keep": "all"},
        "export": {"types": ("Q8_0",), "flip_rows": 0},
        "evaluate": {"max_tokens": 16, "resamples": 100},
    }
    sections = {name: getattr(asked, name).model_copy(update=values) for name, values in changes.items()}
    return asked.model_copy(update=sections)


config.load = load

from recipe.cli.main import main  # noqa: E402 - the commands must see the config above

if __name__ == "__main__":
    main()
