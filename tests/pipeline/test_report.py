"""The report: every section, every judge, "not run" for what wasn't, and nothing that a model wrote acts as markup."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from recipe.cli.main import main
from recipe.errors import SreError
from recipe.evaluation import tables
from recipe.evaluation.tables import markdown_table
from recipe.pipeline.report import report
from recipe.pipeline.results import write_results
from recipe.pipeline.stage_order import open_run

from ..run_folders import HOSTILE, write_run

SECTIONS = ("results", "training", "pairs", "rationales", "costs")


class Page(HTMLParser):
    """The page's tags with attributes, its tables as rows of texts, and its text by section."""

    VOID = ("meta", "br", "use", "path", "rect")

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.sections, self.open = [], [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("id")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, name in self.open:
            if tag == "section":
                self.sections[name] = self.sections.get(name, "") + data
        if self.open and self.open[-1][0] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, *start):
        return next(row for row in self.rows if row[: len(start)] == list(start))


def write(runs, tmp_path):
    html, markdown = report(runs, tmp_path / "report.html")
    return Page(html.read_text(encoding="utf-8")), html.read_text(encoding="utf-8"), markdown.read_text("utf-8")


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    return write([finished_run], tmp_path_factory.mktemp("page"))


def test_the_page_needs_nothing_beside_it(finished):
    page, html, _ = finished
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert "@import" not in html
    assert "url(http" not in html


def test_the_page_is_well_formed_and_has_every_section(finished):
    page, _, _ = finished
    assert page.open == []
    assert set(SECTIONS) <= page.sections.keys()
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} == set(SECTIONS)


def test_the_tables_show_what_was_measured(finished):
    page, _, markdown = finished
    assert page.row("J2")[1:3] == ["24 + 48", "0 (0%)"]
    assert page.row("J2")[4:] == ["1.00 [1.00, 1.00]"] * 2
    assert page.row("seed", "24 + 48")[2] == "72 (100%)"
    assert page.row("seed, label forced")[2] == "0 (0%)"
    assert page.row("j2 - sft")[1:].count("-") == 2  # SFT's few parsed scores give no correlation
    assert page.row("sft-pointwise", "done")[3] == "1,234"
    assert "| J2 | 24 + 48 | 0 (0%) |" in markdown
    assert "| sft-pointwise |" in markdown


def test_the_forgery_shift_is_in_the_report_and_in_the_results_that_a_card_takes(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    shift = {"value": 0.25, "low": 0.1, "high": 0.5, "n": 31}
    parts = {mode: {"pointwise": {"shift": shift}} for mode in ("rationale", "label-only")}
    (folder / "evaluation" / "j2" / "forgery.json").write_text(json.dumps(parts))
    page, _, markdown = write([folder], tmp_path)
    assert page.row("J2", "31 scores")[2:] == [".25 [.10, .50]"] * 2
    row = "| J2 | 31 scores | .25 [.10, .50] | .25 [.10, .50] |"
    write_results(open_run(folder))
    assert row in markdown
    assert row in (folder / "results.md").read_text()


def test_pictures_show_every_judge_and_rule_with_its_interval(finished):
    page, _, _ = finished
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 2
    assert tags.count("circle") >= 2 * len(("J1", "J2", "longer response", "majority label"))
    places = [float(at[key]) for tag, at in page.tags if tag in ("circle", "line") for key in at if key in ("cx", "x1")]
    assert all(0 <= place <= 640 for place in places)
    (sft, last) = [row for row in page.rows if row[0] == "score 3"]
    assert sum(map(int, sft[1:])) == sum(map(int, last[1:])) > 0
    assert int(last[3]) == sum(map(int, last[1:]))  # J2 is always right


def test_what_models_wrote_is_shown_as_text(finished):
    page, html, _ = finished
    assert HOSTILE in page.sections["rationales"]
    assert "<script" not in html


def test_ten_rationales_of_either_judge_stand_side_by_side_with_right_and_wrong(finished):
    page, html, _ = finished
    assert [tag for tag, _ in page.tags].count("article") == 10
    classes = [attributes.get("class", "") for _, attributes in page.tags]
    assert classes.count("side") == 20
    # J2 is right on all of them; SFT on some, and wrong or malformed on the others.
    assert classes.count("label right") >= 10
    assert classes.count("label right") + classes.count("label wrong") + classes.count("label malformed") == 20
    assert classes.count("label right") < 20
    assert "J2 on" not in html
    assert "j2 on point-" in html


def test_every_stage_and_judge_has_its_row(finished):
    page, _, _ = finished
    assert page.row("sft-pointwise", "2") == ["sft-pointwise", "2", "2.000", "0.500"]
    assert page.row("iter-1:dpo", "2")[-1] == "0.500"
    assert {"SFT", "J1", "J2"} <= {row[0] for row in page.rows}


def test_what_was_not_run_says_so(begun_run, tmp_path):
    page, _, markdown = write([begun_run], tmp_path)
    assert page.row("J1")[1:] == ["not run"] * 5
    assert page.row("2") == ["2", *["not run"] * 6]
    assert page.row("gguf")[1:] == ["not run"] * 4
    assert page.row("iter-2:dpo")[1:] == ["not run"] * 3
    assert "not run" in page.sections["rationales"]
    assert "not run" in page.sections["training"]
    assert "| J1 | not run |" in markdown
    assert all(cell for row in page.rows for cell in row if row[0] != "all finished stages")


def test_the_counts_of_an_iteration_add_up(finished, finished_run):
    page, _, _ = finished
    head, row = page.row("iteration"), page.row("1", "8")
    found = dict(zip(head, row, strict=True))
    assert (found["samples"], found["malformed"], found["inputs"]) == ("32", "25%", "8")
    assert int(found["right"].removesuffix("%")) >= 25
    assert int(found["pairs"]) > 0
    dropped = [int(count) for count in re.findall(r"\d+", found["inputs without a pair"])]
    assert sum(dropped) < 8


def test_an_iteration_that_lacks_a_stage_was_not_run(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "iter-1" / "sample.done.json").unlink()
    page, _, _ = write([folder], tmp_path)
    assert page.row("1")[1:] == ["not run"] * 6


def test_a_run_folder_with_nothing_in_it_but_its_config_has_a_page(tiny_data, tmp_path):
    folder = write_run(tmp_path / "empty", tiny_data, judges=(), iterations=())
    for stage in ("sft-pointwise", "sft-pairwise"):
        shutil.rmtree(folder / stage)
    page, _, _ = write([folder], tmp_path)
    assert page.row("SFT")[1:] == ["not run"] * 5
    assert page.row("all finished stages")[2] == "0.0 s"


def test_a_judge_that_hardly_judges_is_announced_on_the_page(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "warning_lines", lambda models: ["J2 picks response 2 in 95% of the rows."])
    _, html, markdown = write([finished_run], tmp_path)
    assert '<p class="warning">J2 picks response 2 in 95% of the rows.</p>' in html
    assert re.search(r"\.warning \{ color: var\(--wrong\)", html)
    assert "**J2 picks response 2 in 95% of the rows.**" in markdown


def test_several_runs_stand_side_by_side(finished_run, begun_run, tmp_path):
    page, _, markdown = write([finished_run, begun_run], tmp_path)
    for name in ("finished", "begun"):
        assert f"{name}: Judges" in page.sections["results"]
        assert f"{name}: Judges" in markdown
    assert page.row("J2", "24 + 48")
    assert page.row("J2", "not run")
    assert "begun: Preference pairs" in page.sections["pairs"]


def test_the_folder_of_an_experiment_is_all_its_seeds(tiny_data, tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "all" / f"seed-{seed}", tiny_data, judges=("sft",), iterations=(), seed=seed)
    page, _, _ = write([tmp_path / "all"], tmp_path)
    assert "tiny, seed 0: Judges" in page.sections["results"]
    assert "tiny, seed 1: Judges" in page.sections["results"]


def test_without_its_rows_a_run_still_has_its_figures(tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    folder = write_run(tmp_path / "run", data, judges=("sft", "j1"), iterations=())
    shutil.rmtree(data)
    page, html, _ = write([folder], tmp_path)
    assert page.row("SFT")[1] == "24 + 48"
    assert "can't be read" in html
    assert str(data) in page.sections["rationales"]


def test_rows_that_changed_since_are_not_mixed_with_old_verdicts(tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    folder = write_run(tmp_path / "changed", data, iterations=())
    path = data / "test" / "pointwise.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    page, _, _ = write([folder], tmp_path)
    assert "changed since seed was measured" in page.sections["rationales"]
    assert [tag for tag, _ in page.tags].count("article") == 0


def test_the_report_changes_nothing_in_the_run_but_its_own_files(tiny_data, tmp_path):
    folder = write_run(tmp_path / "run", tiny_data, judges=("sft",), iterations=(1,))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    html, markdown = report([folder], None)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {html, markdown} == {folder / "report.html", folder / "report.md"}
    assert {path: when for path, when in after.items() if path not in (html, markdown)} == before


def test_a_folder_that_is_no_run_and_an_unclear_place_are_refused(finished_run, begun_run, tmp_path):
    with pytest.raises(SreError, match="not a run folder"):
        report([tmp_path], tmp_path / "x.html")
    with pytest.raises(SreError, match="-o FILE"):
        report([finished_run, begun_run], None)
    with pytest.raises(SreError, match=r"ends in \.html"):
        report([finished_run], tmp_path / "x.txt")


@pytest.mark.parametrize(("stage", "key"), [("iter-1:curate", "dropped"), ("sft-pointwise", "first_loss")])
def test_a_marker_that_lacks_a_figure_is_named_with_its_run(finished_run, tmp_path, stage, key):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    markers = {path: json.loads(path.read_text()) for path in folder.rglob("*done.json")}
    ((path, content),) = [(path, found) for path, found in markers.items() if found["stage"] == stage]
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(SreError, match=f"can't be read .*{key}"):
        report([folder], None)


def test_the_command_says_what_it_wrote(begun_run, tmp_path):
    shown = CliRunner().invoke(main, ["report", str(begun_run), "-o", str(tmp_path / "page.html")])
    assert shown.exit_code == 0, shown.output
    assert shown.output.split() == [str(tmp_path / "page.html"), str(tmp_path / "page.md")]
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_bar_in_a_name_does_not_break_the_markdown():
    assert markdown_table([["a", "b"], ["x|y", "1"]]).splitlines()[2] == r"| x\|y | 1 |"


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_lays_the_page_out_without_running_over(finished_run, tmp_path):
    html, _ = report([finished_run], tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    script = "<script>document.title = document.documentElement.scrollWidth <= innerWidth ? 'fits' : 'wide'</script>"
    probe.write_text(html.read_text(encoding="utf-8").replace("</body>", f"{script}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", f"--user-data-dir={tmp_path}/p"]
    done = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.search(r"<title>fits</title>", done.stdout), done.stdout[:500]
