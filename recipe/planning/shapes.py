"""Model shapes: what memory and time follow from. A small table of models, else a folder's config.json."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.errors import SreError
from recipe.gguf.architecture import text_config
from recipe.storage import read_json


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with gated MLPs. tied: input and output embeddings are one matrix."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each matrix of a layer, by the name that LoRA targets it with."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear(self) -> int:
        """Parameters of the layers' matrices: what NF4 quantises."""
        return self.layers * sum(wide * high for wide, high in self.matrices.values())

    @property
    def head(self) -> int:
        """Parameters of the output embedding."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear + self.head * (1 if self.tied else 2) + norms

    def adapter(self, rank: int, targets: Iterable[str]) -> int:
        """Parameters of a LoRA adapter."""
        return self.layers * rank * sum(sum(self.matrices.get(name, (0, 0))) for name in targets)

    def kv_bytes(self, tokens: int) -> int:
        """The KV cache of so many tokens, in 16 bit."""
        return tokens * self.layers * 2 * self.kv_heads * self.head_dim * 2


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
KNOWN: Mapping[str, Shape] = {name: Shape(**numbers) for name, numbers in _TABLE.items()}


def shape_of(source: str) -> Shape:
    """The shape of a seed model: a name in the table, or a model folder.

    Raises SreError where neither tells it (nothing is fetched), or the folder's config.json lacks a number.
    """
    if source in KNOWN:
        return KNOWN[source]
    file = Path(source).expanduser() / "config.json"
    if not file.is_file():
        raise SreError(
            f"the shape of {source!r} is not known, and nothing is downloaded to find out. Fetch its config.json and "
            f"give its folder (--set model.source=FOLDER), or plan with a model like it: {', '.join(KNOWN)}",
            field="model.source",
        )
    config = text_config(read_json(file))

    def number(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SreError(f"expected a positive whole number, found {value!r}", file=file, field=key)
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Shape(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate=number("intermediate_size"),
        vocab=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
