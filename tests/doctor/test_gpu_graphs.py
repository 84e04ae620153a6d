"""Steps replayed as CUDA graphs: on a CPU both ways are launched, which shows that a difference would be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.doctor.gpu_graphs import compare_graphs
from recipe.inference.pytorch.decoder import Decoder


def test_graphs_that_give_other_logits_fail(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare_graphs(tiny_model, None, steps=4).endswith("logits differ by up to 0.0000")
    real, drifting = Decoder.step, iter(range(8))
    monkeypatch.setattr(Decoder, "step", lambda self, drawn: real(self, drawn) + next(drifting))
    with pytest.raises(RuntimeError, match=r"a launched one's by 4\.0"):
        compare_graphs(tiny_model, None, steps=4)


def test_other_kinds_of_models_are_not_compared(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.doctor.gpu_graphs.can_decode", lambda model: False)
    assert compare_graphs(tiny_model, None) is None
