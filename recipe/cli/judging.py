"""Use a judge: `sre judge`, `sre rubrics`, `sre serve`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from recipe.cli import options as opt
from recipe.errors import SreError, install, printable

# The options that open a judge, and those that say how its rows are read and written; the others are JudgeOptions.
_OPENING = ("engine", "base_url", "workers", "threads", "memory", "context", "parallel", "gpu_layers", "calibrated")
_READING = ("resume", "overwrite", "limit", "task", "split", "columns")
# A server has settled these itself.
_SERVERS = ("workers", "threads", "memory", "context", "gpu_layers", "calibrated", "constrain")
_NOT_WITH = {"llamacpp": ("base_url",), "ray": ("base_url",), "openai": _SERVERS}


@opt.command
@click.argument("rows")
@click.option("-o", "--out", required=True, help="A .jsonl, .csv or .parquet file; - writes JSON lines to stdout.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A GGUF file or a run folder. With --engine openai, a model of the server. [default there: its only one]",
)
@click.option(
    "--engine",
    type=click.Choice(["llamacpp", "openai", "ray"]),
    default="llamacpp",
    help="This machine; a server with OpenAI's API; or a Ray cluster (RAY_ADDRESS, else one on this machine).",
)
@click.option("--base-url", metavar="URL", help="The server's address, for --engine openai. Key: OPENAI_API_KEY.")
@click.option("--resume", is_flag=True, help="Keep finished rows; judge the others and those that ended in an error.")
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@click.option("--allow-errors", is_flag=True, help="Exit with 0 also where some rows could not be judged.")
@click.option("--limit", type=opt.POSITIVE, help="Judge only the first N rows.")
@click.option("--split", default="test", help="Which part of a data folder or hub data set.")
@click.option(
    "--task", type=click.Choice(["pointwise", "pairwise"]), help="What the rows are. [default: by the columns]"
)
@click.option("--samples", type=opt.POSITIVE, default=1, help="Judgements per row; majority wins.")
@click.option("--temperature", type=opt.Finite(min=0), help="Of sampling. [default: 0; 1 with --samples]")
@click.option("--seed", type=int, default=0, help="Sampling seed; ignored at temperature 0.")
@click.option("--swap", is_flag=True, help="Judge pairs in both orders.")
@click.option(
    "--tie",
    type=click.Choice(["probability", "first", "tie"]),
    default="probability",
    help="Label of a pair whose orders disagree: the likelier one, the first order's, or none.",
)
@click.option(
    "--calibrated/--uncalibrated",
    default=True,
    help="Correct label probabilities with the calibration stored in the judge's file, if it has one.",
)
@click.option(
    "--workers",
    type=opt.POSITIVE,
    default=1,
    help="Processes with a judge each. They share --threads and --memory; with --engine ray, each has as much.",
)
@opt.memory
@opt.judging
def judge(rows: str, out: str, model: Path | None, rubric: str | None, allow_errors: bool, **options: Any) -> None:
    """Judge every row of ROWS: a JSONL, JSON, CSV, TSV or Parquet file (also .gz), a data folder, a hub data set, or -
    for JSON lines on standard input.

    Common column names are recognised, such as question and answer, messages, or chosen and rejected. The output has
    the input's columns and beside them the judgement, in the input's order. Where rows have labels, agreement with them
    is shown.

    A row that can't be read or judged is written with its error; the exit code is then 1. Rows are kept as they finish,
    so that a run that was stopped goes on with --resume. A server (--engine openai) forces no label: where its model
    writes none, the row counts as malformed.
    """
    from recipe.data.rubrics import read_rubric
    from recipe.judge.journal import journal_of
    from recipe.judge.judge_file import judge_file, open_judges
    from recipe.judge.options import JudgeOptions
    from recipe.progress import bar, follow

    engine, needed = options["engine"], "base_url" if options["engine"] == "openai" else "model"
    unfit = [name for name in _NOT_WITH[engine] if options[name]]
    opt.refuse(unfit, f"can't be combined with --engine {engine}")
    if click.get_current_context().params[needed] is None:
        raise click.UsageError(f"--engine {engine} needs --{needed.replace('_', '-')}")
    opening, reading = ({name: options.pop(name) for name in names} for names in (_OPENING, _READING))
    if engine == "openai":
        options["constrain"] = False
    reading |= {"options": JudgeOptions(**options), "rubric": read_rubric(rubric) if rubric else None}
    reading["tell"] = opt.tell
    try:
        with bar(f"judging {printable(Path(rows).name)}", None, "rows") as advance:
            summary = judge_file(partial(open_judges, model, **opening), rows, out, progress=follow(advance), **reading)
    except KeyboardInterrupt:
        kept = journal_of(Path(out))
        command = opt.command_again("--resume", without=("--resume", "--overwrite"))
        told = f"; what was judged is kept in {kept}. To go on: {command}"
        click.echo(printable(f"stopped{told if out != '-' and kept.exists() else ', and no row is kept'}"), err=True)
        raise SystemExit(130) from None
    click.echo(summary, err=True)
    if summary.errors and not allow_errors:
        raise SystemExit(1)


@opt.command
@click.argument("name", required=False)
def rubrics(name: str | None) -> None:
    """List the ready rubrics, or print one as a file for --rubric."""
    from recipe.data.rubrics import ready_rubrics, rubric_file

    if name is not None:
        click.echo(rubric_file(name).read_text(encoding="utf-8"), nl=False)
        return
    # In one piece: whoever reads only its first line ends nothing.
    click.echo("\n".join(f"{ready.name:24}{ready.rubric.criteria}" for ready in ready_rubrics().values()))


@opt.command
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A GGUF file, e.g. judge.gguf.")
@click.option("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in: set a key then.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes a free one.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="Its text is the key that clients must send.")
@click.option("--queue", type=opt.POSITIVE, default=64, help="Unfinished requests at most.")
@click.option("--timeout", type=opt.Finite(min=0.1), default=120, help="Seconds per answer.")
@click.option("--max-body", type=opt.POSITIVE, default=1_000_000, help="Bytes per request.")
@opt.threads
@opt.parallel
@opt.context
@opt.memory
@opt.gpu_layers
def serve(model: Path, **options: Any) -> None:
    """Serve a judge over HTTP: judging, OpenAI's chat API, and a page to try it, on this machine alone by default.

    A key in --api-key-file or in the variable SRE_API_KEY is asked of every client.
    """
    from recipe.judge.judge import Judge

    try:
        from recipe.judge.server.app import serve as run
    except ImportError as error:
        raise SreError(f"serving needs the extra: {install('serve')} ({error})") from None
    opening = {name: options.pop(name) for name in ("threads", "parallel", "context", "memory", "gpu_layers")}
    with Judge.from_gguf(model, **opening) as opened:
        told = f"{opened.name} is served at {{}} (the page: /, the API: /docs); Ctrl-C ends it"
        run(opened, started=lambda address: click.echo(told.format(address), err=True), **options)


COMMANDS: tuple[click.Command, ...] = (judge, rubrics, serve)
