"""The two parts of gpu_check.sh that are Python: how fast the card is, and the report.

python tools/gpu_report.py speed cuda      one JSON object on standard output
python tools/gpu_report.py report FOLDER   Markdown; the exit code is 1 where a step failed
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.smoke import markdown
from recipe.planning.machines import Machine, card_named, reference
from recipe.storage import read_json, read_jsonl
from recipe.system import usable_cores

SECONDS = 1.0  # each speed is measured for so long
LLAMA = ("judged:0.jsonl", "judged:-1.jsonl")  # on the processor, and on the card


def speed(device: str) -> dict[str, Any]:
    """What the device does at its best: matrix products (FLOP/s) and copies (bytes read and written a second)."""
    import torch

    cuda = device == "cuda"
    size, kind, length = (8192, torch.bfloat16, 2**29) if cuda else (1024, torch.float32, 2**24)
    a = torch.randn(size, size, dtype=kind, device=device)
    source, target = (torch.empty(length, dtype=torch.uint8, device=device) for _ in range(2))

    def rate(work: Callable[[], Any], amount: float) -> float:
        work()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            work()
            done += 1
            if cuda:
                torch.cuda.synchronize()
        return done * amount / (time.perf_counter() - start)

    name, memory = "processor", 0
    if cuda:
        card = torch.cuda.get_device_properties(0)
        name, memory = card.name, card.total_memory
    flops = rate(lambda: a @ a, 2.0 * size**3)
    copied = rate(lambda: target.copy_(source), 2.0 * length)
    return {"name": name, "memory": memory, "flops": flops, "bandwidth": copied}


def report(folder: Path) -> tuple[str, bool]:
    """(the report in Markdown, whether every step passed)."""
    steps = [line.split() for line in (folder / "steps.txt").read_text(encoding="utf-8").splitlines()]
    lines = ["# GPU check", "", "| step | result | s |", "| --- | --- | --- |"]
    for name, code, seconds in steps:
        result = {"0": "pass", "124": "stopped: no time was left"}.get(code, f"FAIL: exit code {code}, see {name}.log")
        lines.append(f"| {name} | {result} | {seconds} |")
    reports = {name: found for name in ("smoke", "shape") if (found := _read(folder / f"{name}.json"))}
    measured = _read(folder / "speed.json")
    if measured:
        lines += ["", "## Speed", "", *_speeds(measured)]
    for name, found in reports.items():
        lines += ["", f"## {name.capitalize()}", "", markdown(found), "", "### Measured over planned", ""]
        lines += _ratios(found["stages"])
    judged = [folder / name for name in LLAMA]
    if all(path.is_file() for path in judged):
        rows = [{row["id"]: row["label"] for row in read_jsonl(path)} for path in judged]
        same = sum(rows[1].get(key) == label for key, label in rows[0].items())
        lines += ["", "## llama.cpp", "", f"{same} of {len(rows[0])} labels are the same on the card and beside it."]
    return "\n".join(lines), all(code == "0" for _, code, _ in steps)


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() and file.stat().st_size else {}


def _speeds(measured: Mapping[str, Any]) -> list[str]:
    """The measured speeds beside those that the plan starts from."""
    taken: Machine = reference(usable_cores())
    if measured["memory"]:
        taken = card_named(measured["name"], measured["memory"])
    lines = ["| | measured | the plan takes | share |", "| --- | --- | --- | --- |"]
    for what, unit, scale in (("flops", "TFLOP/s", 1e12), ("bandwidth", "GB/s", 1e9)):
        found, planned = measured[what] / scale, getattr(taken, what) / scale
        lines.append(f"| {what} | {found:.3g} {unit} | {planned:.3g} {unit} | {found / planned:.2f} |")
    return lines


def _ratios(stages: list[dict[str, Any]]) -> list[str]:
    """Seconds and memory of each stage over the plan's: what to correct planning/costs.py by."""
    lines = ["| stage | seconds | memory |", "| --- | --- | --- |"]
    for row in stages:
        if row["plan s"] and row["s"]:
            memory = f"{row['peak MiB'] / row['plan MiB']:.2f}" if row["plan MiB"] else ""
            lines.append(f"| {row['stage']} | {row['s'] / row['plan s']:.2f} | {memory} |")
    return lines


def main(what: str, where: str) -> int:
    """Print the JSON object or the report; the exit code comes back."""
    if what == "speed":
        print(json.dumps(speed(where)))
        return 0
    text, passed = report(Path(where))
    print(text)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
