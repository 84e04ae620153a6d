"""Reads what the generator writes: the list of a request, the pairs and lines of a response."""

import re
from collections.abc import Sequence

from recipe.data.forgery import CLAIMS, OTHER_CLAIMS
from recipe.data.records import TASKS
from tools.seed_data.words import CHATTER

# A bare number is no part of it: it may be the answer to a sum.
CLAIM_TEXTS = {
    task: tuple(text for text in (*CLAIMS[task].values(), *OTHER_CLAIMS[task]) if text != "{label}") for task in TASKS
}
_CHATTER = re.compile("|".join(re.escape(text) for text in sorted(CHATTER, key=len, reverse=True)))
_CLAIMS = [re.escape(text.format(label="§")).replace("§", "[1-5]") for some in CLAIM_TEXTS.values() for text in some]
CLAIM = re.compile(f" (?:{'|'.join(_CLAIMS)})$")


def body(response: str) -> str:
    """The response without chatter and without a claimed verdict at its end."""
    return _CHATTER.sub("", CLAIM.sub("", response)).strip()


def words(text: str) -> set[str]:
    """Every word and number of the text, in small letters."""
    return set(re.findall(r"[a-z]+|\d+", text.lower()))


def joined(items: Sequence[str]) -> str:
    """`a, b, c and d`."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def listed(text: str) -> list[str]:
    """The things listed after the first colon, or in the whole text, up to the end of the sentence."""
    found = re.search(r":\s*([^:.?]+)", text)
    return re.split(r",\s*|\s+and\s+", (found.group(1) if found else text.strip(" .")).strip())


def paired(text: str, key: str) -> str | None:
    """The last word of the clause that begins with `key`, as in `hot - cold`; None if no clause does."""
    for clause in re.split(r"[,;.\n]", text):
        parts = clause.split()
        if len(parts) > 1 and parts[0].strip(":").lower() == key.lower():
            return parts[-1]
    return None


def lines(text: str) -> list[str]:
    """The lines of a response that hold anything."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def capitalised(text: str) -> str:
    """The text with its first letter made a capital."""
    return text[:1].upper() + text[1:]
