# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page on its whole way: a node's files, its endpoint, the gateway's nginx, the program, a browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import plays
from tests.browser import Browser
from tests.gateway.conftest import KEYS, PASSWORD, Gateway, users
from tests.gateway.packages import Nginx
from tests.gateway.sites import Site, endpoint, free_port, variables
from tests.unit import fleet_sample as sample
from tests.unit.role_templates import evaluated

PROGRAM = sample.PROGRAMS / "fleet_status.py"
MARKED = "marked-prompt-3f8a"


@dataclass
class Paged:
    """A gateway with its page, and a node."""

    gateway: Gateway
    node: Site
    port: int  # the node's

    @property
    def status(self) -> str:
        return f"http://127.0.0.1:{self.gateway.values['gateway_status_port']}"

    def write(self, *nodes: str) -> None:
        """One pass of the program, as its unit has it."""
        directory = self.gateway.site.directory
        done = subprocess.run(
            [
                sys.executable, "-I", "-B", PROGRAM, "page", "--name", sample.GATEWAY, "--function", "gateway",
                "--gateway", self.status, "--root", directory, "--directory", directory / "run/onprem-llm-status",
                "--interval", "0", "--no-alertmanager", "the fleet has no monitoring server",
                *[word for node in nodes for word in ("--node", node)],
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")

    def again(self, **given: Any) -> None:
        """The gateway with other settings, in service."""
        self.gateway.values |= given
        self.gateway.site.render(self.gateway.values)
        self.gateway.site.reload()
        time.sleep(1)


@pytest.fixture(scope="module")
def paged(start: Any, nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    node, port = endpoint(nginx, Path(tmp_path_factory.mktemp("node")), free_port())
    admin = {"name": "boss", "role": "admin", "password_hash": users()[0]["password_hash"]}
    gateway: Gateway = start(gateway_users=[*users(), admin])
    pki = "etc/onprem-llm/pki"
    for name in ("gateway-client.crt", "gateway-client.key", "ca.crt"):
        shutil.copy(node.directory / pki / name, gateway.site.directory / pki / name)
    (gateway.site.directory / "run/onprem-llm-status").mkdir(parents=True)
    found = Paged(gateway, node, port)
    found.again(__gateway_page_nodes=[{"name": "gpu01", "address": "127.0.0.1", "port": port}])
    now = time.time()
    sample.write_node(node.directory, "gpu01", now)
    sample.write(gateway.site.directory, "metrics.prom", sample.gateway_metrics(now))
    yield found
    node.stop()


@pytest.fixture
def fresh(paged: Paged) -> Paged:
    paged.write("gpu01")
    return paged


def basic(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()


# --- the way of the figures


def test_a_node_s_files_come_through_its_endpoint(paged: Paged) -> None:
    with urllib.request.urlopen(f"{paged.status}/nodes/gpu01/plan.json", timeout=10) as answer:
        assert json.load(answer)["host"] == "gpu01"
    with urllib.request.urlopen(f"{paged.status}/nodes/gpu01/release.json", timeout=10) as answer:
        recorded = time.strptime(answer.headers["Last-Modified"], "%a, %d %b %Y %H:%M:%S GMT")
    assert time.strftime("%Y", recorded) >= "2025"


@pytest.mark.contract(7)
@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("gpu01/api/tags", "GET", 403), ("gpu01/../../api/tags", "GET", 404), ("gpu01/plan.json", "POST", 403),
        ("gpu01/plan.jsonx", "GET", 403), ("gpu01/plan.json/../../api/ps", "GET", 403), ("gpu02/plan.json", "GET", 403),
        ("gpu01/health.prom", "GET", 404),
    ],
)  # fmt: skip
def test_that_way_leads_to_nothing_else(paged: Paged, path: str, method: str, status: int) -> None:
    request = urllib.request.Request(f"{paged.status}/nodes/{path}", b"" if method == "POST" else None, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == status


def test_users_do_not_reach_nodes_files(paged: Paged) -> None:
    for path in ("/plan.json", "/nodes/gpu01/plan.json", "/metrics.prom"):
        assert paged.gateway.ask("GET", path, user="ops").status == 404


def test_a_node_that_is_given_by_a_name_is_not_asked() -> None:
    addresses = {"one": "192.0.2.1", "two": "two.example.com", "three": "2001:db8::3", "fo ur": "192.0.2.4"}
    upstreams = [{"name": name, "address": address, "port": 8443} for name, address in addresses.items()]
    given = {"gateway_upstream_tls": True, "gateway_upstreams": upstreams}
    values = variables([], 8443, given)
    assert [node["name"] for node in evaluated(values["__gateway_page_nodes"], values)] == ["one", "three"]
    assert evaluated(values["__gateway_page_nodes"], values | {"gateway_upstream_tls": False}) == []


# --- who sees it


@pytest.mark.contract(7)
def test_only_admins_see_it(fresh: Paged) -> None:
    gateway = fresh.gateway
    for path in ("/status/", "/status/style.css"):
        refused = gateway.ask("GET", path, user="")
        assert (refused.status, refused.code) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == 'Basic realm="onprem-llm", charset="UTF-8"'
        assert gateway.ask("GET", path, user="", Authorization="Bearer wrong").status == 401
        assert gateway.ask("GET", path, user="app").status == 403
        assert gateway.ask("POST", path, "{}", user="ops").status == 405
    answer = gateway.ask("GET", "/status/", user="ops")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "gpt-oss:120b" in answer.body
    assert answer.body.count("</html>") == 1
    assert gateway.ask("HEAD", "/status/", user="ops").headers["content-length"] == str(len(answer.body.encode()))
    style = gateway.ask("GET", "/status/style.css", user="ops")
    assert (style.status, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    for path in ("/status/history.json", "/status/index.html", "/status/../status/", "/status/x", "/status"):
        assert gateway.ask("GET", path, user="ops").status == 404


def test_elsewhere_a_browser_is_asked_for_no_password(fresh: Paged) -> None:
    assert fresh.gateway.ask("GET", "/v1/models", user="").headers["www-authenticate"].startswith("Bearer")


def test_what_a_browser_may_do_with_it(fresh: Paged) -> None:
    policy = fresh.gateway.ask("GET", "/status/", user="ops").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in policy
    others = fresh.gateway.ask("GET", "/v1/models", user="ops").headers["content-security-policy"]
    assert others == "default-src 'none'; frame-ancestors 'none'"


def test_users_networks_and_nobody(fresh: Paged) -> None:
    gateway = fresh.gateway
    try:
        fresh.again(gateway_status_page="users")
        assert gateway.ask("GET", "/status/", user="app").status == 200
        assert gateway.ask("GET", "/status/", user="").status == 401
        fresh.again(gateway_status_page="admins", gateway_status_page_networks=["127.0.0.0/8"])
        assert gateway.ask("GET", "/status/", user="").status == 200
        assert gateway.ask("GET", "/status/style.css", user="").status == 200
        assert gateway.ask("GET", "/status/history.json", user="").status == 401
        assert gateway.ask("POST", "/status/", "{}", user="").status == 401
        assert gateway.ask("GET", "/v1/models", user="").status == 401
        assert gateway.logged()[-1]["user"] == ""
        fresh.again(gateway_status_page_networks=["192.0.2.0/24"])
        assert gateway.ask("GET", "/status/", user="").status == 401
        fresh.again(gateway_status_page="nobody")
        assert gateway.ask("GET", "/status/", user="ops").status == 404
    finally:
        fresh.again(gateway_status_page="admins", gateway_status_page_networks=[])


@pytest.mark.parametrize(
    ("network", "said"), [("192.0.2.0/33", "give an address or a network"), ("0.0.0.0/0", "as good")]
)
def test_a_wrong_network_is_refused(network: str, said: str) -> None:
    given = {"gateway_users": users()[:1], "__gateway_node_models": {}, "gateway_status_page_networks": [network]}
    values = variables([("127.0.0.1", 1)], 8443, given)
    found = str(evaluated(values["__gateway_faults"], values))
    assert f"gateway_status_page_networks: has '{network}'" in found
    assert said in found


def test_it_is_there_while_the_only_node_is_drained(fresh: Paged) -> None:
    drained = fresh.gateway.site.directory / "etc/onprem-llm/drained" / "engine0"
    drained.parent.mkdir(exist_ok=True)
    drained.touch()
    try:
        assert fresh.gateway.ask("GET", "/api/version", user="ops").status == 503
        assert fresh.gateway.ask("GET", "/status/", user="ops").status == 200
    finally:
        drained.unlink()


@pytest.mark.parametrize(
    ("page", "who", "status"),
    [
        ("admins", "ops", 200), ("admins", "app", 403), ("users", "app", 200), ("nobody", "ops", 404),
        ("nobody", "app", 404),
    ],
)  # fmt: skip
def test_the_verification_knows_what_its_key_meets(fresh: Paged, page: str, who: str, status: int) -> None:
    values = variables([("127.0.0.1", 1)], 8443, {
        "gateway_users": users(), "gateway_status_page": page, "gateway_verify_api_key": KEYS[who],
    })  # fmt: skip
    assert evaluated(values["__gateway_verify_page_status"], values) == status
    if page == "admins":
        assert fresh.gateway.ask("GET", "/status/", user=who).status == status


VERIFY = """
- hosts: localhost
  gather_facts: false
  vars: {verify_gather_results: true}
  tasks:
    - ansible.builtin.import_role: {name: onprem.llm.gateway, tasks_from: verify}
    - ansible.builtin.copy:
        content: "{{ ansible_facts['onprem_llm_check_results'] | to_json }}"
        dest: "{{ told }}"
        mode: "0600"
"""


def verified(paged: Paged, directory: Path) -> dict[str, tuple[str, str]]:
    """Verdict and finding of the role's checks of the page, by what they check. Others want a host of their own."""
    play, told = directory / "verify.yml", directory / "told.json"
    play.write_text(VERIFY, encoding="utf-8")
    gateway = paged.gateway
    names = ("gateway_port", "gateway_status_port", "gateway_dns_names", "gateway_address", "gateway_http_redirect")
    run = plays.run(play, inventory="localhost,", variables={
        **plays.local(), **{name: gateway.values[name] for name in names}, "gateway_users": users(),
        "gateway_status_page": "admins", "gateway_upstream_tls": False, "gateway_tls_certificate": gateway.ca,
        "gateway_verify_api_key": KEYS["app"], "told": str(told),
        "__gateway_page_directory": str(gateway.site.directory / "run/onprem-llm-status"),
    })  # fmt: skip
    assert run.returncode == 0, run.stdout
    rows = json.loads(told.read_text(encoding="utf-8"))
    return {row["check"]: (row["verdict"], row["found"]) for row in rows if "status page" in row["check"]}


def believed(paged: Paged, seconds: int) -> None:
    """Have the page say that it may be believed for so long from now on."""
    page = paged.gateway.site.directory / "run/onprem-llm-status/index.html"
    text = page.read_text(encoding="utf-8")
    until = text.partition('data-fresh-until="')[2].partition('"')[0]
    page.write_text(text.replace(until, str(int(time.time()) + seconds), 1), encoding="utf-8")


def test_the_verification_finds_a_page_that_is_old_and_open_to_users(fresh: Paged, tmp_path: Path) -> None:
    """That it is content with one that is as it should be is for the Molecule scenarios."""
    believed(fresh, -40)
    try:
        fresh.again(gateway_status_page="users")
        found = verified(fresh, tmp_path)
    finally:
        fresh.again(gateway_status_page="admins")
    assert found["Nobody sees the status page without a credential"] == ("ok", "GET /status/: HTTP 401")
    assert found["The status page is for admins"] == ("FAILED", "GET /status/: HTTP 200")
    assert found["The status page is fresh"][0] == "FAILED"
    assert "systemctl status onprem-llm-status" in found["The status page is fresh"][1]


def test_without_a_page_it_says_who_writes_it(paged: Paged) -> None:
    shutil.rmtree(paged.gateway.site.directory / "run/onprem-llm-status")
    answer = paged.gateway.ask("GET", "/status/", user="ops")
    assert (answer.status, answer.code) == (503, "no_status")
    assert "onprem-llm-status.service" in answer.json["error"]["message"]
    (paged.gateway.site.directory / "run/onprem-llm-status").mkdir()


# --- in a browser


def visit(browser: Browser, paged: Paged, width: int = 1440, **how: Any) -> None:
    browser.view(width, **{"scripts": False, **how})
    browser.open(f"https://boss:{PASSWORD}@localhost:{paged.gateway.port}/status/")


def test_a_browser_signs_in_and_asks_for_nothing_else(fresh: Paged, browser: Browser) -> None:
    visit(browser, fresh)
    assert browser.evaluate("document.title").startswith("LLM fleet: ")
    assert browser.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
    here = f"localhost:{fresh.gateway.port}/status/"
    asked = {url.partition("@")[2] or url.partition("//")[2] for url in browser.requests()}
    assert asked <= {here, here + "style.css", ""}
    assert here + "style.css" in asked
    assert [line for line in browser.complaints() if "401" not in line] == []


def test_the_page_tells_the_node(fresh: Paged, browser: Browser) -> None:
    visit(browser, fresh)
    text = browser.evaluate("document.querySelector('#hosts').innerText")
    for word in (
        "gpu01",
        "NVIDIA L40S",
        "gpt-oss:120b",
        "32768",
        "74.4 GiB",
        "72.9 GiB, on GPU",
        "warm",
        "in the plan",
    ):
        assert word in text
    assert "0.4.0" in browser.evaluate("document.querySelector('#versions').innerText")


def test_old_figures_are_marked(fresh: Paged, browser: Browser) -> None:
    old = time.time() - 600
    sample.write_node(fresh.node.directory, "gpu01", old)
    fresh.write("gpu01")
    visit(browser, fresh)
    article = "document.querySelector('#host-gpu01').closest('article')"
    assert browser.evaluate(f"{article}.querySelector('.notice').innerText") == "Its figures are 10 minutes old."
    assert browser.evaluate(f"{article}.querySelector('.badge').innerText") == "stale"
    assert browser.evaluate(f"getComputedStyle({article}).borderLeftColor") == "rgb(143, 13, 32)"
    sample.write_node(fresh.node.directory, "gpu01", time.time())


def test_a_page_that_nobody_writes_any_more_is_marked_without_a_script(fresh: Paged, browser: Browser) -> None:
    shown = "getComputedStyle(document.querySelector('.old')).display"
    visit(browser, fresh)
    assert browser.evaluate(shown) == "none"
    assert not any("nothing has been written" in node["name"] for node in browser.accessible())
    believed(fresh, -2)
    visit(browser, fresh)
    assert browser.evaluate(shown) == "block"
    assert any("nothing has been written since" in node["name"] for node in browser.accessible())


def test_a_page_that_stays_open_says_so_without_a_script(fresh: Paged, browser: Browser) -> None:
    style = fresh.gateway.site.directory / "run/onprem-llm-status/style.css"
    text = style.read_text(encoding="utf-8")
    # One pass alone (an interval of 0) is believed for 30 s.
    assert "linear 30s forwards" in text
    style.write_text(text.replace("linear 30s", "linear 2s"), encoding="utf-8")
    shown = "getComputedStyle(document.querySelector('.open')).visibility"
    visit(browser, fresh)
    assert browser.evaluate(shown) == "hidden"
    until = time.monotonic() + 15
    while browser.evaluate(shown) != "visible" and time.monotonic() < until:
        time.sleep(0.2)
    assert browser.evaluate(shown) == "visible"


def test_a_node_that_is_gone_and_one_that_is_no_upstream(fresh: Paged, browser: Browser) -> None:
    fresh.node.stop()
    try:
        fresh.write("gpu01", "gpu02")
        visit(browser, fresh)
        text = browser.evaluate("document.querySelector('#problems').innerText")
        assert "cannot be read: the node's endpoint does not answer (HTTP 502)" in text
        assert "the gateway does not lead there" in text
        assert "LLMHostDown" in text
    finally:
        fresh.node.start(fresh.port)


def test_no_prompt_and_no_key_gets_onto_it(fresh: Paged) -> None:
    gateway = fresh.gateway
    chat = {"model": "gemma3:270m", "messages": [{"role": "user", "content": MARKED}]}
    assert gateway.ask("POST", "/api/chat", chat).status == 200
    fresh.write("gpu01")
    directory = gateway.site.directory / "run/onprem-llm-status"
    told = "".join(path.read_text(encoding="utf-8") for path in directory.iterdir())
    told += gateway.ask("GET", "/status/", user="ops").body
    for secret in (MARKED, PASSWORD, "onprem-llm_", "$6$", "search"):
        assert secret not in told
    assert sorted(os.listdir(directory)) == ["history.json", "index.html", "style.css"]
