"""A real headless Chromium over the DevTools protocol's pipe: the standard library is enough.

    python tests/evaluation/browser.py work/report.html benchmarks/report.png

opens a page as the tests do, fails on console errors, and saves what it looks like.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

INSTALL = ("no chromium on the PATH, and the report is tested in a real one. Install it: "
           "apt-get update && apt-get install -y --no-install-recommends chromium")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
         "--disable-dev-shm-usage", "--disable-breakpad", "--mute-audio", "--hide-scrollbars",
         "--force-color-profile=srgb", "--remote-debugging-pipe")
KEYS = {"Space": (" ", 32), "ArrowLeft": ("ArrowLeft", 37), "ArrowRight": ("ArrowRight", 39)}


class BrowserError(RuntimeError):
    """Chromium is missing, has ended, or does not answer; or the page's JavaScript raised."""


class Browser(contextlib.AbstractContextManager):
    """One Chromium; ``with Browser() as browser: Page(browser, path)`` gives a page.

    Chromium reads commands from descriptor 3 and writes answers to 4, each JSON with a zero byte behind it.
    """

    def __init__(self, *, timeout: float = 60.0):
        program = shutil.which("chromium")
        if program is None:
            raise BrowserError(INSTALL)
        self.timeout, self._sent, self._buffer, self.events = timeout, 0, b"", []
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._log = Path(self._profile.name, "stderr.txt")
        command = [program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        # A shell moves our pipes to 3 and 4: Popen itself only sets 0, 1 and 2.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def __exit__(self, *_: object) -> None:
        with self._profile, self._process:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: nobody else's process

    def send(self, method: str, *, session: dict[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters} | (session or {})
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._receive(method)).get("id") != self._sent:
            self.events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, method: str) -> dict[str, Any]:
        until = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                state = "ended" if ready else f"did not answer {method} in {self.timeout:.0f} s"
                raise BrowserError(f"chromium {state}: {self._log.read_text(errors='replace')[-2000:]}")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A tab with one local file, once it has loaded; 1280 pixels wide."""

    def __init__(self, browser: Browser, path: Path, *, dark: bool = False):
        self._browser = browser
        self._target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=self._target, flatten=True)  # {"sessionId": ...}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        self._resize(900)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])
        if problem := self._send("Page.navigate", url=path.resolve().as_uri()).get("errorText"):
            raise BrowserError(f"{path}: {problem}")
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def close(self) -> None:
        """Close the tab: one in the background draws nothing, so have one at a time."""
        self._browser.send("Target.closeTarget", targetId=self._target)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
                            userGesture=False)
        if problem := answer.get("exceptionDetails"):
            raise BrowserError(f"{expression}: {problem}")
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click the first match, without a gesture of a user."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def wait(self, condition: str, *, seconds: float = 30.0) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > until:
                raise BrowserError(f"not true within {seconds:.0f} s: {condition}; console: {self.problems()}")
            time.sleep(0.05)

    def press(self, code: str) -> None:
        """Press a key as a user does."""
        key, number = KEYS[code]
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number)

    def point_at(self, selector: str) -> None:
        """Scroll the first match into view and move the mouse to its middle."""
        x, y = self.evaluate(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2]; }})()""")
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def problems(self) -> list[str]:
        """Every console message, exception, log entry and failed request so far."""
        self._send("Runtime.evaluate", expression="0")  # what was on its way has now come
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [json.dumps(parameters) for kind in kinds for parameters in self._events(kind)
                if not parameters.get("canceled")]

    def requests(self) -> list[str]:
        """The addresses that the page asked for; of a data: address only its type."""
        urls = [parameters["request"]["url"] for parameters in self._events("Network.requestWillBeSent")]
        return [url.split(",")[0] if url.startswith("data:") else url for url in urls]

    def screenshot(self, path: str | os.PathLike, *, height: int | None = None) -> None:
        """Save the page's first ``height`` pixels, or all of it, as a PNG with a palette."""
        from PIL import Image

        whole = int(self.evaluate("document.documentElement.scrollHeight"))
        self._resize(min(height or whole, whole))
        time.sleep(0.5)  # the videos' frames are drawn anew
        data = base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)

    def _resize(self, height: int) -> None:
        self._send("Emulation.setDeviceMetricsOverride", width=1280, height=height, deviceScaleFactor=1, mobile=False)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, session=self._session, **parameters)

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._browser.events
                if event.get("sessionId") == self._session["sessionId"] and event["method"] == method]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path, help="a PNG, 1280 pixels wide")
    parser.add_argument("--height", type=int, help="cut off below this")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with Browser() as browser:
        page = Page(browser, arguments.page, dark=arguments.dark)
        page.wait("[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
        page.screenshot(arguments.picture, height=arguments.height)
        if problems := page.problems():
            parser.exit(1, "\n".join(problems) + "\n")


if __name__ == "__main__":
    main()
