"""SentencePiece's vocabularies (Llama 2, Mistral 7B, Gemma) between tokenizer.json and llama.cpp.

Both begin with single characters and join neighbours. tokenizer.json lists the pairs to join, the first of the list
first. llama.cpp joins any two that make a token, the token with the highest score first. They agree where the list
has every pair that makes a token, and a token's pairs stand together.
"""

import math
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


def token_scores(model: dict[str, Any], added: set[str]) -> dict[str, float]:
    """llama.cpp's score of each token that pairs make. `added`: the tokens that are found before any pair is joined.

    Raises SreError where llama.cpp would join other pairs than the `model` part of this tokenizer.json.
    """
    vocab = model["vocab"]
    if model.get("dropout") or model.get("ignore_merges") or any(byte not in vocab for byte in BYTES):
        raise SreError("it lacks byte tokens, or has dropout or ignore_merges")
    pairs: dict[str, int] = {}
    scores: dict[str, float] = {}
    last = ""
    for merge in model["merges"]:
        token = merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        pairs[token] = pairs.get(token, 0) + 1
        if token not in added and token != last:
            if token in scores:
                raise _other_order(token)
            scores[token] = -float(len(scores))
            last = token
        elif SPACE in token and token in added and scores:  # llama.cpp finds runs of spaces before all else
            raise _other_order(token)
    for token in vocab:
        made = sum(token[:k] in vocab and token[k:] in vocab for k in range(1, len(token)))
        if made != pairs.get(token, 0) and (token not in added or SPACE in token):
            raise _other_order(token)
    return scores


def _other_order(token: str) -> SreError:
    return SreError(f"llama.cpp would make the token {token!r} from other pairs; it was not made by SentencePiece")


def _pairs(token: str, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that make `token`, the one with the longest left part first."""
    halves = ((token[:k], token[k:]) for k in range(len(token) - 1, 0, -1))
    return [(left, right) for left, right in halves if left in vocab and right in vocab]


def marked(tokens: list[str]) -> list[str]:
    """GGUF's tokens as tokenizer.json has them: runs of spaces are written with marks there."""
    return [token.replace(" ", SPACE) for token in tokens]


def tokenizer(
    vocab: dict[str, int], scores: dict[str, float], added: list[str], unknown: str | None, *, prefix: bool
) -> Any:
    """The inverse of `prefixes_space` and `token_scores`: a tokenizers.Tokenizer.

    Args:
        vocab: The tokens and their ids.
        scores: The scores of the tokens that pairs may make.
        added: The added tokens that are no special ones. Those of spaces are made from pairs too, the longest first.
        unknown: The token for what the vocabulary lacks.
        prefix: Whether a text gets a space in front of it.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = scores | {token: math.inf for token in added if SPACE in token}
    order = sorted(scores, key=lambda token: (-scores[token], -len(token)))
    merges = [pair for token in order for pair in _pairs(token, vocab)]
    made = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    mark = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), mark]) if prefix else mark
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made
