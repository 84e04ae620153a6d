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
        ("cows eat grass", "in the field all day"),
        ("hens lay eggs", "in the warm old barn"),
        ("pigs sleep", "in the mud behind the house"),
        ("dogs bark", "at every cart on the road"),
        ("corn grows tall", "under the hot summer sun"),
        ("barns are red", "and very big around here"),
    ),
    "the sea": (
        ("waves come in", "and go out again slowly"),
        ("fish swim", "deep down in the blue water"),
        ("gulls fly high", "over the rocks and sand"),
        ("ships sail", "far away from the old town"),
        ("sand is warm", "on our feet at noon"),
        ("crabs hide", "under the stones by the pier"),
    ),
    "a school": (
        ("bells ring", "when the first class is over"),
        ("children read", "big books at the back table"),
        ("teachers talk", "about the long history of towns"),
        ("chalk breaks", "on the old black board again"),
        ("lunch is hot", "and smells good on Fridays"),
        ("friends play", "with a ball in the yard"),
    ),
    "a kitchen": (
        ("soup cooks", "in the big pot on fire"),
        ("bread bakes", "in the oven for an hour"),
        ("pans hang", "on the wall by the door"),
        ("tea is ready", "for all of the guests"),
        ("plates shine", "after the long wash at night"),
        ("butter melts", "on the hot toast with jam"),
    ),
    "a park": (
        ("kids run", "up and down the green hill"),
        ("ducks swim", "on the pond near the gate"),
        ("trees give shade", "to people on the path"),
        ("birds sing", "in the trees in the morning"),
        ("benches wait", "for tired people in the sun"),
        ("squirrels jump", "from one tree to the next"),
    ),
    "winter": (
        ("snow falls", "on the roofs of the town"),
        ("lakes freeze", "and people skate on them all"),
        ("fires burn", "in every house of the street"),
        ("nights are long", "and cold in the north"),
        ("boots get wet", "in the snow outside"),
        ("stars look bright", "in the clear black sky"),
    ),
    "a market": (
        ("people shout", "about their fresh fish and fruit"),
        ("apples shine", "in boxes by the long wall"),
        ("coins ring", "in the bags of the sellers"),
        ("flowers smell sweet", "next to the cheese stand"),
        ("bread is cheap", "on the last day here"),
        ("carts roll", "over the stones with heavy loads"),
    ),
    "a garden": (
        ("roses bloom", "along the path to the house"),
        ("bees hum", "in the flowers all day long"),
        ("rain helps", "the beans and the young trees"),
        ("worms dig", "in the dark soil under roots"),
        ("plums get ripe", "at the end of summer"),
        ("grass grows", "fast after the rain in May"),
    ),
}
