"""llama.cpp's grammars: which tokens may come next in an answer that must follow a JSON schema or a grammar."""

import ctypes
import json
import weakref
from functools import lru_cache
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from recipe.errors import SreError

_C: Any = llama_cpp.llama_cpp
MOST_CHARACTERS = 32_768  # of a schema; of its grammar ten times as many
MOST_REPEATS = 200
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength"}


class Grammar:
    """The state of one text under a grammar. Raises SreError where llama.cpp can't read the grammar."""

    def __init__(self, vocabulary: Any, gbnf: str) -> None:
        self._sampler = _C.llama_sampler_init_grammar(vocabulary, gbnf.encode(), b"root")
        if not self._sampler:
            raise SreError("llama.cpp can't make a grammar of this schema", field="response_format")
        weakref.finalize(self, _C.llama_sampler_free, self._sampler)

    def accept(self, token: int) -> None:
        """Go on with an allowed token. An end token isn't accepted."""
        _C.llama_sampler_accept(self._sampler, token)

    def allows(self, token: int) -> bool:
        return bool(np.isfinite(self._filtered(np.array([token]))[0]))

    def masked(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [vocabulary] with -inf for what may not come next."""
        return np.where(np.isfinite(self._filtered(np.arange(len(row)))), row, np.float32(-np.inf))

    def _filtered(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        data = np.zeros(len(tokens), np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        data["id"] = tokens
        pointer = data.ctypes.data_as(ctypes.POINTER(_C.llama_token_data))
        candidates = _C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        _C.llama_sampler_apply(self._sampler, ctypes.byref(candidates))
        found: NDArray[np.float32] = data["logit"]
        return found


@lru_cache(maxsize=64)
def gbnf_of(schema: str) -> str:
    """llama.cpp's grammar for JSON of a schema; a text that is such a grammar (`root ::= …`) stays as it is.

    Raises SreError for a schema that can't be followed.
    """
    if schema.startswith("root ::="):
        return schema
    try:
        if len(schema) > MOST_CHARACTERS:
            raise ValueError(f"it has more than {MOST_CHARACTERS} characters")
        _check(json.loads(schema))
        grammar = json_schema_to_gbnf(schema)
        if len(grammar) > 10 * MOST_CHARACTERS:
            raise ValueError("its grammar is too long")
    except Exception as error:  # the converter trips over odd schemas in many ways
        why = str(error) or type(error).__name__
        raise SreError(f"this JSON schema can't be followed: {why[:200]}", field="response_format") from None
    return str(grammar)


def _check(part: Any) -> None:
    """Raises ValueError for what would make a grammar endless or slow."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            raise ValueError("patterns are not offered")
        if any(isinstance(part.get(name), int) and part[name] > MOST_REPEATS for name in _COUNTS):
            raise ValueError(f"more than {MOST_REPEATS} repeats are not offered")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _check(inner)
