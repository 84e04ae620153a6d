"""Use a judge: from Python (judge.py), on whole files (judge_file.py), and over HTTP (server/)."""

from recipe.data.records import Judgement, Rubric
from recipe.data.rubrics import load_rubric
from recipe.judge.aggregate import BothOrders, Consensus
from recipe.judge.async_judge import AsyncJudge
from recipe.judge.judge import Judge

__all__ = ["AsyncJudge", "BothOrders", "Consensus", "Judge", "Judgement", "Rubric", "load_rubric"]
