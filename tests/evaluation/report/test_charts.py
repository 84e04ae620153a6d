"""Inline SVG: well-formed, unique on its page, in the page's colours, and honest about what is missing."""

import re
import sys
from xml.etree import ElementTree

import pytest

from recipe.errors import SreError
from recipe.evaluation.report.charts import Panel, training_chart

PANELS = [Panel("<b> & $x_1$", [[(1, 2.0), (2, 1.0)]], [[(2, 1.5)]]), Panel("J1, DPO", [])]


def chart(name="loss", panels=PANELS):
    return training_chart(panels, name=name, title='Loss "given" <here>', y="loss")


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_text_stays_text_and_a_missing_panel_says_so():
    found = texts(chart())
    assert {"<b> & $x_1$", "J1, DPO", "step", "loss", "not run"} <= set(found)
    assert found.count("not run") == 1


def test_colours_are_the_pages_and_nothing_is_loaded():
    svg = chart()
    assert "var(--first)" in svg
    assert "var(--second)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<style" not in svg


def test_ids_are_unique_between_figures_and_references_resolve():
    one, two = chart("one"), chart("two")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0].isdisjoint(ids[1])
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own


def test_the_same_numbers_give_the_same_bytes():
    assert chart() == chart()


def test_a_missing_matplotlib_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SreError, match=r"matplotlib: pip install .*\[eval\]"):
        chart()
