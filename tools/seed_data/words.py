"""The words that tasks draw from. Pools that stand in one request or response do not overlap."""


def _pool(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _pool(
    "Anna Ben Cara Dan Emma Finn Grace Hugo Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam "
    "Tina Tom Vera Will Zoe Adam Bella Carl Dora Eric Fay Gary Helen Ian Jane Kurt Lily Max "
    "Nora Oscar Peter Ruth"
)

# Things to pack, buy or fetch: all begin with a consonant and read well after "the".
GOODS = _pool(
    "hat rope soap map lamp tent towel spoon knife plate pillow blanket comb brush mirror "
    "pencil paper tape glue bread milk cheese rice salt sugar butter honey jam pasta flour "
    "shirt scarf belt gloves boots socks radio camera candle bucket hammer basket bottle "
    "ticket"
)

# Nouns for short stories; none of them is a word of the story frames.
NOUNS = _pool(
    "moon ship coat river tree door cup stone bridge garden window horse bell tower road box "
    "letter cloud forest table clock boat kite ladder piano hill fence barn wheel ring shell "
    "crown key ball drum flag fish rabbit storm castle train market mountain feather wagon "
    "pond wolf lantern"
)

COLORS = _pool("red blue green pink black white yellow brown gray purple")
FOODS = _pool("tea bread milk cheese rice soup cake ham pie fish juice salad corn honey")

# Category (as the request says it) -> members; no word is in two.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": _pool("cow dog cat pig sheep goat lion tiger bear wolf rabbit horse"),
    "fruits": _pool("apple banana pear grape mango melon fig kiwi pineapple papaya"),
    "colors": _pool("red blue green yellow pink purple black white brown gray"),
    "tools": _pool("hammer saw drill wrench shovel rake axe screwdriver pliers chisel"),
    "clothes": _pool("shirt coat skirt dress socks jacket sweater gloves scarf jeans"),
    "drinks": _pool("tea coffee milk juice water beer wine cocoa lemonade cider"),
    "vehicles": _pool("car bus train truck bike ship jet van tram taxi"),
    "countries": _pool("France Spain Italy Japan China India Egypt Peru Kenya Norway"),
}

# No word has a second opposite in the table, so any other right-hand word is wrong.
OPPOSITES: dict[str, str] = dict(
    pair.split("/")
    for pair in _pool(
        "hot/cold big/small up/down old/new wet/dry open/closed full/empty fast/slow near/far "
        "rich/poor day/night hard/soft clean/dirty happy/sad early/late thick/thin strong/weak "
        "in/out on/off black/white true/false war/peace love/hate win/lose push/pull buy/sell "
        "give/take come/go before/after first/last more/less sweet/sour deep/shallow alive/dead "
        "safe/dangerous boy/girl king/queen north/south east/west"
    )
)

# Singular -> (plural, a wrong form).
PLURALS: dict[str, tuple[str, str]] = {
    **{
        word: (word + "s", word + "es")
        for word in _pool(
            "cat dog book tree car hand bird ship door cup king song road hill star lamp girl boy "
            "farm gate nail coin ring boat"
        )
    },
    **{word: (word + "es", word + "s") for word in _pool("box bus dish glass watch brush fox peach class bench")},
    **{word: (word[:-1] + "ies", word + "s") for word in _pool("baby city lady story party berry pony fly")},
    **{
        word: (plural, word + "s")
        for word, plural in (
            pair.split("/")
            for pair in _pool(
                "man/men woman/women child/children foot/feet tooth/teeth goose/geese mouse/mice "
                "leaf/leaves wolf/wolves knife/knives wife/wives"
            )
        )
    },
}

DAYS = _pool("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _pool("January February March April May June July August September October November December")

# Topic of an answer -> possible answers (last word is what a rationale quotes).
ANSWERS: dict[str, tuple[str, ...]] = {
    "job": ("baker", "nurse", "teacher", "farmer", "driver"),
    "town": ("Paris", "Rome", "Boston", "Oslo", "Dover"),
    "pet": ("dog", "cat", "parrot", "rabbit", "pony"),
    "age": ("30", "24", "41", "19", "56"),
    "hobby": ("chess", "dance", "fishing", "music", "yoga"),
    "sport": ("tennis", "golf", "rowing", "skiing", "hockey"),
    "food": ("pizza", "soup", "rice", "pasta", "salad"),
    "drink": ("tea", "coffee", "milk", "juice", "cocoa"),
    "color": ("red", "blue", "green", "pink", "white"),
    "car": ("Ford", "Fiat", "Volvo", "Honda", "Jeep"),
    "month": ("May", "June", "July", "March", "April"),
    "number": ("7", "12", "3", "9", "21"),
}

# Topic -> (two or three words, words that make the line too long); at least six in all.
LINES: dict[str, tuple[tuple[str, str], ...]] = {
    "a farm": (
        ("cows eat grass", "all day"),
        ("hens lay eggs", "in straw"),
        ("pigs sleep", "in warm mud"),
        ("dogs bark", "at each cart"),
        ("corn grows tall", "in July"),
        ("barns are red", "round here"),
    ),
    "the sea": (
        ("waves come in", "so slowly"),
        ("fish swim", "deep down below"),
        ("gulls fly high", "up there"),
        ("ships sail", "far from us"),
        ("sand is warm", "at noon"),
        ("crabs hide", "under wet stones"),
    ),
    "a school": (
        ("bells ring", "once an hour"),
        ("children read", "at long desks"),
        ("teachers talk", "of old times"),
        ("chalk breaks", "now and then"),
        ("lunch is hot", "on Fridays"),
        ("friends play", "in the yard"),
    ),
    "a kitchen": (
        ("soup cooks", "in big pots"),
        ("bread bakes", "for an hour"),
        ("pans hang", "by the door"),
        ("tea is ready", "at four"),
        ("plates shine", "after a wash"),
        ("butter melts", "on hot toast"),
    ),
    "a park": (
        ("kids run", "up the hill"),
        ("ducks swim", "near the gate"),
        ("trees give shade", "to all"),
        ("birds sing", "in the morning"),
        ("benches wait", "in the sun"),
        ("squirrels jump", "from the trees"),
    ),
    "winter": (
        ("snow falls", "on the roofs"),
        ("lakes freeze", "over at night"),
        ("fires burn", "in each house"),
        ("nights are long", "up north"),
        ("boots get wet", "in snow"),
        ("stars look bright", "and cold"),
    ),
    "a market": (
        ("people shout", "about fresh fish"),
        ("apples shine", "in big boxes"),
        ("coins ring", "in deep bags"),
        ("flowers smell sweet", "all day"),
        ("bread is cheap", "on Mondays"),
        ("carts roll", "over the stones"),
    ),
    "a garden": (
        ("roses bloom", "on the path"),
        ("bees hum", "in the flowers"),
        ("rain helps", "the young beans"),
        ("worms dig", "in dark soil"),
        ("plums get ripe", "in August"),
        ("grass grows", "fast in May"),
    ),
}

# What a response says beside its answer. None of these words stands in another table, so no rubric looks at them.
OPENERS = (
    "Sure.",
    "Of course!",
    "Very well.",
    "Gladly done.",
    "Here you are.",
    "Happy to help you out.",
    "Thanks for asking me this.",
    "Let me try to do that for you.",
    "That is a nice thing to ask of me.",
    "I gave it some thought, so here I go.",
)
CLOSERS = (
    "Enjoy!",
    "That is all.",
    "Hope it helps.",
    "Just tell me if not.",
    "Ask again if you like.",
    "I am glad I could help with it.",
    "Please let me know what you think.",
    "If something seems odd, write to me again.",
    "I would be pleased to hear how it turns out for you.",
    "Should you want it in some other form, I am happy to try once more.",
)
FILLERS = (
    "Hmm.",
    "Well.",
    "Let me see.",
    "Who knows.",
    "Not so easy.",
    "I am not sure.",
    "There is more.",
    "Hard to say more.",
    "Give me a moment.",
    "I must think first.",
    "This is a good topic.",
    "One could say a lot.",
    "It depends on so much.",
    "Others may know better.",
    "You surely know it all.",
    "I had more a while ago.",
)
CHATTER = (*OPENERS, *CLOSERS, *FILLERS)
