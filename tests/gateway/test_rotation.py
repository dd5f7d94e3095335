# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access log through rotations, and what is in no file of the gateway: prompts and keys."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import KEYS, Gateway

CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "hi"}]}


def test_no_line_is_lost_when_the_log_is_rotated(start: Any) -> None:
    """As logrotate does it, four times, while requests come: rename, and tell nginx."""
    gateway = start(workers=2)
    log = gateway.site.directory / "var/log/nginx/onprem-llm-gateway.log"

    def ask(_worker: int) -> list[str]:
        names = []
        connection = gateway.connection()
        for _number in range(100):
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEYS['app']}"})
            answer = connection.getresponse()
            answer.read()
            names.append(answer.headers["X-Request-ID"])
        connection.close()
        return names

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, worker) for worker in range(4)]
        for turn in range(4):
            time.sleep(0.2)
            log.rename(log.with_name(f"{log.name}.{turn}"))
            os.kill(gateway.site.pid, signal.SIGUSR1)
            while not log.exists():
                time.sleep(0.01)
        sent = sorted(name for future in asked for name in future.result())
    assert len(set(sent)) == 400
    logged = [row["request_id"] for row in gateway.logged()]
    for turn in range(4):
        rows = log.with_name(f"{log.name}.{turn}").read_text(encoding="utf-8").splitlines()
        logged += [part.split('"', 1)[0] for row in rows for part in [row.partition('"request_id":"')[2]]]
    assert sorted(logged) == sent


@pytest.fixture(scope="module")
def marked(start: Any) -> tuple[Gateway, dict[str, str]]:
    """A gateway through which marked prompts and keys went, in every way that a client has."""
    gateway: Gateway = start()
    marks = {name: f"mark{name}{secrets.token_hex(12)}" for name in ("prompt", "long", "unknown", "key", "word")}

    def chat(text: str, model: str = CHAT["model"], **more: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": text}], **more}

    basic = base64.b64encode(f"app:{marks['word']}".encode()).decode()
    answers = [
        gateway.ask("POST", "/v1/chat/completions", chat(marks["prompt"], stream=True)).status,
        gateway.ask("POST", "/api/chat", chat(marks["prompt"], stream=False)).status,
        gateway.ask("POST", "/v1/chat/completions", chat((marks["long"] + " ") * 60000)).status,
        gateway.ask("POST", "/v1/chat/completions", chat(marks["unknown"], model="no-such:1b")).status,
        gateway.ask("POST", "/api/chat", chat("x"), user="", Authorization=f"Bearer {marks['key']}").status,
        gateway.ask("POST", "/api/chat", chat("x"), user="", Authorization=f"Basic {basic}").status,
        gateway.ask("POST", f"/api/chat?api_key={marks['key']}", chat("x"), user="").status,
        gateway.ask("GET", f"/{marks['key']}", user="", Referer=marks["key"], Cookie=marks["key"]).status,
    ]
    assert answers[:2] == [200, 200], answers
    assert set(answers[4:]) <= {401, 404}, answers
    gateway.logged()
    return gateway, {**marks, "the user's own key": KEYS["app"]}


def findings(places: list[Path], marks: dict[str, str]) -> list[str]:
    found = []
    for place in places:
        try:
            content = place.read_bytes()
        except OSError:
            continue
        found += [f"{name} in {place}" for name, mark in marks.items() if mark.encode() in content]
    return found


def test_marked_prompts_and_keys_are_in_no_file(marked: tuple[Gateway, dict[str, str]]) -> None:
    gateway, marks = marked
    directory = gateway.site.directory
    places = [path for path in directory.rglob("*") if path.is_file()]
    assert len(places) > 10
    assert directory / "var/log/nginx/onprem-llm-gateway.log" in places
    assert findings(places, marks) == []


def test_marked_prompts_and_keys_are_in_no_process(marked: tuple[Gateway, dict[str, str]]) -> None:
    gateway, marks = marked
    places = [Path(f"/proc/{gateway.site.pid}/{file}") for file in ("cmdline", "environ")]
    assert findings(places, marks) == []
    gateway.site.directory.joinpath("planted").write_text(marks["prompt"])
    assert findings([gateway.site.directory / "planted"], marks) != []
