"""The arithmetic of ratios and bounds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.figures import bound_seconds, distinct_tokens, own_figures, peer_figures, tables


@pytest.mark.parametrize(
    ("prompts", "distinct"),
    [
        ([], 0),
        ([[1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2, 3]], 3),
        ([[1, 2, 3], [4, 5]], 5),
        ([[1, 2, 3], [1, 2, 4], [1, 5]], 5),
        ([[1, 2], [1, 2, 3, 4], [1]], 4),
        ([[1, 2, 3], [2, 2, 3]], 6),  # equal endings share nothing
    ],
)
def test_distinct_tokens_are_the_nodes_of_the_prefix_tree(prompts, distinct):
    assert distinct_tokens(prompts) == distinct
    assert distinct_tokens(prompts[::-1]) == distinct
    assert len({tuple(p[:n]) for p in prompts for n in range(1, len(p) + 1)}) == distinct


def test_a_workload_counts_what_is_served(workload):
    work = workload([[1, 2, 3], [1, 2]], [4, 6], samples=10)
    assert work.new_tokens == 10 * (4 + 6)
    assert work.prompt_tokens == 10 * (3 + 2)
    assert work.longest == 8


def test_the_bound_prefills_each_distinct_token_and_decodes_every_new_one(workload):
    work = workload([[1, 2, 3], [1, 2, 4]], [5, 7], samples=2)
    assert bound_seconds(work, prefill=8.0, decode=12.0) == pytest.approx(4 / 8 + 24 / 12)


def test_the_bound_of_a_label_alone_decodes_nothing(workload):
    work = workload([[1, 2, 3], [1, 2, 4]], [1, 1], label_only=True)
    assert bound_seconds(work, prefill=8.0, decode=1e-9) == pytest.approx(0.5)


def test_a_peer_is_its_median_and_its_ratio_to_ours(workload):
    figures = peer_figures(workload([[1]], [12]), [9.0, 6.0, 3.0], [4.0, 1.0, 2.0])
    assert figures == {"median_s": 6.0, "tokens_per_s": 2.0, "ratio": 3.0, "seconds": [9.0, 6.0, 3.0]}


def test_without_ours_there_is_no_ratio(workload):
    assert peer_figures(workload([[1]], [12]), [6.0], None)["ratio"] is None


def test_our_figures_take_medians_of_rates_and_the_greatest_memory(workload):
    work = workload([[1, 2, 3], [1, 2, 4]], [6, 6])
    ours = [
        {"seconds": s, "peak_mib": p, "kv_mib": 50.0, "kernels": "x"} for s, p in ((4.0, 90), (2.0, 110), (3.0, 100))
    ]
    rates = [{"prefill": p, "decode": d} for p, d in ((2.0, 6.0), (100.0, 12.0), (4.0, 1.0))]
    assert own_figures(work, ours, rates, model_mib=20.0) == {
        "bound_s": 3.0,
        "share_of_bound": 1.0,
        "distinct_prompt_tokens": 4,
        "prompt_tokens": 6,
        "prefill_tokens_per_s": 4.0,
        "decode_tokens_per_s": 6.0,
        "served_tokens_per_s": 6.0,
        "peak_mib": 110,
        "allowed_mib": 320.0,
        "kernels": "x",
    }


def shown(results) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(*tables(results, dict.fromkeys(results, "a title")))
    return console.file.getvalue()


def test_the_tables_show_every_peer_and_our_bound(workload):
    work = workload([[1, 2, 3]], [12])
    ours = peer_figures(work, [2.0], [2.0]) | own_figures(
        work,
        [{"seconds": 2.0, "peak_mib": 90, "kv_mib": 50.0, "kernels": "x"}],
        [{"prefill": 3.0, "decode": 16.0}],
        20.0,
    )
    loop = peer_figures(work, [5.0], [2.0])
    text = shown({"a": {"ours": ours, "loop": loop, "transformers": loop | {"dtype": "bfloat16"}}})
    for part in ("a: a title", "ours", "loop", "2.50", "transformers (bfloat16)", "88%", "90 of 320", "kernels: x"):
        assert part in text


def test_without_ours_the_tables_show_no_ratio_and_no_bound(workload):
    text = shown({"a": {"loop": peer_figures(workload([[1]], [12]), [5.0], None)}})
    assert "loop" in text
    assert "bound" not in text
