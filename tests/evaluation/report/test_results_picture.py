"""The picture of results: every judge that has figures, "not run" where there are none, a file of its own."""

from xml.etree import ElementTree

from recipe.evaluation.report.charts import results_picture

FIGURE = {"value": 0.6, "low": 0.4, "high": 0.8, "n": 30}
RESULTS = {
    "models": {
        "seed": {"pointwise": {"pearson": None}, "pairwise": {}},
        "sft": {"pointwise": {"pearson": FIGURE, "accuracy": FIGURE}, "pairwise": {"accuracy": FIGURE}},
        "j1": {"pointwise": {"pearson": {**FIGURE, "value": None}, "accuracy": FIGURE}, "pairwise": {}},
    }
}


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_judges_stand_in_order_and_missing_figures_say_so():
    found = texts(results_picture(RESULTS))
    assert [text for text in found if text in ("SFT", "J1", "seed")] == ["SFT", "J1"]
    assert found.count("not run") == 2
    assert {"Pearson", "pointwise accuracy", "pairwise accuracy"} <= set(found)


def test_it_is_a_file_of_its_own_in_light_and_dark():
    svg = results_picture(RESULTS)
    assert "prefers-color-scheme:dark" in svg
    for variable in ("--ink", "--muted", "--line", "--first", "--second"):
        assert svg.count(f"{variable}:#") == 2


def test_other_figures_give_another_picture():
    changed = {"models": {**RESULTS["models"], "sft": {**RESULTS["models"]["sft"], "pairwise": {}}}}
    assert results_picture(changed) != results_picture(RESULTS) == results_picture(RESULTS)


def test_judges_that_were_not_run_are_left_out():
    rows = {**RESULTS["models"], "j2": None, "best-of-n": RESULTS["models"]["sft"], "margin-0": None}
    found = texts(results_picture({"models": rows}))
    assert {"SFT", "J1", "best-of-n"} <= set(found)
    assert not {"J2", "margin-0"} & set(found)
