"""Tasks where the request asks for four of something and the response gives so many, as incomplete answers do."""

import re
from collections.abc import Callable, Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.reading import capitalised, joined, words
from tools.seed_data.tasks_types import NOTHING_MORE, THINGS, Finding, Task, Voice
from tools.seed_data.words import CATEGORIES, NAMES

NOTHING = ("Sorry, I can not think of any.", "I do not know.", "No idea, sorry.", "I can not help with that.")
CHORES: dict[str, tuple[str, ...]] = {
    "make tea": ("boil water", "warm the cup", "add the leaves", "pour it in"),
    "wash a car": ("wet the car", "rub in soap", "rinse it well", "dry the doors"),
    "plant a tree": ("dig a hole", "set the roots", "fill in soil", "water it"),
    "bake bread": ("mix the dough", "let it rise", "heat the oven", "bake it brown"),
    "send a letter": ("write the page", "fold it once", "add a stamp", "post it"),
    "paint a wall": ("clear the room", "tape the edges", "stir the paint", "roll it on"),
    "make a bed": ("shake the sheet", "tuck it in", "puff the pillow", "fold the cover"),
    "fix a tire": ("lift the bike", "find the hole", "glue a patch", "pump in air"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("The sea is calm", "The sand is warm", "Gulls fly low", "We swim a lot"),
    "farm": ("Cows eat grass", "The barn is red", "Hens lay eggs", "Dogs guard sheep"),
    "school": ("Bells ring early", "Kids read books", "Lunch is hot", "Art is fun"),
    "market": ("Fruit is cheap", "Men sell fish", "Bread smells good", "Crowds come early"),
    "forest": ("Trees grow tall", "Owls sleep late", "Paths are dark", "Moss is soft"),
    "winter": ("Snow falls fast", "Nights are long", "Ice is thin", "Fires burn low"),
    "train": ("Seats are blue", "It leaves at six", "Windows open wide", "Tickets are cheap"),
    "garden": ("Roses smell sweet", "Bees fly past", "Rain feeds it", "The fence is old"),
}

REASONS: dict[str, tuple[str, ...]] = {
    "bike": ("It is quick", "It costs little", "It keeps you fit", "It parks anywhere"),
    "dog": ("It guards you", "It likes walks", "It is loyal", "It makes friends"),
    "garden": ("It smells nice", "It feeds you", "It calms you", "It draws birds"),
    "phone": ("It takes photos", "It shows maps", "It plays music", "It calls help"),
    "piano": ("It sounds rich", "It trains hands", "It lasts long", "It fits songs"),
    "raincoat": ("It keeps you dry", "It folds small", "It stops wind", "It looks smart"),
    "cat": ("It hunts mice", "It is clean", "It sleeps a lot", "It purrs softly"),
    "boat": ("It takes you far", "It is quiet", "It carries much", "It suits lakes"),
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "doctor": ("Is it bad", "Must I rest", "Which pills help", "May I eat"),
    "farmer": ("What do you grow", "Are cows calm", "When is harvest", "Is soil dry"),
    "pilot": ("How high is it", "Are storms bad", "Do you sleep", "Is flying hard"),
    "baker": ("Is bread fresh", "When do you start", "What is sweet", "Is flour dear"),
    "teacher": ("What is due", "Was I late", "Can I retake it", "Who helps me"),
    "singer": ("Do you get shy", "Who writes songs", "Is tour long", "Which song is old"),
    "painter": ("Which blue is it", "Is oil slow", "Do you sketch", "Who buys it"),
    "sailor": ("Is sea rough", "Which way is north", "Are ropes wet", "Can you swim"),
}


def ask_examples(chance: Chance) -> str:
    return chance.pick(
        (
            "Name four {kind} for {name}.",
            "Give {name} four examples of {kind}.",
            "{name} needs four {kind}. Which ones?",
            "List four {kind} that {name} may know.",
            "Tell {name} the names of four {kind}.",
            "Which four {kind} could {name} draw?",
        )
    ).format(kind=chance.pick(tuple(CATEGORIES)), name=chance.pick(NAMES))


def respond_examples(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    given = chance.some(CATEGORIES[_named(instruction, CATEGORIES)], sum(met))
    if not given:
        return chance.pick(NOTHING)
    return chance.pick(("{plain}.", "Here: {plain}.", "Sure: {plain}.", "You can take {plain}.")).format(
        plain=joined(given)
    )


def check_examples(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met, in order: so many members of the kind are in the response."""
    members = CATEGORIES[_named(instruction, CATEGORIES)]
    given = sorted(
        (member for member in members if member.lower() in words(response)),
        key=lambda member: response.lower().index(member.lower()),
    )
    return _counted(given)


def ask_steps(chance: Chance) -> str:
    return chance.pick(
        (
            "Tell {name} in four steps how to {chore}.",
            "How does {name} {chore}? Four steps.",
            "Write four steps for {name} to {chore}.",
            "{name} wants to {chore}. Give four steps.",
            "Four steps to {chore}, for {name}.",
            "Explain to {name} how to {chore} in four steps.",
        )
    ).format(chore=chance.pick(tuple(CHORES)), name=chance.pick(NAMES))


def respond_steps(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
    given = CHORES[_named(instruction, CHORES)][: sum(met)]
    if not given:
        return chance.pick(NOTHING)
    joint = chance.pick((". ", "; ", "\n"))
    return capitalised(joint.join(capitalised(step) if joint != "; " else step for step in given)) + "."


def check_steps(instruction: str, response: str) -> tuple[Finding, ...]:
    """Met, in order: so many steps of the chore are in the response."""
    steps = CHORES[_named(instruction, CHORES)]
    return _counted([step for step in steps if step in response.lower()])


def _ask(wordings: tuple[str, ...], table: dict[str, tuple[str, ...]]) -> Callable[[Chance], str]:
    return lambda chance: chance.pick(wordings).format(topic=chance.pick(tuple(table)), name=chance.pick(NAMES))


def _respond(table: dict[str, tuple[str, ...]]) -> Callable[[Chance, str, Sequence[bool]], str]:
    def respond(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
        given = chance.some(table[_named(instruction, table)], sum(met))
        return " ".join(sentence + "." for sentence in given) or chance.pick(NOTHING)

    return respond


def _check(table: dict[str, tuple[str, ...]]) -> Callable[[str, str], tuple[Finding, ...]]:
    def check(instruction: str, response: str) -> tuple[Finding, ...]:
        known = [sentence for sentence in table[_named(instruction, table)] if sentence in response]
        return _counted(sorted(known, key=response.index))

    return check


def _named(instruction: str, table: dict[str, tuple[str, ...]]) -> str:
    return next(name for name in table if re.search(rf"\b{name}\b", instruction))


def _counted(given: Sequence[str]) -> tuple[Finding, ...]:
    seen = list(given[:THINGS]) + [NOTHING_MORE] * (THINGS - len(given))
    return tuple(Finding(text, place < len(given)) for place, text in enumerate(seen))


def _voice(plural: str) -> Voice:
    return Voice(
        openers=(
            f"Counting the {plural}:",
            f"The {plural} one by one:",
            f"I count the {plural}.",
            f"Going through the {plural}:",
            f"How many {plural} are there?",
            f"These {plural} are given:",
            f"Looking for four {plural}:",
            f"One after the other, the {plural}:",
        ),
        items=("{item}",),
        verdicts=(("", ""),),
        claims=(f"it gives {{count}} {plural}", f"{{count}} {plural} are given", f"there are {{count}} {plural}"),
        shorts=(f"{{n}} {plural}", "{n} given", "{n} of them"),
    )


EXAMPLES_GIVEN = Task(
    "examples_given",
    "Does the response give the four examples that were asked for?",
    (
        "None of the four examples is given.",
        "One of the four examples is given.",
        "Two of the four examples are given.",
        "Three of the four examples are given.",
        "All four examples are given.",
    ),
    ask_examples,
    respond_examples,
    check_examples,
    _voice("examples"),
)
STEPS_GIVEN = Task(
    "steps_given",
    "Does the response give all four steps that were asked for?",
    (
        "None of the four steps is given.",
        "One of the four steps is given.",
        "Two of the four steps are given.",
        "Three of the four steps are given.",
        "All four steps are given.",
    ),
    ask_steps,
    respond_steps,
    check_steps,
    _voice("steps"),
)
SENTENCES_GIVEN = Task(
    "sentences_given",
    "Does the response have the four sentences that were asked for?",
    (
        "None of the four sentences is written.",
        "One of the four sentences is written.",
        "Two of the four sentences are written.",
        "Three of the four sentences are written.",
        "All four sentences are written.",
    ),
    _ask(
        (
            "Write four sentences for {name} about the {topic}.",
            "Tell {name} about the {topic} in four sentences.",
            "Four sentences about the {topic}, for {name}.",
            "{name} wants four sentences on the {topic}.",
            "Describe the {topic} to {name} in four sentences.",
            "Say four things about the {topic} to {name}.",
        ),
        PLACES,
    ),
    _respond(PLACES),
    _check(PLACES),
    _voice("sentences"),
)
REASONS_GIVEN = Task(
    "reasons_given",
    "Does the response give the four reasons that were asked for?",
    (
        "None of the four reasons is given.",
        "One of the four reasons is given.",
        "Two of the four reasons are given.",
        "Three of the four reasons are given.",
        "All four reasons are given.",
    ),
    _ask(
        (
            "Give {name} four reasons to have a {topic}.",
            "Why should {name} get a {topic}? Four reasons.",
            "Four reasons for a {topic}, please, for {name}.",
            "{name} asks why a {topic} is good. Four reasons.",
            "Tell {name} four reasons for a {topic}.",
            "List four reasons why {name} needs a {topic}.",
        ),
        REASONS,
    ),
    _respond(REASONS),
    _check(REASONS),
    _voice("reasons"),
)
QUESTIONS_GIVEN = Task(
    "questions_given",
    "Does the response have the four questions that were asked for?",
    (
        "None of the four questions is there.",
        "One of the four questions is there.",
        "Two of the four questions are there.",
        "Three of the four questions are there.",
        "All four questions are there.",
    ),
    _ask(
        (
            "Write four questions for {name} to ask a {topic}.",
            "{name} meets a {topic}. Give four questions.",
            "What can {name} ask a {topic}? Four questions.",
            "Four questions to a {topic}, for {name}.",
            "Help {name} with four questions for a {topic}.",
            "{name} talks to a {topic}. List four questions.",
        ),
        QUESTIONS,
    ),
    _respond(QUESTIONS),
    _check(QUESTIONS),
    _voice("questions"),
)
COUNT_TASKS = (EXAMPLES_GIVEN, STEPS_GIVEN, SENTENCES_GIVEN, REASONS_GIVEN, QUESTIONS_GIVEN)
