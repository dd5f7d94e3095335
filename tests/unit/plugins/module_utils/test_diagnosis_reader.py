"""A host as a diagnosis reads it: below a root, in time, and where almost nothing runs."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_host as every
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import NO_COMMAND, TIMED_OUT, Host
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_run import diagnose


def lay(root: Path, files: dict[str, str]) -> Host:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return Host(str(root), timeout=5)


def test_files_are_read_below_the_root_links_among_them(tmp_path: Path) -> None:
    host = lay(tmp_path, {"run/x": "mine"})
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    assert host.read("/var/run/x") == "mine"
    assert host.glob("/var/run/*") == ["/var/run/x"]
    assert host.read("/run/y") is None


def test_the_clock_is_the_kernels(tmp_path: Path) -> None:
    host = lay(tmp_path, {"proc/stat": "cpu 1\nbtime 1000000\n", "proc/uptime": "50.25 9.0\n"})
    assert host.now == 1000050.25
    assert abs(Host().now - time.time()) < 3


def test_a_command_that_hangs_or_is_not_there_is_told() -> None:
    host = Host(timeout=0.3)
    assert host.run("sleep", "20").status == TIMED_OUT
    assert host.run("no-such-command-of-any-host").status == NO_COMMAND
    assert host.run("sh", "-c", "echo out; exit 3")[:2] == (3, "out\n")


class Slow(http.server.BaseHTTPRequestHandler):
    """An answer in pieces; /never does not end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _piece in range(100 if self.path == "/never" else 4):
            try:
                self.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.1)

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture
def slow() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_answer_in_pieces_is_seen_as_such_and_one_that_never_ends_is_left(slow: str) -> None:
    arrivals: list[float] = []
    assert Host().ask(slow + "/four", arrivals=arrivals).out == "xxxx"
    assert len(arrivals) >= 3
    begin = time.monotonic()
    answer = Host().ask(slow + "/never", timeout=0.5)
    assert (answer.status, "within" in answer.err) == (0, True)
    assert time.monotonic() - begin < 3
    assert Host().ask("http://127.0.0.1:9/", timeout=1).status == 0


LINE = "{} node kernel: Out of memory: Killed process 88 (llama-server) total-vm:1kB"


@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        ("", ladder.OK),
        (LINE.format("1970-01-12T13:00:00+00:00"), ladder.BROKEN),
        (LINE.format("1970-01-12T14:00:00+0100"), ladder.BROKEN),
        (LINE.format("[  100.5]"), ladder.BROKEN),
        (LINE.format("1970-01-09T13:00:00+00:00"), ladder.REMARK),
        ("1970-01-12T13:00:00+00:00 node kernel: Memory cgroup out of memory: Killed process 5 (x y) z", ladder.BROKEN),
        ("1970-01-12T13:00:00+00:00 node prog: it was out of memory", ladder.OK),
    ],
)
def test_memory_kills(tmp_path: Path, log: str, verdict: str) -> None:
    # The clock stands at 1970-01-12 13:56:40.
    files = {"proc/stat": "btime 996400\n", "proc/uptime": "3600.0 1\n", "var/log/kern.log": log}
    assert every.memory_kills(lay(tmp_path, files), every.Wanted()).verdict == verdict


@pytest.mark.parametrize(("offset", "verdict"), [(0, ladder.OK), (59, ladder.OK), (61, "broken"), (-900, "broken")])
def test_the_clock_against_the_controllers(tmp_path: Path, offset: int, verdict: str) -> None:
    host = lay(tmp_path, {"proc/stat": f"btime {1000000 + offset}\n", "proc/uptime": "100.0 1\n"})
    assert every.clock(host, every.Wanted(controller_time=1000100, time_service=False)).verdict == verdict


def test_no_name_server_is_no_fault_and_one_that_refuses_is(tmp_path: Path) -> None:
    assert every.dns(lay(tmp_path, {"etc/resolv.conf": "search lan\n"}), every.Wanted()).verdict == ladder.NOT_ASKED
    found = every.dns(lay(tmp_path, {"etc/resolv.conf": "nameserver 127.0.0.9\n"}), every.Wanted())
    assert found.verdict == ladder.BROKEN
    assert "127.0.0.9: " in found.seen


def test_a_host_on_which_nothing_runs_is_told_of_without_a_fault_of_ours(tmp_path: Path) -> None:
    host = lay(tmp_path, {"proc/stat": "btime 1000000\n", "proc/uptime": "100.0 1\n", "var/log/kern.log": ""})
    # Commands are the test machine's own, and may answer.
    host.run = lambda *argv, **_more: type(host.ask("http://127.0.0.1:9/"))(NO_COMMAND, "", f"{argv[0]}: not there")
    wanted = every.Wanted(engine_url="http://127.0.0.1:9", controller_time=1000100)
    found = {item.rung: item for item in diagnose(host, wanted, ladder.FUNCTIONS)}
    assert list(found) == list(ladder.NAMES)
    assert found["hardware"].verdict == ladder.BROKEN
    assert found["docker"].seen == "there is no docker command"
    assert found["engine"].because
    for item in found.values():
        assert "Error: " not in item.seen, item
        assert item.verdict != ladder.BROKEN or (item.means and item.mend), item


def test_a_damaged_plan_is_the_models_fault_and_no_others(tmp_path: Path) -> None:
    files = {"proc/stat": "btime 1000000\n", "proc/uptime": "100.0 1\n", "etc/onprem-llm/plan.json": '{"schema": 1'}
    found = {item.rung: item for item in diagnose(lay(tmp_path, files), every.Wanted(), ["node"])}
    assert found["models"].verdict == ladder.BROKEN
    assert "is no JSON" in found["models"].seen
