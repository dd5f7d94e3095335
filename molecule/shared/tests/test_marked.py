"""Marked prompts and keys go through the whole chain, and are in no file, log, process or metric of any host."""

from __future__ import annotations

import base64
import http.client
import json
import secrets as random
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import testinfra
from conftest import FLEET, GATEWAYS, SCENARIO, Node

from tests.attack import leaks

SEARCH = Path(leaks.__file__).read_text(encoding="utf-8")
MODEL, EMBEDDING = "gemma3:270m", "tiny-embedding:latest"
# What tells of a host by HTTP, to the host itself: the exporter, and the gateway's state.
EXPOSED = """
import json, sys, urllib.request
marks, opener = json.load(sys.stdin)["secrets"], urllib.request.build_opener(urllib.request.ProxyHandler({}))
found, heard = [], []
for url in ("http://127.0.0.1:9100/metrics", "http://127.0.0.1:9145/status", "http://127.0.0.1:9145/metrics"):
    try:
        text = opener.open(url, timeout=10).read().decode(errors="replace")
    except OSError:
        continue
    heard.append(url)
    found += [[name, url] for name, mark in marks.items() if mark in text]
print(json.dumps([heard, found]))
"""


def mark(name: str) -> str:
    return f"mark{name}{random.token_hex(12)}"


@pytest.fixture(scope="module")
def marks(gateway: Node, ca_file: str, secrets: dict) -> dict[str, str]:
    """What was sent, after it went through: each by what it is."""
    marks = {name: mark(name) for name in ("prompt", "system", "long", "refused", "failed", "embedded", "key", "word")}
    context = ssl.create_default_context(cafile=ca_file)
    good = {"Authorization": f"Bearer {secrets['users']['app']['api_key']}"}

    def ask(path: str, body: dict, headers: dict[str, str]) -> int:
        connection = http.client.HTTPSConnection(gateway.address, timeout=120, context=context)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def chat(text: str, model: str = MODEL, **more: object) -> dict:
        messages = [{"role": "system", "content": marks["system"]}, {"role": "user", "content": text}]
        return {"model": model, "messages": messages, "max_tokens": 4, **more}

    long = (marks["long"] + " ") * (2**20 // 40)  # more than any buffer in memory takes
    basic = base64.b64encode(f"app:{marks['word']}".encode()).decode()
    answers = {
        "streamed": ask("/v1/chat/completions", chat(marks["prompt"], stream=True), good),
        "whole": ask("/api/chat", chat(marks["prompt"], stream=False, options={"num_predict": 4}), good),
        # Read whole for the name of its model, and refused: an engine would work at it for minutes.
        "long": ask("/v1/chat/completions", chat(long, model="no-such-model:1b"), good),
        "no such model": ask("/v1/chat/completions", chat(marks["failed"], model="no-such-model:1b"), good),
        "embedded": ask("/v1/embeddings", {"model": EMBEDDING, "input": marks["embedded"]}, good),
        "wrong key": ask("/v1/chat/completions", chat(marks["refused"]), {"Authorization": f"Bearer {marks['key']}"}),
        "key elsewhere": ask("/v1/chat/completions", chat(marks["refused"]), {"X-Api-Key": marks["key"]}),
        "key in the URL": ask(f"/v1/chat/completions?api_key={marks['key']}", chat(marks["refused"]), {}),
        "wrong password": ask("/v1/chat/completions", chat(marks["refused"]), {"Authorization": f"Basic {basic}"}),
    }
    assert [answers[name] for name in ("streamed", "whole", "embedded")] == [200, 200, 200], answers
    refused = {answers[name] for name in ("wrong key", "key elsewhere", "key in the URL", "wrong password")}
    assert refused <= {401, 429}, answers  # who was wrong often has to wait
    time.sleep(2)  # nginx writes its log once a second
    return {**marks, "the user's key": secrets["users"]["app"]["api_key"]}


HOSTS = sorted(host.name for host in FLEET.hosts if host.managed)


def on(host: str, program: str, marks: dict[str, str]) -> list:
    """What a program finds there. The marks go by standard input: in a command line they would be found themselves."""
    command = ["docker", "exec", "-i", host, "python3", "-c", program]
    done = subprocess.run(command, input=json.dumps({"secrets": marks}), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.contract(8)
@pytest.mark.parametrize("host", HOSTS)
def test_the_marks_are_in_no_file_log_or_process(host: str, marks: dict[str, str]) -> None:
    kinds = {"process list", "environment", "log", "file for all", "file"}
    assert [finding for finding in on(host, SEARCH, marks) if finding[0] in kinds] == []


@pytest.mark.parametrize("host", HOSTS)
def test_the_marks_are_in_nothing_that_is_told(host: str, marks: dict[str, str]) -> None:
    heard, found = on(host, EXPOSED, marks)
    assert "http://127.0.0.1:9100/metrics" in heard or SCENARIO == "fleet"
    assert found == []


def test_a_mark_that_lies_somewhere_is_found(marks: dict[str, str]) -> None:
    """The search itself: a file, a process and the journal."""
    host = testinfra.get_host(f"docker://{GATEWAYS[0]}")
    planted = mark("planted")
    host.check_output("sh -c %s", f"echo {planted} >/var/lib/nginx/planted; echo {planted} | systemd-cat -t planted")
    try:
        found = on(GATEWAYS[0], SEARCH, {"planted": planted})
        assert ["file for all", "planted", "/var/lib/nginx/planted"] in found or [
            "file", "planted", "/var/lib/nginx/planted"
        ] in found  # fmt: skip
        assert ["log", "planted", "the journal"] in found
    finally:
        host.check_output("rm /var/lib/nginx/planted")
