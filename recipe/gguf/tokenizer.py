"""Converts a byte-level BPE tokenizer.json to GGUF's vocabulary keys and back, so that llama.cpp makes the same ids.

llama.cpp knows a pre-tokeniser by its name alone. An unknown one is refused, never guessed. llama.cpp applies no
Unicode normalisation: where the tokeniser applies NFC (Qwen), only texts in NFC get equal ids.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.storage import read_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
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
    """A byte-level BPE vocabulary in GGUF's terms.

    Attributes:
        pre: llama.cpp's name of the pre-tokeniser.
        tokens: One for each row of the embedding.
        types: Their types (NORMAL, CONTROL, …).
        merges: "left right", in order.
        special: The ids of bos, eos, unk and pad, as far as there are any.
        add_bos: Whether a text begins with bos.
        add_eos: Whether a text ends with eos.
        chat_template: The template's text.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str


def read_vocabulary(model: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model folder, padded with [PADn] to `rows`, the embedding's rows.

    Raises SreError for a missing or unknown tokeniser, more tokens than rows, or no end-of-sequence token.
    """
    path = model / "tokenizer.json"
    if not path.is_file():
        raise SreError("no tokenizer.json here; save the tokeniser with transformers' save_pretrained", file=model)
    data = read_json(path)
    found = _special_vocabulary(model, load_merges=True, n_vocab=rows)
    if data.get("model", {}).get("type") != "BPE":
        raise SreError(f"only BPE tokenisers are supported; {_ADVICE}", file=path)
    pre = _pre_tokenizer(data, path)
    by_id = {number: (token, NORMAL) for token, number in data["model"]["vocab"].items()}
    for added in data.get("added_tokens", []):
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
    return Vocabulary(pre, tokens, types, found.merges, special, add_bos, add_eos, read_chat_template(model))


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Add the vocabulary's keys to a gguf.GGUFWriter."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
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
