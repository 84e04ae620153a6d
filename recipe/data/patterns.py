"""Regular expressions that a .toml file spells in parts."""

import re
from collections.abc import Mapping


def compiled(pattern: str, parts: Mapping[str, str | list[str]]) -> re.Pattern[str]:
    """The pattern with its parts in the place of their names, such as {NOUN}; a part that is a list is one of these.

    Line breaks and indentation don't count.
    """

    def filled(part: str | list[str]) -> str:
        text = part if isinstance(part, str) else f"(?:{'|'.join(part)})"
        joined = "".join(map(str.strip, text.splitlines()))
        return re.sub(r"\{([A-Z]+)\}", lambda name: filled(parts[name[1]]), joined)

    return re.compile(filled(pattern))
