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
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from recipe.errors import SreError
from recipe.resources import process

_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "unsloth",
    "llama-cpp-python",
    "self-rationalizing-evaluators",
)


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
        """The markers of all finished and unfinished stages, oldest first; unfinished ones lack "finished"."""
        found = [read_json(path) for path in self.path.rglob("*done.json")]
        found.sort(key=lambda marker: marker["finished"])
        return found + [read_json(path) for path in sorted(self.path.rglob("*started.json"))]

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


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another process of this launch does; when one of them fails, the launcher ends them all.

    Files and not a collective call: those give up after minutes, and the main process may evaluate for hours.
    """
    while not condition():
        time.sleep(0.2)


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


@contextlib.contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fill a dict with wall_s and peak_rss_mb of the block (peak of this process; Linux resets it per block)."""
    cost: dict[str, Any] = {}
    start = time.monotonic()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield cost
    finally:
        cost |= {"wall_s": round(time.monotonic() - start, 2), "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> int:
    """Peak resident memory of this process in MiB since the last reset."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    import resource

    scale = 1024**2 if platform.system() == "Darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose version can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def hash_object(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SreError(f"not valid JSON ({error}); remove the file to redo its stage", file=path) from None
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[str]]:
    """Write a text file beside `path`, then rename it there: `path` is whole or untouched. No space is an SreError."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`atomic` for what writes to a path itself: yields the file beside `path` that takes its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a fresh folder beside `path`, then put it in `path`'s place by rename. Left over halves are removed."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def share(source: Path, target: Path) -> None:
    """Put a file or folder of another run in `target`'s place, at no cost where the file system has hard links."""
    if source.is_dir():
        with atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True, copy_function=_link)
    else:
        with replacing(target) as temporary:
            _link(source, temporary)


def _link(source: str | Path, target: str | Path) -> None:
    # Rows are appended in place: a link would let one run write into another. All else is replaced by rename.
    if Path(source).suffix != ".jsonl":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def explain(error: OSError, path: Path) -> SreError:
    """The user's words for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SreError("no space left on the disk; nothing half-written was kept. Free some and run again", file=path)
    return SreError(f"can't write: {error.strerror or error}", file=path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows at once, atomically."""
    with atomic(path) as file:
        file.writelines(canonical(row) + "\n" for row in rows)


def append_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append a block of rows in one write and sync it. A kill can leave at most a partial last line or block, which
    `whole_blocks` cuts off."""
    data = "".join(canonical(row) + "\n" for row in rows).encode()
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # Not before the file is closed, which writes what its buffer still holds.
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise explain(error, path) from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a file this project wrote. Raises SreError naming the line that isn't JSON."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise SreError(f"not valid JSON: {error}", file=path, line=number) from None
    return rows


def whole_blocks(path: Path, rows_per_block: list[int]) -> int:
    """How many leading blocks (of so many rows each) a file holds whole; what follows them is cut off."""
    if not path.exists():
        return 0
    blocks, offset = 0, 0
    with path.open("r+b") as file:
        for rows in rows_per_block:
            lines = [file.readline() for _ in range(rows)]
            if not all(line.endswith(b"\n") for line in lines):
                break
            blocks, offset = blocks + 1, file.tell()
        file.truncate(offset)
    return blocks
