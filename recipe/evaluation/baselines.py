"""Baselines that combine a judge's samples and train nothing themselves. Pure.

Self-consistency turns N samples of an example into one judgement to measure; the best-of-N filter turns N samples
of each training example into rows for SFT. Where a judgement is a label alone, `label_draws` draws the samples from
its label distribution.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from recipe.data.records import Example, Judgement
from recipe.judge.aggregate import consensus
from recipe.verdict import format_verdict

SELF_CONSISTENCY_N = 5
BEST_OF_N = 10


def self_consistency(judgements: Iterable[Judgement], n: int = SELF_CONSISTENCY_N) -> list[Judgement]:
    """One judgement an example, in order of first appearance: the majority of its first n samples.

    Its label and rationale are those of the sample that `aggregate.consensus` picks, its label distribution the mean of
    all n. Where every sample is malformed, so is the result. Raises ValueError for an example with fewer samples.
    """
    found = []
    for key, samples in _by_example(judgements).items():
        if len(samples) < n:
            raise ValueError(f"{key} has {len(samples)} samples; self-consistency over {n} needs as many")
        agreed = consensus(samples[:n])
        chosen = agreed.judgement or samples[0]
        shares = {label: math.log(share) for label, share in agreed.label_probabilities.items() if share > 0}
        found.append(replace(chosen, label_logprobs=shares, origin=f"{chosen.origin}-consistency-{n}"))
    return found


def best_of_n(examples: Sequence[Example], judgements: Iterable[Judgement], n: int = BEST_OF_N) -> list[Example]:
    """The examples for which one of the first n samples has the true label, with that sample's rationale: SFT rows.

    Of several right samples, the one that gives the true label the highest probability (ours; the paper doesn't say
    which), then the first. A sample counts only if the model itself ended it (finish "stop") and wrote a rationale.
    Examples without a right sample, or without a label, are left out.
    """
    pools = _by_example(judgements)
    rows = []
    for example in examples:
        pool = pools.get(example.id, [])[:n] if example.label is not None else []
        right = [one for one in pool if one.label == example.label and one.finish == "stop" and one.rationale]
        if right:
            best = max(right, key=lambda sample: sample.label_probabilities.get(sample.label or 0, 0.0))
            rows.append(replace(example, rationale=best.rationale, origin=best.id))
    return rows


def label_draws(judgement: Judgement, n: int, seed: int) -> list[Judgement]:
    """n samples at temperature 1 of a judgement that is a label alone: draws from its label distribution."""
    shares = judgement.label_probabilities
    labels = random.Random(f"{seed}:{judgement.example_id}").choices(list(shares), list(shares.values()), k=n)
    stem = judgement.id.rpartition(":")[0]
    return [
        replace(judgement, id=f"{stem}:{k}", label=label, text=format_verdict("", label))
        for k, label in enumerate(labels)
    ]


def _by_example(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Each example's samples by their number, the end of a judgement's id; examples in order of first appearance."""
    pools: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        pools.setdefault(judgement.example_id, []).append(judgement)
    return {key: sorted(pool, key=lambda one: one.sample) for key, pool in pools.items()}
