"""Where judgements are kept as they finish: safe against kills, resumable. Knows rows as dicts with an id.

    judged.jsonl              the rows, appended in blocks that are synced to disk; in the input's order at the end
    judged.jsonl.meta.json    with which model, prompts and options they were made

A CSV or Parquet output, which can't be appended to, has its journal beside it (judged.csv.jsonl) and is written from
it at the end; the journal stays, for a resume. Of each row some bytes stay in memory, whatever its length.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from recipe.errors import SreError
from recipe.judge.tables import TABLES, Kinds, need_writer, write_table
from recipe.storage import append_jsonl, canonical, explain, replacing

STDOUT = "-"
_LAST = 2**62
"""The place of a row that the source lacks by now: after all others."""


class Journal:
    """One output. Use as a context manager: it holds the output for this process."""

    def __init__(
        self, out: str | Path, *, resume: bool = False, overwrite: bool = False, sources: Sequence[Path] = ()
    ) -> None:
        """Write nothing yet, but see whether that will be possible.

        Args:
            out: the output.
            resume: keep the rows that are there, but those that ended in an error; they are tried again.
            overwrite: begin anew.
            sources: the files that the rows come from.

        Raises:
            SreError: the extension can't be written, the output is one of `sources`, or it exists and neither flag is
                given.
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
                    kept = "" if path == self.out else f", whose rows are kept in {path.name},"
                    raise SreError(f"this output{kept} is the input {source}; choose another one", file=self.out)
        self._overwrite = overwrite
        self._resume = resume and self._exists()
        self._refuse_existing()
        self._lock: IO[str] | None = None
        self._places = array("q")  # of each line of the journal: the number of its row in the source
        self._ids = self._inputs = self._lines = array("Q")  # of the rows kept, by ascending id
        self._kinds = Kinds()
        self._held: dict[int, str] = {}  # standard output: rows that wait for those before them

    def begin(self, header: Mapping[str, Any], count: Callable[[Mapping[str, Any]], None]) -> None:
        """Make the output ready to be appended to.

        Args:
            header: what the rows are made with.
            count: called with each row that is kept.

        Raises:
            SreError: another process writes the output, it was made with another header, or it is no output of this
                program.
        """
        if self.stdout:
            return
        if self._resume and not (self.sidecar.exists() and self.path.exists()):
            lost = self.path if self.sidecar.exists() else self.sidecar
            message = "can't resume: the file that tells how the output was made is missing; use --overwrite"
            raise SreError(message, file=lost)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock = self.sidecar.open("a+", encoding="utf-8")
            self._hold(lock)
            self._refuse_existing()  # another process may have been quicker
            if self._resume:
                self._refuse_other_header(header)
                self._keep(count)
                return
            # First the old rows go: killed in between, they must not stand beside the new options.
            self.path.unlink(missing_ok=True)
            self.out.unlink(missing_ok=True)
            lock.truncate(0)
            lock.write(json.dumps(header, indent=2, ensure_ascii=False) + "\n")
            lock.flush()
            os.fsync(lock.fileno())
            self.path.touch()
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
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise SreError("another process is writing this output", file=self.out) from None
            # Else the file system has no locks.

    def _refuse_other_header(self, header: Mapping[str, Any]) -> None:
        try:
            made = json.loads(self.sidecar.read_text(encoding="utf-8"))
            old, new = ({**one, **one.get("options", {})} for one in (made, dict(header)))
        except (ValueError, AttributeError, TypeError):
            message = "not what sre judge writes beside an output; use --overwrite, or another output"
            raise SreError(message, file=self.sidecar) from None
        differing = [key for key in new if key != "options" and old.get(key) != new[key]]
        if differing:
            changes = ", ".join(f"{key} ({str(old.get(key))[:12]}, now {str(new[key])[:12]})" for key in differing)
            message = f"can't resume: made with other {changes}; use --overwrite, or another output"
            raise SreError(message, file=self.sidecar)

    def _keep(self, count: Callable[[Mapping[str, Any]], None]) -> None:
        """Cut off a half-written last line and the rows to try again; index the others."""
        ids, inputs, starts, end, good = array("Q"), array("Q"), array("Q"), 0, 0
        with self.path.open("rb") as file:
            for line, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    break
                try:
                    row = json.loads(data)
                    key, failed, digest = _digest(row["id"]), row["finish"] == "error", int(row["input_hash"], 16)
                except (ValueError, KeyError, TypeError):
                    message = "expected a row of an earlier run; use --overwrite, or another output"
                    raise SreError(message, file=self.path, line=line) from None
                if not failed:
                    ids.append(key)
                    inputs.append(digest)
                    starts.append(end)
                    count(row)
                    self._kinds.add(row)
                    good += len(data)
                end += len(data)
        self._lines = _order(ids)
        self._ids, self._inputs = (array("Q", (column[k] for k in self._lines)) for column in (ids, inputs))
        twice = next((k for k in range(1, len(ids)) if self._ids[k] == self._ids[k - 1]), None)
        if twice is not None:
            line = self._lines[twice] + 1
            raise SreError("this row is there twice; use --overwrite, or another output", file=self.path, line=line)
        if good < end:
            self._copy(starts)
        else:
            os.truncate(self.path, end)
        self._places = array("q", [_LAST]) * len(ids)

    def has(self, key: str, place: int, digest: Callable[[], str]) -> bool:
        """Whether a row was kept.

        Args:
            key: its id.
            place: its number in the source.
            digest: gives its `input_hash`.

        Raises:
            SreError: another row was judged under its id.
        """
        if not self._ids:
            return False
        at = bisect_left(self._ids, _digest(key))
        if at == len(self._ids) or self._ids[at] != _digest(key):
            return False
        if self._inputs[at] != int(digest(), 16):
            raise SreError(f"the source's row {key!r} has changed since it was judged; use --overwrite", file=self.path)
        self._places[self._lines[at]] = place
        return True

    def append(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Add rows, each with its number in the source. When it returns they are on disk.

        On standard output, a row waits for those before it.
        """
        if not self.stdout:
            append_jsonl(self.path, [row for _, row in rows])
            self._places.extend(place for place, _ in rows)
            for _, row in rows if self.out != self.path else ():
                self._kinds.add(row)
            return
        self._held |= {place: canonical(row) + "\n" for place, row in rows}
        ready = []
        while len(self._places) in self._held:
            ready.append(self._held.pop(len(self._places)))
            self._places.append(len(self._places))
        self._print("".join(ready))

    def _print(self, text: str) -> None:
        """As UTF-8, whatever the terminal's encoding is."""
        try:
            if hasattr(sys.stdout, "buffer"):
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode())
            else:  # a notebook's
                sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # whoever read it has enough: no error of the user's
        except OSError as error:
            raise explain(error, Path("standard output")) from None

    def finish(self) -> None:
        """Put the rows into the source's order, and write a CSV or Parquet output from them."""
        if self.stdout:
            return
        if any(self._places[k] > self._places[k + 1] for k in range(len(self._places) - 1)):
            self._reorder()
        if self.out != self.path:
            write_table(self.out, self._rows(), self._kinds)

    def _reorder(self) -> None:
        starts, end = array("Q"), 0
        with self.path.open("rb") as file:
            for data in file:
                starts.append(end)
                end += len(data)
        self._copy(array("Q", (starts[k] for k in _order(self._places))))

    def _copy(self, starts: array[int]) -> None:
        """Rewrite the journal, atomically: the lines that begin at `starts`."""
        with replacing(self.path) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            for start in starts:
                if old.tell() != start:
                    old.seek(start)
                new.write(old.readline())
            new.flush()
            os.fsync(new.fileno())

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            yield from map(json.loads, file)

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _order(values: array[int]) -> array[int]:
    """The places of the values, by ascending value."""
    return array("Q", sorted(range(len(values)), key=values.__getitem__))


def _digest(key: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(blake2b(str(key).encode(errors="replace"), digest_size=8).digest(), "big")
