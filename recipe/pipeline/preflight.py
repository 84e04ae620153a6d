"""What can be known to fail is found before anything is downloaded or trained: `sre run` and `sre plan` ask here."""

from pathlib import Path
from tempfile import TemporaryDirectory

from recipe.config import Config
from recipe.data.files import is_hub_name
from recipe.data.records import TASKS, Message, Task
from recipe.data.split import characters
from recipe.errors import SreError
from recipe.inference.pytorch.engines import check_packages
from recipe.pipeline.context import RunContext
from recipe.planning.workload import CHARS_PER_TOKEN
from recipe.storage import intact
from recipe.system import user_path
from recipe.training.seed import EMBEDDED, embedded_gguf

_SAMPLE = "  Which is better?\n\n\n- A: naïve 日本語 😀, 12  34\n\tB: it's <b>fine</b>.  "


def preflight(run: RunContext, *, offline: bool = False) -> list[str]:
    """Check the settings, the rows of every stage, and the seed model where it is on this machine.

    Returns one line for each task: the rows that the run trains on, holds out and tests on. `offline` leaves out what
    takes a download or a model library. Raises SreError for what would otherwise end a stage, hours later perhaps.
    """
    config = run.config
    if not offline:
        check_packages()
        if config.model.source == EMBEDDED:
            embedded_gguf()
    _ = run.exported, run.teacher  # refuse a judge that the run does not make, a file that isn't there
    model = user_path(config.model.source)
    if model.is_dir():
        check_model(config, model, template=not offline)
    if not offline and run.judge_model("seed", sampling=True).engine == "llamacpp":
        from recipe.inference.llamacpp.generator import check_parallel
        from recipe.inference.llamacpp.kv_cache import offloaded_layers

        check_parallel(config.sample.parallel, "sample.parallel")
        offloaded_layers(config.sample.gpu_layers)
    remote = offline and any(is_hub_name(config.data.source(task)) for task in config.data.tasks)
    ids: set[str] = set()
    return [_rows_of(run, task, ids, remote=remote) for task in TASKS]


def check_model(config: Config, folder: Path, *, template: bool = True) -> None:
    """Raises SreError where a model folder lacks something, or can't become a GGUF file."""
    from recipe.gguf.export import export_problem
    from recipe.training.seed import check_model as check_files

    with intact(folder):
        check_files(folder, config.model.source)
        if template:
            _check_tokens(folder)
        elif problem := export_problem(folder):
            raise SreError(problem)


def _check_tokens(folder: Path) -> None:
    """Raises SreError where the model can't become a GGUF file, or a prompt can't be rendered, or is read as other
    tokens by llama.cpp than by transformers.

    Tokenisers of bytes are known to agree. Those of SentencePiece differ in where they put a space.
    """
    from transformers import AutoTokenizer

    from recipe.gguf.export import write_sentencepiece
    from recipe.inference.chat_template import ChatTemplate
    from recipe.inference.llamacpp.kv_cache import vocabulary_ids
    from recipe.inference.pytorch.loading import transformers_reads

    with TemporaryDirectory() as place:
        file = Path(place) / "vocabulary.gguf"
        written = write_sentencepiece(folder, file)  # first: it raises what `export_problem` tells
        with transformers_reads(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        prompt = ChatTemplate.of(tokenizer).render([Message("system", "Judge it."), Message("user", _SAMPLE)])
        if written and vocabulary_ids(file, prompt) != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
            raise SreError("llama.cpp would read this model's prompts as other tokens than it trains on", file=folder)


def _rows_of(run: RunContext, task: Task, ids: set[str], *, remote: bool) -> str:
    """Read a task's rows; returns what there is of them. `ids`: those of the tasks before, to which it adds its own."""
    config = run.config
    source = config.data.source(task) or "pairs made from scores"
    if task not in config.data.tasks:
        return f"{task}: no rows, so the judge does not learn it (data.{task})"
    if remote:
        return f"{task}: {source}; rows on the hub are checked when the run starts"
    train = run.sft_rows(task) if config.start != "seed" else []
    every = run.rows("train", task, limited=False) if config.iterations or not train else train
    if not every or (config.start != "seed" and not train):
        raise SreError(f"no {task} row to train on; see data.{task}", file=source)
    found = {row.id for row in every}
    if not found.isdisjoint(ids):
        raise SreError("pointwise and pairwise rows share an id; ids must differ over both files", field="id")
    ids |= found
    unexplained = sum(not row.rationale.strip() for row in train) if config.sft.bootstraps else 0
    without = f" ({unexplained} without a rationale, which is bootstrapped)" if unexplained else ""
    most = config.model.max_length
    if long := sum(characters(row) > CHARS_PER_TOKEN * most for row in train):
        without += f" ({long} of them longer than model.max_length = {most} tokens, so SFT leaves them out)"
    held = [f"{len(run.rows(split, task))} {split}" for split in ("dev", "test")]
    return f"{task}: {source}, {len(train)} of {len(every)} training rows for SFT{without}, {', '.join(held)}"
