"""The rows of `sre experiment` by name: SPEC.md's baselines and ablations, each as changed settings. Runs nothing.

A row is the recipe under other settings and the judge of it that is measured. What its settings leave as it is, it
shares with the other rows (run.py), so a row costs what it changes. Other seed models: `--set model.source=…`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recipe.config import Config

Changes = Callable[[Config], tuple[str, ...]]
LAST = ""


@dataclass(frozen=True)
class Variant:
    """`changes`: the config of the experiment -> `key=value` overrides. judge: "sft", "j1", …; LAST is J_T.

    first_sample: not the majority is the row but the first of the samples it was taken over.
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
    inputs, rounds = config.sample.inputs, max(1, config.iterations)
    total = sum(inputs[min(t, len(inputs) - 1)] for t in range(rounds))
    pairs = config.curate.max_pairs
    return ("iterations=1", f"sample.inputs=[{total}]", *([f"curate.max_pairs={rounds * pairs}"] if pairs else []))


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
    Variant("single-stage-dpo", "One DPO iteration with the inputs and pairs of all.", _single_stage),
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
