"""The shape of a model: what its weights, its memory and its time follow from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from recipe.errors import SreError


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


def read_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Shape, from a config.json. Raises SreError for a number that is missing or makes no sense."""

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key) or default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SreError(f"expected a positive whole number, found {value!r}", field=key)
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return {
        "layers": number("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": number("num_key_value_heads", heads),
        "head_dim": number("head_dim", hidden // heads),
        "intermediate": number("intermediate_size"),
        "vocab": number("vocab_size"),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
