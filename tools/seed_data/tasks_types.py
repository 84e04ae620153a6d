"""What a task is: one rubric, a way to ask, to respond and to check. All of them look at four things."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.seed_data.chance import Chance
from tools.seed_data.reading import body

THINGS = 4
NOTHING_MORE = "nothing more"


def levels(noun: str, one: str, many: str) -> tuple[str, ...]:
    """The descriptions of the scores 1 to 5, as in `One of the four lines is too long.`"""
    return (
        *(f"{number} of the four {noun} {one}." for number in ("None", "One")),
        *(f"{number} of the four {noun} {many}." for number in ("Two", "Three")),
        f"All four {noun} {many}.",
    )


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

    `ask` writes a request. `respond` writes a response in which exactly the things flagged in `met` (four flags) are
    met. `check` finds the four out again from the two texts alone. With `faults` the rubric counts what is wrong.
    """

    aspect: str
    criteria: str
    descriptions: tuple[str, ...]
    ask: Callable[[Chance], str]
    respond: Callable[[Chance, str, Sequence[bool]], str]
    check: Callable[[str, str], tuple[Finding, ...]]
    voice: Voice
    faults: bool = False

    def findings(self, instruction: str, response: str) -> tuple[Finding, ...]:
        """What the check finds in a response, its chatter and any verdict that it claims set aside."""
        return self.check(instruction, body(response))

    def score(self, instruction: str, response: str) -> int:
        """The true score 1..5: one more than the number of things met."""
        return 1 + sum(finding.met for finding in self.findings(instruction, response))

    def counted(self, findings: Sequence[Finding]) -> int:
        """The number 0..4 that the descriptions speak of: things met, or things wrong if `faults`."""
        return sum(finding.met is not self.faults for finding in findings)
