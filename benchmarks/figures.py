"""The arithmetic of a benchmark and its tables: medians, ratios, bounds. Pure; runs nothing.

What `peer_figures` and `own_figures` return, as `python -m benchmarks --json` writes it under workload and peer:

    {"median_s": 4.4, "tokens_per_s": 145.5, "ratio": 1.0, "seconds": [4.5, 4.4, 4.4], "bound_s": 3.9,
     "share_of_bound": 0.89, "distinct_prompt_tokens": 604, "prompt_tokens": 6040, "prefill_tokens_per_s": 820.0,
     "decode_tokens_per_s": 290.0, "served_tokens_per_s": 1518.2, "peak_mib": 402, "allowed_mib": 720.4,
     "kernels": "native"}

All but the first four are ours alone: a bound says how well a scheduler uses the machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.workloads import Workload
from recipe.inference.labels import shared_length

OURS = "ours"
OVERHEAD_MIB = 250
"""Of memory, beside the model's file and the KV cache: Python, the libraries, llama.cpp's compute buffers."""

Results = dict[str, dict[str, dict[str, Any]]]


def distinct_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Nodes of the prefix tree of all prompts: the tokens that have to be computed, however they are ordered."""
    runs = sorted(map(tuple, prompts))
    return sum(map(len, runs)) - sum(shared_length(a, b) for a, b in itertools.pairwise(runs))


def bound_seconds(workload: Workload, prefill: float, decode: float) -> float:
    """The least time a workload takes at these rates (tokens a second): every distinct prompt token prefilled once,
    every new one decoded in a full batch. A label alone is read from the prefill: nothing is decoded."""
    distinct = distinct_tokens([item.ids for item in workload.items])
    return distinct / prefill + (0.0 if workload.label_only else workload.new_tokens / decode)


def peer_figures(workload: Workload, seconds: Sequence[float], ours: Sequence[float] | None) -> dict[str, Any]:
    """median_s, tokens_per_s (new tokens) and ratio: how many times as long as ours, None where ours did not run."""
    middle = median(seconds)
    return {
        "median_s": round(middle, 4),
        "tokens_per_s": round(workload.new_tokens / middle, 2),
        "ratio": round(middle / median(ours), 3) if ours else None,
        "seconds": [round(value, 4) for value in seconds],
    }


def own_figures(
    workload: Workload,
    ours: Sequence[Mapping[str, Any]],
    rates: Sequence[Mapping[str, float]],
    model_mib: float,
) -> dict[str, Any]:
    """How near our median comes to the bound, and the memory it took.

    ours: results with seconds, peak_mib, kv_mib and kernels. rates: results with prefill and decode, tokens a second.
    model_mib: the file's size.
    """
    seconds = median(result["seconds"] for result in ours)
    prefill, decode = (median(rate[kind] for rate in rates) for kind in ("prefill", "decode"))
    bound = bound_seconds(workload, prefill, decode)
    return {
        "bound_s": round(bound, 4),
        "share_of_bound": round(bound / seconds, 3),
        "distinct_prompt_tokens": distinct_tokens([item.ids for item in workload.items]),
        "prompt_tokens": workload.prompt_tokens,
        "prefill_tokens_per_s": round(prefill, 1),
        "decode_tokens_per_s": round(decode, 1),
        "served_tokens_per_s": round((workload.prompt_tokens + workload.new_tokens) / seconds, 1),
        "peak_mib": max(result["peak_mib"] for result in ours),
        "allowed_mib": round(model_mib + max(result["kv_mib"] for result in ours) + OVERHEAD_MIB, 1),
        "kernels": ours[0]["kernels"],
    }


def tables(results: Results, titles: Mapping[str, str]) -> list[Table]:
    """What the terminal shows: peers side by side, then our bounds. titles: workload -> what it is."""
    peers = Table(title="Same model, prompts and lengths; medians, each measured in fresh processes")
    for column in ("workload", "peer", "median s", "new tokens/s", "times ours"):
        peers.add_column(column, justify="left" if column in ("workload", "peer") else "right")
    for name, found in results.items():
        for index, (peer, figures) in enumerate(found.items()):
            shown = "-" if figures["ratio"] is None else f"{figures['ratio']:.2f}"
            dtype = f" ({figures['dtype']})" if "dtype" in figures else ""
            peers.add_row(
                "" if index else f"{name}: {titles[name]}",
                peer + dtype,
                f"{figures['median_s']:.2f}",
                f"{figures['tokens_per_s']:.1f}",
                shown,
            )
        peers.add_section()
    bounded = {name: found[OURS] for name, found in results.items() if "bound_s" in found.get(OURS, {})}
    return [peers, _bounds(bounded)] if bounded else [peers]


def _bounds(own: Mapping[str, Mapping[str, Any]]) -> Table:
    kinds = sorted({str(figures["kernels"]) for figures in own.values()})
    table = Table(
        title="Ours against the machine: bound = distinct prompt tokens / prefill + new tokens / decode",
        caption="prompt tokens: computed, of those of all samples' prompts; served: these and the new tokens; "
        f"memory: peak MiB of (model file + KV cache + {OVERHEAD_MIB}); kernels: {', '.join(kinds)}",
    )
    for column in ("workload", "bound s", "share", "prompt tokens", "prefill/s", "decode/s", "served/s", "memory"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for name, figures in own.items():
        table.add_row(
            name,
            f"{figures['bound_s']:.2f}",
            f"{figures['share_of_bound']:.0%}",
            f"{figures['distinct_prompt_tokens']} of {figures['prompt_tokens']}",
            f"{figures['prefill_tokens_per_s']:.0f}",
            f"{figures['decode_tokens_per_s']:.0f}",
            f"{figures['served_tokens_per_s']:.0f}",
            f"{figures['peak_mib']:.0f} of {figures['allowed_mib']:.0f}",
        )
    return table
