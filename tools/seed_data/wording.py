"""Writes rationales from findings: the evidence thing by thing, then the count, and never the label."""

from collections.abc import Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import capitalised, joined
from tools.seed_data.tasks_types import NOTHING_MORE, THINGS, Finding, Task

NUMBERS = ("none", "one", "two", "three", "four")
ENDINGS = (
    "So {claim}.",
    "In all, {claim}.",
    "Thus {claim}.",
    "Overall, {claim}.",
    "That means {claim}.",
    "Taken together, {claim}.",
    "To sum up, {claim}.",
    "Counting these, {claim}.",
)
PAIR_OPENERS = (
    "",
    "",
    "Taking both in turn.",
    "I check each response.",
    "First one, then the other.",
    "Here is what each response does.",
    "Both are held against the request.",
    "Looking at the two responses.",
    "Going through both.",
    "Each is checked point by point.",
)
PAIR_BODIES = (
    "Response {k}: {evidence}; {short}.",
    "In Response {k}, {evidence}: {short}.",
    "Response {k} in turn: {evidence}, so {short}.",
    "For Response {k}: {evidence}. That is {short}.",
    "As for Response {k}: {evidence}, which makes {short}.",
)
PAIR_ENDINGS = (
    "{First} against {second}, so Response {better} does it more fully.",
    "With {first} and {second}, Response {better} is the better one.",
    "{First} to {second}: Response {better} follows the request more closely.",
    "Comparing {first} with {second}, Response {better} does better.",
    "So Response {better} keeps to the request better, {first} against {second}.",
    "That is {first} and {second}, and Response {better} comes out ahead.",
    "Since it is {first} to {second}, Response {better} is stronger.",
    "The counts are {first} and {second}, so Response {better} is closer to what was asked.",
)


def evidence(
    findings: Sequence[Finding], template: str, verdict: tuple[str, str], joint: str, large: bool, faults: bool
) -> str:
    """The findings in order, one clause each with the count so far, no final stop; `large` makes the first letter
    a capital; `faults` counts what is not met."""
    clauses, count = [], 0
    for f in findings:
        count += f.met is not faults
        said = template.format(item=f.item, found=f.found, wanted=f.wanted, verdict=verdict[0] if f.met else verdict[1])
        if f.item != NOTHING_MORE:
            clauses.append(f"{said} ({count})")
    clauses = clauses or ["nothing (0)"]
    if joint == ". ":
        clauses = clauses[:1] + [capitalised(clause) for clause in clauses[1:]]
    text = joint.join(clauses)
    return capitalised(text) if large else text


def count_phrase(number: int) -> str:
    """`none of the four` … `all four`."""
    return "all four" if number == THINGS else f"{NUMBERS[number]} of the four"


def pointwise_rationale(chance: Chance, task: Task, findings: Sequence[Finding]) -> str:
    """Opener, evidence, and the count that decides the score."""
    voice = task.voice
    opener = chance.pick(voice.openers).format(asked=joined([finding.item for finding in findings]))
    seen = evidence(
        findings,
        chance.pick(voice.items),
        chance.pick(voice.verdicts),
        chance.pick(voice.joints),
        opener.endswith((".", "?")),
        task.faults,
    )
    number = task.counted(findings)
    claim = chance.pick(voice.claims).format(count=count_phrase(number), digits=f"{number} of {THINGS}")
    return f"{opener} {seen}. {chance.pick(ENDINGS).format(claim=claim)}"


def pairwise_rationale(chance: Chance, task: Task, pair: Sequence[Sequence[Finding]]) -> str:
    """Evidence and count for Response 1, the same for Response 2, then which does better."""
    voice = task.voice
    template, verdict = chance.pick(voice.items), chance.pick(voice.verdicts)
    joint, body, short = (
        "; " if voice.joints == ("; ",) else ", ",
        chance.pick(PAIR_BODIES),
        chance.pick(voice.shorts),
    )
    sentences = [chance.pick(PAIR_OPENERS)]
    for place, findings in enumerate(pair, start=1):
        seen = evidence(findings, template, verdict, joint, False, task.faults)
        number = NUMBERS[task.counted(findings)]
        sentences.append(body.format(k=place, evidence=seen, short=short.format(n=number)))
    # Where faults are counted the smaller number wins, so the ending says what was counted.
    noun = short if task.faults else "{n}"
    first, second = (noun.format(n=NUMBERS[task.counted(findings)]) for findings in pair)
    met = [sum(finding.met for finding in findings) for findings in pair]
    better = 1 if met[0] > met[1] else 2
    ending = chance.pick(PAIR_ENDINGS)
    sentences.append(ending.format(first=first, First=capitalised(first), second=second, better=better))
    return " ".join(sentence for sentence in sentences if sentence)
