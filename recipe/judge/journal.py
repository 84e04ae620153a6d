"""Where judgements are kept as they finish: safe against kills, resumable. Knows rows as dicts with an id.

    judged.jsonl              the rows, appended in blocks that are synced to disk
    judged.jsonl.meta.json    with which model, prompts and settings they were made

A CSV or Parquet output, which can't be appended to, has its journal beside it (judged.csv.jsonl) and is written from
it at the end; the journal stays, for a resume.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from recipe.errors import SreError
from recipe.judge.tables import TABLES, need_writer, write_table
from recipe.storage import append_jsonl, canonical, explain, read_json, read_jsonl, write_json, write_jsonl

STDOUT = "-"


class Journal:
    """One output. Use as a context manager: it holds the output for this process."""

    def __init__(self, out: str | Path) -> None:
        """Raises SreError for an extension that isn't known or can't be written here."""
        self.stdout = str(out) == STDOUT
        self.out = Path(out)
        suffix = self.out.suffix.lower()
        if not self.stdout and suffix not in (".jsonl", *TABLES):
            raise SreError(f"expected an output in .jsonl, {', '.join(TABLES)}, or - for standard output", file=out)
        need_writer(self.out)
        self.path = self.out.with_name(f"{self.out.name}.jsonl") if suffix in TABLES else self.out
        self.sidecar = self.out.with_name(f"{self.out.name}.meta.json")
        self._lock: IO[str] | None = None

    def begin(
        self, header: Mapping[str, Any], inputs: Mapping[str, str], *, resume: bool, overwrite: bool
    ) -> list[dict[str, Any]]:
        """Make the output ready to be appended to; return the rows it keeps.

        header: what made the rows; inputs: id -> hash of every row of the source. A resume keeps all rows but those
        that ended in an error: they are tried again. Raises SreError: the output exists and neither flag is given,
        another process writes it, it was made with another header or other inputs, it is no output of this program.
        """
        if self.stdout:
            return []
        exists = self.out.exists() or self.path.exists()
        if exists and not (resume or overwrite):
            raise SreError("the output exists; use --resume to go on with it, or --overwrite", file=self.out)
        self._hold()
        if exists and resume:
            self._refuse_other_header(header)
            return self._kept(inputs)
        try:
            # First the old rows go: killed in between, they must not stand beside the new settings.
            self.path.unlink(missing_ok=True)
            write_json(self.sidecar, header)
            self.path.touch()
        except OSError as error:
            raise explain(error, self.out) from None
        self._hold()
        return []

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; when it returns they are on disk."""
        if not self.stdout:
            append_jsonl(self.path, list(rows))
            return
        try:
            sys.stdout.writelines(canonical(row) + "\n" for row in rows)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # whoever read it has enough: no error of the user's
        except OSError as error:
            raise explain(error, Path("standard output")) from None

    def finish(self) -> None:
        """Write a CSV or Parquet output from the journal."""
        if self.out != self.path:
            write_table(self.out, read_jsonl(self.path))

    def _hold(self) -> None:
        """Lock the sidecar, which lives as long as the output does."""
        self.close()
        if not self.sidecar.exists():
            return
        self._lock = self.sidecar.open()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SreError("another process is writing this output", file=self.out) from None

    def _refuse_other_header(self, header: Mapping[str, Any]) -> None:
        if not self.sidecar.exists() or not self.path.exists():
            lost = self.path if self.sidecar.exists() else self.sidecar
            message = "can't resume: the file that tells how the output was made is missing; use --overwrite"
            raise SreError(message, file=lost)
        old, new = ({**made, **made.get("settings", {})} for made in (read_json(self.sidecar), dict(header)))
        differing = [key for key in new if key != "settings" and old.get(key) != new[key]]
        if differing:
            changes = ", ".join(f"{key} ({_brief(old.get(key))}, now {_brief(new[key])})" for key in differing)
            message = f"can't resume: made with other {changes}; use --overwrite, or another output"
            raise SreError(message, file=self.sidecar)

    def _kept(self, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
        """Cut off a half-written last line and the rows to try again; check the rest against the source's rows."""
        whole = self.path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        rows: list[dict[str, Any]] = []
        for line, data in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                row = json.loads(data)
                key, digest, failed = row["id"], row["input"], row["finish"] == "error"
            except (ValueError, KeyError, TypeError):
                message = "expected a row of an earlier run; use --overwrite, or another output"
                raise SreError(message, file=self.path, line=line) from None
            if inputs.get(key, digest) != digest and not failed:
                message = f"the source's row {key!r} has changed since it was judged; use --overwrite"
                raise SreError(message, file=self.path, line=line)
            rows.append(row)
        twice = [key for key, count in Counter(row["id"] for row in rows).items() if count > 1]
        if twice:
            raise SreError(f"the row {twice[0]!r} is there twice; use --overwrite, or another output", file=self.path)
        good = [row for row in rows if row["finish"] != "error"]
        if len(good) < len(rows):
            write_jsonl(self.path, good)
        else:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return good

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _brief(value: object) -> str:
    return str(value)[:12]
