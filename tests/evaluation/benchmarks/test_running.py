"""Running a benchmark: rows judged once, kept, gone on with; rows of one's own; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.errors import SreError
from recipe.evaluation.benchmarks import BENCHMARKS, JUDGEBENCH
from recipe.evaluation.benchmarks.base import own_rows, take_evenly
from recipe.evaluation.benchmarks.running import find_benchmark, run_benchmark
from recipe.evaluation.verdict_files import verdicts_of
from recipe.inference.base import Request
from recipe.judge import Judge
from recipe.judge.options import JudgeOptions
from recipe.storage import read_jsonl
from tests.scripted import ScriptedGenerator


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "orig_instruction": f"Ask {number}",
        "orig_response": f"Response {number}.",
        "orig_criteria": "Good?",
        **{f"orig_score{k}_description": f"level {k}" for k in range(1, 6)},
        "orig_score": str(number % 5 + 1),
    } | changes


def pair(number: int) -> dict[str, Any]:
    fields = row(
        number, id=f"pair-{number}", orig_response_A="a", orig_response_B="b", orig_preference="AB"[number % 2]
    )
    return {key: value for key, value in fields.items() if key not in ("orig_response", "orig_score")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(k)) + "\n" for k in range(30)))
    return path


def right(request: Request) -> list[str]:
    name, swapped, _ = request.id.partition(":swapped")
    label = int(name.rpartition("-")[2]) % len(request.labels) + 1
    return [f"A reason. [RESULT] {3 - label if swapped else label}"]


def run(data: Path, script: Any = right, **options: Any) -> tuple[dict[str, Any], ScriptedGenerator]:
    generator = ScriptedGenerator(script, name=options.pop("name", "scripted"), context=options.pop("context", None))
    with Judge(generator) as judge:
        result = run_benchmark(
            judge,
            options.pop("benchmark", own_rows(str(data))),
            data.parent / "out",
            data=data,
            resamples=50,
            **options,
        )
    return result, generator


def test_a_file_of_ones_own_gives_the_figures_of_its_task(data: Path) -> None:
    result, _ = run(data)
    assert result["figures"]["headline"]["Pearson"]["value"] == pytest.approx(1)
    assert json.loads((data.parent / "out" / "figures.json").read_text()) == result


def test_a_file_of_both_tasks_names_the_task_of_each_figure(data: Path) -> None:
    with data.open("a") as file:
        file.writelines(json.dumps(pair(k)) + "\n" for k in range(30))
    headline = run(data)[0]["figures"]["headline"]
    assert headline["pointwise: accuracy"]["value"] == headline["pairwise: accuracy"]["value"] == 1


def test_judged_rows_are_kept_and_only_the_others_are_judged(data: Path) -> None:
    _, first = run(data, limit=10)
    result, second = run(data)
    assert (len(first.seen), len(second.seen)) == (10, 20)
    assert not {one.id for one in first.seen} & {one.id for one in second.seen}
    whole, third = run(data)
    assert third.seen == []
    assert whole == result


def test_a_kill_loses_no_finished_row(data: Path) -> None:
    class Killed(Exception):
        pass

    def dies(request: Request) -> list[str]:
        if request.id == "row-20":
            raise Killed
        return right(request)

    with pytest.raises(Killed):
        run(data, dies)
    kept = [one["id"] for one in read_jsonl(data.parent / "out" / "judgements.jsonl")]
    assert kept == [f"row-{k}" for k in range(20)]
    result, second = run(data)
    assert [one.id for one in second.seen] == [f"row-{k}" for k in range(20, 30)]
    assert result["judged"] == 30


def test_fewer_rows_than_are_judged_are_measured_alone(data: Path) -> None:
    run(data)
    assert run(data, limit=7)[0]["judged"] == 7


def test_other_models_and_settings_are_refused_unless_overwritten(data: Path) -> None:
    run(data)
    with pytest.raises(SreError, match="other"):
        run(data, name="another")
    with pytest.raises(SreError, match="max_tokens"):
        run(data, options=JudgeOptions(max_tokens=77))
    result, generator = run(data, name="another", overwrite=True)
    assert len(generator.seen) == 30
    assert result["model"] == "another"


def test_rows_that_can_not_be_judged_are_counted_and_tried_again(data: Path) -> None:
    with data.open("a") as file:
        file.write(json.dumps(row(99, orig_response="word " * 900)) + "\n")
    result, _ = run(data, context=700, options=JudgeOptions(max_tokens=64))
    assert (result["rows"], result["judged"], result["not_judged"], result["malformed"]) == (31, 30, 1, 0)
    assert result["figures"]["headline"]["accuracy"]["value"] == pytest.approx(30 / 31)
    result, generator = run(data, options=JudgeOptions(max_tokens=64))
    assert [one.id for one in generator.seen] == ["row-99"]
    assert result["not_judged"] == 0


def test_forced_labels_stand_beside_what_was_written(data: Path) -> None:
    script = lambda request: right(request) if request.id != "row-3" else ["no verdict"]  # noqa: E731
    result, _ = run(data, script)
    assert result["malformed"] == 1
    assert result["figures"]["details"]["malformed"] == 1
    assert result["constrained"]["details"]["malformed"] == 0
    free, _ = run(data, script, options=JudgeOptions(constrain=False), overwrite=True)
    assert free["figures"]["headline"]["accuracy"] == result["figures"]["headline"]["accuracy"]
    assert "constrained" not in free


def test_label_only_has_labels_without_rationales(data: Path) -> None:
    result, generator = run(data, options=JudgeOptions(label_only=True))
    assert all(one.label_only for one in generator.seen)
    assert result["figures"]["headline"]["accuracy"]["value"] == 1
    assert (result["malformed"], "constrained" in result) == (0, False)


def test_the_audit_stands_beside_the_figures(data: Path, tmp_path: Path) -> None:
    result, _ = run(data)
    assert set(result["audit"]["baselines"]) == {"longer response", "majority label"}
    assert result["audit"]["models"]["scripted"]["pointwise"]["accuracy"]["value"] == 1
    against = result["audit"]["against_baselines"]["scripted"]["pointwise"]["pearson"]
    assert against["value"] > 0.1


def test_pairs_of_ones_own_are_judged_in_both_orders(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair(k)) + "\n" for k in range(30)))
    first = lambda request: ["A reason. [RESULT] 1"]  # noqa: E731
    result, generator = run(data, first)
    assert len(generator.seen) == 60
    assert result["figures"]["headline"]["accuracy, orders averaged"]["value"] == 0.5
    assert result["audit"]["models"]["scripted"]["pairwise"]["first"]["value"] == 1


def test_samples_and_swap_do_not_go_with_a_benchmark(data: Path) -> None:
    for settings in (JudgeOptions(samples=3), JudgeOptions(swap=True)):
        with pytest.raises(SreError, match="order"):
            run(data, options=settings)


def test_a_limit_takes_rows_from_all_over() -> None:
    assert take_evenly(range(10), 4) == [0, 2, 5, 7]  # type: ignore[arg-type,comparison-overlap]
    assert take_evenly(range(3), 9) == take_evenly(range(3), None) == [0, 1, 2]  # type: ignore[arg-type,comparison-overlap]


def test_a_forced_verdict_is_no_written_one() -> None:
    fields = {"expected_score": 2.0, "label_probabilities": {"1": 0.4, "2": 0.6}, "label": 2}
    rows = [
        {**fields, "id": "a", "finish": "forced", "rationale": "so"},
        {**fields, "id": "b", "finish": "stop", "rationale": ""},
        {**fields, "id": "c", "finish": "stop", "rationale": "so"},
    ]
    assert [one.label for one in verdicts_of(rows, as_written=True).values()] == [None, None, 2]
    assert [one.label for one in verdicts_of(rows, as_written=False).values()] == [2, 2, 2]


def test_every_benchmark_has_its_name_and_others_are_refused(tmp_path: Path) -> None:
    assert all(find_benchmark(name).name == name for name in BENCHMARKS)
    assert find_benchmark(str(tmp_path)).hub == str(tmp_path)
    with pytest.raises(SreError, match="rewardbench, "):
        find_benchmark("rewardbank")


def test_a_benchmark_is_loaded_from_the_hub_by_its_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []
    fields = {"question": "Q", "response_A": "a", "response_B": "b", "label": "A>B", "source": "livebench-math"}

    def load_dataset(*name: str, split: str) -> Any:
        asked.append((*name, split))
        return datasets.Dataset.from_list([{**fields, "pair_id": str(k)} for k in range(3)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with Judge(ScriptedGenerator()) as judge:
        result = run_benchmark(judge, JUDGEBENCH, tmp_path, resamples=10)
    assert asked == [("ScalerLab/JudgeBench", "gpt")]
    assert (result["rows"], result["judged"], result["source"]) == (3, 6, "ScalerLab/JudgeBench")
