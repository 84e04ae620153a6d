"""The run folder: each stage runs once, on what it is given, and says so in a marker.

    runs/quickstart/
      config.toml                     the resolved settings
      seed/done.json                  written last, by rename: the stage is done
      iter-1/samples.jsonl            grows in whole blocks
      iter-1/sample.done.json         a folder that several stages share has one marker for each

A marker: {"stage": "merged", "hash": "3f…", "settings": {…}, "inputs": {"sft-pointwise": "a1…"},
"made": {"adapter/adapter_model.safetensors": {"bytes": 9, "hash": "c4…"}}, "versions": {"torch": "2.13.0", …},
"seed": 0, "wall_s": 3.2, "tokens": 0, "peak_rss_mb": 912, …what the stage reports}. In a stage that was taken over from
another run folder, all of this is that folder's, and "from" names it.

This module knows nothing of models or of what stages do.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipe.config import key_of
from recipe.errors import SreError
from recipe.storage import canonical, explain, fingerprint, hash_object, read_marker, read_markers, share, write_json
from recipe.system import measured, process, versions, wait_for

_log = logging.getLogger("recipe.pipeline")


@dataclass(frozen=True)
class Made:
    """A file or folder that another stage of the run made. That stage's result is then an input of this one."""

    run: Path
    stage: str
    name: str

    @property
    def path(self) -> Path:
        return self.run / self.stage.partition(":")[0] / self.name


@dataclass(frozen=True)
class Content:
    """Files from outside the run: what they hold is an input, wherever they lie."""

    path: Path
    files: tuple[Path, ...]


class RunFolder:
    """One run. `do` runs a stage unless its marker says it is done, here or in one of the `lenders`: other run folders
    whose stages of the same name and input hash are taken over.

    Several processes of one launch may share it. `main`: this is the one that writes what all share.
    """

    def __init__(self, path: Path, *, seed: int = 0, lenders: Sequence[Path] = ()) -> None:
        self.path = path
        self.seed = seed
        self.lenders = tuple(lenders)
        self._process = process()[0]
        self.main = self._process == 0

    def do(
        self,
        stage: str,
        work: Callable[..., Mapping[str, Any]],
        *,
        makes: tuple[str, ...] = (),
        together: bool = False,
        **given: Any,
    ) -> dict[str, Any]:
        """Run `work(folder, **given)` once and return the marker's content.

        Args:
            stage: A folder ("merged"), or a folder and a step that shares it ("iter-1:sample").
            work: Does the stage. It must read nothing but what it is given: the input hash is made of that.
            makes: The files and folders that it leaves. The stage is done while they are there and unchanged.
            together: All processes that share the run do the work. Else the main one does it and the others wait.
            given: Settings, rows, prompts, and what other stages made. `Made` and `Content` are handed on as paths.

        Raises:
            SreError: The folder holds the stage with another hash, or what it made has changed.
        """
        folder, marker = self._places(stage)
        inputs: dict[str, str] = {}
        settings = {key_of(value) or name: self._describe(value, stage, inputs) for name, value in given.items()}
        assert len(settings) == len(given), "two sections of one kind: one would be left out of the hash"
        digest = hash_object({"stage": stage, "settings": settings, "inputs": inputs})
        resolved = {n: v.path if isinstance(v, Made | Content) else v for n, v in given.items()}
        started = _started(marker)
        done = read_marker(marker) if marker.exists() else None
        if done is not None and "made" not in done:
            raise SreError(
                "an older version made this run: it can be read (`sre status`, `sre report`, `sre judge`) but not "
                "continued; use another --run-dir",
                file=self.path,
            )
        if done is not None and done["hash"] == digest and not _lost(folder, done):
            return done
        if not self.main:
            return self._follow(stage, digest, work, resolved, together=together)
        found = done or (read_marker(started) if started.exists() else None)
        if found is not None and found["hash"] != digest:
            raise SreError(
                f"stage {stage!r} was made from other settings or inputs: the folder has {found['hash'][:12]}, this "
                f"run needs {digest[:12]} (differs in: {_differences(found, settings, inputs)}). "
                f"Use another --run-dir, or remove {folder} and what comes after it",
                file=folder,
            )
        if done is not None:
            _log.warning(
                "%s is made again: %s is missing or empty", stage, os.path.normpath(folder / _lost(folder, done))
            )
            marker.unlink()
        lender = self._lender(stage, digest)
        if lender is not None:
            content = self._take_over(lender, stage, makes)
            started.unlink(missing_ok=True)
            return content
        attempts = 1 + (found.get("attempts", 0) if found else 0)
        head = {"stage": stage, "hash": digest, "inputs": inputs, "settings": settings, "attempts": attempts}
        write_json(started, head)
        with measured() as cost:
            facts = dict(work(folder, **resolved))
        end = {"seed": self.seed, "versions": versions(), "finished": time.time(), "made": _made(folder, makes)}
        content = {"tokens": 0, **cost, **facts, **head, **end}  # no fact takes the place of what the hash stands for
        write_json(marker, content)
        started.unlink(missing_ok=True)
        return content

    def marker(self, stage: str) -> dict[str, Any] | None:
        """The marker of a finished stage, or None."""
        path = self._places(stage)[1]
        return read_marker(path) if path.exists() else None

    def stages(self) -> list[dict[str, Any]]:
        """The markers of all stages; see `storage.read_markers`."""
        return read_markers(self.path)

    def forget(self, stage: str) -> None:
        """Let a stage run again. What it left stays until then."""
        _, marker = self._places(stage)
        for file in (marker, _started(marker)):
            file.unlink(missing_ok=True)

    def _follow(
        self, stage: str, digest: str, work: Callable[..., Any], given: Mapping[str, Any], *, together: bool
    ) -> dict[str, Any]:
        """What a process other than the main one does: help with the stage, or wait for it."""
        folder, marker = self._places(stage)
        started = _started(marker)

        def finished() -> bool:
            done = read_marker(marker) if marker.exists() else {}
            return done.get("hash") == digest and not _lost(folder, done)

        wait_for(lambda: _hash_in(started) == digest or finished())  # the main process has checked the folder
        if together and self._lender(stage, digest) is None and not finished():
            work(folder, **given)
        wait_for(lambda: marker.exists() and not started.exists())
        return read_marker(marker)

    def _describe(self, value: Any, stage: str, inputs: dict[str, str]) -> Any:
        """The plain value that stands for what a stage is given; results of other stages are added to `inputs`.

        Raises TypeError for a value of a kind that isn't known here: it must not slip past the hash.
        """
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, Made):
            inputs[value.stage] = self._result_of(value.stage, stage)
            return f"{value.stage} {value.name}"
        if isinstance(value, Content):
            return {file.name: fingerprint(file) for file in value.files}
        if hasattr(value, "digest"):
            return value.digest
        if isinstance(value, Sequence) and value and hasattr(value[0], "to_json"):
            return {"rows": len(value), "hash": hash_object([hash_object(row.to_json()) for row in value])}
        if isinstance(value, Sequence):
            return [self._describe(item, stage, inputs) for item in value]
        if isinstance(value, BaseModel):
            value = dict(value)
        elif is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        if isinstance(value, Mapping):
            return {name: self._describe(item, stage, inputs) for name, item in value.items()}
        raise TypeError(f"stage {stage!r} is given a {type(value).__name__}, which can't be hashed")

    def _result_of(self, name: str, asking: str) -> str:
        """The hash of what a finished stage was given and of what it made."""
        done = self.marker(name)
        if done is None:
            raise SreError(f"stage {asking!r} needs stage {name!r}, which isn't done; run it first", file=self.path)
        lost = _lost(self._places(name)[0], done)
        if lost:
            raise SreError(f"missing, and stage {asking!r} needs it; `sre run` makes it again", file=self.path / lost)
        return hash_object([done["hash"], done.get("made")])

    def _places(self, stage: str, run: Path | None = None) -> tuple[Path, Path]:
        name, _, step = stage.partition(":")
        folder = (run or self.path) / name
        return folder, folder / (f"{step}.done.json" if step else "done.json")

    def _lender(self, stage: str, digest: str) -> Path | None:
        for run in self.lenders:
            folder, marker = self._places(stage, run)
            with contextlib.suppress(SreError):  # what was changed there is not taken over
                if _hash_in(marker) == digest and not _lost(folder, read_marker(marker)):
                    return run
        return None

    def _take_over(self, lender: Path, stage: str, makes: tuple[str, ...]) -> dict[str, Any]:
        """Put what the lender's stage made into ours, the marker last; returns the marker's content."""
        (theirs, their_marker), (ours, marker) = self._places(stage, lender), self._places(stage)
        for name in makes:
            if (theirs / name).exists():
                share(theirs / name, ours / name)
        content = {**read_marker(their_marker), "from": os.path.relpath(lender, self.path)}
        write_json(marker, content)
        return content

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process. Raises SreError when another process works in it.

        Each process of a launch has a lock of its own: a second launch is stopped by any of them.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / (".lock" if self.main else f".lock-{self._process}")).open("w")
        except OSError as error:
            raise explain(error, self.path) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SreError("another process is working in this run folder", file=self.path) from None
            yield


def is_locked(run: Path) -> bool:
    """Whether a process works in a run folder at this moment."""
    try:
        with (run / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _made(folder: Path, makes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and hash of each file that a stage left."""
    files = (file for name in makes for file in _files(folder / name))
    return {
        os.path.relpath(file, folder): {"bytes": file.stat().st_size, "hash": fingerprint(file)}
        for file in sorted(files)
    }


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path] if path.is_file() else []


def _lost(folder: Path, done: Mapping[str, Any]) -> str:
    """The first file, or "", that a finished stage made and that is missing or empty. Raises SreError for a file that
    holds something else: it may be somebody's work."""
    for name, made in done.get("made", {}).items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if made["bytes"] and not size:
            return str(name)
        if size != made["bytes"] or fingerprint(file) != made["hash"]:
            raise SreError(
                f"changed since stage {done['stage']!r} made it; put it back, or remove it to make it again", file=file
            )
    return ""


def _started(marker: Path) -> Path:
    """Where a stage says that it has begun, beside the marker of its end."""
    return marker.with_name(marker.name.replace("done", "started"))


def _hash_in(marker: Path) -> str | None:
    try:
        return str(read_marker(marker)["hash"])
    except FileNotFoundError:  # the main process removes it at any time
        return None


def _differences(found: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    old = {**found.get("settings", {}), **found.get("inputs", {})}
    before, after = _flat(old), _flat({**settings, **inputs})
    return ", ".join(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))) or "the stage"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, Mapping) else {name: canonical(item)}
    return flat
