"""The run folder (see docs/architecture.md): each stage runs once, on what it is given, and says so in a marker.

A marker is done.json, or <step>.done.json in a folder that several stages share:

{"stage": "merged", "hash": "3f…", "settings": {…}, "inputs": {"sft-pointwise": "a1…"},
"made": {"adapter/adapter_model.safetensors": {"bytes": 9, "hash": "c4…"}}, "versions": {"torch": "2.13.0", …},
"wall_s": 3.2, "tokens": 0, "peak_rss_mb": 912, …what the stage reports}.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipe.config import key_of
from recipe.errors import SreError
from recipe.storage import canonical, explain, fingerprint, hash_object, read_marker, write_json
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
    """One run. `do` runs a stage unless its marker says it is done. `begin` is called before a stage is made here.

    Several processes of one launch may share it. `main`: this is the one that writes what all share. `renewed`: a stage
    that `do` forgets, once all that it needs is found.
    """

    def __init__(self, path: Path, *, begin: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._begin = begin
        self._process = process()[0]
        self.main = self._process == 0
        self.renewed = ""

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

        The stage names a folder ("merged"), or a folder and a step that shares it ("iter-1:sample"). The input hash is
        made of what is `given`, so `work` must read nothing else; `Made` and `Content` reach it as paths. The stage is
        done while what it `makes` is unchanged. `together`: all processes that share the run do the work; else the main
        one does it and the others wait. Raises SreError where the folder holds the stage with another hash, or what it
        made has changed.
        """
        folder, marker, started = self.places(stage)
        inputs: dict[str, str] = {}
        settings = {key_of(value) or name: self._describe(value, stage, inputs) for name, value in given.items()}
        assert len(settings) == len(given), "two sections of one kind: one would be left out of the hash"
        head = {"stage": stage, "settings": settings, "inputs": inputs}
        head["hash"] = digest = hash_object(head)
        given = {n: v.path if isinstance(v, Made | Content) else v for n, v in given.items()}
        if stage == self.renewed:
            self.forget(stage)
        if (done := self.done(stage, digest)) is not None:
            return done
        if not self.main:
            return self.follow(stage, digest, partial(work, folder, **given) if together else None)
        self._make_way(stage, head, makes)
        self._begin()
        content = self.make(stage, head, partial(work, folder, **given), makes)
        write_json(marker, content)
        started.unlink(missing_ok=True)
        return content

    def make(
        self, stage: str, head: Mapping[str, Any], work: Callable[[], Mapping[str, Any]], makes: Sequence[str]
    ) -> dict[str, Any]:
        """Do a stage's work; returns the marker's content, which begins with `head`."""
        folder, _, started = self.places(stage)
        write_json(started, head)
        with measured() as cost:
            facts = dict(work())
        end = {"versions": versions(), "finished": time.time(), "made": _made(folder, makes)}
        return {"tokens": 0, **cost, **facts, **head, **end}  # no fact replaces what the hash stands for

    def marker(self, stage: str) -> dict[str, Any] | None:
        return read_marker(self.places(stage)[1])

    def forget(self, stage: str) -> None:
        """Let a stage run again. What it left stays until then."""
        for file in self.places(stage)[1:]:
            file.unlink(missing_ok=True)

    def done(self, stage: str, digest: str) -> dict[str, Any] | None:
        """The marker of a stage that is done with this hash, and whose files are there."""
        folder, marker, _ = self.places(stage)
        done = read_marker(marker)
        return done if done and done["hash"] == digest and not _lost(folder, done) else None

    def _make_way(self, stage: str, head: Mapping[str, Any], makes: Sequence[str]) -> None:
        """Remove the marker of a stage that lost its files, and what a forgotten one left: its settings may have been
        others. Raises SreError where the stage was begun differently.
        """
        folder, marker, started = self.places(stage)
        done = read_marker(marker)
        found = done or read_marker(started)
        if found and found["hash"] != head["hash"]:
            hashes = f"the folder has {found['hash'][:12]}, this run needs {head['hash'][:12]}"
            other = f"was made from other settings or inputs: {hashes} (differs in: {_differences(found, head)})"
            advice = f"use another --run-dir, or remove {folder} and what comes after it"
            raise SreError(f"stage {stage!r} {other}; {advice}", file=folder)
        if done:
            lost = os.path.normpath(folder / _lost(folder, done))
            _log.warning("%s is made again: %s is missing or empty", stage, lost)
            marker.unlink()
        for left in () if found else [folder / name for name in makes]:
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)

    def follow(self, stage: str, digest: str, work: Callable[[], Any] | None) -> dict[str, Any]:
        """What a process other than the main one does: help with the work, if there is any for it, and wait."""
        _, marker, started = self.places(stage)

        def begun() -> bool:  # the main process has then checked the folder
            return (read_marker(started) or {}).get("hash") == digest

        wait_for(lambda: begun() or self.done(stage, digest) is not None)
        if work and self.done(stage, digest) is None:
            work()
        wait_for(lambda: marker.exists() and not started.exists())
        return read_marker(marker) or {}

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
            # What has a default and is at it says nothing: so a new field leaves finished runs as they are.
            told = {field.name: field.default for field in fields(value) if field.compare}
            value = {name: found for name, usual in told.items() if (found := getattr(value, name)) != usual}
        if isinstance(value, Mapping):
            return {name: self._describe(item, stage, inputs) for name, item in value.items()}
        raise TypeError(f"stage {stage!r} is given a {type(value).__name__}, which can't be hashed")

    def _result_of(self, name: str, asking: str) -> str:
        """The hash of what a finished stage was given and of what it made."""
        done = self.marker(name)
        if done is None:
            raise SreError(f"stage {asking!r} needs stage {name!r}, which isn't done; run it first", file=self.path)
        folder = self.places(name)[0]
        if lost := _lost(folder, done):
            raise SreError(f"missing, and stage {asking!r} needs it; `sre run` makes it again", file=folder / lost)
        return hash_object([done["hash"], done.get("made")])

    def places(self, stage: str) -> tuple[Path, Path, Path]:
        """A stage's folder, and its markers: of its end, and that it has begun."""
        name, _, step = stage.partition(":")
        folder, prefix = self.path / name, f"{step}." if step else ""
        return folder, folder / f"{prefix}done.json", folder / f"{prefix}started.json"

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
                working = "another process is working in this run folder; wait for it, or stop it"
                raise SreError(working, file=self.path) from None
            yield


def _made(folder: Path, makes: Sequence[str]) -> dict[str, dict[str, Any]]:
    left = [path for name in makes for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    return {
        os.path.relpath(file, folder): {"bytes": file.stat().st_size, "hash": fingerprint(file)}
        for file in sorted(left)
    }


def _lost(folder: Path, done: Mapping[str, Any]) -> str:
    """The first file, or "", that a finished stage made and that is missing or empty. Raises SreError for a file that
    holds something else: it may be somebody's work."""
    for name, made in done.get("made", {}).items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if made["bytes"] and not size:
            return str(name)
        if size != made["bytes"] or fingerprint(file) != made["hash"]:
            made_by = f"changed since stage {done['stage']!r} made it"
            raise SreError(f"{made_by}; put it back, or remove it to make it again", file=file)
    return ""


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    before, after = ({**_flat(head.get("settings", {})), **head.get("inputs", {})} for head in (found, wanted))
    return ", ".join(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))) or "the stage"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, Mapping) else {name: canonical(item)}
    return flat
