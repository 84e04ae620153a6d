"""Tasks about the four lines of a response: capital letters, numbers, length."""

import re
from collections.abc import Callable, Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import capitalised, lines
from tools.seed_data.tasks_types import THINGS, Finding, Task, Voice, levels
from tools.seed_data.words import LINES, NAMES

LONGEST = 3
MARKS = (". ", ") ", ": ")


def topic_of(instruction: str) -> str:
    """The topic that the request names."""
    return next(topic for topic in LINES if re.search(rf"about {topic}\b", instruction))


def asker(wordings: Sequence[str]) -> Callable[[Chance], str]:
    """A request for four lines about a topic; {first} and {last} are line numbers."""

    def ask(chance: Chance) -> str:
        first = 1 + chance.below(6)
        return chance.pick(wordings).format(
            name=chance.pick(NAMES), topic=chance.pick(tuple(LINES)), first=first, last=first + THINGS - 1
        )

    return ask


def respond_capitals(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    chosen = chance.some(LINES[topic_of(instruction)], THINGS)
    stop = chance.pick(("", "."))
    return "\n".join(
        (capitalised(short) if flag else short) + stop for (short, _), flag in zip(chosen, met, strict=True)
    )


def check_capitals(_instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the line begins with a capital letter."""
    return tuple(
        Finding(f"line {place}", line[0].isupper(), line.split()[0])
        for place, line in enumerate(lines(response), start=1)
    )


def first_number(instruction: str) -> int:
    """The number that the request wants before the first line."""
    found = re.search(r"from (\d) to \d", instruction)
    if found is None:
        raise ValueError(f"no line numbers in the request: {instruction!r}")
    return int(found.group(1))


def respond_numbers(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    first, mark = first_number(instruction), chance.pick(MARKS)
    rows = []
    for place, ((short, _), flag) in enumerate(
        zip(chance.some(LINES[topic_of(instruction)], THINGS), met, strict=True)
    ):
        wrong = chance.pick([number for number in range(1, 10) if number != first + place])
        number = first + place if flag else wrong
        rows.append(f"{number}{mark}{short}" if flag or chance.flip(0.6) else short)
    return "\n".join(rows)


def check_numbers(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the line begins with its number."""
    findings = []
    for place, line in enumerate(lines(response)):
        found, wanted = re.match(r"(\d+)\W", line), str(first_number(instruction) + place)
        number = found.group(1) if found else "blank"
        findings.append(Finding(f"line {place + 1}", number == wanted, number, wanted))
    return tuple(findings)


def respond_short(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    chosen = chance.some(LINES[topic_of(instruction)], THINGS)
    rows = [short if flag else f"{short} {tail}" for (short, tail), flag in zip(chosen, met, strict=True)]
    return "\n".join(capitalised(row) for row in rows)


def check_short(_instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the line has at most three words."""
    counts = [len(line.split()) for line in lines(response)]
    return tuple(Finding(f"line {place}", n <= LONGEST, f"{n} words") for place, n in enumerate(counts, start=1))


CAPITAL_LETTERS = Task(
    "capital_letters",
    "Does each of the four lines begin with a capital letter?",
    levels("lines", "begins with a capital", "begin with a capital"),
    asker(
        (
            "Write four lines about {topic} for {name}. Begin each with a capital letter.",
            "{name} wants four lines about {topic}, each with a capital at the start.",
            "Four lines about {topic} for {name}, please. Start every line with a capital.",
            "Give {name} four lines about {topic}. Use a capital letter first.",
            "Tell {name} about {topic} in four lines. Each begins with a capital.",
            "Write about {topic} for {name}: four lines, capital letters first.",
        )
    ),
    respond_capitals,
    check_capitals,
    Voice(
        openers=(
            "Line by line:",
            "Looking at the first letters:",
            "I check how each line begins.",
            "The first words:",
            "How do the lines start?",
            "Each line in turn:",
            "Checking for capitals:",
        ),
        items=("{item} {found}, {verdict}", "{item}: {found}, {verdict}", '{item} has "{found}", {verdict}'),
        verdicts=(("capital", "small"), ("capital", "no capital"), ("large", "small"), ("yes", "no")),
        claims=(
            "{count} lines got a capital",
            "it begins {count} lines with a capital",
            "it has a capital in {digits} lines",
        ),
        shorts=("{n} with a capital", "{n} right", "{n} of the lines"),
    ),
)
NUMBERED_LINES = Task(
    "numbered_lines",
    "Does each of the four lines begin with the number that the request wants?",
    levels("lines", "has its number", "have their number"),
    asker(
        (
            "Write four lines about {topic} for {name}. Number them from {first} to {last}.",
            "{name} wants four lines about {topic}, numbered from {first} to {last}.",
            "Four lines about {topic} for {name}, please, with numbers from {first} to {last}.",
            "Give {name} four lines about {topic}. The numbers go from {first} to {last}.",
            "Tell {name} about {topic} in four lines, counted from {first} to {last}.",
            "Make lines from {first} to {last} about {topic} for {name}.",
        )
    ),
    respond_numbers,
    check_numbers,
    Voice(
        openers=(
            "Line by line:",
            "Looking at the numbers:",
            "I check the number of each line.",
            "Number wanted, number given:",
            "How are the lines numbered?",
            "Each line in turn:",
            "Checking the counting:",
        ),
        items=(
            "{wanted} / {found}, {verdict}",
            "{item}: wants {wanted}, {found} {verdict}",
            "{wanted}, given {found}: {verdict}",
        ),
        verdicts=(("right", "wrong"), ("correct", "not correct"), ("yes", "no"), ("fine", "wrong")),
        claims=(
            "{count} lines got their number",
            "it numbers {count} lines rightly",
            "it has the right number in {digits} lines",
        ),
        shorts=("{n} right", "{n} numbered right", "{n} of the lines right"),
    ),
)
SHORT_LINES = Task(
    "short_lines",
    "Is every one of the four lines at most three words long?",
    levels("lines", "is too long", "are too long")[::-1],
    asker(
        (
            "Write four lines about {topic} for {name}. At most three words each.",
            "{name} wants four lines about {topic}, none over three words.",
            "Four lines about {topic} for {name}, please. Three words a line at most.",
            "Give {name} four lines about {topic}. No line has more than three words.",
            "Tell {name} about {topic} in four lines of up to three words.",
            "Write about {topic} for {name}: four lines, three words at most.",
        )
    ),
    respond_short,
    check_short,
    Voice(
        openers=(
            "Line by line:",
            "Counting the words:",
            "I count each line.",
            "The length of the lines:",
            "How long are the lines?",
            "Each line in turn:",
            "Checking the length:",
        ),
        items=("{item} has {found}, {verdict}", "{item}: {found}, {verdict}", "{item} - {found}, {verdict}"),
        verdicts=(("short enough", "too long"), ("fine", "too long"), ("within", "over"), ("short", "long")),
        claims=(
            "{count} lines went on too long",
            "it makes {count} lines too long",
            "{count} lines went over three words",
        ),
        shorts=("{n} too long", "{n} over", "{n} long"),
    ),
    faults=True,
)
LINE_TASKS = (CAPITAL_LETTERS, NUMBERED_LINES, SHORT_LINES)
