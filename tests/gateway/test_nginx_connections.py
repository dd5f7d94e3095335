# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution's own nginx.conf is given more connections, where nginx is ours, and gets its own back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays
from tests.gateway.test_certificates import looked
from tests.packages import unpacked
from tests.unit.role_templates import ROLES, evaluated

RAISED = "worker_rlimit_nofile 8192; # onprem.llm\nevents {\n\tworker_connections 4096; # onprem.llm\n"


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return Path(shutil.copy(unpacked("nginx-common") / "etc/nginx/nginx.conf", tmp_path))


def few(main: Path, ours: bool = True) -> bool:
    values = looked(__gateway_nginx_main=str(main))
    lines = values["__gateway_state"]["stdout_lines"] + (["nginx is ours"] if ours else [])
    return bool(evaluated(values["__gateway_nginx_has_few"], values | {"__gateway_state": {"stdout_lines": lines}}))


def run(main: Path, tasks: list[dict[str, Any]]) -> int:
    """How many tasks changed something, on this machine with another nginx.conf."""
    place = main.parent
    (place / "nginx").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    (place / "nginx").chmod(0o755)
    (place / "tasks.yml").write_text(yaml.safe_dump(tasks), encoding="utf-8")
    variables = {
        "__gateway_nginx_main": str(main),
        "__gateway_default_site": {"results": [{}, {"stat": {"exists": True}}]},
    }
    book = [{
        "hosts": "localhost", "gather_facts": False, "vars_files": [str(ROLES / "gateway/vars/main.yml")],
        "tasks": [{"import_tasks": str(place / "tasks.yml")}],
        "handlers": [{"name": "Reload nginx", "debug": {}}],
    }]  # fmt: skip
    (place / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    ended = plays.run(
        place / "play.yml", inventory="localhost,", variables={**plays.local(), **variables}, timeout=60,
        environment={"PATH": f"{place}:{os.environ['PATH']}", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return int(json.loads(ended.stdout)["stats"]["localhost"]["changed"])


def tasks(file: str, name: str) -> list[dict[str, Any]]:
    every = yaml.safe_load((ROLES / "gateway/tasks" / file).read_text(encoding="utf-8"))
    return [task for task in every if name in task["name"]]


def test_it_has_more_and_then_its_own_again(main: Path) -> None:
    before = main.read_text(encoding="utf-8")
    more, back = tasks("nginx_connections.yml", "Raise"), tasks("nginx_restore.yml", "connections again")
    assert few(main)
    assert not few(main, ours=False)
    assert run(main, more) == 1
    assert RAISED in main.read_text(encoding="utf-8")
    assert not few(main)
    assert run(main, more) == 0
    assert run(main, back) == 1
    assert main.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("worker_connections 768;", "worker_connections 512;"), ("events {", "worker_rlimit_nofile 4096;\nevents {")],
)
def test_who_has_chosen_a_number_keeps_it(main: Path, old: str, new: str) -> None:
    text = main.read_text(encoding="utf-8")
    assert old in text
    main.write_text(text.replace(old, new), encoding="utf-8")
    assert not few(main)
