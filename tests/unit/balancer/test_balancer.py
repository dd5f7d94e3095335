# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The balancer's promises, in a real HAProxy with the role's own configuration before nodes of a script."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from haproxy import ENDPOINT, Balancer, program
from node import MODEL, Node

BACKEND = f"model:{MODEL}"


class Answer:
    def __init__(self) -> None:
        self.status, self.text, self.retry_after, self.error = 0, "", "", ""
        self.seconds = self.first = 0.0
        self.reads: list[float] = []

    @property
    def told(self) -> str:
        """The node that answered, or what was said instead."""
        return self.text[:2] if self.status == 200 else self.text


class Pipe(http.client.HTTPConnection):
    """HTTP over the balancer's socket, as nginx speaks it."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)

    def _send_output(self, message_body: bytes | None = None, encode_chunked: bool = False) -> None:
        """Head and body in one piece: who is refused by the head may be gone before the body comes."""
        self._buffer.extend((b"", b""))  # type: ignore[attr-defined]
        head = b"\r\n".join(self._buffer)  # type: ignore[attr-defined]
        del self._buffer[:]  # type: ignore[attr-defined]
        self.send(head + (message_body or b""))


def ask(
    balancer: Balancer, prompt: str = "p", tokens: int = 1, model: str = MODEL, path: str = "/api/generate", **more: str
) -> Answer:
    connection = Pipe(str(balancer.directory / "gateway.sock"))
    answer, began = Answer(), time.monotonic()
    headers = {"X-OnPrem-User": "alice", "X-Request-ID": prompt, **({"X-OnPrem-Model": model} if model else {}), **more}
    try:
        body = json.dumps({"prompt": prompt, "tokens": tokens})
        connection.request("POST" if model else "GET", path, body if model else None, headers)
        response = connection.getresponse()
        answer.status, answer.retry_after = response.status, response.headers.get("Retry-After", "")
        answer.first = time.monotonic() - began
        while part := response.read1(65536):
            answer.reads.append(time.monotonic() - began)
            answer.text += part.decode()
    except (OSError, http.client.HTTPException) as error:
        answer.error = repr(error)
    finally:
        connection.close()
    answer.seconds = time.monotonic() - began
    return answer


def together(count: int, one: Any) -> list[Answer]:
    """So many requests at once; `one` makes the request of a number."""
    answers: list[Answer] = [Answer()] * count

    def run(number: int) -> None:
        answers[number] = one(number)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Users:
    """So many who ask one after another until the block ends."""

    def __init__(self, balancer: Balancer, count: int, tokens: int) -> None:
        self._balancer, self._tokens = balancer, tokens
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(count)]

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            self.answers.append(ask(self._balancer, f"u{number}", tokens=self._tokens))

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def nodes(authority: Authority) -> list[Node]:
    certificate = authority.issue("endpoint", ENDPOINT)
    return [Node(name, authority, certificate) for name in ("n1", "n2")]


@pytest.fixture(scope="session")
def running(authority: Authority) -> Iterator[Balancer]:
    with Balancer(nodes(authority), {"n1": {MODEL: 4}, "n2": {MODEL: 4}}) as balancer:
        yield balancer


@pytest.fixture
def fleet(running: Balancer) -> list[Node]:
    """Its two nodes, as at the beginning."""
    running.reset()
    return list(running.fleet.values())


@pytest.fixture
def balancer(running: Balancer, fleet: list[Node]) -> Balancer:
    """Two nodes with four slots each, both in service."""
    if running.up(BACKEND) != {"n1", "n2"}:
        running.await_up(BACKEND, {"n1", "n2"})
        # A server that has just come up fills its slots slowly.
        time.sleep(1.2)
    return running


def test_at_twice_the_slots_nobody_is_refused(balancer: Balancer, fleet: list[Node]) -> None:
    answers = together(16, lambda number: ask(balancer, f"p{number}", tokens=20))
    assert [answer.status for answer in answers] == [200] * 16
    assert [node.most for node in fleet] == [4, 4]
    assert sorted(fleet[0].seen + fleet[1].seen) == sorted(f"p{number}" for number in range(16))


def test_at_four_times_the_slots_the_excess_is_told_at_once(balancer: Balancer, fleet: list[Node]) -> None:
    answers = together(32, lambda number: ask(balancer, f"p{number}", tokens=50))
    refused = [answer for answer in answers if answer.status == 429]
    assert (len(refused), sum(answer.status == 200 for answer in answers)) == (16, 16)
    assert max(answer.seconds for answer in refused) < 1
    assert {answer.retry_after for answer in refused} == {"5"}
    error = json.loads(refused[0].text)["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "overloaded", "model")
    assert [node.most for node in fleet] == [4, 4]


def test_each_token_is_its_own_read_and_the_nodes_get_none_of_our_headers(
    balancer: Balancer, fleet: list[Node]
) -> None:
    answer = ask(balancer, tokens=20)
    assert answer.text == "".join(f"{answer.text[:2]} {number}\n" for number in range(20))
    # A reader whom a busy machine keeps waiting finds two at once; a buffer would hold back nearly all.
    assert len(answer.reads) >= 15
    [headers] = fleet[0].headers + fleet[1].headers
    assert headers["x-request-id"] == "p"
    assert not [name for name in headers if name.startswith("x-onprem")]


def test_connections_to_nodes_are_kept(balancer: Balancer, fleet: list[Node]) -> None:
    before = [len(node.seen) for node in fleet], [node.connections for node in fleet]
    began = time.monotonic()
    for _number in range(40):
        assert ask(balancer).status == 200
    opened = sum(node.connections for node in fleet) - sum(before[1])
    # Each check opens one: two backends and two nodes, each second.
    assert opened < 40 / 2 + 4 * (time.monotonic() - began + 1)


def test_requests_without_a_model_go_to_any_node(balancer: Balancer) -> None:
    found = {json.loads(ask(balancer, model="", path="/api/tags").text)["node"] for _number in range(6)}
    assert found == {"n1", "n2"}


def test_a_model_that_nobody_plans_is_not_found(balancer: Balancer, fleet: list[Node]) -> None:
    answer = ask(balancer, model='none"such:1b')
    error = json.loads(answer.text)["error"]
    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"] == 'No node is planned to serve the model none"such:1b.'
    assert not fleet[0].seen + fleet[1].seen


def test_who_goes_away_frees_slot_and_place(balancer: Balancer, fleet: list[Node]) -> None:
    def begin(number: int) -> Pipe:
        connection = Pipe(str(balancer.directory / "gateway.sock"))
        body = json.dumps({"prompt": f"gone{number}", "tokens": 1000})
        connection.request("POST", "/api/generate", body, {"X-OnPrem-Model": MODEL})
        return connection

    served = [begin(number) for number in range(8)]
    time.sleep(0.2)
    waiting = [begin(number) for number in range(8, 16)]
    time.sleep(0.2)
    for connection in waiting:
        connection.close()
    time.sleep(0.2)
    for connection in served:
        connection.close()
    answers = together(16, lambda number: ask(balancer, f"p{number}", tokens=5))
    assert [answer.status for answer in answers] == [200] * 16
    assert sorted(fleet[0].aborted + fleet[1].aborted) == [f"gone{number}" for number in range(8)]


def test_a_killed_node_gets_nothing_more_and_nothing_is_generated_twice(balancer: Balancer, fleet: list[Node]) -> None:
    running: list[Answer] = []
    thread = threading.Thread(
        target=lambda: running.extend(together(8, lambda n: ask(balancer, f"r{n}", tokens=100))), daemon=True
    )
    thread.start()
    time.sleep(0.5)
    killed = list(fleet[0].seen)
    fleet[0].kill()
    # A connection that is refused is tried elsewhere; the four slots there are taken, so they wait.
    answers = together(4, lambda number: ask(balancer, f"p{number}", tokens=2))
    thread.join()
    assert [answer.status for answer in answers] == [200] * 4
    assert fleet[0].seen == killed
    assert len(killed) == 4
    started = fleet[0].seen + fleet[1].seen
    assert len(started) == len(set(started)) == 12
    assert sum(bool(answer.error) for answer in running) == 4
    balancer.await_up(BACKEND, {"n2"})
    fleet[0].listen()
    balancer.await_up(BACKEND, {"n1", "n2"})


def test_a_request_that_a_node_died_of_is_not_sent_to_another(balancer: Balancer, fleet: list[Node]) -> None:
    for node in fleet:
        node.die_on_request = True
    answer = ask(balancer, "fatal")
    # On a connection that had served before, HAProxy closes without a word; nginx makes a 502 of it, and repeats
    # no POST.
    if answer.status:
        assert (answer.status, json.loads(answer.text)["error"]["code"]) == (502, "engine_failed")
    assert fleet[0].seen + fleet[1].seen == ["fatal"]


def test_a_node_where_the_model_is_cold_gets_nothing_of_it(balancer: Balancer, fleet: list[Node]) -> None:
    fleet[0].states[MODEL] = "warming"
    balancer.await_up(BACKEND, {"n2"})
    assert balancer.up("any") == {"n1", "n2"}
    assert {ask(balancer).text[:2] for _number in range(6)} == {"n2"}
    fleet[1].states[MODEL] = "failed"
    balancer.await_up(BACKEND, set())
    answer = ask(balancer)
    assert (answer.status, answer.retry_after) == (503, "5")
    assert json.loads(answer.text)["error"]["code"] == "model_unavailable"
    fleet[0].states[MODEL] = "answered"
    balancer.await_up(BACKEND, {"n1"})


def test_drain_under_load_loses_nothing_and_outlives_reload_and_start(balancer: Balancer, fleet: list[Node]) -> None:
    with Users(balancer, 6, tokens=10) as users:
        time.sleep(1)
        (balancer.drained / "n1").touch()
        assert balancer.helper("apply")["changed"]
        sent = len(fleet[0].seen)
        assert sent
        assert balancer.helper("streams", "n1")["running"] <= 4
        time.sleep(1)
        assert balancer.helper("streams", "n1") == {"node": "n1", "running": 0, "streams": []}
        assert not balancer.helper("apply")["changed"]
        balancer.reload()
        time.sleep(0.5)
        assert len(fleet[0].seen) == sent
    outcomes = {(answer.status, answer.told, answer.error) for answer in users.answers}
    assert outcomes == {(200, "n1", ""), (200, "n2", "")}
    # As after a boot.
    balancer.stop()
    balancer.start()
    balancer.await_up(BACKEND, {"n2"})
    assert {ask(balancer).text[:2] for _number in range(4)} == {"n2"}
    (balancer.drained / "n1").unlink()
    assert balancer.helper("apply")["changed"]
    balancer.await_up(BACKEND, {"n1", "n2"})


def drained(balancer: Balancer) -> set[str]:
    """Nodes that the process which takes new requests sends none to, for any model."""
    found = [{s["node"] for s in balancer.status() if s["status"].startswith("DRAIN")} for _number in range(3)]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("moment", ["after the state is written", "when the new process is there"])
def test_who_is_drained_while_a_new_process_starts_stays_so(
    balancer: Balancer, fleet: list[Node], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    helper = balancer.inside()
    state, apply = helper.state, helper.apply

    def drain() -> None:
        """As drain.yml: the file, then the processes that there are."""
        (balancer.drained / "n1").touch()
        apply()

    def between() -> None:
        state()
        drain()

    if moment == "after the state is written":
        monkeypatch.setattr(helper, "state", between)
    else:
        monkeypatch.setattr(helper, "apply", lambda: (apply(), drain()))
    helper.reload(balancer.master)
    assert drained(balancer) == {"n1"}
    assert {ask(balancer).text[:2] for _number in range(4)} == {"n2"}
    (balancer.drained / "n1").unlink()
    assert balancer.helper("apply")["changed"]
    balancer.await_up(BACKEND, {"n1", "n2"})


def test_who_is_drained_at_any_moment_of_reloads_stays_so(balancer: Balancer, fleet: list[Node]) -> None:
    for number in range(4):
        reloading = threading.Thread(target=balancer.reload, daemon=True)
        reloading.start()
        time.sleep(0.07 * number)
        (balancer.drained / "n1").touch()
        balancer.helper("apply")
        reloading.join(60)
        assert drained(balancer) == {"n1"}, number
        (balancer.drained / "n1").unlink()
        balancer.helper("apply")
        assert drained(balancer) == set()


def test_a_reload_that_brings_no_new_process_is_told(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program(), "START", 0.5)
    before = balancer.workers()
    with subprocess.Popen(["sleep", "60"]) as other, pytest.raises(Exception, match="no new process has come"):
        balancer.inside().reload(other.pid)
    assert balancer.workers() == before


def test_a_reload_cuts_no_stream_and_forgets_no_health(balancer: Balancer, fleet: list[Node]) -> None:
    fleet[0].states[MODEL] = "warming"
    balancer.await_up(BACKEND, {"n2"})
    running: list[Answer] = []
    thread = threading.Thread(target=lambda: running.append(ask(balancer, "long", tokens=400)), daemon=True)
    thread.start()
    time.sleep(0.3)
    first = balancer.workers()
    with Users(balancer, 1, tokens=1) as users:
        for _number in range(3):
            balancer.reload()
        # The one that began first is served by a process that was replaced.
        streams = balancer.helper("streams", "n2")["streams"]
        assert [stream["process"] for stream in streams if stream["process"] in first]
        thread.join(30)
    assert {(answer.status, answer.told, answer.error) for answer in users.answers} == {(200, "n2", "")}
    assert (running[0].status, len(running[0].text.splitlines()), running[0].error) == (200, 400, "")
    assert fleet[0].seen == []


@pytest.mark.parametrize("model", [MODEL, ""])
def test_a_request_that_a_replaced_process_took_is_served(balancer: Balancer, model: str) -> None:
    taken = socket.socket(socket.AF_UNIX)
    taken.settimeout(30)
    taken.connect(str(balancer.directory / "gateway.sock"))
    body = json.dumps({"prompt": "taken", "tokens": 1}).encode() if model else b""
    method, path = ("POST", "/api/generate") if model else ("GET", "/api/tags")
    taken.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-OnPrem-Model: {model}\r\n".encode())
    time.sleep(0.2)
    balancer.reload()
    taken.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    response = http.client.HTTPResponse(taken, method=method)
    response.begin()
    assert response.status == 200, response.read()
    taken.close()


def test_who_is_cut_ends_and_the_others_go_on(balancer: Balancer, fleet: list[Node]) -> None:
    running: list[Answer] = []
    thread = threading.Thread(
        target=lambda: running.extend(together(2, lambda n: ask(balancer, f"r{n}", tokens=100))), daemon=True
    )
    thread.start()
    until = time.monotonic() + 10
    while not all(balancer.helper("streams", node)["running"] for node in ("n1", "n2")) and time.monotonic() < until:
        time.sleep(0.02)
    balancer.reload()
    told = balancer.helper("cut", "n1")
    assert [stream["backend"] for stream in told["streams"]] == [BACKEND]
    thread.join()
    assert sorted(len(answer.text.splitlines()) < 100 for answer in running) == [False, True]


def test_nothing_is_sent_to_a_node_before_it_was_seen_warm(authority: Authority) -> None:
    fleet = nodes(authority)
    fleet[0].states[MODEL] = "warming"
    with Balancer(fleet, {"n1": {MODEL: 4}, "n2": {MODEL: 4}}) as balancer:
        assert ask(balancer).status == 503
        balancer.await_up(BACKEND, {"n2"})
        assert {ask(balancer).text[:2] for _number in range(4)} == {"n2"}
        assert not fleet[0].seen


def test_a_refused_configuration_replaces_nothing(balancer: Balancer) -> None:
    before = balancer.workers()
    text = balancer.config.read_text(encoding="utf-8")
    balancer.config.write_text(text + "\nbackend broken\n    balance nothing\n", encoding="utf-8")
    refused = balancer.check()
    balancer.config.write_text(text, encoding="utf-8")
    assert refused.returncode != 0
    assert balancer.workers() == before
    assert ask(balancer).status == 200


@pytest.mark.parametrize("affinity", ["user", "prefix"])
def test_affinity_keeps_a_conversation_on_its_node(authority: Authority, affinity: str) -> None:
    with Balancer(nodes(authority), {"n1": {MODEL: 4}, "n2": {MODEL: 4}}, balancer_affinity=affinity) as balancer:
        balancer.await_up(BACKEND, {"n1", "n2"})
        time.sleep(1.2)
        found = {}
        for talk in range(12):
            beginning = f"{talk} " + "x" * 1200
            more = {"X-OnPrem-User": f"user{talk}"} if affinity == "user" else {}
            found[talk] = {ask(balancer, beginning + turn, **more).text[:2] for turn in ("", "y", "yz")}
        assert all(len(names) == 1 for names in found.values())
        assert set.union(*found.values()) == {"n1", "n2"}
        # Where one node would get all, the other helps.
        answers = together(8, lambda _number: ask(balancer, "same" * 500, tokens=20))
        assert {answer.text[:2] for answer in answers} == {"n1", "n2"}


def test_metrics_are_there(balancer: Balancer, fleet: list[Node]) -> None:
    ask(balancer)
    connection = Pipe(str(balancer.directory / "metrics.sock"))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    assert f'haproxy_backend_current_queue{{proxy="{BACKEND}"}} 0' in text
    assert f'haproxy_server_status{{proxy="{BACKEND}",server="n1",state="UP"}} 1' in text


def test_it_listens_on_no_network(balancer: Balancer, fleet: list[Node]) -> None:
    pids = {str(pid) for pid in balancer.workers()}
    inodes = {
        link.readlink().name
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    tables = [
        Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:] for table in ("tcp", "tcp6", "udp")
    ]
    listening = [line for table in tables for line in table if line.split()[3] == "0A" or "udp" in line]
    assert not [line for line in listening if f"socket:[{line.split()[9]}]" in inodes]
