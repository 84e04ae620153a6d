"""USE a judge: the Python API (judge.py) and whole files (batch.py)."""

from recipe.judge.judge import Judge, expected_score, label_probabilities

__all__ = ["Judge", "expected_score", "label_probabilities"]
