"""Converts a BPE tokenizer.json to GGUF's vocabulary keys and back, so that llama.cpp makes the same ids.

llama.cpp knows a pre-tokeniser by its name alone. An unknown one is refused, never guessed. llama.cpp applies no
Unicode normalisation: where the tokeniser applies NFC (Qwen), only texts in NFC get equal ids.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.gguf import sentencepiece
from recipe.storage import read_json
from recipe.system import read_table

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
_STEPS = read_table(__file__, "pre_tokenizers.toml")
# For tokenisers like llama-bpe that do apply merges inside whole-word tokens.
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {**_STEPS, "smaug-bpe": _STEPS["llama-bpe"]}
# Gemma 3's sizes without pictures share the tokeniser of those with, and have no embedding for this token.
_OF_LARGER_SIZES = ("<image_soft_token>",)
_ADVICE = "such a model can't be exported"


@dataclass(frozen=True)
class Vocabulary:
    """A BPE vocabulary in GGUF's terms: of bytes, or SentencePiece's, which has scores in place of merges."""

    pre: str  # llama.cpp's name of the pre-tokeniser, "default" for SentencePiece
    tokens: list[str]  # one for each row of the embedding
    types: list[int]  # NORMAL, CONTROL, …
    merges: list[str]  # "left right", in order
    special: dict[str, int]  # the ids of bos, eos, unk and pad, as far as there are any
    add_bos: bool
    add_eos: bool
    chat_template: str
    scores: list[float] = field(default_factory=list)  # the highest is joined first
    space_prefix: bool = False  # whether SentencePiece puts a space in front of a text


def read_vocabulary(model: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model folder, padded with [PADn] to `rows`, the embedding's rows."""
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SreError("no tokenizer.json here; save the tokeniser with transformers' save_pretrained", file=model)
    data = read_json(path)
    if data.get("model", {}).get("type") != "BPE":
        raise SreError(f"only BPE tokenisers are supported; {_ADVICE}", file=path)
    of_bytes = not data["model"].get("byte_fallback")
    found = _special_vocabulary(model, load_merges=of_bytes, n_vocab=rows)
    by_id = {number: (token, NORMAL) for token, number in data["model"]["vocab"].items()}
    for added in data.get("added_tokens", []):
        if added["id"] < rows or added["content"] not in _OF_LARGER_SIZES:
            by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if max(by_id) >= rows:
        raise SreError(f"the tokeniser has {max(by_id) + 1} tokens, the embedding only {rows} rows", file=path)
    filled = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(rows)]
    tokens, types = [token for token, _ in filled], [kind for _, kind in filled]
    if len(set(tokens)) != rows:
        raise SreError(f"two ids have the token {Counter(tokens).most_common(1)[0][0]!r}", file=path)
    special = {role: number for role, number in found.special_token_ids.items() if role in ("bos", "eos", "unk", "pad")}
    if "eos" not in special:
        raise SreError("the tokeniser names no end-of-sequence token (eos_token)", file=path)
    add_bos, add_eos = (found.add_special_token.get(role, False) for role in ("bos", "eos"))
    pre = _pre_tokenizer(data, path) if of_bytes else "default"
    read = Vocabulary(pre, tokens, types, found.merges, special, add_bos, add_eos, _template(found))
    return read if of_bytes else _with_scores(read, data, path)


def _with_scores(read: Vocabulary, data: dict[str, Any], path: Path) -> Vocabulary:
    """The vocabulary with what llama.cpp knows of SentencePiece's. Raises SreError where its ids would be others."""
    added = [token for token, kind in zip(read.tokens, read.types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    try:
        own = _steps(data.get("normalizer"), "normalizers"), _steps(data.get("pre_tokenizer"), "pretokenizers")
        prefix = sentencepiece.prefixes_space(*(_llama_steps(path.parent) or own))
        scores = sentencepiece.token_scores(data["model"], added)
    except SreError as error:
        raise SreError(f"{error}; {_ADVICE}", file=path) from None
    types = [
        BYTE if token in sentencepiece.BYTES else kind for token, kind in zip(read.tokens, read.types, strict=True)
    ]
    return replace(
        read,
        types=types,
        # llama.cpp looks for added tokens in the text itself, whose spaces are spaces.
        tokens=[" " * len(t) if sentencepiece.is_run(t) and t in added else t for t in read.tokens],
        scores=[scores.get(token, sentencepiece.APART) for token in read.tokens],
        space_prefix=prefix,
    )


def _llama_steps(model: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """The normaliser and pre-tokeniser that transformers gives a Llama 2 in place of tokenizer.json's."""
    path = model / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
    if kind != "LlamaTokenizer" or read_json(model / "config.json").get("model_type") != "llama":
        return None
    scheme = "never" if settings.get("add_prefix_space") is False else "always" if settings.get("legacy") else "first"
    return [], [{"type": "Metaspace", "replacement": sentencepiece.SPACE, "prepend_scheme": scheme, "split": False}]


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Add the vocabulary's keys to a gguf.GGUFWriter."""
    writer.add_tokenizer_model("llama" if vocabulary.scores else "gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_chat_template(vocabulary.chat_template)


def read_chat_template(model: Path) -> str:
    """The chat template of a model folder, "" where it has none."""
    return _template(_special_vocabulary(model))


def _template(found: Any) -> str:
    template = found.chat_template or ""
    if isinstance(template, str):
        return template
    return next((str(t["template"]) for t in template if t.get("name") == "default"), "")


def _special_vocabulary(model: Path, **options: Any) -> Any:
    from gguf import SpecialVocab

    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # it warns of how two texts are joined, which none is here
    try:
        return SpecialVocab(model, **options)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # what odd JSON makes it raise
        raise SreError(f"the tokeniser's files can't be read: {error}", file=model) from None


def pre_tokenizer_json(pre: str) -> dict[str, Any]:
    """tokenizer.json's pre-tokeniser for llama.cpp's name `pre` (one of PRE_TOKENIZERS)."""
    steps = PRE_TOKENIZERS[pre]
    plain = all(step["type"] != "Split" for step in steps)
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": plain}
    return {"type": "Sequence", "pretokenizers": [*steps, last]}


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


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """The inverse of `read_vocabulary`: a tokenizer.json without the padding tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    types = vocabulary.types
    tokens = vocabulary.tokens
    if vocabulary.scores:
        tokens = [token if token.strip(" ") else sentencepiece.SPACE * len(token) for token in tokens]
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    added = {kind: [t for t, own in zip(tokens, types, strict=True) if own == kind] for kind in (CONTROL, USER_DEFINED)}
    if vocabulary.scores:
        unknown = tokens[vocabulary.special["unk"]] if "unk" in vocabulary.special else None
        scores = {token: vocabulary.scores[i] for token, i in vocab.items() if types[i] == NORMAL}
        tokenizer = sentencepiece.tokenizer(vocab, scores, added[USER_DEFINED], unknown, prefix=vocabulary.space_prefix)
    else:
        merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=vocabulary.pre == "llama-bpe"))
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added[CONTROL]])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added[USER_DEFINED]])
    if vocabulary.pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    ends = {role: tokens[vocabulary.special[role]] for role in ("bos", "eos") if getattr(vocabulary, f"add_{role}")}
    first, last = ends.get("bos", ""), ends.get("eos", "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}".split(),
        pair=f"{first} $A {last} $B:1".split(),
        special_tokens=[(token, vocab[token]) for token in {*ends.values()}],
    )
    data = json.loads(tokenizer.to_str())
    if not vocabulary.scores:
        data["pre_tokenizer"] = pre_tokenizer_json(vocabulary.pre)
    return json.dumps(data, ensure_ascii=False)
