"""Inline SVG: well-formed, unique on its page, in the page's colours, and honest about what is missing."""

import re
import sys
from xml.etree import ElementTree

import pytest

from recipe.errors import SreError
from recipe.evaluation.report.charts import Bars, Line, Lines, _smooth, bar_panels, line_panels, results_picture

BARS = [Bars("SFT", {"1": 0.25, "2": 0.5, "?": 0.25}, {"1": 0.5, "2": 0.5}, strong="?"), Bars("J1", None)]


def bars(name="labels", panels=BARS):
    return bar_panels(panels, name=name, title='Labels "given" <here>', x="label", y="share")


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_text_stays_text_and_a_missing_panel_says_so():
    found = texts(bars())
    assert {"SFT", "J1", "1", "2", "?", "label", "share", "not run"} <= set(found)
    assert found.count("not run") == 1


def test_colours_are_the_pages_and_nothing_is_loaded():
    svg = bars()
    assert "var(--first)" in svg
    assert "var(--second)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<style" not in svg


def test_ids_are_unique_between_figures_and_references_resolve():
    one, two = bars("one"), bars("two")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0].isdisjoint(ids[1])
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own


def test_the_same_numbers_give_the_same_bytes():
    assert bars() == bars()


def test_markup_and_formulas_in_names_are_plain_text():
    (title,) = [text for text in texts(bars(panels=[Bars("<b> & $x_1$", {"1": 1.0})])) if "b" in text and "$" in text]
    assert title == "<b> & $x_1$"


def test_lines_and_dots_are_drawn_and_an_empty_panel_says_why():
    panels = [
        Lines("a", [Line([(1, 2.0), (2, 1.0)]), Line([(2, 1.5)], second=True, dots=True)]),
        Lines("b", [], "not recorded"),
        Lines("c", []),
    ]
    svg = line_panels(panels, name="loss", title="loss", x="step", y="loss")
    assert {"not recorded", "not run", "step", "loss"} <= set(texts(svg))
    assert "var(--second)" in svg


def test_a_long_line_is_pale_under_its_running_mean():
    def svg(points: int) -> str:
        line = Line([(k, float(k % 2)) for k in range(points)])
        return line_panels([Lines("a", [line])], name="loss", title="loss", x="step", y="loss")

    assert "opacity: 0.25" not in svg(39)
    assert "opacity: 0.25" in svg(40)
    assert _smooth([(k, float(k % 2)) for k in range(40)])[20] == (20, pytest.approx(2 / 5))
    assert [y for _, y in _smooth([(k, 3.0) for k in range(40)])] == pytest.approx([3.0] * 40)


def test_more_panels_than_a_row_holds_go_on_in_the_next():
    svg = bars(panels=[Bars(f"judge {k}", {"1": 1.0}) for k in range(7)])
    assert {f"judge {k}" for k in range(7)} <= set(texts(svg))


def test_a_strong_bar_above_all_others_is_cut_off_and_carries_its_value():
    panels = [Bars("seed", {"1": 0.0, "?": 1.0}, {"1": 0.2}, strong="?"), Bars("SFT", {"1": 0.2, "?": 0.1}, strong="?")]
    assert [text for text in texts(bars(panels=panels)) if "%" in text] == ["100%"]


def test_a_missing_matplotlib_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SreError, match=r"matplotlib: pip install .*\[eval\]"):
        bars()


# The picture of results.

FIGURE = {"value": 0.6, "low": 0.4, "high": 0.8, "n": 30}
RESULTS = {
    "models": {
        "seed": {"pointwise": {"pearson": None}, "pairwise": {}},
        "sft": {"pointwise": {"pearson": FIGURE, "accuracy": FIGURE}, "pairwise": {"accuracy": FIGURE}},
        "j1": {"pointwise": {"pearson": {**FIGURE, "value": None}, "accuracy": FIGURE}, "pairwise": {}},
    }
}


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
