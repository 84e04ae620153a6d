"""Where judgements are kept as they finish: safe against kills, resumable. Knows rows as dicts with an id.

    judged.jsonl              the rows, appended in blocks that are synced to disk; in the input's order at the end
    judged.jsonl.meta.json    with which model, prompts and options they were made

A CSV or Parquet output, which can't be appended to, has its journal beside it (judged.csv.jsonl) and is written from
it at the end; the journal stays, for a resume.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from recipe.errors import SreError
from recipe.judge.judge import Closing
from recipe.judge.tables import TABLES, need_writer, write_table
from recipe.storage import DAMAGE, append_jsonl, canonical, explain, replacing

STDOUT = "-"
BLOCK = 16
"""Rows written and synced at once, if they come within FLUSH_S: what a kill can lose."""
FLUSH_S = 2.0
_LAST = 2**62
"""The place of a row that the source lacks by now: after all others."""


class Journal(Closing):
    """One output. Use as a context manager: it holds the output for this process."""

    def __init__(
        self, out: str | Path, *, resume: bool = False, overwrite: bool = False, sources: Sequence[Path] = ()
    ) -> None:
        """Write nothing yet, but raise SreError where that will not be possible.

        Args:
            out: the output; "-" is standard output.
            resume: keep the rows that are there, but those that ended in an error; they are tried again.
            overwrite: begin anew.
            sources: the files that the rows come from. The output may be none of them.
        """
        if resume and (overwrite or str(out) == STDOUT):
            raise SreError(f"resume can't be combined with {'overwrite' if overwrite else 'standard output'}")
        self.stdout = str(out) == STDOUT
        self.out = Path(out)
        suffix = self.out.suffix.lower()
        if not self.stdout and suffix not in (".jsonl", *TABLES):
            raise SreError(f"expected an output in .jsonl, {', '.join(TABLES)}, or - for standard output", file=out)
        need_writer(self.out)
        self.path = self.out.with_name(f"{self.out.name}.jsonl") if suffix in TABLES else self.out
        self.sidecar = self.out.with_name(f"{self.out.name}.meta.json")
        for source in sources if not self.stdout else ():
            for path in (self.out, self.path, self.sidecar):
                if path.exists() and source.exists() and os.path.samefile(path, source):
                    raise SreError(f"{path.name} of this output is the input {source}; choose another", file=self.out)
        self._overwrite = overwrite
        self._resume = resume and self._exists()
        self._refuse_existing()
        self._lock: IO[str] | None = None
        self._places: list[int] = []  # of each line of the journal: the number of its row in the source
        self._kept: dict[str, tuple[int, str]] = {}  # id of a row of an earlier run -> its line and input_hash
        self._block: list[tuple[int, dict[str, Any]]] = []
        self._flushed = time.monotonic()
        self._held: dict[int, str] = {}  # standard output: rows that wait for those before them

    def begin(self, header: Mapping[str, Any], count: Callable[[Mapping[str, Any]], None]) -> None:
        """Make the output ready for rows; `count` is called with each row that is kept.

        Raises SreError: another process writes it, it was made with another `header`, or it is no output of this
        program.
        """
        if self.stdout:
            return
        for needed in (self.path, self.sidecar) if self._resume else ():
            if not needed.exists():
                message = "can't resume: this file, which tells how the output was made, is missing; use --overwrite"
                raise SreError(message, file=needed)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.sidecar.open("a+", encoding="utf-8")
            self._hold(self._lock)
            self._refuse_existing()  # another process may have been quicker
            if self._resume:
                self._refuse_other_header(header)
                self._keep(count)
            else:
                self._begin_anew(self._lock, header)
        except OSError as error:
            raise explain(error, self.out) from None

    def _exists(self) -> bool:
        return self.out.exists() or self.path.exists()

    def _refuse_existing(self) -> None:
        if not self.stdout and self._exists() and not (self._resume or self._overwrite):
            raise SreError("the output exists; use --resume to go on with it, or --overwrite", file=self.out)

    def _hold(self, lock: IO[str]) -> None:
        """Lock the sidecar, which lives as long as the output does."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SreError("another process is writing this output", file=self.out) from None
        except OSError:
            pass  # the file system has no locks

    def _begin_anew(self, sidecar: IO[str], header: Mapping[str, Any]) -> None:
        # First the old rows go: killed in between, they must not stand beside the new options.
        self.path.unlink(missing_ok=True)
        self.out.unlink(missing_ok=True)
        sidecar.truncate(0)
        sidecar.write(json.dumps(header, indent=2, ensure_ascii=False) + "\n")
        sidecar.flush()
        os.fsync(sidecar.fileno())
        self.path.touch()

    def _refuse_other_header(self, header: Mapping[str, Any]) -> None:
        try:
            made = json.loads(self.sidecar.read_text(encoding="utf-8"))
            old, new = ({**one, **one["options"]} for one in (made, header))
        except DAMAGE:
            message = "not what sre judge writes beside an output; use --overwrite, or another output"
            raise SreError(message, file=self.sidecar) from None
        differing = [key for key in new if key != "options" and old.get(key) != new[key]]
        if differing:
            changes = ", ".join(f"{key} ({str(old.get(key))[:12]}, now {str(new[key])[:12]})" for key in differing)
            message = f"can't resume: made with other {changes}; use --overwrite, or another output"
            raise SreError(message, file=self.sidecar)

    def _keep(self, count: Callable[[Mapping[str, Any]], None]) -> None:
        """Index the rows; drop those to be tried again, and a half-written last line."""
        starts: list[int] = []
        for start, line, data in self._lines():
            if not data.endswith(b"\n"):
                break
            try:
                row = json.loads(data)
                key, digest, failed = str(row["id"]), row["input_hash"], row["finish"] == "error"
                if not failed:
                    count(row)
            except DAMAGE:
                message = "expected a row of an earlier run; use --overwrite, or another output"
                raise SreError(message, file=self.path, line=line) from None
            if key in self._kept:
                message = "this row is there twice; use --overwrite, or another output"
                raise SreError(message, file=self.path, line=line)
            if not failed:
                self._kept[key] = len(starts), digest
                starts.append(start)
        self._rewrite(starts)
        self._places = [_LAST] * len(starts)

    def has(self, key: str, place: int, digest: Callable[[], str]) -> bool:
        """Whether a row was kept: by its id, its number in the source, and what gives its `input_hash`.

        Raises SreError when another row was judged under its id.
        """
        if key not in self._kept:
            return False
        line, judged = self._kept[key]
        if judged != digest():
            raise SreError(f"the source's row {key!r} has changed since it was judged; use --overwrite", file=self.path)
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
            self._places += [place for place, _ in rows]
        self._flushed = time.monotonic()

    def finish(self) -> None:
        """Put the rows into the source's order, and write a CSV or Parquet output from them."""
        if self.stdout:
            return
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        if order != list(range(len(order))):
            starts = [start for start, _, _ in self._lines()]
            self._rewrite(starts[line] for line in order)
        if self.out != self.path:
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
