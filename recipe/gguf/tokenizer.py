"""tokenizer.json <-> the vocabulary keys of GGUF, so that llama.cpp makes the same token ids.

Two kinds: byte-level BPE ("gpt2"; llama.cpp must know its pre-tokeniser by name, so it is recognised by
structure and anything unknown is refused, never guessed) and sentencepiece-style BPE with byte fallback
("llama"). llama.cpp applies no Unicode normalisation: where the tokeniser has NFC (Qwen), only NFC text gives
equal ids.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipe.errors import SreError
from recipe.gguf.weights import read_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
# llama.cpp's name -> the regular expression of tokenizer.json's Split step.
_SPLITS = {"llama-bpe": _CONTRACTIONS + "\\p{N}{1,3}" + _REST, "qwen2": _CONTRACTIONS + "\\p{N}" + _REST}
# The same expression as llama-bpe, for tokenisers that do apply merges inside whole-word tokens.
_LLAMA3_WITH_MERGES = "smaug-bpe"
PRE_TOKENIZERS = ("smollm", "gpt-2", *_SPLITS, _LLAMA3_WITH_MERGES)
_ADVICE = "such a model can't be exported"


@dataclass(frozen=True)
class Vocabulary:
    """tokens, types: one per row of the embedding. merges: "left right", for "gpt2"; scores: for "llama".

    special: ids of bos, eos, unk, pad (those there are). add_space_prefix: None for "gpt2".
    """

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool | None = None


def read_vocabulary(model: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model folder, padded with [PADn] to `rows`, the embedding's rows.

    Raises SreError for a missing or unknown tokeniser, more tokens than rows, or no end-of-sequence token.
    """
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SreError("no tokenizer.json here; save the tokeniser with transformers' save_pretrained", file=model)
    data = read_json(path)
    found = _special_vocabulary(model, load_merges=True, n_vocab=rows)
    bpe = data.get("model", {})
    if bpe.get("type") != "BPE":
        raise SreError(f"a tokeniser of type {bpe.get('type')!r} is not supported; {_ADVICE}", file=path)
    if bpe.get("byte_fallback") and _is_spaced(data):
        kind: Literal["gpt2", "llama"] = "llama"
        pre, space, merges, scores = "default", _space_prefix(data, path), [], _scores(bpe, path)
    else:
        kind, pre, space, scores = "gpt2", _pre_tokenizer(data, path), None, {}
        merges = found.merges
    tokens, types = _tokens(data, rows, kind, path)
    special = {role: number for role, number in found.special_token_ids.items() if role in ("bos", "eos", "unk", "pad")}
    if "eos" not in special:
        raise SreError("the tokeniser names no end-of-sequence token (eos_token)", file=path)
    add_bos, add_eos = (found.add_special_token.get(role, False) for role in ("bos", "eos"))
    template = read_chat_template(model)
    scored = [scores.get(token, 0.0) for token in tokens] if kind == "llama" else []
    return Vocabulary(kind, pre, tokens, types, special, add_bos, add_eos, template, merges, scored, space)


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Add the vocabulary's keys to a gguf.GGUFWriter."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_token_scores(vocabulary.scores)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_chat_template(vocabulary.chat_template)


def read_chat_template(model: Path) -> str:
    """The chat template of a model folder, "" where it has none."""
    template = _special_vocabulary(model).chat_template or ""
    if isinstance(template, str):
        return template
    return next((str(t["template"]) for t in template if t.get("name") == "default"), "")


def _special_vocabulary(model: Path, **options: Any) -> Any:
    from gguf import SpecialVocab

    try:
        return SpecialVocab(model, **options)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # what odd JSON makes it raise
        raise SreError(f"the tokeniser's files can't be read: {error}", file=model) from None


def pre_tokenizer_json(pre: str) -> dict[str, Any]:
    """tokenizer.json's pre-tokeniser for llama.cpp's name `pre` (one of PRE_TOKENIZERS)."""
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if pre == "gpt-2":
        return plain
    if pre == "smollm":
        return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, plain]}
    regex = _SPLITS["llama-bpe" if pre == _LLAMA3_WITH_MERGES else pre]
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**plain, "use_regex": False}]}


def _merges(bpe: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges in order; older files write "left right", newer ones ["left", "right"]."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in bpe["merges"])
    return [(left, right) for left, right in pairs]


def _steps(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A normaliser or pre-tokeniser as a flat list of its steps."""
    if step is None:
        return []
    return list(step[key]) if step["type"] == "Sequence" else [step]


def _pre_tokenizer(data: dict[str, Any], path: Path) -> str:
    """llama.cpp's name of this byte-level pre-tokeniser. Raises SreError when there is none."""
    unknown = SreError(f"llama.cpp has no known name for this pre-tokeniser; {_ADVICE}", file=path)
    normalizers = [step["type"] for step in _steps(data.get("normalizer"), "normalizers")]
    steps = _steps(data.get("pre_tokenizer"), "pretokenizers")
    if any(name != "NFC" for name in normalizers) or not steps or steps[-1]["type"] != "ByteLevel":
        raise unknown
    if steps[-1].get("add_prefix_space") or any(data["model"].get(key) for key in ("dropout", "end_of_word_suffix")):
        raise unknown
    whole = bool(data["model"].get("ignore_merges"))
    essence = [_essence(step) for step in steps]
    for pre in PRE_TOKENIZERS:
        same = essence == [_essence(step) for step in _steps(pre_tokenizer_json(pre), "pretokenizers")]
        if same and whole == (pre == "llama-bpe"):
            return pre
    raise unknown


def _essence(step: dict[str, Any]) -> tuple[Any, ...]:
    """What of a pre-tokenising step decides where it cuts."""
    kind = step["type"]
    if kind == "ByteLevel":
        return kind, step.get("use_regex", True)
    if kind == "Digits":
        return kind, step.get("individual_digits", False)
    if kind == "Split":
        return kind, step["pattern"].get("Regex"), step["behavior"], bool(step.get("invert"))
    return (kind,)


def _is_spaced(data: dict[str, Any]) -> bool:
    """Whether spaces become ▁ (sentencepiece) rather than bytes' stand-ins."""
    return not any(step["type"] == "ByteLevel" for step in _steps(data.get("pre_tokenizer"), "pretokenizers"))


def _space_prefix(data: dict[str, Any], path: Path) -> bool:
    """Whether each text between special tokens gets a space in front.

    Metaspace's "first" puts one only at the very start of a prompt; llama.cpp has no such choice, and a
    judge's prompt starts with a special token, so no space is right there.
    """
    normalizers = _steps(data.get("normalizer"), "normalizers")
    steps = _steps(data.get("pre_tokenizer"), "pretokenizers")
    known = [s for s in normalizers if s["type"] == "Prepend" and s.get("prepend") == "▁"]
    known += [s for s in normalizers if s["type"] == "Replace" and s["pattern"] == {"String": " "}]
    meta = [s for s in steps if s["type"] == "Metaspace" and not s.get("split", True)]
    if len(known) != len(normalizers) or len(meta) != len(steps) or not (known or meta):
        raise SreError(f"this sentencepiece-style tokeniser has steps unknown here; {_ADVICE}", file=path)
    always = any(s["type"] == "Prepend" for s in known)
    return always or any(s.get("prepend_scheme", "always") == "always" for s in meta)


def _scores(bpe: dict[str, Any], path: Path) -> dict[str, float]:
    """llama.cpp merges the pair whose token scores highest: minus the rank of the token's first merge.

    That is the same as applying the merges in order only if every split of a token into two tokens is a
    merge, as it is in every file converted from sentencepiece; with more than 1% missing the ids would
    differ: SreError.
    """
    merges, vocabulary = _merges(bpe), bpe["vocab"]
    pairs = set(merges)
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        scores.setdefault(left + right, -float(rank))
    missing = sum(
        (token[:i], token[i:]) not in pairs
        for token in scores
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    )
    if missing > len(merges) // 100:
        raise SreError(f"{missing} pairs of tokens have no merge: not a sentencepiece tokeniser; {_ADVICE}", file=path)
    return scores


def _tokens(data: dict[str, Any], rows: int, kind: str, path: Path) -> tuple[list[str], list[int]]:
    bpe = data["model"]
    by_id = {number: (token, NORMAL) for token, number in bpe["vocab"].items()}
    if kind == "llama":
        by_id.update({n: (t, BYTE) for n, (t, _) in by_id.items() if t in _BYTES})
    for added in data.get("added_tokens", []):
        by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    unknown = bpe["vocab"].get(bpe.get("unk_token")) if kind == "llama" else None
    if unknown is not None:
        by_id[unknown] = (by_id[unknown][0], UNKNOWN)
    if max(by_id) >= rows:
        raise SreError(f"the tokeniser has {max(by_id) + 1} tokens, the embedding only {rows} rows", file=path)
    filled = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(rows)]
    tokens = [token for token, _ in filled]
    if len(set(tokens)) != rows:
        twice = Counter(tokens).most_common(1)[0][0]
        raise SreError(f"two ids have the token {twice!r}", file=path)
    return tokens, [kind for _, kind in filled]


_BYTES = {f"<0x{value:02X}>" for value in range(256)}


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """The inverse for "gpt2": a tokenizer.json of this vocabulary, without its padding tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    tokens, types = vocabulary.tokens, vocabulary.types
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=vocabulary.pre == "llama-bpe"))
    for i, kind in enumerate(types):
        if kind in (CONTROL, USER_DEFINED):
            added = AddedToken(tokens[i], special=kind == CONTROL, normalized=False)
            (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
    if vocabulary.pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    ends = {role: tokens[vocabulary.special[role]] for role in ("bos", "eos") if getattr(vocabulary, f"add_{role}")}
    first, last = ends.get("bos", ""), ends.get("eos", "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}".split(),
        pair=f"{first} $A {last} $B:1".split(),
        special_tokens=[(token, vocab[token]) for token in {*ends.values()}],
    )
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = pre_tokenizer_json(vocabulary.pre)
    return json.dumps(data, ensure_ascii=False)
