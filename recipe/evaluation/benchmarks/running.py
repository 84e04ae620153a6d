"""Judge a benchmark with one model, a row at a time, and measure it. What is judged already is kept.
The folder has judgements.jsonl, appended as they finish, judgements.jsonl.meta.json (made with what) and figures.json.
"""

from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.evaluation.audit import audit, figures_by_task
from recipe.evaluation.benchmarks import BENCHMARKS
from recipe.evaluation.benchmarks.base import Benchmark, Judged, load_rows, own_rows
from recipe.evaluation.verdict_files import verdicts_of
from recipe.judge.judge import DEFAULT, Judge
from recipe.judge.judge_file import judge_rows
from recipe.judge.options import JudgeOptions
from recipe.progress import bar, follow
from recipe.storage import read_jsonl, refuse_inputs, write_json


def find_benchmark(name: str) -> Benchmark:
    """The published benchmark of that name, or, for a file or folder, its rows as one. Raises SreError for neither."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if Path(name).exists():
        return own_rows(name)
    raise SreError(f"no benchmark, file or folder {name!r}; the benchmarks: {', '.join(BENCHMARKS)}")


def run_benchmark(
    judge: Judge,
    benchmark: Benchmark,
    folder: Path,
    *,
    options: JudgeOptions = DEFAULT,
    overwrite: bool = False,
    resamples: int = 2000,
    **reading: Any,
) -> dict[str, Any]:
    """Judge what `folder` doesn't hold yet (with `overwrite` all rows), write figures.json there, and return it.

    With forced labels (`options.constrain`) one run gives both: "figures" of what the model wrote, a forced label
    counting as malformed, and "constrained" with the forced labels. reading: see `load_rows`. Raises SreError for a
    folder made with another model, other prompts or options.
    """
    rows = load_rows(benchmark, **reading)
    examples = benchmark.prepare(rows)
    if options.swap or options.samples > 1:
        raise SreError("a benchmark says itself in which order to judge; samples and swap don't go with it")
    out = folder / "judgements.jsonl"
    source = str(reading.get("data") or benchmark.hub)
    refuse_inputs(folder, (out, out.with_name(f"{out.name}.meta.json"), folder / "figures.json"), [Path(source)])
    folder.mkdir(parents=True, exist_ok=True)
    resume = out.exists() and not overwrite
    how: dict[str, Any] = {"options": options, "resume": resume, "overwrite": overwrite}
    with bar(f"{benchmark.name}: judging with {judge.name}", len(examples), "rows") as advance:
        judge_rows(judge, examples, out, progress=follow(advance), **how)
    ids = {example.id for example in examples}
    judged = [row for row in read_jsonl(out) if row["id"] in ids]
    # A label without a rationale is what label_only asks for: then nothing is forced.
    forced = options.constrain and not options.label_only
    written = verdicts_of(judged, as_written=forced)
    failed = sum(row["finish"] == "error" for row in judged)
    content: dict[str, Any] = {
        "benchmark": benchmark.name,
        "source": source,
        "model": judge.name,
        "rows": len(rows),
        "judged": len(judged) - failed,
        "not_judged": failed,
        "malformed": sum(verdict.label is None for verdict in written.values()) - failed,
        "figures": benchmark.figures(Judged(rows, written, resamples)),
    }
    if forced:
        content["constrained"] = benchmark.figures(Judged(rows, verdicts_of(judged, as_written=False), resamples))
    audited = rows if benchmark.audited else examples
    said = benchmark.audited(rows, written) if benchmark.audited else [written[example.id] for example in examples]
    models = {judge.name: figures_by_task(audited, said, resamples)}
    content["audit"] = {"models": models, **audit(audited, {judge.name: (audited, said)}, resamples=resamples)}
    write_json(folder / "figures.json", content)
    return content
