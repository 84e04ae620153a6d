"""Pick the TrainingEngine: Unsloth wherever it can be imported, else the stock libraries."""

from __future__ import annotations

import importlib.util
import os

from recipe.errors import SreError, install
from recipe.inference.pytorch.loading import TrainingEngine


def open_training_engine(name: str = "auto") -> TrainingEngine:
    """The engine called "unsloth" or "transformers"; "auto" takes Unsloth wherever it can be imported.

    Call this before importing trl, transformers or peft: Unsloth must come first. Raises SreError when the packages
    of the `train` extra are missing.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("trl") is None:
        raise SreError(f"training needs the extra: {install('train')}")
    _quieten()
    from recipe.inference.pytorch.generator import open_engine

    return open_engine(name)


def _quieten() -> None:
    # Their bars and notices would run into ours; environment variables, because Unsloth must be imported first.
    for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("UNSLOTH_ENABLE_LOGGING", "0")
