"""Stage merge: the pointwise and the pairwise adapter become one, W0 + wp*dWp + wq*dWq."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe.config import MergeConfig
from recipe.errors import SreError
from recipe.gguf.weights import open_adapter
from recipe.storage import atomic_folder, write_json


@dataclass(frozen=True)
class Factors:
    """One module's LoRA: the delta is scale * b @ a. a [r, in], b [out, r], float32."""

    a: Tensor
    b: Tensor
    scale: float = 1.0


def weighted_sum(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """The exact sum of weighted deltas of one module: concatenated factors, whose rank is the sum of theirs."""
    b = torch.cat([weight * part.scale * part.b for weight, part in parts], dim=1)
    return Factors(torch.cat([part.a for _, part in parts]), b)


def truncate(factors: Factors, rank: int) -> tuple[Factors, Tensor]:
    """The best approximation of that rank, and all squared singular values of the delta (scale 1), largest first."""
    # Two QRs and one (r1+r2)-sized SVD, never the dense matrix.
    q_b, r_b = torch.linalg.qr(factors.b.double())
    q_a, r_a = torch.linalg.qr(factors.a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    root = s[:rank].sqrt()
    kept = Factors((root[:, None] * (v[:rank] @ q_a.T)).float(), (q_b @ u[:, :rank] * root).float())
    return kept, s.square()


def run_merge(
    folder: Path, *, pointwise: Path, pairwise: Path, settings: MergeConfig, default_rank: int
) -> dict[str, Any]:
    """Write the merged adapter to folder/adapter, and its relative Frobenius error to folder/merge.json."""
    first, config = read_adapter(pointwise)
    second, _ = read_adapter(pairwise)
    if first.keys() != second.keys():
        raise SreError(
            f"the adapters train different modules: {sorted(first.keys() ^ second.keys())[0]}", file=pairwise
        )
    weights = (settings.pointwise_weight, settings.pairwise_weight)
    merged = {name: weighted_sum([(weights[0], first[name]), (weights[1], second[name])]) for name in first}
    error = 0.0
    if settings.method == "svd":
        rank = settings.rank or default_rank
        lost = whole = 0.0
        for name, factors in merged.items():
            merged[name], squares = truncate(factors, rank)
            lost, whole = lost + float(squares[rank:].sum()), whole + float(squares.sum())
        error = (lost / max(whole, 1e-300)) ** 0.5
    _write_adapter(folder / "adapter", merged, config)
    facts = {"method": settings.method, "weights": weights, "relative_error": error}
    write_json(folder / "merge.json", facts)
    return facts


def read_adapter(folder: Path) -> tuple[dict[str, Factors], dict[str, Any]]:
    """(factors by module name, adapter_config.json) of a saved PEFT LoRA adapter."""
    config, file = open_adapter(folder)
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    scale = config["lora_alpha"] / config["r"]
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    return {
        name: Factors(tensors[f"{name}.lora_A.weight"].float(), tensors[f"{name}.lora_B.weight"].float(), scale)
        for name in names
    }, config


def _write_adapter(folder: Path, merged: dict[str, Factors], config: dict[str, Any]) -> None:
    """Save factors of scale 1 as a PEFT adapter: lora_alpha equals r."""
    from safetensors.torch import save_file

    ranks = {len(factors.a) for factors in merged.values()}
    if len(ranks) > 1:
        raise SreError("modules of different rank can't be merged into one adapter")
    rank = ranks.pop()
    plain = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    tensors = {}
    for name, factors in merged.items():
        tensors[f"{name}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{name}.lora_B.weight"] = factors.b.contiguous()
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(temporary / "adapter_config.json", config | plain)
