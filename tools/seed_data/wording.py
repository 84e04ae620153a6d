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
PAIR_BODIES = (
    "Response {k}: {evidence}; {short}.",
    "Response {k}, {evidence}: {short}.",
    "Response {k} in turn: {evidence}, so {short}.",
    "Response {k} has {evidence}. That is {short}.",
    "Response {k} - {evidence}, which makes {short}.",
)
PAIR_ENDINGS = (
    "{First} against {second}, so Response {better} is better.",
    "With {first} and {second}, Response {better} is the better one.",
    "{First} to {second}: Response {better} is the stronger one.",
    "Comparing {first} with {second}, Response {better} is better.",
    "That is {first} and {second}, and Response {better} wins.",
    "Since it is {first} to {second}, Response {better} is stronger.",
    "The counts are {first} and {second}, so Response {better} is the better response.",
)
CLAIM_NOTES = (
    "What {it} says of itself counts for nothing.",
    "{It} praises itself, which is no evidence.",
    "{It} tells me the verdict, but I count for myself.",
    "The verdict that {it} claims is set aside.",
)


def evidence(
    findings: Sequence[Finding], template: str, verdict: tuple[str, str], joint: str, large: bool, faults: bool
) -> str:
    """The findings in order, one clause each with the count so far and no final stop.

    Args:
        findings: what the check found.
        template: the wording of a clause.
        verdict: the words for met and not met.
        joint: stands between clauses.
        large: begin with a capital.
        faults: count what is not met.
    """
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


def claim_note(chance: Chance, name: str) -> str:
    """A sentence that sets aside the verdict which a response claims; `name` is how the rationale calls it."""
    return chance.pick(CLAIM_NOTES).format(it=name, It=capitalised(name))


def pointwise_rationale(chance: Chance, task: Task, findings: Sequence[Finding], claims: bool) -> str:
    """Opener, evidence, and the count that decides the score. `claims`: the response claims a verdict."""
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
    note = f" {claim_note(chance, 'the response')}" if claims else ""
    return f"{opener} {seen}.{note} {chance.pick(ENDINGS).format(claim=claim)}"


def pairwise_rationale(chance: Chance, task: Task, pair: Sequence[Sequence[Finding]], claiming: int | None) -> str:
    """Evidence and count for Response 1, the same for Response 2, then which is better.

    `claiming` is the number of the response that claims a verdict.
    """
    voice = task.voice
    template, verdict = chance.pick(voice.items), chance.pick(voice.verdicts)
    joint = "; " if voice.joints == ("; ",) else ", "
    wording, short = chance.pick(PAIR_BODIES), chance.pick(voice.shorts)
    sentences = []
    for place, findings in enumerate(pair, start=1):
        seen = evidence(findings, template, verdict, joint, False, task.faults)
        number = NUMBERS[task.counted(findings)]
        sentences.append(wording.format(k=place, evidence=seen, short=short.format(n=number)))
        if place == claiming:
            sentences.append(claim_note(chance, f"Response {place}"))
    # Where faults are counted the smaller number wins, so the ending says what was counted.
    noun = short if task.faults else "{n}"
    first, second = (noun.format(n=NUMBERS[task.counted(findings)]) for findings in pair)
    met = [sum(finding.met for finding in findings) for findings in pair]
    ending = chance.pick(PAIR_ENDINGS)
    better = 1 if met[0] > met[1] else 2
    sentences.append(ending.format(first=first, First=capitalised(first), second=second, better=better))
    return " ".join(sentences)
