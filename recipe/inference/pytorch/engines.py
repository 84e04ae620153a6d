"""Pick the engine that loads a model: Unsloth wherever it can be imported, else the stock libraries."""

import importlib.util
import os

from recipe.errors import SreError, install
from recipe.inference.pytorch.loading import TrainingEngine


def open_engine(name: str = "auto") -> TrainingEngine:
    """The engine called "unsloth" or "transformers"; "auto" takes Unsloth wherever it can be imported.

    Before a training, call this before importing trl, transformers or peft: Unsloth must come first. Raises SreError
    when the packages of the `train` extra are missing.
    """
    if not all(map(importlib.util.find_spec, ("torch", "trl"))):
        raise SreError(f"training needs the extra: {install('train')}")
    # Their bars and notices would run into ours.
    for variable in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("UNSLOTH_ENABLE_LOGGING", "0")
    if name in ("auto", "unsloth"):
        try:
            from recipe.inference.pytorch.unsloth import UnslothEngine

            return UnslothEngine()
        except ImportError as error:
            if name == "unsloth":
                raise SreError(f"Unsloth can't be imported ({error}); see `sre doctor`") from None
    from recipe.inference.pytorch.transformers import TransformersEngine

    return TransformersEngine()
