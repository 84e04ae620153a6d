"""The blind side-by-side: what raters see, that they can't tell whose it is, and what their answers come to."""

import io
import json
from collections import Counter
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from rich.console import Console

from experiments.annotation import (
    CHOICES,
    REASONS,
    annotate,
    export_annotations,
    export_tasks,
    import_annotations,
    show_rationale_votes,
)
from recipe.data.records import Example, Judgement, Message, Rubric
from recipe.errors import SreError

RUBRIC = Rubric("Four fruits?", {k: f"{k - 1} of them" for k in range(1, 6)})
ROWS = [
    Example(f"r{k}", "pointwise", (Message("user", f"ask {k}"),), (f"answer {k}",), RUBRIC, 3, prompt_id=f"p{k}")
    for k in range(20)
] + [Example("pair", "pairwise", (Message("user", "ask"),), ("this", ""), Rubric("Better?"), 1)]


def verdicts(judge, labels=None, text="{judge} about {row}"):
    found = []
    for row in ROWS:
        label = (labels or {}).get(row.id, row.label)
        rationale = text.format(judge=judge, row=row.id) if label else ""
        found.append(Judgement(f"{row.id}:{judge}", row.id, row.task, rationale, rationale, label, row.label))
    return found


def export(folder, first=None, second=None, n=100, seed=0):
    sides = {"sft": first or verdicts("alpha"), "j2": second or verdicts("omega")}
    counts = export_tasks(folder, examples=ROWS, sides=sides, n=n, seed=seed)
    return counts, json.loads((folder / "tasks.json").read_text())


def key(folder):
    return json.loads((folder / "key.json").read_text())


def annotations(tasks, answer, raters=("a@x.org",)):
    """Label Studio's JSON export of `tasks`; answer(item, rater) -> (choice, reasons), or None for a skipped task."""
    exported = []
    for number, task in enumerate(tasks):
        found = []
        for rater in raters:
            given = answer(task["data"]["item"], rater)
            results = (
                [
                    {"from_name": name, "to_name": "rationale_1", "type": "choices", "value": {"choices": values}}
                    for name, values in (("preference", [given[0]]), ("reasons", list(given[1])))
                ]
                if given
                else []
            )
            found.append({"id": 1, "completed_by": {"email": rater}, "result": results, "was_cancelled": not given})
        exported.append({"id": number, "data": task["data"], "annotations": found})
    return exported


def imported(folder, exported):
    path = folder / "export.json"
    path.write_text(json.dumps(exported))
    return import_annotations(folder, path, resamples=200)


def the_better(folder, judge):
    """An answer that always prefers the rationale of judge 0 or 1."""
    items = key(folder)["items"]
    return lambda item, rater: (CHOICES[items[item]["shown"].index(judge)], ["too general"])


# --- export ---


def test_the_tasks_tell_nothing_about_whose_rationale_it_is(tmp_path):
    _, tasks = export(tmp_path)
    text = (tmp_path / "tasks.json").read_text() + (tmp_path / "labels.xml").read_text()
    assert "sft" not in text
    assert "j2" not in text
    fields = {"item", "criteria", "conversation", "response", "label", "rationale_1", "rationale_2"}
    assert all(task.keys() == {"data"} and task["data"].keys() == fields for task in tasks)
    assert all(isinstance(value, str) and value for task in tasks for value in task["data"].values())


def test_the_order_is_random_and_the_key_undoes_it(tmp_path):
    _, tasks = export(tmp_path)
    items = key(tmp_path)["items"]
    for task in tasks:
        data = task["data"]
        shown = [("alpha", "omega")[judge] for judge in items[data["item"]]["shown"]]
        assert [data[f"rationale_{k}"].split()[0] for k in (1, 2)] == shown
    assert Counter(tuple(item["shown"]) for item in items.values()).keys() == {(0, 1), (1, 0)}


def test_the_seed_fixes_the_draw_and_another_draws_otherwise(tmp_path):
    draws = [export(tmp_path / str(k), n=8, seed=seed)[1] for k, seed in enumerate((3, 3, 4))]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 8


def test_only_rows_with_one_label_and_different_rationales_are_shown(tmp_path):
    second = verdicts("omega", {"r0": 5, "r1": None})
    second[2] = verdicts("alpha")[2]
    counts, tasks = export(tmp_path, second=second)
    assert counts == {"rows": 21, "same_label": 19, "identical": 1, "tasks": 18}
    shown = {item["example"]["id"] for item in key(tmp_path)["items"].values()}
    assert shown == {row.id for row in ROWS} - {"r0", "r1", "r2"}
    assert len(tasks) == 18


def test_raters_see_criteria_conversation_responses_and_the_label(tmp_path):
    _, tasks = export(tmp_path)
    by_response = {task["data"]["response"]: task["data"] for task in tasks}
    point = by_response["answer 4"]
    assert point["criteria"] == "\n".join(["Four fruits?", *(f"{k}: {k - 1} of them" for k in range(1, 6))])
    assert (point["conversation"], point["label"]) == ("USER\nask 4", "3 (of 1 to 5)")
    pair = by_response["RESPONSE 1\nthis\n\nRESPONSE 2\n(empty)"]
    assert pair["label"] == "response 1 is better"


def test_an_export_is_never_overwritten(tmp_path):
    export(tmp_path)
    with pytest.raises(SreError, match="already holds an export"):
        export(tmp_path)


def test_judges_with_nothing_to_compare_are_refused(tmp_path):
    with pytest.raises(SreError, match="none of 21 rows"):
        export(tmp_path, second=verdicts("alpha"))
    assert not (tmp_path / "tasks.json").exists()


def test_the_configuration_is_well_formed_and_names_only_what_the_tasks_have(tmp_path):
    """Label Studio's own rules, as far as they concern this configuration: see its documentation of tags."""
    _, tasks = export(tmp_path)
    root = ElementTree.parse(tmp_path / "labels.xml").getroot()
    tags = list(root.iter())
    assert {tag.tag for tag in tags} == {"View", "Header", "Text", "Choices", "Choice"}
    variables = {tag.get("value").removeprefix("$") for tag in tags if tag.get("value", "").startswith("$")}
    assert variables == tasks[0]["data"].keys() - {"item"}
    names = [tag.get("name") for tag in tags if tag.get("name")]
    assert len(names) == len(set(names))
    objects = {tag.get("name") for tag in tags if tag.tag == "Text"}
    for choices, values, kind in (("preference", CHOICES, "single"), ("reasons", REASONS, "multiple")):
        (control,) = [tag for tag in tags if tag.get("name") == choices]
        assert control.get("toName") in objects
        assert (control.get("choice"), control.get("required")) == (kind, "true")
        assert tuple(child.get("value") for child in control) == values


def test_a_run_folder_is_exported_with_its_last_judge(finished_run, begun_run, tmp_path):
    counts = export_annotations(finished_run, tmp_path / "out", first="sft", second=None, n=100, seed=0)
    assert key(tmp_path / "out")["judges"] == ["sft", "j2"]
    assert 0 < counts["tasks"] == counts["same_label"] < counts["rows"] == 72
    for first, second in (("sft", "j3"), ("sft", "sft"), ("nobody", "j2")):
        with pytest.raises(SreError, match="two different judges"):
            export_annotations(finished_run, tmp_path / "x", first=first, second=second, n=1, seed=0)
    with pytest.raises(SreError, match="no judge after SFT"):
        export_annotations(begun_run, tmp_path / "x", first="sft", second=None, n=1, seed=0)


# --- import ---


@pytest.mark.parametrize(("judge", "rate", "blamed"), [(1, 1.0, "sft"), (0, 0.0, "j2")])
def test_a_judge_that_is_always_preferred_wins_all(judge, rate, blamed, tmp_path):
    _, tasks = export(tmp_path)
    found = imported(tmp_path, annotations(tasks, the_better(tmp_path, judge)))
    assert found["win_rate"] == {"value": rate, "low": rate, "high": rate, "n": 21}
    assert found["outcomes"] == {"win" if judge else "loss": 21}
    assert found["reasons"] == {"sft": {}, "j2": {}} | {blamed: {"too general": 21}}
    assert json.loads((tmp_path / "annotations-summary.json").read_text()) == found


def test_a_byte_order_mark_is_no_part_of_an_export(tmp_path):
    _, tasks = export(tmp_path, n=2)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(annotations(tasks, the_better(tmp_path, 1))), encoding="utf-8-sig")
    assert import_annotations(tmp_path, path, resamples=200)["win_rate"]["value"] == 1


def test_a_rater_who_prefers_a_position_says_nothing_about_the_judges(tmp_path):
    _, tasks = export(tmp_path)
    found = imported(tmp_path, annotations(tasks, lambda item, rater: (CHOICES[0], [REASONS[-1]])))
    first = sum(item["shown"] == [1, 0] for item in key(tmp_path)["items"].values())
    assert found["outcomes"] == {"win": first, "loss": 21 - first}
    assert found["win_rate"]["low"] < 0.5 < found["win_rate"]["high"]


def test_a_tie_counts_one_half_and_reasons_for_both_bad_go_to_both(tmp_path):
    _, tasks = export(tmp_path, n=4)
    win = the_better(tmp_path, 1)
    answers = {"0001": (CHOICES[2], ["none of these"]), "0002": (CHOICES[3], ["too optimistic"])}
    found = imported(tmp_path, annotations(tasks, lambda item, rater: answers.get(item) or win(item, rater)))
    assert found["win_rate"]["value"] == 0.75
    assert found["outcomes"] == {"win": 2, "both good": 1, "both bad": 1}
    assert found["reasons"] == {"sft": {"too general": 2, "too optimistic": 1}, "j2": {"too optimistic": 1}}


def test_the_interval_is_over_items_not_over_annotations(tmp_path):
    """Three raters who always agree know no more than one: the interval must not shrink."""
    _, tasks = export(tmp_path)
    sides = [the_better(tmp_path, judge) for judge in (0, 1)]

    def answer(item, rater):
        return sides[int(item) % 2](item, rater)

    one, three = (imported(tmp_path, annotations(tasks, answer, raters)) for raters in (("a",), ("a", "b", "c")))
    assert three["win_rate"]["n"] == 63
    for end in ("value", "low", "high"):
        assert three["win_rate"][end] == pytest.approx(one["win_rate"][end])


def test_raters_are_told_apart_and_their_agreement_is_krippendorffs(tmp_path):
    _, tasks = export(tmp_path, n=4)
    better, worse = the_better(tmp_path, 1), the_better(tmp_path, 0)

    def agreeing(item, rater):
        return (better if item in ("0001", "0002") else worse)(item, rater)

    found = imported(tmp_path, annotations(tasks, agreeing, ("a", "b")))
    assert found["agreement"] == pytest.approx(1)
    assert {rater: one["win_rate"]["value"] for rater, one in found["raters"].items()} == {"a": 0.5, "b": 0.5}

    def differing(item, rater):
        return agreeing(item, rater) if rater == "a" or item != "0004" else better(item, rater)

    # By hand: 5 wins and 3 losses, one of four items disputed: 1 - (8 - 1) * 2 / (2 * 5 * 3).
    assert imported(tmp_path, annotations(tasks, differing, ("a", "b")))["agreement"] == pytest.approx(1 - 7 * 2 / 30)


@pytest.mark.parametrize("raters", [("a",), ("a", "b")], ids=["one rater", "all votes alike"])
def test_agreement_that_cannot_be_told_is_none(raters, tmp_path):
    _, tasks = export(tmp_path)
    assert imported(tmp_path, annotations(tasks, the_better(tmp_path, 1), raters))["agreement"] is None


def test_skipped_tasks_are_counted_and_unlabelled_ones_left_out(tmp_path):
    _, tasks = export(tmp_path, n=4)
    win = the_better(tmp_path, 1)
    exported = annotations(tasks, lambda item, rater: None if item == "0001" else win(item, rater))
    exported[3]["annotations"] = []
    found = imported(tmp_path, exported)
    assert (found["annotations"], found["skipped"]) == (2, 1)


def test_what_is_no_export_of_these_tasks_is_refused(tmp_path):
    _, tasks = export(tmp_path, n=2)
    good = annotations(tasks, the_better(tmp_path, 1))

    def changed(edit):
        copy = json.loads(json.dumps(good))
        edit(copy[0])
        return copy

    def other_choice(task):
        task["annotations"][0]["result"][0]["value"]["choices"] = ["left"]

    cases = [
        ({"tasks": good}, "export of the type JSON"),
        ([{"preference": CHOICES[0], "item": "0001"}], "export of the type JSON"),
        (changed(lambda task: task["data"].update(item="9999")), "of another export"),
        (changed(lambda task: task["annotations"].append(task["annotations"][0])), "twice"),
        (changed(other_choice), "configuration changed"),
        (changed(lambda task: task["annotations"].clear())[:1], "no annotation yet"),
    ]
    for content, message in cases:
        with pytest.raises(SreError, match=message):
            imported(tmp_path, content)
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(SreError, match="can't read the annotations"):
        import_annotations(tmp_path, tmp_path / "broken.json")
    with pytest.raises(SreError, match=r"experiments\.annotation export"):
        import_annotations(tmp_path / "nowhere", tmp_path / "export.json")
    assert not (tmp_path / "annotations-summary.json").exists()


ODD = [None, [], {}, 7, "x", [7], [[]], {"x": 7}]


@pytest.mark.parametrize(
    "place",
    [
        *(["key", "judges"], ["key", "items"], ["key", "items", "0001"], ["key", "items", "0001", "shown"]),
        *(["export", 0], ["export", 0, "data"], ["export", 0, "annotations"], ["export", 0, "annotations", 0]),
        ["export", 0, "annotations", 0, "result"],
        ["export", 0, "annotations", 0, "result", 0],
        ["export", 0, "annotations", 0, "result", 0, "value"],
        ["export", 0, "annotations", 0, "result", 0, "value", "choices"],
    ],
    ids=lambda place: ".".join(map(str, place)),
)
def test_files_of_another_shape_are_one_error_that_names_them(tmp_path, place):
    _, tasks = export(tmp_path, n=2)
    key, good = tmp_path / "key.json", annotations(tasks, the_better(tmp_path, 1))
    before, refused = key.read_text(), []
    for odd in ODD:
        both = {"key": json.loads(before), "export": json.loads(json.dumps(good))}
        holder = both
        for part in place[:-1]:
            holder = holder[part]
        holder[place[-1]] = odd
        key.write_text(json.dumps(both["key"]))
        try:
            imported(tmp_path, both["export"])
        except SreError as error:
            refused.append(error.file)
    assert refused.count(key if place[0] == "key" else tmp_path / "export.json") >= 4
    assert {*refused} <= {key, tmp_path / "export.json"}


def test_the_commands_go_from_a_run_to_a_win_rate(finished_run, tmp_path):
    folder, export = tmp_path / "side-by-side", tmp_path / "annotations.json"
    made = CliRunner().invoke(annotate, ["export", str(finished_run), "-o", str(folder), "--n", "5"])
    assert made.exit_code == 0, made.output
    assert made.output.startswith("5 tasks: ")
    tasks = json.loads((folder / "tasks.json").read_text())
    export.write_text(json.dumps(annotations(tasks, the_better(folder, 1), ("a@x.org", "b@x.org"))))
    shown = CliRunner().invoke(annotate, ["import", str(folder), str(export)])
    assert shown.exit_code == 0, shown.output
    assert "J2's rationales against SFT's" in shown.output
    assert "rater b@x.org" in shown.output
    assert "1.00 [1.00, 1.00] n=10" in shown.output
    assert "Found wrong with SFT: too general 10." in shown.output


@pytest.mark.parametrize("name", ["export", "import"])
def test_every_subcommand_has_help_with_an_example(name):
    shown = CliRunner().invoke(annotate, [name, "--help"])
    assert f"python -m experiments.annotation {name}" in shown.output.partition("Examples:")[2]


def test_rationale_votes_are_shown_by_all_and_by_each_rater():
    def shown(summary):
        console = Console(width=160, record=True, file=io.StringIO())
        show_rationale_votes(summary, console)
        return console.export_text()

    figure = {"value": 0.414, "low": -0.05, "high": 0.6, "n": 50}
    votes = {"outcomes": {"win": 3, "both bad": 1}, "win_rate": figure}
    people = votes | {
        "judges": ["sft", "j2"],
        "raters": {"1": votes, "2": votes},
        "agreement": 0.614,
        "skipped": 2,
        "reasons": {"sft": {"too general": 3}, "j2": {}},
    }
    text = shown(people)
    for part in ("J2's", "SFT's", "all", "rater 2", ".41 [-.05, .60] n=50", "alpha: 0.61", "Skipped: 2", "nothing"):
        assert part in text
    assert "undefined" in shown(people | {"agreement": None})
