"""SentencePiece's vocabularies (Llama 2, Mistral 7B, Gemma) between tokenizer.json and llama.cpp.

Both begin with single characters and join neighbours. tokenizer.json lists the pairs to join, the first of the list
first. llama.cpp joins any two that make a token, the token with the highest score first. They agree where the list
has every pair that makes a token, and a token's pairs stand together.
"""

import math
from itertools import zip_longest
from typing import Any

from recipe.errors import SreError

SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
APART = -1000.0  # the score of a token that no pair makes
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def prefixes_space(normalizers: list[dict[str, Any]], steps: list[dict[str, Any]]) -> bool:
    """Whether a text gets a space in front of it, and in front of what follows a special token.

    A Metaspace that does so at the very beginning alone counts as no: prompts begin with a special token. Raises
    SreError for steps that llama.cpp doesn't have.
    """
    if normalizers == [_PREPEND, _REPLACE] and not steps:
        return True
    if normalizers == [_REPLACE] and steps in ([], [_SPLIT]):  # no space is left to split at
        return False
    marks = not normalizers and [(step["type"], step.get("replacement"), step.get("split")) for step in steps]
    if marks == [("Metaspace", SPACE, False)]:
        return bool(steps[0]["prepend_scheme"] == "always")
    raise SreError("llama.cpp has no such normaliser or pre-tokeniser for SentencePiece")


def is_run(token: str) -> bool:
    """Whether a token of tokenizer.json is a run of spaces. In GGUF it is written with spaces where it is added."""
    return not token.strip(SPACE)


def token_scores(model: dict[str, Any], added: list[str]) -> dict[str, float]:
    """llama.cpp's score of each token that pairs make. `added`: the tokens that are found before any pair is joined.

    Raises SreError where llama.cpp would join other pairs than the `model` part of this tokenizer.json.
    """
    vocab, apart = model["vocab"], {*added}
    if model.get("dropout") or model.get("ignore_merges") or any(byte not in vocab for byte in BYTES):
        raise SreError("it lacks byte tokens, or has dropout or ignore_merges")
    made = (merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge) for merge in model["merges"])
    # llama.cpp finds added tokens in the text itself. Of those, only runs of spaces are made from pairs here.
    found = [SPACE if token in apart else token for token in made if token not in apart or is_run(token)]
    scores = {token: -float(place) for place, token in enumerate(dict.fromkeys(found)) if token != SPACE}
    rest = {token: -math.inf for token in vocab if token not in scores and token not in apart}
    wanted = ("".join(pair) for pair in _pairs(scores | rest, added, vocab))
    for token, other in zip_longest(found, (SPACE if token in apart else token for token in wanted)):
        if token != other:
            raise SreError(f"its merges aren't SentencePiece's: they make {token!r} where llama.cpp makes {other!r}")
    return scores


def _pairs(scores: dict[str, float], added: list[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair that makes a token, in the order in which they are joined: runs of spaces first, the longest first."""
    scores = scores | {token: math.inf for token in added if is_run(token)}
    order = sorted(scores, key=lambda token: (-scores[token], -len(token)))
    halves = ((token[:k], token[k:]) for token in order for k in range(len(token) - 1, 0, -1))
    return [(left, right) for left, right in halves if left in vocab and right in vocab]


def tokenizer(
    vocab: dict[str, int], scores: dict[str, float], added: list[str], unknown: str | None, *, prefix: bool
) -> Any:
    """The inverse of `prefixes_space` and `token_scores`: a tokenizers.Tokenizer."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pairs = _pairs(scores, added, vocab)
    made = Tokenizer(models.BPE(vocab, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    mark = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), mark]) if prefix else mark
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made
