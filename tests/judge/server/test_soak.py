"""A minute of many clients at once, one in ten requests hostile: no crossed reply, nothing left behind, no memory that
grows."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

CLIENTS = 64
SECONDS = 60
WARM_UP = 15
GROWTH_MB = 15


def resident_mb() -> float:
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


async def call(client: httpx.AsyncClient, mark: str, kind: int) -> None:
    """One request of one of four kinds; the reply must be about its own mark."""
    body: dict[str, Any] = {"conversation": f"Say {mark} now", "rubric": "Is it said?"}
    if kind == 0:
        reply = await post(client, "/v1/judge/score", {**body, "response": "x" * 2000})
        assert reply.json()["rationale"] == f"I saw {mark}."
    elif kind == 1:
        pair = {**body, "response_a": "x", "response_b": "y", "swap": True, "stream": True}
        reply = await post(client, "/v1/judge/compare", pair)
        result = json.loads(reply.text.strip().rpartition("data: ")[2])
        assert [part["rationale"] for part in result["judgements"]] == [f"I saw {mark}."] * 2
    elif kind == 2:
        turns = [{"role": "user", "content": mark}]
        reply = await post(client, "/v1/chat/completions", {"model": "scripted", "messages": turns})
        assert reply.json()["choices"][0]["message"]["content"] == f"I saw {mark}. [RESULT] 1"
    else:  # goes away in the middle
        endless = {**body, "conversation": "forever", "response": "x", "max_tokens": 2000, "stream": True}
        async with client.stream("POST", "/v1/judge/score", json=endless) as response:
            assert response.status_code == 200
            await anext(response.aiter_text())


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/judge/score", {"content": b"[" * 5000}),
    ("/v1/judge/score", {"content": b"x" * 1_100_000}),
    ("/v1/judge/score", {"json": {"conversation": "hi", "response": "x", "rubric": "helpfulnes"}}),
    ("/v1/judge/compare", {"json": {"conversation": [{"role": "robot", "content": 1}]}}),
    ("/v1/chat/completions", {"json": {"model": "scripted", "messages": [], "n": -1}}),
    ("/v1/chat/completions", {"json": {"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}}),
    ("/v1/completions", {"json": {"model": "scripted", "prompt": [["x"]], "echo": True}}),
    ("/v1/judge/score", {"json": {}, "headers": {"Origin": "https://evil.example"}}),
    ("/v1/judge/score", {"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}),
    ("/nowhere", {"json": {}}),
]


async def attack(client: httpx.AsyncClient, draw: random.Random) -> None:
    """One hostile request; only an answer of 4xx may come of it."""
    path, sent = draw.choice(HOSTILE)
    response = await client.post(path, **sent)
    assert 400 <= response.status_code < 500, (path, response.status_code)


async def soak(address: str, seen: list[Any], counts: list[int], memory: list[float]) -> None:
    end, draw = time.monotonic() + SECONDS, random.Random(3)

    async def one(number: int) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=SECONDS) as client:
            while time.monotonic() < end:
                if draw.random() < 0.1:
                    await attack(client, draw)
                else:
                    await call(client, f"mark-{number}-{counts[number]}", draw.randrange(4))
                counts[number] += 1

    async def watch() -> None:
        await asyncio.sleep(WARM_UP)
        while time.monotonic() < end:
            seen.clear()  # the scripted engine's own memory of all requests
            memory.append(resident_mb())
            await asyncio.sleep(5)

    await asyncio.gather(watch(), *map(one, range(CLIENTS)))


@pytest.mark.slow
def test_a_minute_of_64_clients_crosses_no_reply_and_keeps_memory_flat(
    running: Callable[..., Any], echo: Any, until: Any
) -> None:
    counts, memory = [0] * CLIENTS, list[float]()
    with running(echo, queue=4 * CLIENTS, pace=0.001) as (address, app):
        asyncio.run(soak(address, app.state.service.owner.generator.seen, counts, memory))
        until(lambda: app.state.service.unfinished == 0)
        assert app.state.service.healthy
    print(f"{sum(counts)} replies; resident MB {', '.join(f'{size:.0f}' for size in memory)}")
    assert min(counts) > 0
    assert memory[-1] - memory[0] < GROWTH_MB
