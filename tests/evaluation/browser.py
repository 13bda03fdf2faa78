"""A real headless Chromium over the DevTools protocol's pipe: the standard library is enough.

    python tests/evaluation/browser.py work/report.html benchmarks/report.png

opens a page as the tests do, fails on console errors, and saves what it looks like.
"""

from __future__ import annotations

import argparse
import base64
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


class BrowserError(RuntimeError):
    """Chromium is missing, has ended, or does not answer; or the page's JavaScript raised."""


class Browser:
    """One Chromium; ``with Browser() as browser: browser.open(path)`` gives a page.

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
                ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *command], bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (BrowserError, OSError, subprocess.TimeoutExpired):
            pass  # it is ended below, whatever state it is in
        finally:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: nobody else's process
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._profile.cleanup()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[self._process.stdin.write(data):]
        while True:
            answer = self._receive(method)
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path: str | os.PathLike, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """Load a local file and wait until it has loaded."""
        return Page(self, Path(path), width=width, height=height, dark=dark)

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
    """A tab with one local file."""

    def __init__(self, browser: Browser, path: Path, *, width: int, height: int, dark: bool):
        self._browser, self.width = browser, width
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        self._resize(height)
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
            raise BrowserError(f"{expression}: {_text(problem)}")
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 30.0) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > until:
                raise BrowserError(f"not true within {seconds:.0f} s: {condition}; console: {self.problems()}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key as a user does: "Space", "ArrowLeft", "ArrowRight", "Tab"."""
        text = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32} if key == "Space" else {
            "key": key, "code": key, "windowsVirtualKeyCode": {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}[key]}
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, **text)

    def point_at(self, selector: str) -> None:
        """Scroll the first match into view and move the mouse to its middle."""
        x, y = self.evaluate(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2]; }})()""")
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def problems(self) -> list[str]:
        """Every console message, exception, log entry and failed request so far."""
        self._send("Runtime.evaluate", expression="0")  # what was on its way has now come
        problems = []
        for event in self._mine():
            method, what = event["method"], event["params"]
            if method == "Runtime.consoleAPICalled":
                problems.append(f"{what['type']}: " + " ".join(str(a.get("value", a)) for a in what["args"]))
            elif method == "Runtime.exceptionThrown":
                problems.append(f"exception: {_text(what['exceptionDetails'])}")
            elif method == "Log.entryAdded":
                problems.append(f"{what['entry']['level']}: {what['entry']['text']}")
            elif method == "Network.loadingFailed" and not what.get("canceled"):
                problems.append(f"request: {what['errorText']}")
        return problems

    def requests(self) -> list[str]:
        """The addresses that the page asked for; of a data: address only its type."""
        urls = [event["params"]["request"]["url"] for event in self._mine()
                if event["method"] == "Network.requestWillBeSent"]
        return [url.split(",")[0] if url.startswith("data:") else url for url in urls]

    def screenshot(self, path: str | os.PathLike, *, height: int | None = None, colours: int = 256) -> None:
        """Save the page's first ``height`` pixels, or all of it, as a PNG with a palette."""
        from PIL import Image

        whole = int(self.evaluate("document.documentElement.scrollHeight"))
        self._resize(min(height or whole, whole))
        time.sleep(0.5)  # the videos' frames are drawn anew
        data = base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)

    def _resize(self, height: int) -> None:
        self._send("Emulation.setDeviceMetricsOverride", width=self.width, height=height, deviceScaleFactor=1,
                   mobile=False)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def _mine(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]


def _text(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path, help="a PNG, 1280 pixels wide")
    parser.add_argument("--height", type=int, help="cut off below this")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with Browser() as browser:
        page = browser.open(arguments.page, dark=arguments.dark)
        page.wait("[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
        page.screenshot(arguments.picture, height=arguments.height)
        if problems := page.problems():
            parser.exit(1, "\n".join(problems) + "\n")


if __name__ == "__main__":
    main()
