"""Tasks about the words of a response: asked for, required, forbidden, copied, of a kind."""

import re
from collections.abc import Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import joined, listed, words
from tools.seed_data.tasks_types import THINGS, Finding, Task, Voice, levels
from tools.seed_data.words import CATEGORIES, GOODS, NAMES, NOUNS

THERE = (
    ("there", "missing"),
    ("present", "absent"),
    ("included", "left out"),
    ("found", "not found"),
    ("yes", "no"),
    ("in it", "not there"),
)
STORY_FIRST = (
    "{name} saw the {0} and the {1}.",
    "One day {name} went past the {0} to the {1}.",
    "{name} dreamed of the {0} near the {1}.",
    "In the morning {name} found the {0} by the {1}.",
    "There was the {0}, and {name} liked the {1} too.",
    "{name} told us about the {0} and the {1}.",
)
STORY_SECOND = (
    "Then the {2} was behind the {3}.",
    "Later the {2} and the {3} were lost.",
    "At night there was only the {2} and the {3}.",
    "After that came the {2}, then the {3}.",
    "Nobody knew the {2} or the {3}.",
    "It ended with the {2} under the {3}.",
)


def mixed(chance: Chance, asked: Sequence[str], met: Sequence[bool], pool: Sequence[str]) -> list[str]:
    """The flagged words, and strangers of the pool in place of the others."""
    strangers = chance.some([word for word in pool if word not in asked], len(asked))
    return [word if flag else stranger for word, flag, stranger in zip(asked, met, strangers, strict=True)]


def present(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the listed word is in the response."""
    return tuple(Finding(item, item in words(response)) for item in listed(instruction))


def avoided(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the listed word is not in the response."""
    return tuple(Finding(item, item not in words(response)) for item in listed(instruction))


def ask_items(chance: Chance) -> str:
    asked = joined(chance.some(GOODS, THINGS))
    return chance.pick(
        (
            "Write a packing list for {name}. It needs: {asked}.",
            "Tell {name} to bring these things: {asked}.",
            "{name} goes shopping. List what to buy: {asked}.",
            "Make a short list for {name} with: {asked}.",
            "Remind {name} in one sentence to fetch: {asked}.",
            "We need these from {name}: {asked}. Write the list.",
        )
    ).format(name=chance.pick(NAMES), asked=asked)


def respond_items(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    things = mixed(chance, listed(instruction), met, GOODS)
    if chance.flip(0.5):
        things = chance.shuffled(things)
    wording = chance.pick(
        ("Please bring {}.", "The list: {}.", "Do not forget {}.", "You will need {}.", "Get {} today.")
    )
    return wording.format(joined([("" if ":" in wording else "the ") + thing for thing in things]))


def ask_story(chance: Chance) -> str:
    return chance.pick(
        (
            "Write two sentences about {name} with these words: {asked}.",
            "Tell a tiny story about {name}. Use: {asked}.",
            "{name} wants a short story that has the words: {asked}.",
            "Use every word in a story for {name}: {asked}.",
            "Make up a short tale about {name}. Words to use: {asked}.",
            "A story about {name}, please, using: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=joined(chance.some(NOUNS, THINGS)))


def ask_without(chance: Chance) -> str:
    return chance.pick(
        (
            "Write two sentences about {name} without these words: {asked}.",
            "Tell a tiny story about {name}. Avoid: {asked}.",
            "{name} wants a short story. Do not use the words: {asked}.",
            "A story for {name}, but never say: {asked}.",
            "Make up a short tale about {name}. Forbidden words: {asked}.",
            "Write about {name}. Leave out the words: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=joined(chance.some(NOUNS, THINGS)))


def tell(chance: Chance, instruction: str, nouns: Sequence[str]) -> str:
    """Two sentences about the person of the request with four nouns."""
    name = next(name for name in NAMES if re.search(rf"\b{name}\b", instruction))
    order = chance.shuffled(nouns) if chance.flip(0.5) else list(nouns)
    return f"{chance.pick(STORY_FIRST)} {chance.pick(STORY_SECOND)}".format(*order, name=name)


def respond_story(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    return tell(chance, instruction, mixed(chance, listed(instruction), met, NOUNS))


def respond_without(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    return respond_story(chance, instruction, [not flag for flag in met])


def ask_copy(chance: Chance) -> str:
    return chance.pick(
        (
            "Repeat these words in the same order: {asked}.",
            "Copy this row of words for {name}: {asked}.",
            "Say it back word for word: {asked}.",
            "{name} said: {asked}. Repeat it exactly.",
            "Write these words again, in order: {asked}.",
            "Type the same four words as {name}: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=", ".join(chance.some(NOUNS, THINGS)))


def respond_copy(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    return ", ".join(mixed(chance, listed(instruction), met, NOUNS)) + chance.pick((".", ""))


def check_copy(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the word at the place is the one of the request."""
    pairs = zip(listed(instruction), listed(response), strict=True)
    return tuple(Finding(wanted, found == wanted, found, wanted) for wanted, found in pairs)


def ask_kind(chance: Chance) -> str:
    return chance.pick(
        (
            "Name four {kind} for {name}'s {use}.",
            "{name} needs four {kind} for a {use}. Which?",
            "List four {kind}, please. {name} wants them for a {use}.",
            "Give {name} four {kind} for the {use}.",
            "Which four {kind} could {name} put in a {use}?",
            "Think of four {kind}. They are for {name}'s {use}.",
        )
    ).format(
        kind=chance.pick(tuple(CATEGORIES)),
        name=chance.pick(NAMES),
        use=chance.pick(("game", "poster", "story", "quiz", "song", "drawing", "lesson")),
    )


def kind_of(instruction: str) -> str:
    """The category that the request names."""
    return next(kind for kind in CATEGORIES if kind in words(instruction))


def respond_kind(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    kind = kind_of(instruction)
    inside = chance.some(CATEGORIES[kind], THINGS)
    outside = chance.some([word for other in CATEGORIES if other != kind for word in CATEGORIES[other]], THINGS)
    row = [right if flag else wrong for right, wrong, flag in zip(inside, outside, met, strict=True)]
    return (joined(row) if chance.flip(0.5) else ", ".join(row)) + "."


def check_kind(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the named thing is of the asked kind."""
    kind = kind_of(instruction)
    return tuple(Finding(item, item in CATEGORIES[kind], wanted=kind) for item in listed(response))


ASKED_ITEMS = Task(
    "asked_items",
    "Does the response have the four things that the request asks for?",
    levels("asked things", "is there", "are there"),
    ask_items,
    respond_items,
    present,
    Voice(
        openers=(
            "The request asks for {asked}.",
            "Four things are asked for:",
            "Looking for each asked thing:",
            "I go through the list.",
            "Wanted are {asked}.",
            "Checking the things one by one:",
            "Thing by thing:",
            "The list should have {asked}.",
        ),
        items=("{item}: {verdict}", "{item} {verdict}", "{item} - {verdict}"),
        verdicts=THERE,
        claims=("it has {count} things", "the response has {count} asked things", "it holds {digits} things"),
        shorts=("{n} there", "{n} of the things", "{n} in place"),
        joints=("; ", ", ", ". "),
    ),
)
REQUIRED_WORDS = Task(
    "required_words",
    "Does the text use the four words that the request wants?",
    levels("wanted words", "is used", "are used"),
    ask_story,
    respond_story,
    present,
    Voice(
        openers=(
            "The words to use are {asked}.",
            "Word by word:",
            "Searching the story for each word:",
            "Wanted words: {asked}.",
            "Which words does the story use?",
            "I look for the four words.",
            "Each wanted word in turn:",
        ),
        items=("{item}: {verdict}", "{item} {verdict}", '"{item}" {verdict}'),
        verdicts=(
            ("used", "not used"),
            ("there", "missing"),
            ("found", "not found"),
            ("yes", "no"),
            ("present", "absent"),
        ),
        claims=("the story uses {count} words", "it uses {count} wanted words", "it has {count} words"),
        shorts=("{n} used", "{n} of the words", "{n} found"),
        joints=("; ", ", ", ". "),
    ),
)
FORBIDDEN_WORDS = Task(
    "forbidden_words",
    "Does the text stay free of the four forbidden words?",
    levels("forbidden words", "is used", "are used")[::-1],
    ask_without,
    respond_without,
    avoided,
    Voice(
        openers=(
            "The forbidden words are {asked}.",
            "Looking for forbidden words:",
            "These must not appear: {asked}.",
            "Does any forbidden word slip in?",
            "Each forbidden word in turn:",
            "I search for the banned words.",
            "Banned are {asked}.",
        ),
        items=("{item}: {verdict}", "{item} {verdict}", '"{item}" {verdict}'),
        verdicts=(
            ("not used", "used"),
            ("avoided", "used"),
            ("not there", "there"),
            ("absent", "present"),
            ("no", "yes"),
        ),
        claims=(
            "it uses {count} forbidden words",
            "{count} forbidden words slipped in",
            "the story has {count} banned words",
        ),
        shorts=("{n} used", "{n} forbidden", "{n} slipped in"),
        joints=("; ", ", ", ". "),
    ),
    faults=True,
)
EXACT_WORDS = Task(
    "exact_words",
    "Are the four words repeated exactly and in order?",
    levels("words", "is changed", "are changed")[::-1],
    ask_copy,
    respond_copy,
    check_copy,
    Voice(
        openers=(
            "Comparing the rows word by word:",
            "Place by place:",
            "Asked and given:",
            "Side by side:",
            "Request first, response second:",
            "Each word with its copy:",
            "Word for word:",
        ),
        items=(
            "{wanted} - {found}, {verdict}",
            "{wanted} / {found}: {verdict}",
            "{wanted}, given {found}: {verdict}",
        ),
        verdicts=(("same", "changed"), ("kept", "changed"), ("equal", "different"), ("same", "not the same")),
        claims=("it changes {count} words", "{count} words got changed", "the copy changes {count} words"),
        shorts=("{n} changed", "{n} wrong", "{n} altered"),
    ),
    faults=True,
)
CATEGORY_MEMBERS = Task(
    "category_members",
    "Are the four named things of the kind that was asked for?",
    levels("things", "is of that kind", "are of that kind"),
    ask_kind,
    respond_kind,
    check_kind,
    Voice(
        openers=(
            "The response names {asked}.",
            "Checking the kind of each thing:",
            "One after another:",
            "Named are {asked}.",
            "Which of them fit?",
            "Is each of the right kind?",
            "The four things in turn:",
        ),
        items=("{item}: {verdict} {wanted}", "{item}, {verdict} {wanted}", "{item} - {verdict} {wanted}"),
        verdicts=(
            ("fits", "not"),
            ("one of the", "not one of the"),
            ("belongs to", "not in"),
            ("in", "outside"),
        ),
        claims=("it gets {count} things right", "it names {count} rightly", "the kind is right for {count}"),
        shorts=("{n} fitting", "{n} right", "{n} of that kind"),
    ),
)
LIST_TASKS = (ASKED_ITEMS, REQUIRED_WORDS, FORBIDDEN_WORDS, EXACT_WORDS, CATEGORY_MEMBERS)
