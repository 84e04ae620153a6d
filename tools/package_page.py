"""Hatchling's hook for the package page: README.md with absolute links, for only a checkout has the files beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r"(!\[[^\]]*\]\()(?!\w+:)")
_LINK = re.compile(r"(?<!!)(\[[^\[\]]*\]\()(?!\w+:|#)")


def with_absolute_links(text: str, repository: str) -> str:
    """Markdown with links to files of the repository on GitHub in place of relative ones."""
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = _IMAGE.sub(rf"\g<1>{raw}/main/", text)
    return _LINK.sub(rf"\g<1>{repository}/blob/main/", text)


class PackagePage(MetadataHookInterface):
    """Fills in the dynamic field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = with_absolute_links(text, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
