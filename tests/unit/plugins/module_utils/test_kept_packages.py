# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_kept_packages: what apt would move, and what is asked of it."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _kept_packages
from ansible_collections.onprem.llm.plugins.module_utils._kept_packages import Move

# apt 3.0 of Debian 13, with the sources of forky beside its own, on 2026-11-22.
DOCKER = """\
The following packages will be REMOVED:
  tini
Inst containerd [1.7.24~ds1-6+deb13u1] (2.1.9+ds1-5 Debian:testing [amd64])
Inst docker.io [26.1.5+dfsg1-9+deb13u1] (28.5.2+dfsg4-5 Debian:testing [amd64]) []
Inst runc [1.1.15+ds1-2+b4] (1.3.6+ds1-1 Debian:testing [amd64]) []
Remv tini [0.19.0-3+b8] []
Inst tini-static (0.19.0-6+b2 Debian:testing [amd64])
Conf containerd (2.1.9+ds1-5 Debian:testing [amd64])
Conf tini-static (0.19.0-6+b2 Debian:testing [amd64])
"""


def test_moves_of_docker() -> None:
    assert _kept_packages.moves(DOCKER) == [
        Move("containerd", "1.7.24~ds1-6+deb13u1", "2.1.9+ds1-5"),
        Move("docker.io", "26.1.5+dfsg1-9+deb13u1", "28.5.2+dfsg4-5"),
        Move("runc", "1.1.15+ds1-2+b4", "1.3.6+ds1-1"),
        Move("tini", "0.19.0-3+b8", ""),
        Move("tini-static", "", "0.19.0-6+b2"),
    ]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("0 upgraded, 0 newly installed, 0 to remove and 7 not upgraded.\n", []),
        ("Remv a [1]\nInst a [1] (2 Debian:testing [amd64])\n", [Move("a", "1", "2")]),
        ("Inst a [1] (1 Debian:testing [amd64])\n", []),
        ("Purg a [1]\n", []),
    ],
)
def test_moves(told: str, found: list[Move]) -> None:
    assert _kept_packages.moves(told) == found


def test_a_start_of_a_version_is_asked_for_as_such() -> None:
    assert _kept_packages.wanted({"docker-ce": "5:29.6.1-", "containerd": ""}) == ["containerd", "docker-ce=5:29.6.1-*"]


def test_files_are_named_as_apt_does() -> None:
    assert _kept_packages.file_name("docker-ce", "5:29.6.1-1~x", "amd64") == "docker-ce_5%3a29.6.1-1~x_amd64.deb"
    assert _kept_packages.file_name("libc6:i386", "2.41", "i386") == "libc6_2.41_i386.deb"


def test_what_is_half_installed_does_not_count() -> None:
    told = "a\t1\tamd64\tinstalled\nb\t2\tall\thalf-configured\nc\t\t\tnot-installed\n"
    assert _kept_packages.installed(lambda _command: (0, told, ""), ["a", "b", "c"]) == {"a": ("1", "amd64")}
