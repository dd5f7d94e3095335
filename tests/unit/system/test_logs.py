"""Bounds of the journal, and logs on their way to another host: rsyslog itself, over TLS, through a rotation."""

from __future__ import annotations

import importlib.util
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from role_templates import ROLES, evaluated, rendered, role_variables, trusted

from tests.packages import unpacked

spec = importlib.util.spec_from_file_location("read_state", ROLES / "system/files/read_state.py")
assert spec
assert spec.loader
read_state = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read_state)
# What the templates ask of a host that was read.
READ = {"stdout": "{}"}


def journal(theirs: list[str], **variables: object) -> str:
    state = {"journal": theirs}
    return rendered("system", "journald.conf.j2", __system_state=state, __system_read=READ, **variables)


@pytest.mark.parametrize(
    ("theirs", "variables", "expected"),
    [
        pytest.param([], {}, ["SystemMaxUse=1G", "MaxRetentionSec=30day"], id="nobody has set anything"),
        pytest.param(["ForwardToSyslog"], {}, ["SystemMaxUse=1G", "MaxRetentionSec=30day"], id="something else"),
        pytest.param(["SystemMaxUse"], {}, ["MaxRetentionSec=30day"], id="one is theirs"),
        pytest.param([], {"system_journal_max_age": ""}, ["SystemMaxUse=1G"], id="one is not wanted"),
    ],
)
def test_the_journals_bounds(theirs: list[str], variables: dict[str, str], expected: list[str]) -> None:
    assert journal(theirs, **variables).splitlines()[1:] == ["[Journal]", *expected]


@pytest.mark.parametrize(
    ("theirs", "variables"),
    [(["MaxRetentionSec", "SystemMaxUse"], {}), ([], {"system_journal_max_age": "", "system_journal_max_size": ""})],
)
def test_no_bounds_no_file(theirs: list[str], variables: dict[str, str]) -> None:
    host = {"__system_state": {"journal": theirs}, "__system_read": READ, **variables}
    assert evaluated(trusted("{{ __system_journal }}"), {**role_variables("system"), **host}) == []


def test_settings_of_others_are_found(tmp_path: Path) -> None:
    main, drop_in = tmp_path / "journald.conf", tmp_path / "site.conf"
    main.write_text("[Journal]\n#SystemMaxUse=\n#MaxRetentionSec=0\nStorage=persistent\nRuntimeMaxUse=\n")
    drop_in.write_text("[Journal]\n  MaxRetentionSec = 1year\n")
    paths = [str(main), str(drop_in), str(tmp_path / "none.conf")]
    assert read_state.journal_settings(paths) == ["MaxRetentionSec", "Storage"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("system_journal_max_size", "1 GB"),
        ("system_journal_max_age", "a month"),
        ("system_log_forward_host", "logs.example.com:6514"),
        ("system_log_forward_port", 0),
        ("system_log_forward_ca_file", "/no/such/file"),
        ("system_log_forward_peer", 'x" y'),
    ],
)
def test_a_bad_value_is_a_fault(variable: str, value: object) -> None:
    """Of the checks, those about this variable alone: the others look at the host."""
    checks = [text for text in role_variables("system")["__system_checks"] if f"'{variable} is" in text]
    assert len(checks) == 1
    assert str(evaluated(trusted(checks[0]), role_variables("system"))).strip() == ""
    said = str(evaluated(trusted(checks[0]), {**role_variables("system"), variable: value}))
    assert said.startswith(f"{variable} is {value}; ")


class Collector:
    """A syslog server with TLS that keeps the messages it gets; it can be away for a while."""

    def __init__(self, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._context = context
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.messages: list[str] = []

    def start(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _peer = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        data = b""
        try:
            with self._context.wrap_socket(connection, server_side=True) as peer:
                while part := peer.recv(65536):
                    data += part
                    # RFC 5425: a length, a space, and so many bytes.
                    while (head := re.match(rb"(\d+) ", data)) and len(data) >= head.end() + int(head[1]):
                        end = head.end() + int(head[1])
                        self.messages.append(data[head.end() : end].decode())
                        data = data[end:]
        except OSError:
            return


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    files = [tmp_path / name for name in ("key.pem", "certificate.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=logs.test", "-addext", "subjectAltName=DNS:logs.test", "-keyout", files[0], "-out", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    both = tmp_path / "both.pem"
    both.write_text(files[0].read_text() + files[1].read_text())
    made = Collector(both)
    yield made
    made.stop()


class Forwarder:
    """rsyslogd of the distribution with the role's file, its paths below a directory."""

    def __init__(self, directory: Path, port: int, peer: str) -> None:
        package = unpacked("rsyslog", "rsyslog-gnutls", "libestr0", "libfastjson4", "liblognorm5")
        libraries = package / "usr/lib/x86_64-linux-gnu"
        text = rendered(
            "system", "rsyslog.conf.j2", ansible_facts={"distribution": "Debian"}, system_log_forward_host="127.0.0.1",
            system_log_forward_port=port, system_log_forward_ca_file="given", system_log_forward_peer=peer,
        )  # fmt: skip
        text = text.replace("/etc/onprem-llm/log-forward-ca.crt", str(directory / "certificate.pem"))
        for place in ("/var/log/nginx", "/var/log/ollama", "/var/lib/docker/containers"):
            (directory / place[1:]).mkdir(parents=True)
            text = text.replace(place, f"{directory}{place}")
        (directory / "var/lib/docker/containers/abc").mkdir()
        (directory / "spool").mkdir()
        configuration = directory / "rsyslog.conf"
        configuration.write_text(
            f'global(workDirectory="{directory}/spool")\n' + text.replace('Interval="10"', 'Interval="1"')
        )
        self._command = [package / "usr/sbin/rsyslogd", "-n", "-f", configuration, "-i", directory / "pid"]
        self._command += ["-M", libraries / "rsyslog"]
        self._environment = {"LD_LIBRARY_PATH": f"{libraries}:{package}/lib/x86_64-linux-gnu"}

    def check(self) -> str:
        done = subprocess.run(
            [*self._command, "-N1"], env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stderr if done.returncode else ""

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def until(what: object, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


def test_every_line_arrives_through_a_rotation_and_a_server_that_was_away(tmp_path: Path, collector: Collector) -> None:
    forwarder = Forwarder(tmp_path, collector.port, "logs.test")
    assert forwarder.check() == ""
    places = {
        "onprem-llm-gateway": tmp_path / "var/log/nginx/onprem-llm-gateway.log",
        "onprem-llm-endpoint": tmp_path / "var/log/nginx/onprem-llm-endpoint.log",
        "onprem-llm-checks": tmp_path / "var/log/ollama/health_check.log",
        "onprem-llm-container": tmp_path / "var/lib/docker/containers/abc/abc-json.log",
    }
    secret = tmp_path / "var/log/nginx/onprem-llm-gateway.error.log"
    for place in (*places.values(), secret):
        place.touch()
    forwarder.start()
    try:

        def write(first: int, last: int) -> None:
            for place in places.values():
                with place.open("a") as file:
                    file.writelines(f'{{"number": {number}}}\n' for number in range(first, last))

        time.sleep(1)
        secret.write_text("a request line\n")
        write(0, 50)  # nobody listens yet
        collector.start()
        assert until(lambda: len(collector.messages) >= 4 * 50)
        for place in places.values():
            place.rename(f"{place}.1")
        write(50, 100)
        assert until(lambda: len(collector.messages) >= 4 * 100)
        time.sleep(1)
    finally:
        forwarder.process.terminate()
        forwarder.process.wait(timeout=20)
    told: dict[str, list[int]] = {}
    for message in collector.messages:
        match = re.match(r'<182>1 \S+ \S+ (\S+) - - - ?\{"number": (\d+)\}$', message)
        assert match, message
        told.setdefault(match[1], []).append(int(match[2]))
    assert {tag: sorted(numbers) for tag, numbers in told.items()} == {tag: list(range(100)) for tag in places}


def test_nothing_goes_to_a_server_of_another_name(tmp_path: Path, collector: Collector) -> None:
    collector.start()
    forwarder = Forwarder(tmp_path, collector.port, "other.test")
    log = tmp_path / "var/log/ollama/health_check.log"
    log.touch()
    forwarder.start()
    try:
        time.sleep(1)
        log.write_text('{"number": 1}\n')
        time.sleep(3)
    finally:
        forwarder.process.kill()
        forwarder.process.wait(timeout=20)
    assert collector.messages == []
