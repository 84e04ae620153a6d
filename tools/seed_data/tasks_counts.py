"""Tasks where the request asks for a list of four and the response lists so many, as incomplete answers do.

Chatter stands in place of what is missing, so that a short list is no shorter a text.
"""

import re
from collections.abc import Sequence

from tools.seed_data.chance import Chance
from tools.seed_data.tasks_types import NOTHING_MORE, THINGS, Finding, Task, Voice, levels
from tools.seed_data.words import CATEGORIES, FILLERS, NAMES

MARKS = ("- ", "* ", "{}. ", "{}) ")
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
FACTS: dict[str, tuple[str, ...]] = {
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


def counting(noun: str, table: dict[str, tuple[str, ...]], wordings: Sequence[str], stop: str = "") -> Task:
    """The task that asks for four of `noun` about a topic of the table. `stop` ends each item."""

    def ask(chance: Chance) -> str:
        return chance.pick(wordings).format(topic=chance.pick(tuple(table)), name=chance.pick(NAMES))

    def known(instruction: str) -> tuple[str, ...]:
        return next(items for topic, items in table.items() if re.search(rf"\b{topic}\b", instruction))

    def respond(chance: Chance, instruction: str, met: Sequence[bool]) -> str:
        items, mark = known(instruction), chance.pick(MARKS)
        places = sorted(chance.some(range(len(items)), sum(met))) if noun == "steps" else None
        given = [items[k] for k in places] if places else chance.some(items, sum(met))
        size = sum(map(len, items)) // len(items) + 3
        fillers = iter(chance.some(sorted(FILLERS, key=lambda text: (abs(len(text) - size), text))[:8], THINGS))
        numbers, left = iter(range(1, THINGS + 1)), iter(given)
        return "\n".join(f"{mark.format(next(numbers))}{next(left)}{stop}" if flag else next(fillers) for flag in met)

    def check(instruction: str, response: str) -> tuple[Finding, ...]:
        given = re.findall(r"^(?:[-*]|\d[.)]) (.+?)[.?]?$", response, re.MULTILINE)
        seen = [item for item in given if item in known(instruction)]
        return tuple(
            Finding(text, k < len(seen)) for k, text in enumerate(seen + [NOTHING_MORE] * (THINGS - len(seen)))
        )

    return Task(
        f"{noun}_given",
        f"Does the response list the four {noun} that were asked for?",
        levels(noun, "is listed", "are listed"),
        ask,
        respond,
        check,
        Voice(
            openers=(
                f"Counting the {noun}:",
                f"The {noun} one by one:",
                f"I count the {noun}.",
                f"Going through the {noun}:",
                f"How many {noun} are there?",
                f"These {noun} are listed:",
                f"Looking for four {noun}:",
                f"One after the other, the {noun}:",
            ),
            items=("{item}",),
            verdicts=(("", ""),),
            claims=(f"it lists {{count}} {noun}", f"{{count}} {noun} are listed", f"there are {{count}} {noun}"),
            shorts=(f"{{n}} of the {noun}", "{n} listed", "{n} of them"),
        ),
    )


COUNT_TASKS = (
    counting(
        "examples",
        CATEGORIES,
        (
            "Name four {topic} for {name}.",
            "Give {name} four examples of {topic}.",
            "{name} needs four {topic}. Which ones?",
            "List four {topic} that {name} may know.",
            "Tell {name} the names of four {topic}.",
            "Which four {topic} could {name} draw?",
        ),
    ),
    counting(
        "steps",
        CHORES,
        (
            "Tell {name} in four steps how to {topic}.",
            "How does {name} {topic}? Four steps.",
            "Write four steps for {name} to {topic}.",
            "{name} wants to {topic}. Give four steps.",
            "Four steps to {topic}, for {name}.",
            "Explain to {name} how to {topic} in four steps.",
        ),
    ),
    counting(
        "facts",
        FACTS,
        (
            "List four facts about the {topic} for {name}.",
            "Tell {name} four facts about the {topic}.",
            "Four facts about the {topic}, for {name}.",
            "{name} wants four facts on the {topic}.",
            "Describe the {topic} to {name} in four facts.",
            "Give four facts on the {topic} to {name}.",
        ),
        stop=".",
    ),
    counting(
        "reasons",
        REASONS,
        (
            "Give {name} four reasons to have a {topic}.",
            "Why should {name} get a {topic}? Four reasons.",
            "Four reasons for a {topic}, please, for {name}.",
            "{name} asks why a {topic} is good. Four reasons.",
            "Tell {name} four reasons for a {topic}.",
            "List four reasons why {name} needs a {topic}.",
        ),
        stop=".",
    ),
    counting(
        "questions",
        QUESTIONS,
        (
            "Write four questions for {name} to ask a {topic}.",
            "{name} meets a {topic}. Give four questions.",
            "What can {name} ask a {topic}? Four questions.",
            "Four questions to a {topic}, for {name}.",
            "Help {name} with four questions for a {topic}.",
            "{name} talks to a {topic}. List four questions.",
        ),
        stop="?",
    ),
)
