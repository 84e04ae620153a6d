"""Tasks about the parts of a text: questions that it answers, parts that a message must have."""

import re
from collections.abc import Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import capitalised, joined, listed
from tools.seed_data.tasks_types import THINGS, Finding, Task, Voice, levels
from tools.seed_data.words import ANSWERS, NAMES

UNKNOWN = ("unknown", "unclear", "secret")

# Part of a message -> its wordings and the pattern that finds any of them; {name} is the addressee.
PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "greeting": (("hello", "hi", "good morning"), r"\b(hello|hi|good morning)\b"),
    "name": (("{name}",), rf"\b({'|'.join(NAMES)})\b"),
    "thanks": (("thank you so much", "many thanks", "thank you"), r"\b(thank you|many thanks)\b"),
    "day": (("come on Monday", "see me on Friday", "it is on Sunday"), r"\b(Monday|Friday|Sunday)\b"),
    "time": (("we start at 5", "be there at 3", "it begins at 8"), r"\bat (\d)\b"),
    "place": (
        ("we meet in the park", "look in the hall", "it is in the cafe"),
        r"\bin the (park|hall|cafe)\b",
    ),
    "apology": (("sorry about before", "I am sorry"), r"\b(sorry)\b"),
    "goodbye": (("goodbye", "take care", "see you soon"), r"\b(goodbye|take care|see you soon)\b"),
}
REASONS = ("the party", "the book", "the game", "the trip", "the cake", "the picnic", "the film", "the match")


def ask_answers(chance: Chance) -> str:
    return chance.pick(
        (
            "Tell me about {name}. I want to know: {asked}.",
            "Answer for {name}: {asked}.",
            "Write about {name} and give these: {asked}.",
            "Four questions about {name}: {asked}?",
            "Fill in the form of {name}: {asked}.",
            "What do you know of {name}? Say: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=joined(chance.some(tuple(ANSWERS), THINGS)))


def respond_answers(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    asked = listed(instruction)
    strangers = chance.some([topic for topic in ANSWERS if topic not in asked], THINGS)
    link = chance.pick((": ", " is ", " - "))
    clauses = []
    for topic, flag, stranger in zip(asked, met, strangers, strict=True):
        said = topic if flag or chance.flip(0.5) else stranger
        values = ANSWERS[said] if flag or said == stranger else UNKNOWN
        clauses.append(f"{said}{link}{chance.pick(values)}")
    if chance.flip(0.3):
        clauses = chance.shuffled(clauses)
    joint = chance.pick((", ", ". ", "\n"))
    return capitalised(joint.join(clauses if joint == ", " else [capitalised(clause) for clause in clauses]) + ".")


def check_answers(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the topic is there with a value."""
    findings = []
    for topic in listed(instruction):
        value = re.search(rf"\b{topic}(?:: | is | - )(\w+)", response, re.IGNORECASE)
        found = value.group(1) if value else "nothing"
        findings.append(Finding(topic, found not in (*UNKNOWN, "nothing"), found))
    return tuple(findings)


def ask_message(chance: Chance) -> str:
    parts = tuple(PARTS)
    chosen = sorted(chance.some(range(len(parts)), THINGS))
    return chance.pick(
        (
            "Write a message to {name} about {reason}. Put in: {asked}.",
            "Write to {name} about {reason}. It needs: {asked}.",
            "A short note to {name} about {reason} with: {asked}.",
            "Text {name} about {reason}. Parts: {asked}.",
            "Send {name} a line about {reason}. Include: {asked}.",
            "Help me write {name} about {reason}, with: {asked}.",
        )
    ).format(name=chance.pick(NAMES), reason=chance.pick(REASONS), asked=joined([parts[place] for place in chosen]))


def respond_message(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    name = next(name for name in NAMES if re.search(rf"\b{name}\b", instruction))
    reason = next(reason for reason in REASONS if reason in instruction)
    asked = listed(instruction)
    wanted = {part for part, flag in zip(asked, met, strict=True) if flag}
    # Parts that were not asked for stand in place of those that are left out.
    wanted |= set(chance.some([part for part in PARTS if part not in asked], THINGS - sum(met)))
    said = [capitalised(chance.pick(PARTS[part][0]).format(name=name)) for part in PARTS if part in wanted]
    topic = chance.pick(("This is about {0}.", "I write about {0}.", "You know {0}.", "It concerns {0}."))
    said = [sentence + "." for sentence in said]
    first = 1 if "greeting" in wanted else 0
    if {"greeting", "name"} <= wanted:
        said[:2], first = [f"{said[0][:-1]} {said[1]}"], 1
    return " ".join([*said[:first], topic.format(reason), *said[first:]])


def check_message(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: a wording of the part is in the message."""
    findings = []
    for part in listed(instruction):
        seen = re.search(PARTS[part][1], response, re.IGNORECASE)
        findings.append(Finding(part, seen is not None, seen.group(1) if seen else "nothing"))
    return tuple(findings)


QUESTION_ANSWERS = Task(
    "question_answers",
    "Does the response answer the four things that were asked?",
    levels("questions", "is answered", "are answered"),
    ask_answers,
    respond_answers,
    check_answers,
    Voice(
        openers=(
            "The questions are {asked}.",
            "Question by question:",
            "Looking for each answer:",
            "What is answered?",
            "I look up every answer.",
            "Asked were {asked}.",
            "Each question in turn:",
            "Taking the questions in order:",
        ),
        items=("{item}: {found}, {verdict}", "{item} - {found}, {verdict}", "{item} gets {found}, {verdict}"),
        verdicts=(
            ("answered", "not answered"),
            ("answered", "open"),
            ("given", "not given"),
            ("yes", "no"),
            ("fine", "left out"),
        ),
        claims=("it answers {count}", "{count} got an answer", "it answers {digits} questions"),
        shorts=("{n} answered", "{n} given", "{n} of the answers"),
    ),
)
MESSAGE_PARTS = Task(
    "message_parts",
    "Does the message have the four parts that the request names?",
    levels("parts", "is there", "are there"),
    ask_message,
    respond_message,
    check_message,
    Voice(
        openers=(
            "The message needs {asked}.",
            "Part by part:",
            "Looking for the parts:",
            "Wanted parts: {asked}.",
            "Which parts does it have?",
            "I look for each part.",
            "Every part in turn:",
            "The parts should be {asked}.",
        ),
        items=("{item}: {found}, {verdict}", "{item} - {found}, {verdict}", "for {item} {found}, {verdict}"),
        verdicts=(
            ("there", "missing"),
            ("present", "absent"),
            ("included", "left out"),
            ("yes", "no"),
            ("found", "not found"),
        ),
        claims=("it has {count} parts", "the message has {count} parts", "it holds {digits} parts"),
        shorts=("{n} there", "{n} of the parts", "{n} in place"),
    ),
)
PART_TASKS = (QUESTION_ANSWERS, MESSAGE_PARTS)
