"""The rows of `sre experiment` by name: baselines and ablations, each as changed settings. Runs nothing.

A row is the recipe under other settings, and the judge of it that is measured. It shares the stages that its settings
leave as they are with the other rows (stage_cache.py), so it costs what it changes. For other seed models set
`model.source`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recipe.config import Config

Changes = Callable[[Config], tuple[str, ...]]
LAST = ""
BEST = "best"


@dataclass(frozen=True)
class Variant:
    """A row.

    changes: the settings of the experiment -> `key=value` overrides. judge: "sft", "j1", …; LAST is J_T, BEST the one
    that the dev rows say is best. first_sample: the row is the first of the judge's samples, not their majority.
    """

    name: str
    description: str
    changes: Changes
    judge: str = LAST
    first_sample: bool = False


def _set(*overrides: str) -> Changes:
    return lambda config: overrides


def _rounds(t: int) -> Changes:
    return lambda config: (f"iterations={max(t, config.iterations)}",)


def _single_stage(config: Config) -> tuple[str, ...]:
    # The paper's single stage has 8,000 inputs where its first round has 5,000.
    inputs, pairs = round(1.6 * config.sample.inputs_of(1)), config.curate.max_pairs
    return (
        "iterations=1",
        f"sample.inputs=[{inputs}]",
        *([f"curate.max_pairs={round(1.6 * pairs)}"] if pairs else []),
    )


_VOTE = "evaluate.samples=5"
_LABEL_ONLY = "evaluate.label_only=true"
_CURATE = "curate.method={}".format
_MERGED = "The two adapters merged by {} instead of exactly: J_SFT.".format

_ALL = (
    Variant("seed", "The instruction-tuned model as it is.", _set(), "seed"),
    Variant("sft", "J_SFT: two SFT runs, merged.", _set(), "sft"),
    Variant("self-consistency", "J_SFT, the majority of 5 samples.", _set(_VOTE), "sft"),
    Variant("one-sample", "J_SFT, one sample at temperature 1.", _set(_VOTE), "sft", first_sample=True),
    Variant(
        "best-of-n",
        "J_SFT trained on those of its 10 samples an input that are right, one an input.",
        _set("update=best-of-n", "iterations=1", "sample.n=10"),
    ),
    Variant("single-stage-dpo", "One round of DPO on 1.6 times the inputs of round 1.", _single_stage),
    Variant("best", "The best judge on the dev rows; the rounds end with one that isn't kept.", _set(), BEST),
    *(Variant(f"j{t}", f"J_{t}: after DPO iteration {t}.", _rounds(t), f"j{t}") for t in range(1, 5)),
    Variant("sft-label-only", "SFT without rationales.", _set("sft.label_only=true", _LABEL_ONLY), "sft"),
    Variant(
        "self-consistency-label-only",
        "SFT without rationales, the majority of 5 labels.",
        _set("sft.label_only=true", _LABEL_ONLY, _VOTE),
        "sft",
    ),
    Variant("sft-prompted-label-only", "J_SFT asked for the label alone.", _set(_LABEL_ONLY), "sft"),
    Variant("sre-prompted-label-only", "The last J asked for the label alone.", _set(_LABEL_ONLY)),
    Variant(
        "preference-reversal",
        "One iteration whose chosen rationales are poor ones, both labels right.",
        _set(_CURATE("preference-reversal"), "iterations=1"),
    ),
    Variant("margin-0", "Both labels right; a meta-judge picks the rationales.", _set(_CURATE("margin-0"))),
    Variant("random-equal", "Both labels right; random rationales.", _set(_CURATE("random-equal"))),
    *(
        Variant(
            f"margin-{margin}",
            f"Right against wrong by {margin} or more.",
            _set(_CURATE("correct-answer"), f"curate.margin={margin}"),
        )
        for margin in (1, 2)
    ),
    Variant("majority-vote", "The samples' majority label is the truth.", _set(_CURATE("majority-vote"))),
    Variant("self-assessment", "The judge rates its own judgements.", _set(_CURATE("self-assessment"))),
    Variant("meta-judge", "Right against wrong; a meta-judge picks the rationales.", _set(_CURATE("meta-judge"))),
    Variant("dpo-without-sft", "DPO from the seed model.", _set("start=seed")),
    Variant("mixed-data", "One SFT on both tasks' rows instead of two and a merge: J_SFT.", _set("start=mixed"), "sft"),
    Variant("mixed-data-sre", "The last J from that.", _set("start=mixed")),
    *(
        Variant(f"temperature-{heat}", f"Sampling at temperature {heat}.", _set(f"sample.temperature={heat}"))
        for heat in (0.7, 1.3)
    ),
    *(
        Variant(f"merge-{name}", _MERGED(name), _set(f"merge.method={name.replace('-', '_')}"), "sft")
        for name in ("svd", "linear", "ties", "dare-linear")
    ),
)
VARIANTS = {variant.name: variant for variant in _ALL}

# (first, second) of the differences reported beside every row's from `sft`.
COMPARED = (
    ("j1", "j2"),
    ("j2", "j3"),
    ("j3", "j4"),
    ("one-sample", "self-consistency"),
    ("sft-label-only", "self-consistency-label-only"),
    ("sft-prompted-label-only", "sre-prompted-label-only"),
    ("random-equal", "margin-0"),
    ("mixed-data", "mixed-data-sre"),
)
