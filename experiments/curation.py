"""The baselines of curation: other ways to make preference pairs of an input's pool, in the place of the stage curate.

Some ask the judge about its own judgements first, in a stage of their own (assess.py).
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.assess import ASSESSED, PROMPTS, Assessments, read_assessments, run_assess
from experiments.sharing import SharingContext, round_of
from recipe.config import CurateConfig, only
from recipe.data.records import Example, Judgement
from recipe.pipeline.judge_model import JudgeModel
from recipe.pipeline.stage_order import Step
from recipe.pipeline.stage_work import Facts
from recipe.prompts import Prompts
from recipe.storage import read_jsonl
from recipe.training.balance import Pair
from recipe.training.curate import Found, Rule, distinct_texts, right_against_wrong, right_and_wrong, run_curate

METHODS = (*ASSESSED, "majority-vote", "random-equal")


class CurationContext(SharingContext):
    """A run whose rounds curate by another method."""

    def __init__(self, config: Any, path: Path, lenders: Sequence[Path], method: str) -> None:
        super().__init__(config, path, lenders)
        self.method = method

    def replaced(self, plan: Iterable[Step]) -> Iterator[Step]:
        """The plan with this run's own stages in each round."""
        for name, step in plan:
            if not name.endswith(":curate"):
                yield name, step
                continue
            t = round_of(name)
            if self.method in ASSESSED:
                yield f"iter-{t}:assess", partial(_assess, self, t)
            yield name, partial(_curate, self, t)


def _assess(run: CurationContext, t: int) -> Facts:
    """Ask a model about the samples."""
    return run.cache.do(
        f"iter-{t}:assess",
        _ask,
        makes=("assessments.jsonl",),
        samples=run.made(f"iter-{t}:sample", "samples.jsonl"),
        judge=run.judge_model(run.judge_before(t)),
        examples=run.inputs(t),
        method=run.method,
        prompts=Prompts(PROMPTS),
        settings=only(run.config.curate, "margin", "reject_malformed"),
        sampling=only(run.config.sample, "n", "temperature", "max_tokens"),
        seed=run.config.seed,
    )


def _ask(folder: Path, *, samples: Path, judge: JudgeModel, examples: Sequence[Example], **given: Any) -> Facts:
    judgements, by_id = read_jsonl(samples, Judgement.from_json), {row.id: row for row in examples}
    with judge.open() as generator:
        return run_assess(folder, generator=generator, examples=by_id, judgements=judgements, **given)


def _curate(run: CurationContext, t: int) -> Facts:
    assessed = run.made(f"iter-{t}:assess", "assessments.jsonl") if run.method in ASSESSED else None
    return run.cache.do(
        f"iter-{t}:curate",
        _make_pairs,
        makes=("preferences.jsonl", "dropped.jsonl"),
        samples=run.made(f"iter-{t}:sample", "samples.jsonl"),
        assessments=assessed,
        examples=run.inputs(t),
        method=run.method,
        settings=run.config.curate,
        seed=run.config.seed,
    )


def _make_pairs(
    folder: Path,
    *,
    samples: Path,
    assessments: Path | None,
    examples: Sequence[Example],
    method: str,
    settings: CurateConfig,
    seed: int,
) -> Facts:
    criteria: Mapping[str, str] = {row.id: row.rubric.criteria for row in examples}
    rule = rule_of(method, read_assessments(assessments))
    return run_curate(folder, read_jsonl(samples, Judgement.from_json), criteria, settings, rule, seed=seed)


def rule_of(method: str, assessments: Assessments) -> Rule:
    """The rule of one of METHODS. assessments: what the model said, where the method asks it."""

    def rule(pool: list[Judgement], settings: CurateConfig, rng: random.Random) -> Found:
        if method == "majority-vote":
            return _by_vote(pool, settings)
        if method == "self-assessment":
            return _by_rating(pool, settings, assessments)
        if pool[0].truth is None:
            return [], "no ground truth"
        right, wrong = right_and_wrong(pool, pool[0].truth, settings)
        if method == "preference-reversal":
            drawn = distinct_texts(assessments.reversals.get(pool[0].example_id, ()))
            pairs = [(poor, good) for poor in drawn if poor.label == pool[0].truth for good in right]
            return pairs, "no poor rationale with the right label" if right else "none right"
        if method == "meta-judge":
            return _by_meta_judge(right, wrong, assessments)
        if len(right) < 2:
            return [], "fewer than two right"
        if method == "random-equal":
            first, second = rng.sample(right, 2)
            return [(first, second)], ""
        picked = _picked(right, "right", assessments)  # meta-judge-equal
        return ([picked] if picked else []), "the meta-judge disagreed with itself"

    return rule


def _by_vote(pool: list[Judgement], settings: CurateConfig) -> Found:
    """The most frequent label in place of the truth."""
    votes = Counter(judgement.label for judgement in pool if judgement.label is not None).most_common()
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return [], "tie for the most frequent label"
    return right_against_wrong(pool, votes[0][0], settings)


def _by_rating(pool: list[Judgement], settings: CurateConfig, assessments: Assessments) -> Found:
    """Higher ratings against lower ones."""
    rated = [(assessments.ratings[j.id], j) for j in pool if j.id in assessments.ratings]
    pairs = [(c, r) for cr, c in rated for rr, r in rated if c.label is not None and cr - rr >= settings.margin]
    allowed = [(c, r) for c, r in pairs if r.label is not None or settings.reject_malformed]
    return allowed, "ratings too close" if rated else "no readable rating"


def _by_meta_judge(right: list[Judgement], wrong: list[Judgement], assessments: Assessments) -> Found:
    """The best of the right rationales against the worst of the wrong ones."""
    if not (right and wrong):
        return [], "none wrong by the margin" if right else "none right"
    best, worst = (_picked(side, name, assessments) for side, name in ((right, "right"), (wrong, "wrong")))
    return ([(best[0], worst[1])] if best and worst else []), "the meta-judge disagreed with itself"


def _picked(items: list[Judgement], side: str, assessments: Assessments) -> Pair | None:
    """The (best, worst) of the rationales, None where the meta-judge did not name two of them."""
    if len(items) == 1:
        return items[0], items[0]
    pick = assessments.picks.get((items[0].example_id, side))
    by_id = {judgement.id: judgement for judgement in items}
    return (by_id[pick[0]], by_id[pick[1]]) if pick and by_id.keys() >= set(pick) else None
