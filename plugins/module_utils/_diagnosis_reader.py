# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a diagnosis reads a host: files below a root, commands with time-outs, requests that no proxy sees.

Nothing here changes anything.
"""

from __future__ import annotations

import glob
import http.client
import json
import os
import re
import socket
import ssl
import time
import typing as t
import urllib.parse

from ansible_collections.onprem.llm.plugins.module_utils import _rooted
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, run_bounded
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import Unreadable

MAX_BYTES = 16 * 2**20
# As the commands answer where there is none, and where one does not answer in time (coreutils' timeout).
NO_COMMAND, TIMED_OUT = 127, 124


class Answer(t.NamedTuple):
    """What a command, or a request, came to. ``status`` is an exit status, or that of HTTP."""

    status: int
    out: str
    err: str = ""

    @property
    def line(self) -> str:
        """The last line that says something, standard error first."""
        lines = [line.strip() for line in (self.out + "\n" + self.err).splitlines() if line.strip()]
        return lines[-1][:400] if lines else "no output"


class Host:
    """One host.

    :arg root: the directory below which files are read, of /proc and /sys, too. Commands are the host's own.
    :arg timeout: seconds that each command and each request has.
    """

    def __init__(self, root: str = "/", timeout: float = 20) -> None:
        self.root, self.timeout = root, timeout
        self._kept: dict[t.Any, t.Any] = {}

    def path(self, path: str) -> str:
        """Where a path of the host lies, links resolved below the root."""
        return _rooted.below(self.root, path)

    def read(self, path: str) -> str | None:
        """A text file, at most its first 16 MiB; None where it cannot be read."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as stream:
                return stream.read(MAX_BYTES)
        except OSError:
            return None

    def json(self, path: str) -> t.Any:
        """A JSON file; None where it is not there.

        :raises Unreadable: it is no JSON.
        """
        text = self.read(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise Unreadable(f"{path} is no JSON: {error}") from error

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def glob(self, pattern: str) -> list[str]:
        """Paths as the host names them; the pattern is in the last part."""
        directory, name = os.path.split(pattern)
        place = self.path(directory)
        return sorted(
            os.path.join(directory, os.path.basename(found)) for found in glob.glob(os.path.join(place, name))
        )

    @property
    def now(self) -> float:
        """Seconds since 1970 by the kernel's clock: its time of boot and what passed since (proc_stat(5))."""
        boot = re.search(r"(?m)^btime (\d+)", self.read("/proc/stat") or "")
        uptime = (self.read("/proc/uptime") or "").split()
        # The time of boot is cut to whole seconds, so the kernel's own word is taken where both agree.
        counted = int(boot[1]) + float(uptime[0]) if boot and uptime else time.time()
        return time.time() if abs(counted - time.time()) < 2 else counted

    def run(self, *argv: str, timeout: float | None = None) -> Answer:
        """A command, in English. One that is not there or does not end answers as a shell would say it."""
        key = ("run", argv)
        if key not in self._kept:
            environment = os.environ.get("PATH", "")
            try:
                # A login by SSH may lack the directories of administrators.
                os.environ["PATH"] = environment + ":/usr/local/sbin:/usr/sbin:/sbin"
                self._kept[key] = Answer(*run_bounded(argv, timeout or self.timeout))
            except NotAnswering as error:
                self._kept[key] = Answer(TIMED_OUT, "", f"{argv[0]}: {error}")
            except OSError as error:
                self._kept[key] = Answer(NO_COMMAND, "", f"{argv[0]}: {error.strerror or error}")
            finally:
                os.environ["PATH"] = environment
        return t.cast(Answer, self._kept[key])

    def once(self, key: t.Any, find: t.Callable[[], t.Any]) -> t.Any:
        """What ``find`` gives, asked for once."""
        if key not in self._kept:
            self._kept[key] = find()
        return self._kept[key]

    def unit(self, name: str) -> dict[str, str]:
        """State of a systemd unit; nothing where systemd does not answer."""
        properties = "--property=LoadState,ActiveState,SubState,Result,UnitFileState"
        answer = self.run("systemctl", "show", properties, name)
        return dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)

    def ask(
        self,
        url: str,
        body: t.Mapping[str, t.Any] | None = None,
        headers: t.Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        timeout: float | None = None,
        arrivals: list[float] | None = None,
    ) -> Answer:
        """One request; the time is for the whole answer. Status 0 where there is no answer, and why.

        :arg arrivals: takes the time of each read of the body, in seconds, for whoever asks whether it is streamed.
        """
        parts = urllib.parse.urlsplit(url)
        limit = timeout or self.timeout
        end = time.monotonic() + limit
        secure = parts.scheme == "https"
        kind: t.Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        more = {"context": context or unverified()} if secure else {}
        connection = kind(parts.hostname, parts.port, timeout=limit, **more)
        try:
            data = None if body is None else json.dumps(body).encode()
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request("GET" if data is None else "POST", parts.path or "/", body=data, headers=given)
            response = connection.getresponse()
            chunks: list[bytes] = []
            while sum(map(len, chunks)) < MAX_BYTES:
                if time.monotonic() > end:
                    return Answer(0, "", f"no whole answer within {limit:g} s")
                chunk = response.read1(65536)
                if not chunk:
                    break
                chunks.append(chunk)
                if arrivals is not None:
                    arrivals.append(time.monotonic())
            return Answer(response.status, b"".join(chunks).decode("utf-8", "replace"))
        except socket.timeout:
            return Answer(0, "", f"no answer within {limit:g} s")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, "", getattr(error, "strerror", None) or str(error) or type(error).__name__)
        finally:
            connection.close()


def unverified() -> ssl.SSLContext:
    """For what is asked by address; the certificates have a rung of their own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
