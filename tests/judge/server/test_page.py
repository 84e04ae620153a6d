"""The page at `/` in a real browser: Chromium without a window, spoken to over a pipe (Chrome's DevTools protocol)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.inference.base import Request
from recipe.judge.server.app import PAGE
from recipe.judge.server.guard import Settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 30
FORGED = "<img src=x onerror=alert(1)><script>alert(2)</script>"
# Puts the pipe's ends where Chromium looks for them (3 and 4), whatever numbers they came with.
LAUNCH = (
    "import fcntl, os, sys; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]);"
    "os.dup2(a, 3); os.dup2(b, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One tab."""

    def __init__(self, profile: Path) -> None:
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        command = [str(CHROMIUM), *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs), str(back), *command],
            pass_fds=(theirs, back),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._buffer, self._number, self._session = b"", 0, ""
        self.log: list[str] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self._number:
            if reply.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                self.log.append(json.dumps(reply["params"]))
        assert "error" not in reply, reply
        return dict(reply["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], WAIT)
            part = os.read(self._from, 65536) if ready else b""
            assert part, "the browser went away"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def run(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        end = time.monotonic() + WAIT
        while not self.run(condition):
            assert time.monotonic() < end, (
                f"{condition} never came true; the page: {self.run('document.body.innerText')}"
            )
            time.sleep(0.02)

    def open(self, address: str) -> None:
        self.log.clear()
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && document.querySelectorAll('#rubric option').length > 1")

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def screenshot(self, file: Path) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self.call("Browser.close")
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


def script(request: Request) -> list[str]:
    """A long reason for the place that holds the pear; the markup must show as text."""
    text = request.messages[-1].content
    if len(request.labels) == 5:
        reason = f"One item is a fruit and the other is not, so half of what was asked is there. {FORGED}"
        return [f"{reason} [RESULT] {label}" for label in (3, 4, 3)]
    label = 1 if text.index("pear") < text.index("brick") else 2
    return [f"Response {label} names two fruits, the other one names a brick. [RESULT] {label}"]


@pytest.fixture(scope="module")
def server(running: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    with running(script, pace=0.01) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    browser.size(1200, 900)
    yield browser
    browser.close()


def fill(browser: Browser, task: str = "score") -> None:
    browser.run(
        f"""document.querySelector("input[value={task}]").click();
        $("conversation").value = "Name two fruits."; $("criteria").value = "Are both fruits?";
        $("a").value = "pear and plum"; $("b").value = "brick and plum";"""
    )


def bars(browser: Browser, card: int) -> list[list[str]]:
    return browser.run(  # type: ignore[no-any-return]
        f"""[...document.querySelectorAll("#result article")[{card}].querySelectorAll(".bars li")]
        .map(row => [row.children[0].textContent, row.children[2].textContent])"""
    )


def test_the_rationale_streams_in_and_the_label_distribution_is_drawn(
    browser: Browser, server: tuple[str, Any]
) -> None:
    browser.open(server[0])
    fill(browser)
    browser.run("$('go').click()")
    browser.until("document.querySelector('.writing .rationale')?.textContent.startsWith('One item')")
    partial = browser.run("document.querySelector('.rationale').textContent")
    browser.until("$('status').textContent === 'Done.'")
    whole = browser.run("document.querySelector('.rationale').textContent")
    assert whole.startswith(partial)
    assert len(partial) < len(whole)
    assert "[RESULT" not in partial + whole
    assert browser.run("document.querySelector('.verdict').textContent") == "Score 3"
    assert bars(browser, 0) == [["1", "5.0%"], ["2", "5.0%"], ["3", "80%"], ["4", "5.0%"], ["5", "5.0%"]]
    browser.until("document.querySelector('.top .fill').style.width === '80%'")
    widths = browser.run("[...document.querySelectorAll('.fill')].map(bar => bar.getBoundingClientRect().width)")
    assert max(widths) == widths[2] > 0


def test_what_the_model_writes_is_text_and_never_markup(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    fill(browser)
    browser.run("$('go').click()")
    browser.until("$('status').textContent === 'Done.'")
    assert FORGED in browser.run("document.querySelector('.rationale').textContent")
    assert browser.run("document.querySelectorAll('#result img, #result script').length") == 0
    assert browser.log == []


def test_both_orders_are_shown_and_named_by_the_responses(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    fill(browser, "compare")
    browser.run("$('go').click()")
    browser.until("$('status').textContent === 'Done.'")
    assert browser.run("document.querySelector('.verdict').textContent") == "A is better"
    assert browser.run("document.querySelector('.agree').textContent") == "Both orders agree."
    for card in range(3):
        assert bars(browser, card) == [["Response A", "80%"], ["Response B", "20%"]]
    titles = browser.run("[...document.querySelectorAll('#result h2')].map(each => each.textContent)")
    assert titles == ["scripted", "A shown first, as Response 1", "B shown first, as Response 1"]


def test_the_swap_button_exchanges_the_responses(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    fill(browser, "compare")
    browser.run("$('swap').click(); $('both').checked = false; $('go').click()")
    browser.until("$('status').textContent === 'Done.'")
    assert browser.run("[$('a').value, $('b').value]") == ["brick and plum", "pear and plum"]
    assert browser.run("document.querySelector('.verdict').textContent") == "B is better"


def test_a_ready_rubric_fills_the_criteria_and_the_scale(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    browser.run("$('rubric').value = 'conciseness'; $('rubric').dispatchEvent(new Event('change'))")
    assert browser.run("$('criteria').value.length") > 20
    assert browser.run("$('score-5').value.length") > 5
    fill(browser)
    browser.run("$('samples').value = 3; $('go').click()")
    browser.until("$('status').textContent === 'Done.'")
    assert browser.run("document.querySelectorAll('.rationale').length") == 3
    assert "votes 3: 2, 4: 1" in browser.run("document.querySelector('#result').innerText")


def test_turns_are_read_from_what_was_pasted(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    browser.run("$('conversation').value = 'User: Hi\\nthere\\nASSISTANT: Hello\\n\\nuser:Fruit?'")
    assert browser.run("turns()") == [
        {"role": "user", "content": "Hi\nthere"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Fruit?"},
    ]


def test_stop_frees_the_place_on_the_server(browser: Browser, running: Callable[..., Any], until: Any) -> None:
    with running(script, pace=0.2) as (address, app):
        browser.open(address)
        fill(browser)
        browser.run("$('go').click()")
        browser.until("document.querySelector('.rationale')?.textContent.length > 3")
        assert app.state.service.unfinished == 1
        browser.run("$('stop').click()")
        browser.until("$('status').textContent === 'Stopped.' && !$('go').disabled")
        until(lambda: app.state.service.unfinished == 0)


def test_it_works_from_the_keyboard_and_says_what_is_wrong(browser: Browser, server: tuple[str, Any]) -> None:
    browser.open(server[0])
    fill(browser)
    browser.run("$('tokens').value = 9; $('score-1').value = 'only one'; $('criteria').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", modifiers=2)
    browser.until("$('status').className === 'error'")
    assert "rubric" in browser.run("$('status').textContent")
    unnamed = """[...document.querySelectorAll("input, select, textarea")].filter(each => !each.labels.length).length"""
    assert browser.run(unnamed) == 0


def test_a_server_with_a_key_asks_for_it(browser: Browser, running: Callable[..., Any]) -> None:
    with running(script, Settings(api_key="open-sesame")) as (address, _):
        browser.call("Page.navigate", url=address)
        browser.until("document.readyState === 'complete' && !!document.getElementById('go')")
        fill(browser)
        browser.run("$('go').click()")
        browser.until("document.activeElement === $('key') && $('status').className === 'error'")
        browser.run("$('key').value = 'open-sesame'; $('go').click()")
        browser.until("$('status').textContent === 'Done.'")


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(browser: Browser, server: tuple[str, Any], width: int) -> None:
    browser.size(width, 800)
    browser.open(server[0])
    fill(browser, "compare")
    browser.run("$('go').click()")
    browser.until("$('status').textContent === 'Done.'")
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.size(1200, 900)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text
