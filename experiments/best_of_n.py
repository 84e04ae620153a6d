"""The baseline best-of-N: SFT of J_t on those of its samples that are right, in the place of curation and DPO."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.sharing import SharingContext, round_of
from recipe.data.records import Example, Judgement, pools_of
from recipe.errors import NothingToTrainError
from recipe.pipeline import stage_inputs, stage_work
from recipe.pipeline.stage_order import Step
from recipe.pipeline.stage_work import Facts
from recipe.storage import read_jsonl


class BestOfNContext(SharingContext):
    """A run whose rounds end with SFT."""

    def stage_of(self, judge: str) -> str:
        return super().stage_of(judge).replace(":dpo", ":sft")

    def replaced(self, plan: Iterable[Step]) -> Iterator[Step]:
        """The plan with this run's own stage in each round."""
        for name, step in plan:
            if name.endswith(":dpo"):
                yield name.replace(":dpo", ":sft"), partial(_sft, self, round_of(name))
            elif not name.endswith(":curate"):
                yield name, step


def _sft(run: BestOfNContext, t: int) -> Facts:
    return stage_inputs.train(
        run,
        f"iter-{t}:sft",
        _train,
        adapter=run.adapter(run.judge_before(t)),
        examples=run.inputs(t),
        samples=run.made(f"iter-{t}:sample", "samples.jsonl"),
        n=run.config.sample.n,
        settings=run.config.sft,
        lora=run.config.lora,
    )


def _train(folder: Path, *, examples: Sequence[Example], samples: Path, n: int, **given: Any) -> Facts:
    judgements = read_jsonl(samples, Judgement.from_json)
    rows = best_of_n(examples, judgements, n)
    if not rows:
        raise NothingToTrainError(f"none of {len(judgements)} samples is right")
    return stage_work.sft(folder, examples=rows, dev=(), **given)


def best_of_n(examples: Sequence[Example], judgements: Iterable[Judgement], n: int) -> list[Example]:
    """The examples for which one of the first n samples has the true label, with that sample's rationale: SFT rows.

    Of several right samples, the one that gives the true label the highest probability (ours; the paper doesn't say
    which), then the first. A sample counts only if the model itself ended it (finish "stop") and wrote a rationale.
    """
    pools = pools_of(judgements)
    rows = []
    for example in examples:
        pool = pools.get(example.id, [])[:n] if example.label is not None else []
        right = [one for one in pool if one.label == example.label and one.finish == "stop" and one.rationale]
        if right:
            best = max(right, key=lambda sample: sample.label_probabilities.get(sample.label or 0, 0.0))
            rows.append(replace(example, rationale=best.rationale, origin=best.id))
    return rows
