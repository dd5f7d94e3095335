# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kept_packages and kept_packages_info on a host whose apt and dpkg are programs of this test. With apt itself:
`python -m tests.upgrade docker_back docker_moved`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _kept_packages
from ansible_collections.onprem.llm.plugins.modules import kept_packages

Run = Callable[..., dict[str, Any]]
MOVES = [
    {"name": "docker.io", "old": "26.1.5", "new": "28.5.2", "kept": True},
    {"name": "tini", "old": "0.19.0", "new": "", "kept": True},
    {"name": "tini-static", "old": "", "new": "0.19.1", "kept": True},
]
SIMULATED = """Inst docker.io [26.1.5] (28.5.2 Debian:testing [amd64])
Remv tini [0.19.0] []
Inst tini-static (0.19.1 Debian:testing [amd64])
"""
PROGRAM = """#!{python}
import json, pathlib, sys
place = pathlib.Path({place!r})
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (place / "calls").open("a") as calls:
    print(name, *arguments, file=calls)
there = json.loads((place / "there").read_text())
if name == "dpkg-query":
    for package in arguments[2:]:
        if package in there:
            print(package, there[package], "amd64", "installed", sep="\\t")
elif name == "apt-mark" and arguments[0].startswith("show"):
    print("docker.io")
elif "--print-uris" in arguments:
    if "gone" in (place / "mode").read_text():
        sys.exit(100)
    print("http://x/y.deb")
elif "download" in arguments:
    if "gone" in (place / "mode").read_text():
        sys.exit(100)
    package, version = arguments[-1].split("=")
    pathlib.Path(package + "_" + version + "_amd64.deb").write_text("x")
elif "update" in arguments:
    if "offline" in (place / "mode").read_text():
        print("W: Failed to fetch http://x  Could not connect", file=sys.stderr)
elif "--simulate" in arguments:
    if "broken" in (place / "mode").read_text():
        print("E: Unable to correct problems, you have held broken packages.", file=sys.stderr)
        sys.exit(100)
    print({simulated!r}, end="")
elif "install" in arguments and "--download-only" not in arguments:
    if (place / "policy-rc.d").exists():
        print("no service may start", file=(place / "calls").open("a"))
    for given in arguments[arguments.index("install") + 1:]:
        if given.endswith("-"):
            del there[given[:-1]]
        else:
            package, version = pathlib.Path(given).name.split("_")[:2]
            there[package] = version
    (place / "there").write_text(json.dumps(there))
"""


class Host:
    def __init__(self, place: Path, run: Run) -> None:
        self.place, self.run = place, run
        (place / "bin").mkdir()
        text = PROGRAM.format(python=sys.executable, place=str(place), simulated=SIMULATED)
        for name in ("apt-get", "apt-mark", "dpkg", "dpkg-query"):
            (place / "bin" / name).write_text(text, encoding="utf-8")
            (place / "bin" / name).chmod(0o755)
        self.mode("")
        self.packages(**{"docker.io": "26.1.5", "tini": "0.19.0"})
        self.daemon.write_text("{}", encoding="utf-8")

    @property
    def daemon(self) -> Path:
        return self.place / "daemon.json"

    def mode(self, text: str) -> None:
        (self.place / "mode").write_text(text, encoding="utf-8")

    def packages(self, **there: str) -> None:
        (self.place / "there").write_text(json.dumps(there), encoding="utf-8")

    @property
    def there(self) -> dict[str, str]:
        return dict(json.loads((self.place / "there").read_text(encoding="utf-8")))

    @property
    def calls(self) -> str:
        return (self.place / "calls").read_text(encoding="utf-8")

    def keep(self, **more: Any) -> dict[str, Any]:
        files = [str(self.daemon), str(self.place / "absent")]
        given = {"packages": {"docker.io": ""}, "moves": MOVES, "files": files, **more}
        return self.run("kept_packages", directory=str(self.place / "kept"), **given)

    def restore(self, **more: Any) -> dict[str, Any]:
        return self.run("kept_packages", state="restored", directory=str(self.place / "kept"), **more)


@pytest.fixture
def host(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.setattr(_kept_packages, "_ARCHIVES", str(tmp_path / "archives"))
    monkeypatch.setattr(kept_packages, "POLICY", str(tmp_path / "policy-rc.d"))
    return Host(tmp_path, run)


def test_what_would_move_is_told(host: Host) -> None:
    found = host.run("kept_packages_info", packages={"docker.io": ""})
    assert (found["moves"], found["fault"], found["lists_fault"]) == (MOVES, "", "")
    assert "--simulate install docker.io" in host.calls


def test_lists_that_are_old_and_what_cannot_be_are_told(host: Host) -> None:
    host.mode("offline broken")
    found = host.run("kept_packages_info", packages={"docker.io": ""})
    assert found["lists_fault"] == "W: Failed to fetch http://x  Could not connect"
    assert found["fault"] == "E: Unable to correct problems, you have held broken packages."


def test_nothing_wanted_asks_nobody(host: Host) -> None:
    assert host.run("kept_packages_info", packages={})["moves"] == []
    assert not (host.place / "calls").exists()


def test_there_and_back(host: Host) -> None:
    assert host.keep(check_mode=True)["changed"]
    assert not (host.place / "kept").exists()
    assert host.keep()["changed"]
    assert not host.keep()["changed"]
    kept = sorted(path.name for path in (host.place / "kept").iterdir())
    assert kept == ["docker.io_26.1.5_amd64.deb", "record.json", "tini_0.19.0_amd64.deb"]
    assert "--download-only install docker.io" in host.calls
    assert not host.restore()["changed"]

    host.packages(**{"docker.io": "28.5.2", "tini-static": "0.19.1"})
    host.daemon.write_text('{"new": 1}', encoding="utf-8")
    (host.place / "absent").write_text("", encoding="utf-8")
    told = host.restore(check_mode=True)
    assert told["changed"]
    assert host.there["docker.io"] == "28.5.2"
    told = host.restore()
    assert told["paths"] == [
        "docker.io 26.1.5", "tini 0.19.0", "tini-static", str(host.place / "absent"), str(host.daemon)
    ]  # fmt: skip
    assert host.there == {"docker.io": "26.1.5", "tini": "0.19.0"}
    assert (host.daemon.read_text(encoding="utf-8"), (host.place / "absent").exists()) == ("{}", False)
    # From the files alone, with the marks as they were.
    assert "Dir::Etc::sourcelist=/dev/null" in host.calls
    assert "apt-mark hold docker.io" in host.calls
    assert "apt-mark auto tini\n" in host.calls
    assert not host.restore()["changed"]


def test_the_cache_has_what_the_repository_has_not(host: Host) -> None:
    host.mode("gone")
    archives = host.place / "archives"
    archives.mkdir()
    (archives / "docker.io_26.1.5_amd64.deb").write_text("y", encoding="utf-8")
    assert host.keep()["lost"] == ["tini 0.19.0"]
    assert (host.place / "kept" / "docker.io_26.1.5_amd64.deb").read_text(encoding="utf-8") == "y"


def test_nothing_kept_is_a_fault(host: Host) -> None:
    assert "no packages are kept" in host.restore()["msg"]


def test_services_are_left_alone_where_that_is_wished(host: Host) -> None:
    host.keep()
    for services, told in ((True, False), (False, True)):
        host.packages(**{"docker.io": "28.5.2", "tini-static": "0.19.1"})
        host.restore(services=services)
        assert ("no service may start" in host.calls, (host.place / "policy-rc.d").exists()) == (told, False)
