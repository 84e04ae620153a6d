"""USE a judge: the Python API (judge.py), what several judgements say (aggregate.py), whole files (batch.py)."""

from recipe.data.records import Judgement, Rubric
from recipe.judge.aggregate import BothOrders, Consensus
from recipe.judge.async_judge import AsyncJudge
from recipe.judge.judge import Judge
from recipe.judge.rubrics import load_rubric

__all__ = ["AsyncJudge", "BothOrders", "Consensus", "Judge", "Judgement", "Rubric", "load_rubric"]
