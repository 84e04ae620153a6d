"""Tasks that ask for one value per key: facts of a note, opposites, plurals, what comes next, small sums."""

from collections.abc import Callable, Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import capitalised, joined, listed, paired
from tools.seed_data.tasks_types import THINGS, Finding, Task, Voice, levels
from tools.seed_data.words import COLORS, DAYS, FOODS, MONTHS, NAMES, OPPOSITES, PLURALS

RIGHT = (("right", "wrong"), ("correct", "not correct"), ("yes", "no"), ("fine", "wrong"), ("ok", "not ok"))
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
NUMBERS = tuple(str(number) for number in range(1, 21))
SEQUENCES = (DAYS, MONTHS, NUMBERS, LETTERS)


def answer(chance: Chance, keys: Sequence[str], values: Sequence[str], links: Sequence[str]) -> str:
    """One clause per key, all with the same link, as in `hot - cold, big - small`."""
    link, joint = chance.pick(links), chance.pick((", ", ". ", "\n", "; "))
    clauses = [f"{key}{link}{value}" for key, value in zip(keys, values, strict=True)]
    if joint == ". " and not keys[0][0].isdigit() and len(keys[0]) > 1:
        clauses = [capitalised(clause) for clause in clauses]
    return joint.join(clauses) + ("" if joint == "\n" else ".")


def compared(keys: Sequence[str], wanted: Sequence[str], response: str) -> tuple[Finding, ...]:
    """Met: the value given for the key is the wanted one."""
    found = [paired(response, key) or "nothing" for key in keys]
    rows = zip(keys, wanted, found, strict=True)
    return tuple(Finding(key, want == have, have, want) for key, want, have in rows)


def checker(solve: Callable[[str], str]) -> Callable[[str, str], tuple[Finding, ...]]:
    """A check that works out each listed key of the request with `solve`."""

    def check(instruction: str, response: str) -> tuple[Finding, ...]:
        keys = listed(instruction)
        return compared(keys, [solve(key) for key in keys], response)

    return check


def responder(
    solve: Callable[[str], str], spoil: Callable[[Chance, str], str], links: Sequence[str]
) -> Callable[[Chance, str, Sequence[bool]], str]:
    """A response that solves the flagged keys and spoils the others."""

    def respond(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
        keys = listed(instruction)
        values = [solve(key) if flag else spoil(chance, key) for key, flag in zip(keys, met, strict=True)]
        return answer(chance, keys, values, links)

    return respond


def other(chance: Chance, pool: Sequence[str], *not_these: str) -> str:
    """A word of the pool that is none of the given."""
    return chance.pick([word for word in pool if word not in not_these])


FACT_ASKS = (
    ("color", "Who wears which color? The note: {facts}.", " wears "),
    ("color", "Copy who has which color: {facts}.", " has "),
    ("color", "Say which bag each one has: {facts}.", " has "),
    ("hour", "Tell us when each one comes: {facts}.", " comes at "),
    ("hour", "Write the times for the guests: {facts}.", " at "),
    ("hour", "When does each one leave? Note: {facts}.", " leaves at "),
    ("price", "Give the prices in dollars: {facts}.", " costs "),
    ("price", "What does each thing cost? Card: {facts}.", " is "),
)
HOURS = tuple(str(hour) for hour in range(1, 13))


def ask_facts(chance: Chance) -> str:
    kind, wording, _ = chance.pick(FACT_ASKS)
    keys = chance.some(FOODS if kind == "price" else NAMES, THINGS)
    values = chance.some(COLORS if kind == "color" else HOURS, THINGS)
    return wording.format(facts=joined([f"{key} {value}" for key, value in zip(keys, values, strict=True)]))


def facts_of(instruction: str) -> dict[str, str]:
    """Key -> value of the note in the request."""
    return dict(fact.split(" ") for fact in listed(instruction))


def respond_facts(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    facts = facts_of(instruction)
    link = next(link for _, wording, link in FACT_ASKS if instruction.startswith(wording.split(":")[0]))
    pool = COLORS if set(facts.values()) <= set(COLORS) else HOURS
    values = [
        value if flag else other(chance, tuple(facts.values()) if chance.flip(0.5) else pool, value)
        for value, flag in zip(facts.values(), met, strict=True)
    ]
    return answer(chance, list(facts), values, (link, link, ": "))


def check_facts(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met: the response gives the value of the note."""
    facts = facts_of(instruction)
    return compared(list(facts), list(facts.values()), response)


def asker(wordings: Sequence[str], pool: Sequence[str]) -> Callable[[Chance], str]:
    """A request that lists four words of the pool."""

    def ask(chance: Chance) -> str:
        return chance.pick(wordings).format(name=chance.pick(NAMES), asked=joined(chance.some(pool, THINGS)))

    return ask


def following(key: str) -> str:
    """What comes after a day, month, letter or number; the last day and month go back to the first."""
    line = next(line for line in SEQUENCES if key in line)
    return line[(line.index(key) + 1) % len(line)]


def ask_next(chance: Chance) -> str:
    lines = chance.shuffled(SEQUENCES) if chance.flip(0.6) else [chance.pick(SEQUENCES)] * THINGS
    keys: list[str] = []
    for line in lines:
        # The last letter and number have nothing after them.
        keys.append(other(chance, line if line in (DAYS, MONTHS) else line[:-1], *keys))
    return chance.pick(
        (
            "What comes next after each of these: {asked}?",
            "Say what follows each one: {asked}.",
            "{name} asks what comes right after: {asked}.",
            "Give the next one for each: {asked}.",
            "For {name}, write what comes after: {asked}.",
            "Go one step on from each: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=joined(keys))


def spoil_next(chance: Chance, key: str) -> str:
    line = next(line for line in SEQUENCES if key in line)
    return other(chance, line, key, following(key))


def ask_sums(chance: Chance) -> str:
    sums: list[str] = []
    while len(sums) < THINGS:
        term = f"{1 + chance.below(5)}+{1 + chance.below(4)}"
        if term not in sums:
            sums.append(term)
    return chance.pick(
        (
            "Work out these sums: {asked}.",
            "Help {name} with the sums: {asked}.",
            "What do these make: {asked}?",
            "Add up for {name}: {asked}.",
            "Solve the four sums: {asked}.",
            "Give the results of: {asked}.",
        )
    ).format(name=chance.pick(NAMES), asked=joined(sums))


def add(key: str) -> str:
    first, second = key.split("+")
    return str(int(first) + int(second))


def spoil_sum(chance: Chance, key: str) -> str:
    return other(chance, NUMBERS[1:9], add(key))


def spoil_opposite(chance: Chance, key: str) -> str:
    return other(chance, tuple(OPPOSITES.values()), OPPOSITES[key])


def spoil_plural(chance: Chance, key: str) -> str:
    return key if chance.flip(0.5) else PLURALS[key][1]


def pair_voice(noun: str, openers: tuple[str, ...], items: tuple[str, ...]) -> Voice:
    """The common wording: values that are right or wrong, counted as `noun`."""
    return Voice(
        openers=openers,
        items=items,
        verdicts=RIGHT,
        claims=(
            f"it gets {{count}} {noun} right",
            f"{{count}} {noun} came out right",
            f"the response has {{count}} {noun} right",
        ),
        shorts=("{n} right", "{n} correct", f"{{n}} of the {noun} right"),
    )


COPIED_FACTS = Task(
    "copied_facts",
    "Are the four facts of the request given back correctly?",
    levels("facts", "is correct", "are correct"),
    ask_facts,
    respond_facts,
    check_facts,
    pair_voice(
        "facts",
        (
            "Note first, response second:",
            "Checking each fact:",
            "Fact by fact:",
            "The note covers {asked}.",
            "Comparing with the note:",
            "I compare each fact with the note.",
            "Every fact in turn:",
        ),
        (
            "{item} {wanted}, given {found}: {verdict}",
            "{item}: {wanted} / {found}, {verdict}",
            "{item} {wanted}, has {found}, {verdict}",
        ),
    ),
)
OPPOSITE_WORDS = Task(
    "opposite_words",
    "Does the response give the right opposite for each of the four words?",
    levels("opposites", "is right", "are right"),
    asker(
        (
            "Give the opposite of each word: {asked}.",
            "Write the opposites for {name}: {asked}.",
            "What are the opposites of: {asked}?",
            "{name} wants the opposites of: {asked}.",
            "For each word write its opposite: {asked}.",
            "Opposites for {name}, please: {asked}.",
        ),
        tuple(OPPOSITES),
    ),
    responder(OPPOSITES.__getitem__, spoil_opposite, (" - ", " = ", ": ", " and ", " is not ")),
    checker(OPPOSITES.__getitem__),
    pair_voice(
        "opposites",
        (
            "Pair by pair:",
            "Checking each opposite:",
            "The words are {asked}.",
            "Looking at the pairs:",
            "Is each pair a true opposite?",
            "Each word and its opposite:",
            "Going through the pairs:",
        ),
        ("{item} - {found}, {verdict}", "{item} and {found}: {verdict}", "{item} / {found} {verdict}"),
    ),
)
PLURAL_FORMS = Task(
    "plural_forms",
    "Does the response give the right plural for each of the four words?",
    levels("plurals", "is right", "are right"),
    asker(
        (
            "Give the plural of each word: {asked}.",
            "Write the plurals for {name}: {asked}.",
            "What are the plurals of: {asked}?",
            "{name} needs the plurals of: {asked}.",
            "More than one of each, please: {asked}.",
            "For each word write the plural: {asked}.",
        ),
        tuple(PLURALS),
    ),
    responder(lambda key: PLURALS[key][0], spoil_plural, (" - ", " = ", ": ", " becomes ", " turns into ")),
    checker(lambda key: PLURALS[key][0]),
    pair_voice(
        "plurals",
        (
            "Word by word:",
            "Checking the forms:",
            "The words are {asked}.",
            "Looking at each plural:",
            "Each form in turn:",
            "Are the forms right?",
            "I check the four plurals.",
        ),
        ("{item} - {found}, {verdict}", "{item}, {found}: {verdict}", "{item} to {found} {verdict}"),
    ),
)
NEXT_IN_LINE = Task(
    "next_in_line",
    "Is the next day, month, letter or number right for each of the four?",
    levels("steps", "is right", "are right"),
    ask_next,
    responder(following, spoil_next, (" - ", " then ", ": ", " is followed by ")),
    checker(following),
    pair_voice(
        "steps",
        (
            "Step by step:",
            "Checking what follows each:",
            "One step on from each:",
            "Looking at the four steps:",
            "Each with what comes next:",
            "In turn:",
            "Given as next:",
        ),
        ("{item} - {found}, {verdict}", "after {item}, {found}: {verdict}", "{item} then {found}, {verdict}"),
    ),
)
SMALL_SUMS = Task(
    "small_sums",
    "Are the results of the four sums right?",
    levels("sums", "is right", "are right"),
    ask_sums,
    responder(add, spoil_sum, (" = ", " = ", " is ", " makes ", ": ")),
    checker(add),
    pair_voice(
        "sums",
        (
            "Sum by sum:",
            "Working each one out:",
            "I add them up myself.",
            "Checking the results:",
            "The sums in turn:",
            "True result, then the given one:",
            "Doing the sums again:",
        ),
        (
            "{item}={wanted}, {found} {verdict}",
            "{wanted}, given {found}: {verdict}",
            "{item} is {wanted}; {found} {verdict}",
        ),
    ),
)
PAIR_TASKS = (COPIED_FACTS, OPPOSITE_WORDS, PLURAL_FORMS, NEXT_IN_LINE, SMALL_SUMS)
