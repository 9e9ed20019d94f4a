"""A headless Chromium that tests drive by its own protocol, over two pipes and nothing else."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BECOME = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])"
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds for what a page does to be seen: busy machines are slow."""


def find_chromium() -> str | None:
    """Return the browser's program: `PREFREG_CHROMIUM`, or one on the path."""
    named = os.environ.get("PREFREG_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser. What a script throws is raised here."""

    def __init__(self, process: "subprocess.Popen[bytes]", to: int, back: int) -> None:
        """Talk to a browser over its pipes, and open a tab."""
        self._process, self._to, self._back = process, to, back
        self._read, self._last = b"", 0
        self._tab: str | None = None
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page complained of: exceptions, and what its policy refused."""
        rights = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self._send("Browser.grantPermissions", permissions=rights)
        self.renew()

    def renew(self) -> None:
        """Go on in a new tab, which knows nothing of the one before."""
        before, self._session = self._tab, None
        self._tab = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=self._tab, flatten=True)
        if before is not None:
            self._send("Target.closeTarget", targetId=before)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")
        self.errors = []

    def open(self, address: str) -> None:
        """Load a page afresh, and wait until it is there."""
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def reload(self) -> None:
        """Load the page again."""
        self.run("window.isOld = true")
        self._send("Page.reload")
        self.wait("!window.isOld && document.readyState === 'complete'")

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the window a size, and the scheme of its colours."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """Return what an expression gives, waiting for it if it is a promise."""
        found = self._send(
            "Runtime.evaluate",
            expression=script, awaitPromise=True, returnByValue=True, userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def wait(self, condition: str, patience: float = PATIENCE) -> Any:
        """Wait until what an expression gives is true in Python, and return it."""
        until = time.monotonic() + patience
        while True:
            try:
                if found := self.run(condition):
                    return found
            except AssertionError as error:
                if "context" not in str(error) and time.monotonic() > until:
                    raise
            if time.monotonic() > until:
                raise AssertionError(f"This never became true: {condition}")
            time.sleep(0.03)

    def click(self, selector: str) -> None:
        """Press a mouse button in the middle of an element."""
        place = self.run(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            "it.scrollIntoView({block: 'nearest'}); const at = it.getBoundingClientRect();"
            "return [at.x + at.width / 2, at.y + at.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._send(
                "Input.dispatchMouseEvent",
                type=kind, x=place[0], y=place[1], button="left", clickCount=1,
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self._send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, by its name in the DOM."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" and not shift else {}
        common: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        common["modifiers"] = 8 if shift else 0
        self._send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._send("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: Path) -> None:
        """Save what is to be seen as PNG."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot")["data"]))

    def accessibles(self) -> list[dict[str, Any]]:
        """Return what a screen reader is told: role, name and properties of each thing."""
        nodes = self._send("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": each.get("role", {}).get("value"),
                "name": each.get("name", {}).get("value", ""),
                "description": each.get("description", {}).get("value", ""),
            }
            for each in nodes
            if not each["ignored"]
        ]

    def _send(self, method: str, **params: Any) -> Any:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description", details)))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif event.get("method") == "Page.javascriptDialogOpening":
            self.errors.append(f"The page opened a dialog: {params['message']}")

    def _receive(self) -> Any:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            if not select.select([self._back], [], [], max(0, until - time.monotonic()))[0]:
                raise AssertionError("The browser does not answer.")
            part = os.read(self._back, 1 << 16)
            if not part:
                raise AssertionError("The browser has ended.")
            self._read += part
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)


@contextmanager
def browsing(program: str, folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own in a folder, and end it."""
    there, to = os.pipe()
    back, here = os.pipe()
    # The browser reads from 3 and writes to 4; what is put there must not be in its own way.
    ends = [fcntl.fcntl(each, fcntl.F_DUPFD, 16) for each in (there, here)]
    process = subprocess.Popen(
        [
            sys.executable, "-c", _BECOME, *map(str, ends), program,
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--hide-scrollbars", "--force-color-profile=srgb",
            f"--user-data-dir={folder}",
        ],
        pass_fds=ends, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in (there, here, *ends):
        os.close(each)
    try:
        yield Browser(process, to, back)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it may take half a minute
        process.wait()
        os.close(to)
        os.close(back)
