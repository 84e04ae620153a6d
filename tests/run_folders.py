"""Run folders with known judges, made without a model: what the tests of the report and of the annotation read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.config import EvaluateConfig, load
from recipe.data.records import TASKS, Judgement
from recipe.evaluation.evaluate import evaluate
from recipe.judge.judge import Judge
from recipe.pipeline.context import RunContext
from recipe.storage import write_jsonl
from recipe.training.curate import run_curate
from recipe.training.sample import count
from recipe.verdict import format_verdict
from tests.scripted import ScriptedGenerator

HOSTILE = "<script>alert('x')</script> & $x_1$"


def answers(judge, rows):
    """SFT is right on even rows, j1 and j2 on all; the seed writes no verdict; every fifth row of SFT is malformed."""

    def script(request):
        row = rows[request.id]
        number = int(row.prompt_id.removeprefix("p"))
        if judge == "seed" or (judge == "sft" and number % 5 == 0):
            return ["no verdict"]
        right = judge != "sft" or number % 2 == 0
        label = row.label if right else next(label for label in row.labels if label != row.label)
        return [format_verdict(f"{judge} on {row.id} {HOSTILE}", label)]

    return script


def write_run(folder, data, *, judges=("seed", "sft", "j1", "j2"), iterations=(1, 2), **settings):
    """A run folder of the tiny preset: these judges measured by a script, these iterations sampled and trained."""
    overrides = {"data.pointwise": str(data), "data.pairwise": str(data), "evaluate.resamples": 100, **settings}
    config = load("tiny", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
    run = RunContext(config, folder)
    run.keep_config()
    rows = run.test_rows
    by_id = {row.id: row for row in rows}

    def train(stage):
        run.cache.do(stage, lambda place: {"tokens": 1234, "steps": 2, "first_loss": 2.0, "last_loss": 0.5})

    def sample(place):
        found = []
        for row in [row for task in TASKS for row in run.rows("train", task)][:8]:
            labels = [row.label, row.labels[0], row.labels[-1], None]
            found += [
                Judgement(f"{row.id}:{k}", row.id, row.task, f"text {k}", f"text {k}", label, row.label)
                for k, label in enumerate(labels)
            ]
        write_jsonl(place / "samples.jsonl", [row.to_json() for row in found])
        return count(found)

    def curate(place):
        found = [Judgement.from_json(json.loads(line)) for line in (place / "samples.jsonl").open()]
        return run_curate(place, found, {}, config.curate, seed=0)

    for task in TASKS:
        train(f"sft-{task}")
    for t in iterations:
        run.cache.do(f"iter-{t}:sample", sample)
        run.cache.do(f"iter-{t}:curate", curate)
        train(f"iter-{t}:dpo")
    for name in judges:

        def measure(place, name=name):
            settings = EvaluateConfig(max_tokens=64, resamples=100)
            with Judge(ScriptedGenerator(answers(name, by_id)), name=name) as judge:
                return evaluate(place, judge=judge, examples=rows, settings=settings)

        run.cache.do(f"evaluation/{name}", measure)
    return folder


@pytest.fixture(scope="session")
def finished_run(tiny_data, tmp_path_factory) -> Path:
    """Everything was run."""
    return write_run(tmp_path_factory.mktemp("runs") / "finished", tiny_data)


@pytest.fixture(scope="session")
def begun_run(tiny_data, tmp_path_factory) -> Path:
    """Stopped after the first iteration; only SFT was measured."""
    folder = tmp_path_factory.mktemp("runs") / "begun"
    return write_run(folder, tiny_data, judges=("sft",), iterations=(1,), **{"curate.margin": 2})
