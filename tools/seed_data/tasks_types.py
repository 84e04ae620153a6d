"""What a task is: one rubric, a way to ask, to respond and to check. All of them look at four things."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.seed_data.chance import Chance

THINGS = 4
NOTHING_MORE = "nothing more"


@dataclass(frozen=True)
class Finding:
    """What the check saw of one thing: its name, what the response has, what it should have."""

    item: str
    met: bool
    found: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Voice:
    """Wordings of a rationale.

    openers may use {asked}; items {item}, {found}, {wanted}, {verdict}; verdicts are (met, not met);
    claims use {count} ("none of the four") or {digits} ("0 of 4"); shorts use {n} ("none").
    """

    openers: tuple[str, ...]
    items: tuple[str, ...]
    verdicts: tuple[tuple[str, str], ...]
    claims: tuple[str, ...]
    shorts: tuple[str, ...]
    joints: tuple[str, ...] = ("; ",)


@dataclass(frozen=True)
class Task:
    """A rubric with its generator and checker.

    `ask` writes a request; `respond` writes a response in which exactly the things flagged in `met` (four
    flags) are met; `check` finds the four out again from the two texts alone. `faults` says that the rubric
    counts what is wrong, not what is right.
    """

    aspect: str
    criteria: str
    descriptions: tuple[str, str, str, str, str]
    ask: Callable[[Chance], str]
    respond: Callable[[Chance, str, Sequence[bool]], str]
    check: Callable[[str, str], tuple[Finding, ...]]
    voice: Voice
    faults: bool = False

    def score(self, instruction: str, response: str) -> int:
        """The true score 1..5: one more than the number of things met."""
        return 1 + sum(finding.met for finding in self.check(instruction, response))

    def counted(self, findings: Sequence[Finding]) -> int:
        """The number 0..4 that the descriptions speak of: things met, or things wrong if `faults`."""
        return sum(finding.met is not self.faults for finding in findings)
