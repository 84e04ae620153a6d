"""Measure judges: `sre evaluate`, `audit`, `report`."""

from pathlib import Path
from typing import Any

import click

from recipe.cli import options as opt
from recipe.errors import SreError, plural

_OPENING = ("threads", "context", "parallel", "gpu_layers")
_ROWS = ("data", "limit", "overwrite", "columns", "skip_bad_rows")


@opt.command
@click.argument("target")
@click.option("--judge", "name", help="Which judge of the run folder TARGET: seed, sft, j1, j2, …")
@click.option("--model", help="A GGUF file, run folder, adapter, model folder or hub name.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="The benchmark's files. [default: the hub]")
@click.option("--limit", type=opt.POSITIVE, help="Take only N rows, evenly spread over all.")
@click.option("-o", "--out", type=opt.FOLDER, help="[default: runs/benchmarks/TARGET-MODEL]")
@click.option("--forgery", is_flag=True, help="Only measure how claims in a response ('Score: 5') move its score.")
@click.option("--overwrite", is_flag=True, help="Judge all rows again instead of resuming.")
@opt.skip_bad_rows
@opt.judging
def evaluate(target: str, name: str | None, model: str | None, forgery: bool, **options: Any) -> None:
    """Measure a judge of a run folder on its test rows, or any model on a benchmark or on rows of your own.

    With --judge, TARGET is a run folder. With --model, it is a file or folder of labelled rows, or a benchmark:
    rewardbench, rewardbench-pairwise, biggen, feedback-bench, safe-rlhf, preference-bench, judgebench,
    judgebench-claude, llmbar. Benchmarks come from the hub, or from --data in the published layout. Judged rows are
    kept: run the command again to resume.
    """
    if (name is None) == (model is None):
        raise SreError("expected either --judge NAME (of a run folder) or --model M (on a benchmark or file)")
    if model is not None:
        _evaluate_model(target, model, forgery=forgery, **options)
        return
    unfit = options.keys() - ({"limit"} if forgery else set())
    opt.refuse(unfit, "needs --model: the judges of a run are measured by its own settings")
    from recipe.evaluation.tables import results_grids, show
    from recipe.pipeline.finished_runs import forgery_of
    from recipe.pipeline.stage_order import run_stage
    from recipe.storage import read_json

    run, judge = Path(target), str(name)
    if forgery:
        _show_forgery(judge, forgery_of(run, judge, limit=options["limit"]), run / "evaluation" / judge)
        return
    run_stage(run, f"evaluation/{judge}")
    results = read_json(run / "results.json")
    show(results_grids(results), results["models"], opt.console())


def _show_forgery(judge: str, found: dict[str, Any], folder: Path) -> None:
    from recipe.evaluation.tables import FORGERY, forgery_grid, show

    show([(FORGERY, forgery_grid({judge: found}))], {}, opt.console())
    click.echo(f"All figures: {folder / 'forgery.json'}")


def _evaluate_model(
    target: str, model: str, out: Path | None, rubric: str | None, forgery: bool, **options: Any
) -> None:
    from recipe.config import EvaluateConfig
    from recipe.data.rubrics import given_rubrics
    from recipe.evaluation.benchmarks.base import load_rows
    from recipe.evaluation.benchmarks.running import find_benchmark, run_benchmark
    from recipe.evaluation.forgery import measure_forgery
    from recipe.evaluation.models import label_of, open_judge
    from recipe.evaluation.tables import audit_grids, benchmark_table, show
    from recipe.judge.options import JudgeOptions

    benchmark = find_benchmark(target)
    folder = out or Path("runs") / "benchmarks" / f"{label_of(target)}-{label_of(model)}"
    opening, how = ({name: options.pop(name) for name in names} for names in (_OPENING, _ROWS))
    how["rubrics"] = given_rubrics(rubric)
    how |= {"skip_bad_rows": how["skip_bad_rows"] and folder, "tell": opt.tell if Path(target).exists() else None}
    if forgery:
        opt.refuse(["overwrite", "label_only", "constrain"], "does not go with --forgery")
    with open_judge(model, **opening) as judge:
        if forgery:
            del how["overwrite"]
            rows, settings = load_rows(benchmark, **how), EvaluateConfig(max_tokens=options["max_tokens"])
            _show_forgery(judge.name, measure_forgery(judge, rows, folder, settings), folder)
            return
        result = run_benchmark(judge, benchmark, folder, options=JudgeOptions(**options), **how)
    opt.console().print(benchmark_table(result))
    show(audit_grids(result["audit"]), result["audit"]["models"], opt.console())
    read, judged = plural(result["rows"], "row"), plural(result["judged"], "judgement")
    click.echo(f"{read}; {judged}, {result['malformed']} malformed, {result['not_judged']} not judged")
    click.echo(f"All figures: {folder / 'figures.json'}")


@opt.command
@click.argument("verdicts", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--rows", multiple=True, required=True, help="Labelled rows that were judged. May be repeated.")
@click.option("--train", multiple=True, help="The judges' training rows, for the rules that learn from them.")
@click.option("--resamples", type=click.IntRange(min=100), default=2000, help="Resamples of the bootstrap.")
@click.option("-o", "--out", type=opt.FILE, help="Write the figures to this JSON file.")
@opt.columns
@opt.rubric
def audit(
    verdicts: tuple[Path, ...],
    rows: tuple[str, ...],
    train: tuple[str, ...],
    out: Path | None,
    rubric: str | None,
    **options: Any,
) -> None:
    """Compare judged rows with rules that need no model: the longer response, the criterion's mean, a position.

    VERDICTS are files that `sre judge` or `sre evaluate` wrote, or folders that hold files named judgements.jsonl. No
    model is loaded. Files whose paths differ only in a folder seed-0, seed-1, ... are pooled.
    """
    from recipe.data.rubrics import given_rubrics
    from recipe.evaluation.tables import audit_grids, show
    from recipe.evaluation.verdict_files import audit_files
    from recipe.storage import refuse_inputs, write_json

    if out:
        refuse_inputs(out, [out], [*verdicts, *map(Path, (*rows, *train))])
    rubrics = given_rubrics(rubric)
    found = audit_files(verdicts, rows, train, rubrics=rubrics, **options)
    for name, part in found["parts"].items():
        show([(f"{name}: {title}", grid) for title, grid in audit_grids(part)], part["models"], opt.console())
    if out:
        write_json(out, found)


@opt.command
@click.argument("runs", nargs=-1, required=True, type=opt.EXISTING_FOLDER)
@click.option("-o", "--out", type=opt.FILE, help="[default: RUN/report.html]")
def report(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write one self-contained HTML page about finished runs, and its tables as Markdown beside it."""
    from recipe.pipeline.report import report as write

    for path in write(runs, out):
        click.echo(path)


COMMANDS: tuple[click.Command, ...] = (evaluate, audit, report)
