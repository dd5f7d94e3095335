# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The optional jail: the distribution's fail2ban reads the gateway's own log, and what it would tell UFW."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.template import trust_as_template

from tests.gateway.conftest import Gateway
from tests.gateway.sites import variables
from tests.packages import unpacked
from tests.unit.role_templates import ROLES, evaluated

FILES = {"fail2ban-filter.conf.j2": "filter.d", "fail2ban-jail.conf.j2": "jail.d"}
NAME = "onprem-llm-gateway"


class Fail2ban:
    """An unpacked fail2ban, whose configuration is a copy with the role's files in it."""

    def __init__(self, directory: Path, **given: Any) -> None:
        self._root = unpacked("fail2ban")
        self.configuration = directory / "fail2ban"
        shutil.copytree(self._root / "etc/fail2ban", self.configuration)
        values = variables([("127.0.0.1", 1)], 8443, {"gateway_fail2ban": True, **given})
        for template, part in FILES.items():
            source = (ROLES / "gateway/templates" / template).read_text(encoding="utf-8")
            text = str(evaluated(trust_as_template(source), values))
            (self.configuration / part / f"{NAME}.conf").write_text(text, encoding="utf-8")

    def run(self, program: str, *arguments: str | Path) -> str:
        """A program of the package, with the distribution's Python, for which it is made."""
        path = os.environ | {"PYTHONPATH": str(self._root / "usr/lib/python3/dist-packages")}
        return subprocess.run(
            ["/usr/bin/python3", self._root / "usr/bin" / program, *arguments],
            env=path, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def counted(self, log: Path) -> list[str]:
        """Addresses of the failures that the filter sees in a log, in order."""
        said = self.run(
            "fail2ban-regex", "-c", self.configuration, "-o", "ip", log, self.configuration / f"filter.d/{NAME}.conf"
        )
        return said.split()

    def jails(self) -> dict[str, dict[str, Any]]:
        """Settings of the jails that would run, by name."""
        found: dict[str, dict[str, Any]] = {}
        for line in self.run("fail2ban-client", "-c", self.configuration, "-d").splitlines():
            row = ast.literal_eval(line)
            if row[0] == "add":
                found[row[1]] = {}
            elif row[0] in ("set", "multi-set") and row[1] in found:
                found[row[1]].setdefault(str(row[2]), []).append(row[3:])
        return found


@pytest.fixture
def fail2ban(tmp_path: Path) -> Fail2ban:
    return Fail2ban(tmp_path)


def test_only_refused_credentials_count(gateway: Gateway, fail2ban: Fail2ban, tmp_path: Path) -> None:
    seen = len(gateway.logged())
    # A path, a name and a method that look like what the filter looks for.
    pretending = '/x","client":"192.0.2.1","user":"","status":401,"proxy":"",'.replace('"', "%22")
    refused = [
        gateway.ask("GET", "/v1/models", user=""),
        gateway.ask("GET", pretending, user="", Authorization="Bearer not-a-key"),
        gateway.ask("POST", "/api/chat", {"model": "gemma3:270m"}, user="", Authorization="Basic eDp5"),
    ]
    assert [answer.status for answer in refused] == [401] * 3
    passed = [
        gateway.ask("GET", "/v1/models"),
        gateway.ask("GET", pretending),
        gateway.ask("POST", "/api/chat", {"model": 'a","client":"192.0.2.1","user":"","model":"","status":401,'}),
        gateway.ask("GET", "/healthz", user=""),
    ]
    assert 401 not in [answer.status for answer in passed]
    gateway.logged()
    log = tmp_path / "log"
    lines = (gateway.site.directory / f"var/log/nginx/{NAME}.log").read_text(encoding="utf-8").splitlines()[seen:]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(lines) == 6
    assert fail2ban.counted(log) == ["127.0.0.1"] * 3


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ('"client":"127.0.0.1"', '"client":"2001:db8::7"', ["2001:db8::7"]),
        pytest.param('"user":""', '"user":"app"', [], id="the engine's own 401"),
        pytest.param('"proxy":""', '"proxy":"192.0.2.9"', [], id="came through a proxy"),
        pytest.param('"status":401', '"status":429', [], id="held back already"),
    ],
)
def test_what_makes_a_failure(
    gateway: Gateway, fail2ban: Fail2ban, tmp_path: Path, old: str, new: str, counts: list[str]
) -> None:
    gateway.ask("GET", "/v1/models", user="")
    gateway.logged()
    path = gateway.site.directory / f"var/log/nginx/{NAME}.log"
    line = next(row for row in path.read_text(encoding="utf-8").splitlines() if '"status":401' in row)
    assert old in line
    (tmp_path / "log").write_text(line.replace(old, new) + "\n", encoding="utf-8")
    assert fail2ban.counted(tmp_path / "log") == counts


def test_the_jail_has_what_was_asked_for(tmp_path: Path) -> None:
    given = {
        "gateway_fail2ban_findtime_seconds": 120, "gateway_fail2ban_maxretry": 7,
        "gateway_fail2ban_bantime_seconds": 90, "gateway_fail2ban_ignore": ["192.0.2.0/24"],
        "hostvars": {"localhost": {"system_address": "198.51.100.4"}},
    }  # fmt: skip
    jails = Fail2ban(tmp_path, **given).jails()
    # The package's own jail for SSH is none where the package came with the role.
    assert list(jails) == [NAME]
    jail = jails[NAME]
    assert (jail["findtime"], jail["maxretry"], jail["bantime"]) == ([["120"]], [[7]], [["90"]])
    ignored = [address for row in jail["addignoreip"] for address in row]
    assert ignored == ["127.0.0.0/8", "::1", "198.51.100.4", "192.0.2.0/24"]


def test_a_fail2ban_that_was_there_keeps_its_jails(tmp_path: Path) -> None:
    state = {"stdout_lines": ["installed nginx=1.22.1-9", "installed fail2ban=1.0.2-2"]}
    # The jail itself finds no log for SSH on a machine without one; what is written does not speak of it.
    fail2ban = Fail2ban(tmp_path, __gateway_state=state)
    assert "sshd" not in (fail2ban.configuration / f"jail.d/{NAME}.conf").read_text(encoding="utf-8")


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_ufw_understands_the_ban_which_is_of_the_gateways_port_alone(fail2ban: Fail2ban, address: str) -> None:
    actions = fail2ban.jails()[NAME]["action"]
    settings = dict(next(row[1] for row in actions if row[0] == "ufw"))
    destination = settings["destination"]
    ban = f"prepend {settings['blocktype']} from {address} to {destination}"
    unban = f"delete {settings['blocktype']} from {address} to {destination}"
    ufw = unpacked("ufw") / "usr/lib/python3/dist-packages"
    program = (
        "import builtins, sys, ufw.frontend as f\n"
        "builtins._ = str\n"
        "for words in sys.argv[1:]:\n"
        "    rule = f.parse_command(['ufw', *words.split()]).data['rule']\n"
        "    print(rule.action, rule.src, rule.dst, rule.dport, rule.protocol, rule.remove)\n"
    )
    told = subprocess.run(
        ["/usr/bin/python3", "-c", program, ban, unban],
        env=os.environ | {"PYTHONPATH": str(ufw)}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[:2] + line.split()[3:] for line in told] == [
        ["reject", address, "8443", "tcp", "False"],
        ["reject", address, "8443", "tcp", "True"],
    ]
