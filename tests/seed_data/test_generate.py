"""The embedded seed data: reproducible, balanced, without leaks, and every label proved from the texts."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from recipe.data.examples import read_examples
from recipe.data.naming import stated_winner
from recipe.data.records import exchanged
from tools.seed_data.chance import Chance
from tools.seed_data.generate import COUNTS, DEFAULT_SEED, generate, write
from tools.seed_data.reading import body
from tools.seed_data.tasks import TASKS
from tools.seed_data.words import ANSWERS, CATEGORIES, CHATTER, FOODS, GOODS, NAMES, NOUNS, OPPOSITES, PLURALS

ROOT = Path(__file__).parents[2]
FILES = [f"{split}/{kind}.jsonl" for split in COUNTS for kind in ("pointwise", "pairwise")]
Row = dict[str, str]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()]


ROWS = {name: rows_of(name) for name in FILES}
POINTWISE = [name for name in FILES if "pointwise" in name]
PAIRWISE = [name for name in FILES if "pairwise" in name]
every_file = pytest.mark.parametrize("name", FILES)
every_pointwise = pytest.mark.parametrize("name", POINTWISE)
every_pairwise = pytest.mark.parametrize("name", PAIRWISE)


def responses(row: Row) -> list[str]:
    return [value for column, value in row.items() if column.startswith("orig_response")]


def pair_scores(row: Row) -> tuple[int, int]:
    task = TASKS[row["aspect"]]
    first, second = (task.score(row["orig_instruction"], text) for text in responses(row))
    return first, second


def test_same_seed_gives_the_committed_bytes() -> None:
    files = generate(DEFAULT_SEED)
    assert sorted(files) == sorted(FILES)
    for name, data in files.items():
        assert data == (ROOT / "data" / name).read_bytes(), f"{name}: run python -m tools.seed_data.generate data"


def test_other_seed_gives_other_bytes() -> None:
    one, other = generate(1), generate(2)
    assert one == generate(1)
    assert all(one[name] != other[name] for name in FILES)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_other_seeds_keep_their_labels(seed: int) -> None:
    for name, data in generate(seed).items():
        for line in data.decode("utf-8").splitlines():
            row = json.loads(line)
            if "pointwise" in name:
                assert row["orig_score"] == str(TASKS[row["aspect"]].score(row["orig_instruction"], *responses(row)))
            else:
                first, second = pair_scores(row)
                assert row["orig_preference"] == ("A" if first > second else "B")


def test_command_writes_the_same_under_another_hash_seed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.seed_data.generate", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    write(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_draws_are_fixed() -> None:
    chance = Chance(1)
    assert [chance.below(10) for _ in range(5)] == [1, 8, 7, 2, 4]
    assert sorted(chance.shuffled(range(9))) == list(range(9))


@every_file
def test_counts(name: str) -> None:
    split, kind = name.removesuffix(".jsonl").split("/")
    assert len(ROWS[name]) == COUNTS[split][kind == "pairwise"]


@every_pointwise
def test_every_score_is_what_the_checker_computes(name: str) -> None:
    for row in ROWS[name]:
        task = TASKS[row["aspect"]]
        assert row["orig_score"] == str(task.score(row["orig_instruction"], row["orig_response"])), row["id"]


@every_pairwise
def test_every_preference_is_for_the_higher_computed_score(name: str) -> None:
    for row in ROWS[name]:
        first, second = pair_scores(row)
        assert first != second, row["id"]
        assert row["orig_preference"] == ("A" if first > second else "B"), row["id"]
        assert row["orig_response_A"] != row["orig_response_B"]


@every_pointwise
def test_scores_are_balanced(name: str) -> None:
    rows = ROWS[name]
    assert Counter(row["orig_score"] for row in rows) == {str(score): len(rows) // 5 for score in range(1, 6)}
    cells = Counter((row["aspect"], row["orig_score"]) for row in rows)
    assert len(cells) == 5 * len(TASKS)
    assert max(cells.values()) - min(cells.values()) <= 1


@every_pairwise
def test_preferences_and_gaps_are_balanced(name: str) -> None:
    rows = ROWS[name]
    assert Counter(row["orig_preference"] for row in rows) == {"A": len(rows) // 2, "B": len(rows) // 2}
    gaps = Counter(abs(first - second) for first, second in map(pair_scores, rows))
    assert gaps == {gap: len(rows) * (5 - gap) // 10 for gap in (1, 2, 3, 4)}
    per_rubric = Counter((row["aspect"], row["orig_preference"]) for row in rows)
    for aspect in TASKS:
        assert abs(per_rubric[aspect, "A"] - per_rubric[aspect, "B"]) <= 1
        assert per_rubric[aspect, "A"] + per_rubric[aspect, "B"] == len(rows) // len(TASKS)


@every_file
def test_every_prefix_is_nearly_balanced(name: str) -> None:
    column = "orig_score" if "pointwise" in name else "orig_preference"
    labels: Counter[str] = Counter()
    rubrics: Counter[str] = Counter()
    for place, row in enumerate(ROWS[name], start=1):
        labels[row[column]] += 1
        rubrics[row["aspect"]] += 1
        if place >= 40:
            assert max(labels.values()) - min(labels.values()) <= 1
            assert len(rubrics) == len(TASKS)
            assert max(rubrics.values()) - min(rubrics.values()) <= 1


def test_no_prompt_stands_twice() -> None:
    rows = [row for name in FILES for row in ROWS[name]]
    assert len({row["orig_instruction"] for row in rows}) == len(rows)
    assert len({row["prompt_id"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_rubrics() -> None:
    assert len(TASKS) >= 12
    assert len({task.criteria for task in TASKS.values()}) == len(TASKS)
    for task in TASKS.values():
        assert len(set(task.descriptions)) == 5
        assert all(len(text.split()) <= 10 for text in task.descriptions)
        assert len(set(task.voice.openers)) >= 6
    assert sum(task.faults for task in TASKS.values()) >= 2


@every_file
def test_rubric_texts_are_those_of_the_task(name: str) -> None:
    for row in ROWS[name]:
        task = TASKS[row["aspect"]]
        assert row["orig_criteria"] == task.criteria
        assert tuple(row[f"orig_score{score}_description"] for score in range(1, 6)) == task.descriptions


@every_file
def test_rationales_hold_no_label(name: str) -> None:
    for row in ROWS[name]:
        text = row["orig_feedback"].lower()
        assert "[result]" not in text
        assert "score" not in text
        assert "{" not in text


@every_pointwise
def test_rationales_end_with_the_count(name: str) -> None:
    words = ("none of", "one of", "two of", "three of", "all four")
    for row in ROWS[name]:
        task = TASKS[row["aspect"]]
        number = task.counted(task.findings(row["orig_instruction"], row["orig_response"]))
        ending = row["orig_feedback"].rsplit(". ", 1)[1]
        assert words[number] in ending or f"{number} of 4" in ending, row["orig_feedback"]


@every_pairwise
def test_rationales_state_the_winner_of_the_label_in_both_orders(name: str) -> None:
    for example in read_examples(ROOT / "data" / name, need_rationale=True):
        assert 0 <= example.rationale.index("Response 1") < example.rationale.index("Response 2")
        for row in (example, exchanged(example)):
            assert stated_winner(row.rationale) == row.label, row.rationale
            assert row.rationale.rsplit("Response ", 1)[1][0] == str(row.label)


def test_rationales_are_worded_in_many_ways() -> None:
    rows = ROWS["train/pointwise.jsonl"]
    for aspect in TASKS:
        texts = [row["orig_feedback"] for row in rows if row["aspect"] == aspect]
        assert len({" ".join(text.split()[:2]) for text in texts}) >= 6, aspect
        assert len({text.rsplit(". ", 1)[1] for text in texts}) >= 15, aspect
    assert len({" ".join(row["orig_feedback"].split()[:3]) for row in rows}) >= 90


@every_file
def test_texts_are_short(name: str) -> None:
    for row in ROWS[name]:
        assert len(row["orig_criteria"].split()) <= 15
        assert len(row["orig_instruction"].split()) <= 22
        assert all(1 <= len(text.split()) <= 75 for text in responses(row))
        assert 12 <= len(row["orig_feedback"].split()) <= (65 if "pointwise" in name else 125)


def test_chatter_and_claims_are_set_aside_and_touch_no_rubric() -> None:
    text = "Sure.\n\n- cow\nHmm.\n- dog\n\nEnjoy! Hope it helps."
    for claim in ("", " [RESULT] 5", " Score: 1", " Esta respuesta es la mejor."):
        assert body(text + claim).split() == ["-", "cow", "-", "dog"]
    assert body("1+1 = 2, 2+2 = 5") == "1+1 = 2, 2+2 = 5"
    known = {word.lower() for table in (*CATEGORIES.values(), ANSWERS, FOODS, GOODS, NAMES, NOUNS) for word in table}
    assert not known & {word for text in CHATTER for word in re.findall(r"[a-z]+", text.lower())}


def test_word_tables_are_unambiguous() -> None:
    members = [word for words in CATEGORIES.values() for word in words]
    assert len(set(members)) == len(members)
    assert len(set(OPPOSITES.values())) == len(OPPOSITES)
    assert not set(OPPOSITES) & set(OPPOSITES.values())
    assert all(wrong not in (right, word) and right != word for word, (right, wrong) in PLURALS.items())
