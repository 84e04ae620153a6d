"""The published benchmarks by name, read from the hub or from a folder or file in the same layout."""

from recipe.evaluation.benchmarks.base import Benchmark
from recipe.evaluation.benchmarks.pairs import JUDGEBENCH, JUDGEBENCH_CLAUDE, LLMBAR, SAFE_RLHF
from recipe.evaluation.benchmarks.rewardbench import REWARDBENCH, REWARDBENCH_PAIRWISE

BIGGEN = Benchmark("biggen", "prometheus-eval/BiGGen-Bench-Results", ("human_eval",), "pointwise")
FEEDBACK_BENCH = Benchmark("feedback-bench", "prometheus-eval/Feedback-Bench", ("train",), "pointwise")
PREFERENCE_BENCH = Benchmark("preference-bench", "prometheus-eval/Preference-Bench", ("train",), "pairwise")
_SCORED = (REWARDBENCH, BIGGEN, FEEDBACK_BENCH)
_PICKED = (REWARDBENCH_PAIRWISE, SAFE_RLHF, PREFERENCE_BENCH, JUDGEBENCH, JUDGEBENCH_CLAUDE, LLMBAR)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*_SCORED, *_PICKED)}
