"""How to judge: the one set of options, from the command line to the engine. Knows no model and no files."""

from dataclasses import dataclass
from numbers import Integral, Real

from recipe.errors import SreError
from recipe.inference.base import Sampling
from recipe.judge.aggregate import TIES, Tie

MAX_TOKENS = 512


def check_whole(value: object, name: str, least: int | None = None) -> None:
    """Raises SreError, naming the argument, for what is no whole number, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SreError(f"expected a whole number, not {value!r}", field=name)
    if least is not None and value < least:
        raise SreError(f"expected at least {least}, not {value}", field=name)


def check_bool(value: object, name: str) -> None:
    """Raises SreError, naming the argument, for what is neither True nor False."""
    if not isinstance(value, bool) and type(value).__name__ != "bool":  # numpy's
        raise SreError(f"expected True or False, not {value!r}", field=name)


@dataclass(frozen=True)
class JudgeOptions:
    """What a judgement depends on beside the model, its prompts and the row."""

    max_tokens: int = MAX_TOKENS  # the most tokens of one judgement
    temperature: float | None = None  # 0: the most probable token each time. None: 0 for one sample, 1 for several
    seed: int = 0  # of the sampling; ignored at temperature 0
    constrain: bool = True  # force a label where the model writes none; without it, such a judgement is malformed
    label_only: bool = False  # read the label from one prefill, without a rationale: faster and less accurate
    samples: int = 1  # judgements of each example; the majority of several is taken
    swap: bool = False  # judge pairs in both orders
    tie: Tie = "probability"  # the rule for a pair whose two orders disagree, see `aggregate.both_orders`

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("samples", 1), ("seed", None)):
            check_whole(getattr(self, name), name, least)
        for name in ("constrain", "label_only", "swap"):
            check_bool(getattr(self, name), name)
        if self.temperature is None:
            object.__setattr__(self, "temperature", 1.0 if self.samples > 1 else 0.0)
        if not isinstance(self.temperature, Real) or not 0 <= self.temperature < float("inf"):
            raise SreError(f"expected a number from 0 up, not {self.temperature!r}", field="temperature")
        if self.tie not in TIES:
            raise SreError(f"expected {', '.join(TIES)}, not {self.tie!r}", field="tie")
        if self.samples > 1 and (self.swap or self.label_only):
            other = "swap" if self.swap else "label-only"
            raise SreError(f"several samples can't be combined with {other}", field="samples")
        if self.samples > 1 and not self.temperature:
            raise SreError("at temperature 0 all samples are equal; leave it out, or set one above 0", field="samples")

    @property
    def sampling(self) -> Sampling:
        """What the engine is asked for; decoding stops right after a complete label."""
        return Sampling(self.temperature or 0.0, self.samples, self.max_tokens, self.seed, stop_at_label=True)
