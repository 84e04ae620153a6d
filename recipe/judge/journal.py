"""Where judgements are kept as they finish: safe against kills, resumable. Knows rows as dicts with an id.

    judged.jsonl              the rows, appended in blocks that are synced to disk; in the input's order at the end
    judged.jsonl.meta.json    with which model, prompts and options they were made

A CSV or Parquet output, which can't be appended to, has its journal beside it (judged.csv.jsonl) and is written from
it at the end; the journal stays, for a resume.
"""

import csv
import fcntl
import itertools
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from recipe.data.benchmark_formats import ORDERS, RESULTS, SAMPLES
from recipe.data.records import Rubric
from recipe.data.values import to_rubric
from recipe.errors import SreError
from recipe.inference.base import Closing
from recipe.storage import DAMAGE, append_jsonl, atomic, canonical, explain, intact, refuse_inputs, replacing

STDOUT = "-"
TABLES = (".csv", ".parquet")
_ALWAYS = [name for name in RESULTS if name not in ("truth_note", "won", "rubric")]
# Of columns that may be empty in all rows, so that values don't tell the type.
_TYPES = {
    **dict.fromkeys(("label", "truth"), "int64"),
    **dict.fromkeys(("expected_score", "confidence", "mean", "spread", "preference"), "float64"),
    "consistent": "bool",
}
_KINDS: dict[str, set[type]] = {"int64": {int}, "float64": {int, float}, "bool": {bool}}
BLOCK = 16  # rows written and synced at once, if they come within FLUSH_S: what a kill can lose
FLUSH_S = 2.0
_LAST = 2**62  # the place of a row that the source lacks by now: after all others
_BATCH = 1024  # rows that are written to a Parquet file at once
_ADVICE = "use --overwrite, or another output"


def journal_of(out: Path) -> Path:
    """Where the rows of an output are kept as they finish."""
    return out.with_name(f"{out.name}.jsonl") if out.suffix.lower() in TABLES else out


class Journal(Closing):
    """One output. Use as a context manager: it holds the output for this process."""

    def __init__(
        self, out: str | Path, *, resume: bool = False, overwrite: bool = False, sources: Sequence[Path] = ()
    ) -> None:
        """Write nothing yet, but raise SreError where that will not be possible.

        resume: keep the rows that are there, but those that ended in an error; they are tried again. sources: the
        files that the rows come from. The output may be none of them.
        """
        if resume and (overwrite or str(out) == STDOUT):
            raise SreError(f"resume can't be combined with {'overwrite' if overwrite else 'standard output'}")
        self.stdout = str(out) == STDOUT
        self.out = Path(out)
        suffix = self.out.suffix.lower()
        if not self.stdout and suffix not in (".jsonl", *TABLES):
            raise SreError(f"expected an output in .jsonl, {', '.join(TABLES)}, or - for standard output", file=out)
        if suffix == ".jsonl" and Path(self.out.stem).suffix.lower() in TABLES:
            raise SreError(f"this would be the journal of {self.out.stem}; choose another name", file=out)
        need_writer(self.out)
        self.path = journal_of(self.out)
        self.sidecar = self.out.with_name(f"{self.out.name}.meta.json")
        if not self.stdout:
            refuse_inputs(self.out, (self.out, self.path, self.sidecar), sources)
        self._overwrite = overwrite
        self._resume = resume and self._exists()
        self._refuse_existing()
        self._lock: IO[str] | None = None
        # Arrays and hashes, because a million rows are not to take much memory.
        self._places = array("q")  # of each line of the journal: the number of its row in the source
        self._kept: dict[int, int] = {}  # hash of the id of a row of an earlier run -> its line
        self._digests = array("Q")  # of each of these lines: the input_hash
        self._block: list[tuple[int, dict[str, Any]]] = []
        self._flushed = time.monotonic()
        self._held: dict[int, str] = {}  # standard output: rows that wait for those before them

    def begin(self, header: Mapping[str, Any], count: Callable[[Mapping[str, Any]], None]) -> None:
        """Make the output ready for rows; `count` is called with each row that is kept.

        Raises SreError where another process writes it, or it was made with another `header`.
        """
        if self.stdout:
            return
        for needed in (self.path, self.sidecar) if self._resume else ():
            if not needed.exists():
                raise SreError("can't resume without this file, which is missing; use --overwrite", file=needed)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            sidecar = self._lock = self.sidecar.open("a+", encoding="utf-8")
            try:
                fcntl.flock(sidecar, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SreError("another process is writing this output", file=self.out) from None
            except OSError:
                pass  # the file system has no locks
            self._refuse_existing()  # another process may have been quicker
            if self._resume:
                self._refuse_other_header(header)
                self._keep(count)
            else:
                # First the old rows go: killed in between, they must not stand beside the new options.
                self.path.unlink(missing_ok=True)
                self.out.unlink(missing_ok=True)
                sidecar.truncate(0)
                sidecar.write(json.dumps(header, indent=2, ensure_ascii=False) + "\n")
                sidecar.flush()
                os.fsync(sidecar.fileno())
                self.path.touch()
        except OSError as error:
            raise explain(error, self.out) from None

    def _exists(self) -> bool:
        return self.out.exists() or self.path.exists()

    def _refuse_existing(self) -> None:
        if not self.stdout and self._exists() and not (self._resume or self._overwrite):
            raise SreError("the output exists; use --resume to go on with it, or --overwrite", file=self.out)

    def _refuse_other_header(self, header: Mapping[str, Any]) -> None:
        try:
            made = json.loads(self.sidecar.read_text(encoding="utf-8"))
            old = {key: made.get(key) for key in header}
        except DAMAGE:
            raise SreError(f"not what sre judge writes beside an output; {_ADVICE}", file=self.sidecar) from None
        changes = [
            f"{key} ({str(old[key])[:12]}, now {str(new)[:12]})" for key, new in header.items() if old[key] != new
        ]
        if changes:
            raise SreError(f"can't resume: made with other {', '.join(changes)}; {_ADVICE}", file=self.sidecar)

    def _keep(self, count: Callable[[Mapping[str, Any]], None]) -> None:
        """Index the rows; drop those to be tried again, and a half-written last line."""
        starts = array("q")
        for start, line, data in self._lines():
            if not data.endswith(b"\n"):
                break
            try:
                row = json.loads(data)
                key, failed = hash(str(row["id"])), row["finish"] == "error"
                if not failed:
                    self._digests.append(int(row["input_hash"], 16))
                    count(row)
            except DAMAGE:
                raise SreError(f"expected a row of an earlier run; {_ADVICE}", file=self.path, line=line) from None
            if key in self._kept:
                raise SreError(f"this row is there twice; {_ADVICE}", file=self.path, line=line)
            if not failed:
                self._kept[key] = len(starts)
                starts.append(start)
        self._rewrite(starts)
        self._places = array("q", [_LAST]) * len(starts)

    def has(self, key: str, place: int, digest: str, rubric: Rubric | None = None) -> bool:
        """Whether the row of this id, number in the source, `input_hash` and rubric was kept.

        Raises SreError when another row was judged under its id, or the row by another rubric.
        """
        line = self._kept.get(hash(key)) if self._kept else None
        if line is None:
            return False
        if self._digests[line] != int(digest, 16):
            before = json.loads(next(itertools.islice(self._lines(), line, None))[2]).get("rubric")
            what = "row" if before is None or to_rubric(before) == rubric else "rubric of row"
            raise SreError(f"the {what} {key!r} has changed since it was judged; {_ADVICE}", file=self.path)
        self._places[line] = place
        return True

    def add(self, place: int, row: dict[str, Any]) -> None:
        """Keep a row, with its number in the source. It is on disk when its block is full, or soon after."""
        self._block.append((place, row))
        if len(self._block) >= BLOCK or time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the last block. On standard output, a row waits for those before it."""
        # Emptied first: rows that an interrupt keeps from being written are judged again, and none is written twice.
        rows, self._block = self._block, []
        if self.stdout:
            self._held |= {place: canonical(row) + "\n" for place, row in rows}
            while len(self._places) in self._held:
                _print(self._held.pop(len(self._places)))
                self._places.append(len(self._places))
        else:
            append_jsonl(self.path, [row for _, row in rows])
            self._places.extend(place for place, _ in rows)
        self._flushed = time.monotonic()

    def finish(self) -> None:
        """Put the rows into the source's order, and write a CSV or Parquet output from them."""
        if self.stdout:
            return
        if any(one > next for one, next in itertools.pairwise(self._places)):
            order = sorted(range(len(self._places)), key=self._places.__getitem__)
            starts = array("q", (start for start, _, _ in self._lines()))
            self._rewrite(starts[line] for line in order)
        if self.out != self.path:
            with intact(self.path):
                write_table(self.out, lambda: (json.loads(data) for _, _, data in self._lines()))

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Where each line of the journal begins, its number from 1, and what it holds."""
        start = 0
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                yield start, number, data
                start += len(data)

    def _rewrite(self, starts: Iterable[int]) -> None:
        """Make the journal anew, atomically: of the lines that begin at `starts`."""
        with replacing(self.path) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            for start in starts:
                old.seek(start)
                new.write(old.readline())
            new.flush()
            os.fsync(new.fileno())

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


def _print(text: str) -> None:
    """As UTF-8, whatever the terminal's encoding is."""
    try:
        if hasattr(sys.stdout, "buffer"):
            sys.stdout.buffer.write(text.encode())
        else:  # a notebook's
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever read it has enough: no error of the user's
    except OSError as error:
        raise explain(error, Path("standard output")) from None


def need_writer(path: Path) -> None:
    """Raise SreError when a file of this extension can't be written on this machine."""
    if path.suffix.lower() == ".parquet" and not find_spec("pyarrow"):
        raise SreError("writing Parquet needs pyarrow: pip install pyarrow, or name a .jsonl or .csv file", file=path)


def write_table(path: Path, read: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Write the rows that `read` gives, atomically. It is called twice, and its rows are not held in memory."""
    columns = _columns(read())
    if path.suffix.lower() != ".parquet":
        with atomic(path) as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(columns)
            lines.writerows([_text(row.get(name)) for name in columns] for row in read())
        return
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])
    stream = iter(read())
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(itertools.islice(stream, _BATCH)):
            cells = {name: [row.get(name) for row in batch] for name in columns}
            cells |= {name: list(map(_text, cells[name])) for name, kind in columns.items() if kind == "string"}
            writer.write_table(pyarrow.table(cells, schema=schema))


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Column -> Arrow type: the id, the input's columns, then those of the judgement."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            fits = not isinstance(value, int) or -(2**63) <= value < 2**63
            kinds.setdefault(name, set()).add(type(value) if fits else str)
    ours = [*_ALWAYS, *(name for name in (*RESULTS, *SAMPLES, *ORDERS) if name in kinds)]
    names = dict.fromkeys(["id", *(name for name in kinds if name not in ours), *ours])
    return {name: _arrow_type(kinds.get(name, set()) - {type(None)}, _TYPES.get(name)) for name in names}


def _arrow_type(kinds: set[type], ours: str | None) -> str:
    """Of a column with values of these kinds; `ours` where they fit it: an input may have a column of the same name."""
    if ours and kinds <= _KINDS[ours]:
        return ours
    if kinds and kinds <= {int, float}:
        return "float64" if float in kinds else "int64"
    return "bool" if kinds == {bool} else "string"


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else canonical(value)
