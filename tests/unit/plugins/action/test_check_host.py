# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""check_host: what roles state of themselves, against one host's variables and state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.onprem.llm.plugins.action import check_host
from ansible_collections.onprem.llm.plugins.plugin_utils import _statements

Act = Callable[..., dict[str, Any]]

DISK = """
__disk_faults: |
  {% if disk_size | int < 1 %}
  disk_size is {{ disk_size }}; more is needed.
  {% endif %}
__disk_undecidable: disk_size makes no sense
__disk_outlook:
  packages: [parted]
  files:
    - {path: /etc/disk.conf, template: disk.conf.j2, mode: "0644"}
    - {path: /etc/disk.static, source: disk.static}
    - {path: /etc/disk.later, content: "{{ made_by_the_run }}"}
  units: [disk.service]
  users: [disk]
  filesystems: [/data]
  note: ["the user disk is {{ __host_state.users.disk.uid | default('not there') }}"]
  restart: "{{ ['disk.service (restart)'] if '/etc/disk.conf' in __outlook.change else [] }}"
  interrupt: "{{ nowhere }}"
  space: [{path: /data, size: "{{ disk_size }}", purpose: the disk, variable: disk_size}]
"""


@pytest.fixture(autouse=True)
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in {
        "disk/vars/main.yml": DISK,
        "disk/defaults/main.yml": "disk_size: 5",
        "disk/templates/disk.conf.j2": "size {{ disk_size }} of {{ other_name }}\n",
        "disk/files/disk.static": "static",
        "other/defaults/main.yml": "other_name: other",
        "other/vars/main.yml": "__other_faults: ['', '{{ other_name }} is wrong']",
    }.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    monkeypatch.setattr(check_host, "ROLES", str(tmp_path))
    monkeypatch.setattr(_statements, "ROLES", str(tmp_path))


def state(asked: dict[str, list[str]], text: str = "size 5 of other\n", free: int = 100) -> dict[str, Any]:
    """A host that has all but the unit, with ``text`` in the template's file."""
    content = {"/etc/disk.conf": text, "/etc/disk.static": "static", "/etc/disk.later": "?"}
    digests = {path: hashlib.sha256(content[path].encode()).hexdigest() for path in asked["files"]}
    return {
        "files": {path: {"exists": True, "mode": "0644", "sha256": digest} for path, digest in digests.items()},
        "packages": dict.fromkeys(asked["packages"], "1"),
        "units": {name: {"active": False, "enabled": True} for name in asked["units"]},
        "users": {"disk": {"uid": 7, "gid": 7}},
        "filesystems": {path: {"device": 1, "free_bytes": free, "total_bytes": 200} for path in asked["filesystems"]},
    }


def check(act: Act, arguments: dict[str, Any] | None = None, known: dict[str, Any] | None = None, **host: Any) -> Any:
    def module(module_name: str, module_args: dict[str, Any], **_more: Any) -> dict[str, Any]:
        assert module_name == "onprem.llm.host_state"
        return state(module_args, **host)

    return act("check_host", {"roles": ["disk"], "tell": False} | (arguments or {}), known or {}, module)


def test_a_host_as_it_should_be(act: Act) -> None:
    result = check(act)
    assert result["faults"] == []
    assert result["outlook"] == {
        "note": ["the user disk is 7"],
        "install": [],
        "change": [],
        "restart": ["disk.service (start)"],
        "interrupt": [],
    }


def test_templates_are_rendered_with_the_defaults_of_all_roles(act: Act) -> None:
    result = check(act, text="something else")
    assert result["outlook"]["change"] == ["/etc/disk.conf"]
    assert result["outlook"]["restart"] == ["disk.service (start)", "disk.service (restart)"]


def test_the_inventory_outweighs_the_defaults(act: Act) -> None:
    assert check(act, known={"other_name": "mine"})["outlook"]["change"] == ["/etc/disk.conf"]


def test_a_fault_is_returned_or_told(act: Act) -> None:
    result = check(act, known={"disk_size": 0})
    assert not result.get("failed")
    assert result["faults"] == [{"role": "disk", "message": "disk_size is 0; more is needed."}]
    told = check(act, {"tell": True, "roles": ["onprem.llm.disk", "other"]}, {"disk_size": 0})
    assert told["failed"]
    assert told["msg"] == "disk_size is 0; more is needed.\nother is wrong"


def test_faults_that_cannot_be_evaluated_say_what_that_means(act: Act) -> None:
    (fault,) = check(act, known={"disk_size": "{{ 1 / 0 }}"})["faults"]
    assert fault["message"].startswith("disk_size makes no sense: ")
    assert "division by zero" in fault["message"]


def test_a_role_with_a_known_fault_is_not_told_twice(act: Act) -> None:
    known = [{"role": "disk", "variable": "disk_size", "message": "disk_size is wrong"}]
    assert check(act, {"known": known}, {"disk_size": "{{ 1 / 0 }}"})["faults"] == []


def test_room_on_the_disk(act: Act) -> None:
    (fault,) = check(act, free=4)["faults"]
    assert fault["message"].startswith("disk_size is /data, whose file system has 4 B (4 bytes) free; 5 B (5 bytes)")


def test_a_host_that_refuses_is_asked_no_more(act: Act) -> None:
    arguments = {"roles": ["disk"], "tell": False, "refusal": "Missing sudo password"}
    (fault,) = act("check_host", arguments, {"ansible_user": "admin"})["faults"]
    assert "sudo asks admin for a password" in fault["message"]


def test_an_unknown_role_is_refused(act: Act) -> None:
    with pytest.raises(AnsibleError, match="no role disc"):
        check(act, {"roles": ["disc"]})
