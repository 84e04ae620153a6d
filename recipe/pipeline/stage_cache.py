"""The run folder: stages, done markers, input hashes, atomic writes. Knows nothing of models or what stages do.

    runs/quickstart/
      config.toml                     the resolved settings
      seed/done.json                  written last, by rename: the stage is done
      iter-1/samples.jsonl            grows in whole blocks
      iter-1/sample.done.json         a folder that several stages share has one marker for each

A marker: {"stage": "merged", "hash": "3f…", "inputs": {"sft-pointwise": "a1…"}, "versions": {"torch": "2.13.0", …},
"seed": 0, "wall_s": 3.2, "tokens": 0, "peak_rss_mb": 912, …what the stage reports}. In a stage that was taken over from
another run folder, all of this is that folder's, and "from" names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.errors import SreError
from recipe.storage import canonical, hash_file, hash_object, read_json, read_markers, share, write_json
from recipe.system import measured, process, versions, wait_for


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
        self.path.mkdir(parents=True, exist_ok=True)

    def do(
        self,
        stage: str,
        work: Callable[[Path], Mapping[str, Any]],
        *,
        settings: Mapping[str, Any],
        after: tuple[str, ...] = (),
        files: tuple[Path, ...] = (),
        makes: tuple[str, ...] = (),
        together: bool = False,
    ) -> dict[str, Any]:
        """Run `work(folder)` once and return the marker's content.

        `stage` is a folder ("merged") or a folder and a step that share it ("iter-1:sample"); `makes` names what such a
        step leaves there. The input hash covers the stage's settings, the hashes of the stages in `after`, and the
        content of `files`. Raises SreError when the folder holds the same stage with another hash: nothing is reused
        silently or overwritten. Of the processes that share the run, all do the work of a stage that they do
        `together`; else the main one does it, and the others wait.
        """
        folder, marker = self._places(stage)
        inputs = {name: self._hash_of_done(name, stage) for name in after}
        inputs |= {file.name: hash_file(file) for file in files}
        digest = hash_object({"stage": stage, "settings": settings, "inputs": inputs})
        done = read_json(marker) if marker.exists() else None
        if done is not None and done["hash"] == digest:
            return done
        started = _started(marker)
        if done is None and not self.main:
            wait_for(lambda: digest in (_hash_in(started), _hash_in(marker)))  # the main process has checked the folder
            if together and self._lender(stage, digest) is None and not marker.exists():
                work(folder)
            wait_for(lambda: marker.exists() and not started.exists())
            return read_json(marker)
        found = done or (read_json(started) if started.exists() else None)
        if found is not None and found["hash"] != digest:
            raise SreError(
                f"stage {stage!r} was made from other settings or inputs: the folder has {found['hash'][:12]}, this "
                f"run needs {digest[:12]} (differs in: {_differences(found, settings, inputs)}). "
                f"Use another --run-dir, or remove {folder} and what comes after it",
                file=folder,
            )
        folder.mkdir(parents=True, exist_ok=True)
        lender = self._lender(stage, digest)
        if lender is not None:
            content = self._take_over(lender, stage, makes)
            started.unlink(missing_ok=True)
            return content
        attempts = 1 + (found["attempts"] if found else 0)
        head = {
            "stage": stage,
            "hash": digest,
            "inputs": inputs,
            "settings": dict(settings),
            "attempts": attempts,
        }
        write_json(started, head)
        with measured() as cost:
            facts = dict(work(folder))
        made = {"seed": self.seed, "versions": versions(), "finished": time.time()}
        content = {"tokens": 0, **cost, **facts, **head, **made}  # no fact takes the place of what the hash stands for
        write_json(marker, content)
        started.unlink(missing_ok=True)
        return content

    def forget(self, stage: str) -> None:
        """Let a stage be made anew. What it left stays until then."""
        _, marker = self._places(stage)
        for file in (marker, _started(marker)):
            file.unlink(missing_ok=True)

    def stages(self) -> list[dict[str, Any]]:
        """The markers of all stages; see `storage.read_markers`."""
        return read_markers(self.path)

    def _places(self, stage: str, run: Path | None = None) -> tuple[Path, Path]:
        name, _, step = stage.partition(":")
        folder = (run or self.path) / name
        return folder, folder / (f"{step}.done.json" if step else "done.json")

    def _lender(self, stage: str, digest: str) -> Path | None:
        for run in self.lenders:
            marker = self._places(stage, run)[1]
            if marker.exists() and read_json(marker)["hash"] == digest:
                return run
        return None

    def _take_over(self, lender: Path, stage: str, makes: tuple[str, ...]) -> dict[str, Any]:
        """Put what the lender's stage made into ours, the marker last; returns the marker's content."""
        (theirs, their_marker), (ours, marker) = self._places(stage, lender), self._places(stage)
        names = makes or [path.name for path in theirs.iterdir() if path != their_marker]
        for name in names:
            if (theirs / name).exists():
                share(theirs / name, ours / name)
        content = {**read_json(their_marker), "from": os.path.relpath(lender, self.path)}
        write_json(marker, content)
        return content

    def _hash_of_done(self, name: str, asking: str) -> str:
        marker = self._places(name)[1]
        if not marker.exists():
            raise SreError(f"stage {asking!r} needs stage {name!r}, which isn't done; run it first", file=self.path)
        return str(read_json(marker)["hash"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process. Raises SreError when another process works in it.

        Each process of a launch has a lock of its own: a second launch is stopped by any of them.
        """
        with (self.path / (".lock" if self.main else f".lock-{self._process}")).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SreError("another process is working in this run folder", file=self.path) from None
            yield


def _started(marker: Path) -> Path:
    """Where a stage says that it has begun, beside the marker of its end."""
    return marker.with_name(marker.name.replace("done", "started"))


def _hash_in(marker: Path) -> str | None:
    try:
        return str(read_json(marker)["hash"])
    except FileNotFoundError:
        return None


def _differences(found: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    before, after = _flat({**found["settings"], **found["inputs"]}), _flat({**settings, **inputs})
    return ", ".join(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))) or "the stage"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, Mapping) else {name: canonical(item)}
    return flat
