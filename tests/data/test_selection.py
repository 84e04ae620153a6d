"""Which rows a run takes of its data: drawn evenly, never the first of a file."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from recipe.config import DataConfig, load, validate
from recipe.data import selection
from recipe.data.selection import select_rows
from recipe.errors import SreError


@pytest.fixture
def sorted_rows(tmp_path: Path) -> Path:
    """200 rows in the worst order: by label, then by rubric, then by prompt."""
    rows = [
        {
            "orig_instruction": f"Question {prompt}?",
            "orig_response": f"Answer {label} {rubric} {prompt}",
            "orig_criteria": f"Rubric {rubric}",
            "orig_score": str(label),
            "orig_feedback": "Because.",
        }
        for label in range(1, 6)
        for rubric in range(4)
        for prompt in range(10)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_limited_training_rows_are_even_over_labels_rubrics_and_prompts(sorted_rows: Path) -> None:
    data = DataConfig(pointwise=str(sorted_rows), train_pointwise=40, dev_split="", test_split="")
    rows = select_rows(data, "pointwise", "train")
    assert len(rows) == 40
    assert set(Counter(row.label for row in rows).values()) == {8}
    assert set(Counter((row.label, row.rubric.criteria) for row in rows).values()) == {2}
    assert len({row.prompt_id for row in rows}) >= 8


def test_the_seed_draws_the_rows(sorted_rows: Path) -> None:
    data = DataConfig(pointwise=str(sorted_rows), train_pointwise=40, dev_split="", test_split="")
    one, again, other = (select_rows(data, "pointwise", "train", seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert {row.id for row in one} != {row.id for row in other}


def ids(data: DataConfig, task: str, split: str) -> set[str]:
    return {row.prompt_id for row in select_rows(data, task, split)}


def test_without_a_split_whole_prompts_are_held_out_and_not_trained_on(sorted_rows: Path) -> None:
    data = DataConfig(pointwise=str(sorted_rows), dev_share=0.3, test_share=0.3)
    train, dev, test = (ids(data, "pointwise", split) for split in ("train", "dev", "test"))
    assert all((train, dev, test))
    assert len(train) + len(dev) + len(test) == len(train | dev | test) == 10
    assert ids(data.model_copy(update={"test_split": ""}), "pointwise", "dev") == dev
    limited = data.model_copy(update={"train_pointwise": 20, "dev_pointwise": 3, "test_pointwise": 0})
    assert ids(limited, "pointwise", "train") <= train
    assert len(select_rows(limited, "pointwise", "dev")) == 3
    assert select_rows(limited, "pointwise", "test") == []


def test_a_prompt_held_out_of_one_task_is_held_out_of_the_other(sorted_rows: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sorted_rows.read_text().splitlines()]
    for row in rows:
        row |= {"orig_response_A": row.pop("orig_response"), "orig_response_B": "b", "orig_preference": "A"}
        row["orig_feedback"] = "Response A is right."
    folder = tmp_path / "pairs"
    for split in ("train", "dev", "test"):  # this source has splits of its own
        (folder / split).mkdir(parents=True)
        (folder / split / "pairwise.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:50]))
    data = DataConfig(pointwise=str(sorted_rows), pairwise=str(folder), dev_share=0.3, test_share=0.3)
    held = ids(data, "pointwise", "dev") | ids(data, "pointwise", "test")
    assert ids(data, "pairwise", "train").isdisjoint(held)
    assert len(select_rows(data, "pairwise", "dev")) == 50


def test_a_share_that_leaves_no_row_says_what_to_set(sorted_rows: Path) -> None:
    with pytest.raises(SreError, match=r"no 'dev' split.*data\.dev_split") as refused:
        select_rows(DataConfig(pointwise=str(sorted_rows), dev_share=0.0), "pointwise", "dev")
    assert refused.value.field == "data.dev_share"


def test_a_task_left_out_beside_rows_of_ones_own_is_none_and_not_the_seed_data() -> None:
    cases = {
        (None, None): ("seed-data", "seed-data"),
        ("mine", None): ("mine", ""),
        (None, "mine"): ("", "mine"),
        ("mine", "seed-data"): ("mine", "seed-data"),
        ("seed-data:counted", None): ("seed-data:counted", "seed-data:counted"),
        ("", None): ("", "seed-data"),
    }
    for (pointwise, pairwise), expected in cases.items():
        data = DataConfig(pointwise=pointwise, pairwise=pairwise)
        assert tuple(map(data.source, ("pointwise", "pairwise"))) == expected
        assert data.tasks == tuple(task for task in ("pointwise", "pairwise") if data.source(task))
    with pytest.raises(SreError, match="both empty"):
        validate({"data": {"pointwise": "", "pairwise": ""}})


def test_a_run_that_does_not_know_the_columns_names_the_command_that_prepares_them(tmp_path: Path) -> None:
    path = tmp_path / "my rows.csv"
    path.write_text("frage,antwort,note\nName two fruits.,Apple and pear.,3\n")
    with pytest.raises(SreError) as refused:
        select_rows(DataConfig(pointwise=str(path), pairwise="", dev_split="", test_split=""), "pointwise", "train")
    told = str(refused.value)
    words = shlex.split(told.partition("sre split ")[2].partition(";")[0])
    assert words[:3] == [str(path), "-o", "DIR"]
    assert "--map" in words
    assert "--set data.pointwise=DIR" in told
    assert (refused.value.line, refused.value.options) == (2, "")


@pytest.mark.parametrize(("keep", "reads"), [(True, 2), (False, 4)])
def test_a_plan_reads_the_same_rows_once(keep: bool, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read, count = selection.read_examples, []
    monkeypatch.setattr(selection, "read_examples", lambda *args, **how: count.append(1) or read(*args, **how))
    rows = selection.Selection(load("cpu-smollm2-135m"), keep=keep)
    first, again = (rows.rows("test", "pointwise") for _ in range(2))
    assert first == again
    assert rows.sft_rows("pointwise") == rows.sft_rows("pointwise")
    assert len(count) == reads
