"""What the report's pictures show is what was measured."""

from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.evaluation.audit import FIGURES
from recipe.evaluation.charts import confusion, interval_charts


def row(number, label, task="pointwise"):
    return Example(f"r{number}", task, (Message("user", "ask"),), ("a", "b"), Rubric("Good?"), label)


def said(number, label):
    return Judgement(f"r{number}:0", f"r{number}", "pointwise", "text", "text", label)


def figure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": 30}


def test_judges_stand_beside_the_rules_by_the_figure_that_both_are_compared_by():
    first, second = FIGURES["compared"]["pairwise"]
    results = {
        "models": {"sft": {"pairwise": {first: figure(0.4, -0.1, 0.6)}}, "j1": None},
        "baselines": {
            "longer": {"pairwise": {first: figure(0.7, 0.6, 0.8), second: figure(0.9)}},
            "none": {"pairwise": {first: figure(None)}},
        },
    }
    (chart,) = interval_charts(results)
    assert [(bar["name"], bar["rule"], bar["value"]) for bar in chart["bars"]] == [
        ("SFT", False, 0.4),
        ("longer", True, 0.7),
    ]
    assert (chart["low"], chart["best"]) == (-0.1, 0.7)


def test_where_the_first_figure_is_undefined_of_every_judge_the_second_is_drawn():
    first, second = FIGURES["compared"]["pointwise"]
    results = {"models": {"sft": {"pointwise": {first: figure(None), second: figure(0.3, 0.1, 0.5)}}}}
    (chart,) = interval_charts(results)
    assert [bar["value"] for bar in chart["bars"]] == [0.3]
    assert chart["best"] is None
    assert interval_charts({"models": {"sft": {"pointwise": {}}}}) == []


def test_every_scored_row_is_in_the_confusion_once():
    rows = [row(0, 1), row(1, 1), row(2, 5), row(3, 2, "pairwise"), row(4, 3)]
    found = confusion(rows, [said(0, 1), said(1, 4), said(2, None), said(3, 2), said(4, 3)])
    assert found[1] == {"1": 1, "2": 0, "3": 0, "4": 1, "5": 0, "malformed": 0}
    assert found[5]["malformed"] == found[3]["3"] == 1
    assert sum(count for given in found.values() for count in given.values()) == 4
    assert confusion(rows[3:4], [said(3, 2)]) == {}
