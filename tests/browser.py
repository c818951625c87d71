"""Chromium without a window, driven by its own protocol through a pipe: no port, no driver.

with Browser(tmp_path) as browser:
    page = browser.open(path_or_url, width=400, dark=True)
    assert page.complaints == []
    page.click("#query")
    page.type("words")
    page.press("Enter")
    page.until("document.querySelector('.answer') !== null")
    page.evaluate("document.title")
    page.screenshot(tmp_path / "page.png")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "needs Chromium; on Debian and Ubuntu: apt-get install --no-install-recommends chromium"
_PATIENCE = 120.0
"""Seconds that Chromium may be silent."""
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_KEYS = {
    "Backspace": (8, ""),
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}
"""Codes, and what is typed, of keys that are no signs."""
# Chromium reads commands from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """Return the path of Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A Chromium for as long as it is entered.

    Args:
        folder: where it keeps its profile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "chromium"
        self._numbers = itertools.count(1)
        self._unread = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        binary = chromium()
        assert binary is not None, MISSING
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        starter = (sys.executable, "-c", _START, str(their_in), str(their_out))
        command = [*starter, binary, *_FLAGS, f"--user-data-dir={self._folder}"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(their_in, their_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_in)
        os.close(their_out)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It may be gone already, and then nobody reads this.
        with contextlib.suppress(OSError):
            self._send("Browser.close", {}, None)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(
        self, what: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Page:
        """Open a file or a URL in a new tab of this size, and return when it is there."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", {"features": [scheme]})
        # A tab that nobody looks at has no focus, hence no keys.
        page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        url = what.as_uri() if isinstance(what, Path) else what
        page.call("Page.setLifecycleEventsEnabled", {"enabled": True})
        begun = page.call("Page.navigate", {"url": url})
        assert "errorText" not in begun, f"{url}: {begun['errorText']}"
        # The empty tab is loaded too.
        while not any(_loaded(event, begun["loaderId"]) for event in page.events):
            self._events.append(self._receive())
        return page

    def call(self, method: str, values: dict[str, Any], session: str | None = None) -> Any:
        """Send a command and return its result."""
        number = self._send(method, values, session)
        while (message := self._receive()).get("id") != number:
            self._events.append(message)
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def events(self, session: str) -> list[dict[str, Any]]:
        """Return what a tab told so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _send(self, method: str, values: dict[str, Any], session: str | None) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return number

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], _PATIENCE)
            read = os.read(self._in, 1 << 20) if ready else b""
            assert read, "expected an answer of Chromium, found that it hangs or has died"
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


class Page:
    """A tab of a `Browser`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the tab told so far."""
        return self._browser.events(self._session)

    @property
    def complaints(self) -> list[str]:
        """Warnings and errors of the console, uncaught exceptions among them."""
        # What was told before this question is told before its answer.
        self.evaluate("0")
        return [told for event in self.events if (told := _complaint(event))]

    @property
    def requests(self) -> list[str]:
        """The URLs that the page asked for, the page itself among them."""
        asked = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in asked]

    def call(self, method: str, values: dict[str, Any] | None = None) -> Any:
        """Send a command and return its result."""
        return self._browser.call(method, values or {}, self._session)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, as JSON has it."""
        found = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True})
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a JavaScript expression, or what it promises, is true."""
        looks = (
            f"(async () => {{ while (!(await ({script})))"
            " await new Promise(done => setTimeout(done, 5)); })()"
        )
        asked = {"expression": looks, "awaitPromise": True}
        found = self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]

    def type(self, text: str) -> None:
        """Press the keys of a text, one after the other, wherever the focus is."""
        for sign in text:
            self.press(sign)

    def press(self, key: str, *, times: int = 1) -> None:
        """Press a key, by its name in JavaScript: `a`, `Enter`, `ArrowDown`, ..."""
        code, text = _KEYS.get(key, (0, key))
        pressed = {"key": key, "windowsVirtualKeyCode": code}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **pressed})
            self.call("Input.dispatchKeyEvent", {"type": "keyUp", **pressed})

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        x, y = self.evaluate(
            f"""(() => {{
                const one = document.querySelector({json.dumps(selector)});
                one.scrollIntoView({{block: 'nearest'}});
                const box = one.getBoundingClientRect();
                return [box.left + box.width / 2, box.top + box.height / 2];
            }})()"""
        )
        event = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, **event})

    def screenshot(self, path: Path, *, height: float | None = None) -> None:
        """Write a PNG of the page, beyond the window too; of all of it, or its first pixels."""
        asked: dict[str, Any] = {"captureBeyondViewport": True}
        if height is not None:
            width = self.evaluate("innerWidth")
            asked["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self.call("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(found["data"]))


def luminance(color: str) -> float:
    """Return the relative luminance of `rgb(...)`, as WCAG defines it."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return how far two colours are apart, from 1 to 21, as WCAG defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def color(page: Page, selector: str, kind: str = "color") -> str:
    """Return a colour of the first such element, as `rgb(...)`."""
    found = page.evaluate(f"getComputedStyle(document.querySelector('{selector}'))['{kind}']")
    assert isinstance(found, str)
    return found


def _loaded(event: dict[str, Any], loader: str) -> bool:
    if event["method"] != "Page.lifecycleEvent":
        return False
    return (event["params"]["loaderId"], event["params"]["name"]) == (loader, "load")


def _complaint(event: dict[str, Any]) -> str | None:
    method, params = event["method"], event["params"]
    if method == "Runtime.exceptionThrown":
        return str(params["exceptionDetails"])
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return str(params["args"])
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return str(params["entry"]["text"])
    return None
