"""A real browser for pages: Debian's headless Chromium, unpacked below ``build/cache`` with what this machine lacks of
its libraries, and spoken to by its own protocol over a pipe.

The protocol is that of https://chromedevtools.github.io/devtools-protocol/: JSON messages that end in a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import packages

PACKAGE, FONTS = "chromium-headless-shell", "fonts-dejavu-core"
# One set of fonts, so that a line is as long on every machine.
FONT_SETTINGS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{root}/fontcache</cachedir>
<alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias></fontconfig>
"""


class BrowserError(Exception):
    """The browser did not do what it was told."""


def unpacked() -> Path:
    """The directory that stands for ``/``, with the browser, its libraries and its fonts; fetched once.

    :raises subprocess.CalledProcessError: the packages are not to be had.
    """
    if not (packages.CACHE / PACKAGE).exists():
        packages.know()
        said = subprocess.run(
            ["apt-get", "install", "--simulate", "--no-install-recommends", PACKAGE],
            check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"},
        ).stdout  # fmt: skip
        needed = [name for name in re.findall(r"(?m)^Inst (\S+)", said) if name != PACKAGE]
        packages.unpacked(PACKAGE, FONTS, *needed)
    return packages.unpacked(PACKAGE)


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none of those that the browser takes for itself."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in low)
    for descriptor in low:
        os.close(descriptor)
    return high[0], high[1]


class Browser:
    """One process with one page. Used with ``with``."""

    def __init__(self) -> None:
        root = unpacked()
        self._home = tempfile.TemporaryDirectory(prefix="onprem-llm-browser-")
        fonts = Path(self._home.name) / "fonts.conf"
        fonts.write_text(FONT_SETTINGS.format(root=root), encoding="utf-8")
        libraries = [str(path) for path in root.glob("usr/lib/*-linux-gnu")]
        libraries += [f"{path}/pulseaudio" for path in libraries]
        self._to_read, given_write = _pipe()
        given_read, self._to_write = _pipe()
        program = root / "usr/lib/chromium" / PACKAGE
        # It reads from descriptor 3 and writes to 4.
        command = f'exec {program} "$@" 3<&{given_read} 4>&{given_write}'
        self._log = (Path(self._home.name) / "log").open("w+b")
        self._process = subprocess.Popen(
            [
                "bash", "-c", command, "bash", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                f"--user-data-dir={self._home.name}/profile", "--ignore-certificate-errors", "--disable-dev-shm-usage",
                "--hide-scrollbars", "--force-color-profile=srgb", "--disable-background-networking",
            ],
            pass_fds=(given_read, given_write), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "FONTCONFIG_FILE": str(fonts), "TZ": "UTC"},
        )  # fmt: skip
        os.close(given_read)
        os.close(given_write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for descriptor in (self._to_read, self._to_write):
            os.close(descriptor)
        self._log.close()
        # The kernel may still be ending its children, which write there.
        shutil.rmtree(self._home.name, ignore_errors=True)
        self._home._finalizer.detach()  # type: ignore[attr-defined]

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its answer. Events that come meanwhile are kept.

        :raises BrowserError: the browser refuses it, or is silent.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            answer = self._message(until - time.monotonic())
            if answer is None:
                raise BrowserError(f"no answer to {method}: {self._said()}")
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _message(self, seconds: float) -> dict[str, Any] | None:
        until = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _write, _failed = select.select([self._to_read], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._to_read, 2**20) if ready else b""
            if not data:
                return None
            self._buffer += data
        text, _zero, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")

    def view(
        self, width: int, height: int = 900, dark: bool = False, phone: bool = False, scripts: bool = True
    ) -> None:
        """How the page is looked at. With ``scripts`` off, the page's own do not run; :meth:`evaluate` does."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)

    def headers(self, **given: str) -> None:
        """Headers that every request has."""
        self.send("Network.setExtraHTTPHeaders", headers=given)

    def open(self, url: str, seconds: float = 30) -> None:
        """Load a page to its end; what was seen of earlier ones is forgotten."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        until = time.monotonic() + seconds
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            event = self._message(until - time.monotonic())
            if event is None:
                raise BrowserError(f"{url} was not loaded within {seconds} s")
            self.events.append(event)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page, as JSON has it."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(found["exceptionDetails"].get("exception", {}).get("description", expression))
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What the browser wrote to its console: refused styles, unknown files, faults of the policy."""
        return [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]

    def accessible(self) -> list[dict[str, Any]]:
        """The tree that assistive programs read: role and name of each node that they see."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
            for node in nodes
            if not node.get("ignored") and "role" in node
        ]

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A picture as PNG, of the whole page or of what is seen of it."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
