"""A minute of many clients at a real model behind `sre serve`: each reply is its own row's, and memory stays flat."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

CLIENTS = 64
SECONDS = 60
WARM_UP = 20
GROWTH_MB = 20
ROWS = 12
WAIT = 600  # seconds for one reply: the machine may have other work to do
MOVED = 1e-2  # a label's probability, by what runs beside it
NEAR_TIES = 0.15  # share of written replies that may part from those written alone: a row with a tie parts often
THINGS = (
    "fruits",
    "rivers",
    "colours",
    "metals",
    "planets",
    "tools",
    "birds",
    "cities",
    "verbs",
    "games",
    "soups",
    "hats",
)


@contextmanager
def serving(model: Path) -> Iterator[tuple[str, int]]:
    """`sre serve` in a process of its own: its address and its number."""
    command = [sys.executable, "-m", "recipe.cli", "serve", "--model", str(model), "--port", "0", "--context", "1024"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found
            yield found.group(), process.pid
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, -signal.SIGINT)
        finally:
            process.kill()


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def question(row: int, kind: str) -> tuple[str, dict[str, Any]]:
    """Path and body of one request about a row."""
    thing = THINGS[row]
    if kind == "chat":
        turns = [{"role": "user", "content": f"Name {row + 2} {thing}." + " Please." * row}]
        return "/v1/chat/completions", {"messages": turns, "temperature": 0, "max_tokens": 12}
    asked = {"conversation": f"Name {row + 2} {thing}.", "rubric": f"Does it name {thing}?", "max_tokens": 8}
    asked |= {"label_only": kind in ("label", "pair")}
    answer = " and ".join(THINGS[row % 5 : row % 5 + 2])
    if kind == "pair":
        return "/v1/judge/compare", {**asked, "response_a": answer, "response_b": thing, "swap": True}
    return "/v1/judge/score", {**asked, "response": answer}


@dataclass
class Seen:
    """What the clients saw. alone: (row, kind) -> the reply without neighbours."""

    alone: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)
    moved: float = 0.0
    memory: list[float] = field(default_factory=list)

    def check(self, row: int, kind: str, reply: dict[str, Any]) -> None:
        """The reply must be this row's own: probabilities nearly, a written text but for near-ties, and then it may
        be no other row's."""
        mine = self.alone[row, kind]
        self.count[kind] += 1
        if kind == "chat":
            assert reply["usage"]["prompt_tokens"] == mine["usage"]["prompt_tokens"]
        if kind in ("chat", "text"):
            self.count["written"] += 1
            if text_of(reply) != text_of(mine):
                self.count["parted"] += 1
                assert text_of(reply) not in {text_of(other) for (_, k), other in self.alone.items() if k == kind}
            return
        for one, other in zip(reply["judgements"], mine["judgements"], strict=True):
            self.moved = max(self.moved, apart(one, other))
        assert self.moved < MOVED


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"] if "choices" in reply else reply["judgements"][0]["text"])


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(one["label_probabilities"].values(), other["label_probabilities"].values(), strict=True)
    return max(abs(a - b) for a, b in pairs)


async def ask(client: httpx.AsyncClient, seen: Seen, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The reply; a full queue is tried again when it says."""
    while True:
        response = await client.post(path, json=body)
        if response.status_code != 429:
            assert response.status_code == 200, response.text
            return dict(response.json())
        seen.count["full"] += 1
        await asyncio.sleep(int(response.headers["retry-after"]))


async def go_away(client: httpx.AsyncClient, seen: Seen, body: dict[str, Any]) -> None:
    """Ask for a long answer and leave while it is being written."""
    async with client.stream("POST", "/v1/judge/score", json={**body, "max_tokens": 400, "stream": True}) as response:
        seen.count["full" if response.status_code == 429 else "left"] += 1
        async for _ in response.aiter_text():
            return


async def soak(address: str, pid: int, model: str, seen: Seen) -> None:
    kinds = ("chat", "label", "pair", "text")
    asked = {(row, kind): question(row, kind) for row in range(ROWS) for kind in kinds}
    for path, body in asked.values():
        body |= {"model": model} if "chat" in path else {}
    async with httpx.AsyncClient(base_url=address, timeout=WAIT) as client:
        for key, (path, body) in asked.items():
            seen.alone[key] = await ask(client, seen, path, body)
    end = time.monotonic() + SECONDS

    async def one(number: int) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(base_url=address, timeout=WAIT) as client:
            while time.monotonic() < end:
                row, kind = draw.randrange(ROWS), draw.choice((*kinds, "left"))
                if kind == "left":
                    await go_away(client, seen, asked[row, "text"][1])
                else:
                    seen.check(row, kind, await ask(client, seen, *asked[row, kind]))

    async def watch() -> None:
        await asyncio.sleep(WARM_UP)
        while time.monotonic() < end:
            seen.memory.append(resident_mb(pid))
            await asyncio.sleep(2)

    await asyncio.gather(watch(), *map(one, range(CLIENTS)))


@pytest.mark.slow
def test_a_minute_of_64_clients_at_a_real_model(smollm2: Callable[[str], Path]) -> None:
    seen = Seen()
    with serving(smollm2("F16")) as (address, pid):
        asyncio.run(soak(address, pid, "F16", seen))
        end = time.monotonic() + WAIT
        while "sre_queue_depth 0.0" not in httpx.get(f"{address}/metrics").text:
            assert time.monotonic() < end, "places were not freed"
            time.sleep(0.1)
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
    texts = {text_of(reply) for (_, kind), reply in seen.alone.items() if kind == "chat"}
    print(f"{dict(seen.count)}; labels moved by {seen.moved:.5f} at most; {len(texts)} different texts of {ROWS} rows")
    print(f"resident MB {', '.join(f'{size:.0f}' for size in seen.memory)}")
    assert len(texts) > ROWS // 2
    assert min(seen.count[kind] for kind in ("chat", "label", "pair", "text", "left")) > 0
    assert seen.count["parted"] <= NEAR_TIES * seen.count["written"]
    assert seen.memory[-1] - seen.memory[0] < GROWTH_MB
