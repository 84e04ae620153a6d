"""What a terminal shows: every judge, every interval, and "-" where nothing can be told."""

import io

import pytest
from rich.console import Console

from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.evaluation.tables import (
    bootstrap_text,
    figure_text,
    judged_example,
    results_grids,
    show,
    stages_table,
    undefined_lines,
    warning_lines,
)

FIGURE = {"value": 0.414, "low": -0.05, "high": 0.6, "n": 50}
NOTHING = {"value": None, "low": None, "high": None, "n": 7}


def shown(thing):
    console = Console(width=160, record=True, file=io.StringIO())
    thing(console)
    return console.export_text()


def test_figures_are_short_and_honest():
    assert figure_text(FIGURE) == ".41 [-.05, .60]"
    assert figure_text(FIGURE, with_n=True).endswith("n=50")
    assert figure_text(NOTHING, with_n=True) == "- n=7"
    assert figure_text({"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}) == "1.00 [1.00, 1.00]"


def test_the_table_names_every_judge_and_difference():
    task = {"n": 50, "malformed": 5, "accuracy": FIGURE}
    models = {name: {"pointwise": {**task, "pearson": NOTHING}, "pairwise": task} for name in ("seed", "sft", "j2")}
    accuracies = {"accuracy": FIGURE, "accuracy_all": FIGURE}
    gains = {"j2 - sft": {"pointwise": {**accuracies, "pearson": FIGURE}, "pairwise": accuracies}}
    text = shown(lambda console: show(results_grids({"models": models, "differences": gains}), models, console))
    for part in ("seed", "SFT", "J2", "50 + 50", "10 (10%)", "- n=7", "j2 - sft", ".41 [-.05, .60]"):
        assert part in text


def test_a_judge_that_hardly_judges_is_announced_in_red():
    top = {"value": 0.95, "low": 0.9, "high": 1.0, "n": 60, "label": 2, "in_truth": 0.5}
    chance = {"value": 0.52, "low": 0.4, "high": 0.6, "n": 60}
    scores = {"n": 0, "malformed": 0, "accuracy": NOTHING, "pearson": NOTHING}
    models = {"j2": {"pointwise": scores, "pairwise": {"n": 60, "malformed": 0, "accuracy": chance, "top_label": top}}}
    console = Console(width=160, record=True, file=io.StringIO())
    show(results_grids({"models": models, "differences": {}}), models, console)
    text = console.export_text(styles=True)
    assert "31m" in text[: text.index("J2 picks response 2 in 95%")][-12:]
    assert warning_lines({"j2": None}) == []


def test_bootstrapped_rationales_are_counted_kept_and_dropped():
    text = bootstrap_text(
        "pointwise", {"rows": 9, "unhinted": 4, "hinted": 2, "without": 3, "dropped": {"wrong label": 7}}
    )
    for part in ("pointwise", "6 of 9", "2 of them", "wrong label 7"):
        assert part in text


def test_stages_show_what_is_unfinished():
    stages = {"seed": {"wall_s": 3.21, "tokens": 0, "peak_rss_mb": 900}, "merged": {"hash": "ab"}}
    text = shown(lambda console: console.print(stages_table(stages)))
    assert "3.2 s" in text
    assert "unfinished" in text


def test_a_judged_example_shows_evidence_label_and_truth():
    example = Example("a", "pairwise", (Message("user", "Ask."),), ("one", "two"), Rubric("Better?"), 2)
    judgement = Judgement("j", "a", "pairwise", "", "Since two.", 2, label_logprobs={1: -1.6, 2: -0.2}, origin="judge")
    text = shown(lambda console: console.print(judged_example(example, judgement)))
    for part in ("Better?", "user: Ask.", "response 2: two", "Since two.", "[RESULT] 2 (truth: 2)", "80%"):
        assert part in text


@pytest.mark.parametrize(
    ("n", "value", "part"), [(8, None, "8 rows"), (1, None, "1 row"), (30, None, "same"), (30, 0.4, "")]
)
def test_a_dash_for_a_correlation_has_its_reason(n: int, value: float | None, part: str) -> None:
    pearson = {"value": value, "low": None, "high": None, "n": n}
    lines = undefined_lines({"j1": {"pointwise": {"pearson": pearson}}, "seed": None})
    assert len(lines) == bool(part)
    assert all("J1" in line and part in line for line in lines)
