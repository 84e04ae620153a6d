"""Example -> messages, by the Jinja2 files in ../prompts (SPEC: Prompts; paper A.1). Knows no model and no tokenizer.

A file is an optional system part, a line `---`, and the user part. A variable a file names and nobody gives is an
error (StrictUndefined). Text given by users can't close its section, forge a label or write a chat-template token:
what would do so is written with a look-alike bracket.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import jinja2.sandbox

from recipe.data.records import Example, Message
from recipe.errors import SreError
from recipe.system import resource

NAMES = (
    "pointwise",
    "pairwise",
    "pointwise_label_only",
    "pairwise_label_only",
    "self_assessment",
    "meta_judge",
    "preference_reversal",
)
_SEPARATOR = "\n---\n"
# Section tags, the result marker, and the control tokens of the chat templates in use (ChatML, Llama, Gemma, Mistral,
# DeepSeek, whose bars are wide) and of code models' files (StarCoder, SmolLM).
_FORGERIES = re.compile(
    r"<(?=/?(?:BEGIN |END |\||｜|(?:s|bos|eos|unk|pad|mask|start_of_turn|end_of_turn)>|<?/?SYS>"
    r"|(?:repo_?name|file_?name|file_sep|gh_stars|empty_output|(?:issue|jupyter|fim)_[a-z_]+|commit_(?:before|msg|after))>))"
    r"|\[(?=/?(?:RESULT|INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)


def neutralise(text: str) -> str:
    """Make text given by users unable to act as structure: `<END RESPONSE>` becomes `‹END RESPONSE>`, and so on."""
    return _FORGERIES.sub(lambda m: "‹" if m.group() == "<" else "(", text)


class Prompts:
    """The prompt files, with `overrides` (name -> template text) in place of the shipped ones, e.g. a GGUF's own."""

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        self.sources: dict[str, str] = {**_shipped(), **(overrides or {})}
        self._environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.FunctionLoader(self.sources.get),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        self._parts: dict[str, list[tuple[str, jinja2.Template]]] = {}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all templates: two judges with the same digest ask the same questions."""
        return hashlib.sha256(repr(sorted(self.sources.items())).encode()).hexdigest()

    def judge(self, example: Example, *, label_only: bool = False) -> tuple[Message, ...]:
        """The prompt of a judgement (A.1.1, A.1.2), by the example's task."""
        return self._render(f"{example.task}_label_only" if label_only else example.task, example)

    def self_assessment(self, example: Example, judgement: str) -> tuple[Message, ...]:
        """Ask for a 1-5 rating of one judgement's text (A.1.4)."""
        return self._render("self_assessment", example, judgement=neutralise(judgement))

    def meta_judge(self, example: Example, rationales: Sequence[str]) -> tuple[Message, ...]:
        """Ask for the most and the least effective of the rationales, named ITEM1, ITEM2, ... (A.1.6)."""
        return self._render("meta_judge", example, contender_rationales=[neutralise(r) for r in rationales])

    def preference_reversal(self, example: Example) -> tuple[Message, ...]:
        """Ask a child-like reader, who sees no criteria, for a poor rationale (A.1.5)."""
        return self._render("preference_reversal", example)

    def _render(self, name: str, example: Example, **more: Any) -> tuple[Message, ...]:
        context = _context(example) | more
        try:
            parts = self._parts.get(name) or self._compile(name)
            self._parts[name] = parts
            return tuple(Message(role, template.render(context).strip()) for role, template in parts)
        except jinja2.TemplateError as error:
            raise SreError(f"{error}; check the template's variables", file=f"prompts/{name}.jinja") from None

    def _compile(self, name: str) -> list[tuple[str, jinja2.Template]]:
        source = self.sources[name]
        first, separator, second = source.partition(_SEPARATOR)
        if not separator:
            return [("user", self._environment.from_string(source))]
        # Both parts see what the first one imports.
        imports = "".join(re.findall(r"{%-? import .*?%}", first))
        return [
            ("system", self._environment.from_string(first)),
            ("user", self._environment.from_string(imports + second)),
        ]


def _context(example: Example) -> dict[str, Any]:
    responses = [{"role": "assistant", "content": neutralise(text)} for text in example.responses]
    named = (
        {"response": responses[0]}
        if len(responses) == 1
        else dict(zip(("response1", "response2"), responses, strict=True))
    )
    return {
        "task": example.task,
        "labels": list(example.labels),
        "criteria": neutralise(example.rubric.criteria),
        "scoring_criteria": [
            {"score": score, "description": neutralise(text)}
            for score, text in sorted(example.rubric.descriptions.items())
        ],
        "conversation_prefix": [
            {"role": message.role, "content": neutralise(message.content)} for message in example.conversation
        ],
        "reference": neutralise(example.reference),
        **named,
    }


@cache
def _shipped() -> dict[str, str]:
    folder = resource("prompts")
    texts = {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in NAMES}
    return {**texts, "_sections.jinja": (folder / "_sections.jinja").read_text(encoding="utf-8")}
