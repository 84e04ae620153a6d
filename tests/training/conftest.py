"""What the tests of SFT and DPO share."""

import pytest


@pytest.fixture
def float32(monkeypatch):
    """Everything in float32, so that a loss can be compared with plain arithmetic."""
    import torch

    for module in ("loading", "engines"):
        monkeypatch.setattr(f"recipe.inference.pytorch.{module}.compute_dtype", lambda: torch.float32)
