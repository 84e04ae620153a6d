"""Stage merge: the pointwise and the pairwise adapter become one, W0 + wp*dWp + wq*dWq or near it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe.config import MergeConfig
from recipe.errors import SreError
from recipe.gguf.weights import open_adapter
from recipe.storage import atomic_folder, write_json

METHODS = ("exact", "svd", "linear", "ties", "dare_linear")


@dataclass(frozen=True)
class Factors:
    """One module's LoRA: the delta is scale * b @ a. a [r, in], b [out, r], float32."""

    a: Tensor
    b: Tensor
    scale: float = 1.0


def merge_factors(
    method: str,
    first: Factors,
    second: Factors,
    weights: tuple[float, float],
    *,
    rank: int,
    density: float,
    seed: int,
) -> Factors:
    """Merge two deltas into factors of scale 1.

    Args:
        method: exact: the sum itself, as concatenated factors of rank r1 + r2. svd: the sum's best approximation of
            rank `rank`. linear, ties, dare_linear: as PEFT defines them, on A and B apart, which adds cross terms.
        first: The pointwise factors.
        second: The pairwise factors.
        weights: Their weights.
        rank: The rank that svd keeps.
        density: The share of values that ties and dare_linear keep.
        seed: Draws the values that dare_linear drops.

    Raises:
        SreError: Unequal ranks where a method needs equal ones.
    """
    parts = (first, second)
    if method in ("exact", "svd"):
        a = torch.cat([part.a for part in parts])
        b = torch.cat([weight * part.scale * part.b for weight, part in zip(weights, parts, strict=True)], dim=1)
        return Factors(a, b) if method == "exact" else _truncated(a, b, rank)
    if first.a.shape[0] != second.a.shape[0]:
        raise SreError(f"{method} needs adapters of one rank; use exact or svd", field="merge.method")
    from peft.utils.merge_utils import dare_linear, task_arithmetic, ties

    rule = {"linear": task_arithmetic, "ties": ties, "dare_linear": dare_linear}[method]
    kept = () if method == "linear" else (density,)
    # PEFT spreads each adapter's weight and scale over both factors by the square root.
    shares = torch.tensor([abs(w * p.scale) ** 0.5 for w, p in zip(weights, parts, strict=True)])
    signs = torch.tensor([1.0 if w >= 0 else -1.0 for w in weights])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Factors(rule([p.a for p in parts], shares, *kept), rule([p.b for p in parts], shares * signs, *kept))


def _truncated(a: Tensor, b: Tensor, rank: int) -> Factors:
    # The SVD of b @ a from the small factors: two QRs and one (r1+r2)-sized SVD, never the dense matrix.
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    keep = min(rank, len(s))
    root = s[:keep].sqrt()
    return Factors((root[:, None] * (v[:keep] @ q_a.T)).float(), (q_b @ u[:, :keep] * root).float())


def squared_norm(*terms: tuple[float, Factors]) -> float:
    """The squared Frobenius norm of a weighted sum of deltas, from the factors: the dense matrices are large."""
    b = torch.cat([weight * term.scale * term.b.double() for weight, term in terms], dim=1)
    a = torch.cat([term.a.double() for _, term in terms])
    return float((torch.linalg.qr(b, mode="r").R @ torch.linalg.qr(a.T, mode="r").R.T).square().sum())


def run_merge(
    folder: Path, *, pointwise: Path, pairwise: Path, settings: MergeConfig, default_rank: int, seed: int
) -> dict[str, Any]:
    """Write the merged adapter to folder/adapter, and every method's relative Frobenius error to folder/merge.json."""
    first, config = read_adapter(pointwise)
    second, _ = read_adapter(pairwise)
    if first.keys() != second.keys():
        raise SreError(
            f"the adapters train different modules: {sorted(first.keys() ^ second.keys())[0]}", file=pairwise
        )
    weights = (settings.pointwise_weight, settings.pairwise_weight)
    options: dict[str, Any] = {"rank": settings.rank or default_rank, "density": settings.density, "seed": seed}
    ranks_differ = any(first[name].a.shape[0] != second[name].a.shape[0] for name in first)
    exact = {name: tuple(zip(weights, (first[name], second[name]), strict=True)) for name in first}
    norm = sum(squared_norm(*terms) for terms in exact.values())

    def relative_error(merged: dict[str, Factors]) -> float:
        """Of all modules together, against the exact sum."""
        error = sum(squared_norm((-1.0, merged[name]), *terms) for name, terms in exact.items())
        return float((error / max(norm, 1e-300)) ** 0.5)

    errors: dict[str, float | None] = {}
    for method in METHODS:
        if ranks_differ and method not in ("exact", "svd"):
            errors[method] = None
            continue
        merged = {name: merge_factors(method, first[name], second[name], weights, **options) for name in first}
        errors[method] = relative_error(merged)
        if method == settings.method:
            write_adapter(folder / "adapter", merged, config)
            halved = {n: Factors(f.a.bfloat16().float(), f.b.bfloat16().float()) for n, f in merged.items()}
            errors["saved as bfloat16"] = relative_error(halved)
    write_json(folder / "merge.json", {"method": settings.method, "weights": weights, "relative_error": errors})
    return {"method": settings.method, "relative_error": errors}


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


def write_adapter(folder: Path, merged: dict[str, Factors], config: dict[str, Any]) -> None:
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
