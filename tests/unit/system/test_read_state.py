"""What the system role reads of a host, run against a proxy that a thread of the test plays."""

from __future__ import annotations

import base64
import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/system/files/read_state.py"
spec = importlib.util.spec_from_file_location("read_state", SCRIPT)
read_state = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read_state)

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n"


class Proxy(http.server.BaseHTTPRequestHandler):
    """Takes the login site:secret, and refuses what its path names with that status."""

    def answer(self) -> None:
        login = base64.b64encode(b"site:secret").decode()
        status = 407 if self.headers.get("Proxy-Authorization") != f"Basic {login}" else 200
        for code in (403, 404, 502):
            if str(code) in self.path and status == 200:
                status = code
        self.send_response(status)
        self.end_headers()

    do_HEAD = do_CONNECT = answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.mark.parametrize(
    ("login", "url", "status"),
    [
        pytest.param("site:secret@", "http://archive.test/", None, id="passes"),
        pytest.param("site:secret@", "http://archive.test/404", None, id="what the other side lacks is no fault"),
        pytest.param("site:wrong@", "http://archive.test/", 407, id="wrong password"),
        pytest.param("", "http://archive.test/", 407, id="no login"),
        pytest.param("site:secret@", "http://archive.test/403", 403, id="forbidden"),
        pytest.param("site:secret@", "http://archive.test/502", 502, id="not reached"),
        pytest.param("site:wrong@", "https://archive.test/", 407, id="wrong password for a tunnel"),
        pytest.param("site:secret@", "https://403.test/", 403, id="tunnel forbidden"),
    ],
)
def test_proxy_that_refuses(
    port: int, login: str, url: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    answer = read_state.try_proxy(f"http://{login}127.0.0.1:{port}", url)
    assert (answer["url"], answer["status"], answer["error"]) == (url, status, "")


def test_proxy_that_is_not_there() -> None:
    answer = read_state.try_proxy("http://site:secret@127.0.0.1:9", "http://archive.test/")
    assert answer["status"] is None
    assert "refused" in answer["error"]
    assert "secret" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("mirror.site.internal", True),
        ("internal.example.com", False),
        ("node1", True),
        ("node10", False),
        ("[fd00::5]", True),
    ],
)
def test_direct(host: str, expected: bool) -> None:
    entries = ["localhost", "10.0.0.0/8", ".internal", "node1", "fd00::/64", "::1"]
    assert read_state.direct(host, entries) is expected


def test_proxy_is_tried_with_apts_own_sources() -> None:
    listing = "'http://node1/debian/dists/trixie/InRelease' x 0\n'https://a.test/debian/dists/trixie/InRelease' y 0\n"
    assert read_state.apt_index(listing, ["node1"]) == ["https://a.test/debian/dists/trixie/InRelease"]
    assert read_state.apt_index(listing, ["node1", "a.test"]) == []
    assert read_state.apt_index("", []) == []


def test_untrusted(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text(PEM.replace("AAAA\nBBBB", "AAAABBBB"), encoding="utf-8")
    other = PEM.replace("AAAA", "CCCC")
    assert read_state.untrusted([PEM], str(bundle)) == 0
    assert read_state.untrusted([PEM, other, "no certificate"], str(bundle)) == 2
    assert read_state.untrusted([PEM], str(tmp_path / "none")) == 1


@pytest.mark.parametrize(
    ("show", "expected"),
    [
        ("NTP=yes\nNTPSynchronized=yes\n", True),
        ("NTP=no\nNTPSynchronized=no\n", False),
        ("", None),
    ],
)
def test_time_state(show: str, expected: bool | None) -> None:
    assert read_state.time_state(show, ["chrony"]) == {"services": ["chrony"], "synchronized": expected}


def test_foreign_apt_proxies() -> None:
    dump = (
        'Acquire::http::Proxy "http://u:p@other:3128/";\nAcquire::https::Proxy "http://ours:3128/";\n'
        'Acquire::http::Proxy::node1 "DIRECT";\n'
    )
    assert read_state.foreign_apt_proxies(dump, "http://a:b@ours:3128") == ["http://other:3128"]


@pytest.mark.parametrize("ahead", [-300, 0, 300])
def test_whole_program_tells_how_the_clocks_differ(tmp_path: Path, ahead: int) -> None:
    known = tmp_path / "known"
    known.write_text("x", encoding="utf-8")
    known.chmod(0o640)
    wanted = {
        "now": time.time() - ahead, "files": [str(known), "/no/such/file"], "certificates": [], "proxy": "",
        "no_proxy": [], "targets": ["http://archive.test/"], "mirror": "https://mirror.test/debian",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT.read_text(encoding="utf-8")],
        input=json.dumps(wanted), capture_output=True, text=True, check=True,
    )  # fmt: skip
    state = json.loads(run.stdout)
    assert abs(state["clock_offset_seconds"] - ahead) < 10
    assert state["files"]["/no/such/file"] is None
    assert state["files"][str(known)]["mode"] == "0640"
    assert state["mirror_lists"] is False
    assert state["proxy"] == []
