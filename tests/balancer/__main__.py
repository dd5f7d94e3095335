# SPDX-License-Identifier: GPL-3.0-or-later
"""What the balancer costs: nginx to a node's endpoint straight, and by the balancer. `python -m tests.balancer`

One request after another over connections that stay open, 2 kB each, in turns by either way. Of nginx there are one in
front, with one worker, and one that stands for the node, with mutual TLS and a fixed answer; all on this machine.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/unit"), str(ROOT / "tests/unit/balancer")]
import conftest  # noqa: E402,F401  makes the collection importable
from certificates import Authority  # noqa: E402
from haproxy import ENDPOINT, Balancer, executable  # noqa: E402

MODEL, ROUNDS, REQUESTS = "gemma3:270m", 60, 40
SITES = """
user root root; worker_processes 1; daemon off; pid {directory}/{name}.pid; error_log stderr crit;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 1000000;
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
{servers}
}}
"""
NODE = """
    server {{
        listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_client_certificate {ca}; ssl_verify_client on; default_type application/json; keepalive_timeout 75s;
        location = /warm.json {{ return 200 '"name": "gemma3:270m", "state": "answered"'; }}
        location / {{ return 200 '{{"response":"token"}}'; }}
    }}
"""
FRONT = """
    upstream straight {{ server 127.0.0.1:{port}; keepalive 32; keepalive_requests 1000000; }}
    upstream balancer {{ server unix:{socket}; keepalive 32; keepalive_requests 1000000; }}
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; client_body_buffer_size 1m;
    server {{
        listen 127.0.0.1:{straight};
        location / {{
            proxy_pass https://straight; proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};
            proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on;
            proxy_ssl_name {endpoint}; proxy_ssl_server_name on;
        }}
    }}
    server {{
        listen 127.0.0.1:{balanced};
        location / {{
            proxy_pass http://balancer; proxy_set_header X-OnPrem-Model gemma3:270m; proxy_set_header X-OnPrem-User u;
        }}
    }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nginx(directory: Path, name: str, servers: str) -> subprocess.Popen[bytes]:
    program, environment = executable("nginx")
    path = directory / f"{name}.conf"
    path.write_text(SITES.format(directory=directory, name=name, servers=servers), encoding="utf-8")
    return subprocess.Popen([program, "-p", str(directory), "-c", str(path)], env=environment)


def connect(port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def first_byte(connection: socket.socket, request: bytes) -> float:
    """Milliseconds to the first byte of an answer, whose whole is read after. ValueError if it is none that is good."""
    began = time.perf_counter()
    connection.sendall(request)
    data = connection.recv(65536)
    spent = time.perf_counter() - began
    if not data.startswith(b"HTTP/1.1 200"):
        raise ValueError(data[:200].decode(errors="replace"))
    while b"token" not in data:
        data += connection.recv(65536)
    if b"chunked" in data:
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
    return spent * 1000


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="lb"))
    authority = Authority(directory)
    certificate, key = authority.issue("endpoint", ENDPOINT)
    client, client_key = authority.issue("client")
    port, straight, balanced = free_port(), free_port(), free_port()
    node = nginx(directory, "node", NODE.format(port=port, certificate=certificate, key=key, ca=authority.ca))
    fleet = SimpleNamespace(name="n1", port=port, authority=authority, stop=lambda: None)
    try:
        with Balancer([fleet], {"n1": {MODEL: 64}}) as balancer:
            balancer.await_up(f"model:{MODEL}", {"n1"})
            front = nginx(
                directory, "front",
                FRONT.format(
                    port=port, straight=straight, balanced=balanced, socket=balancer.directory / "gateway.sock",
                    certificate=client, key=client_key, ca=authority.ca, endpoint=ENDPOINT,
                ),
            )  # fmt: skip
            try:
                body = json.dumps({"model": MODEL, "prompt": "x" * 2000}).encode()
                head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                ways = {"straight": connect(straight), "balanced": connect(balanced)}
                times: dict[str, list[float]] = {way: [] for way in ways}
                for number in range(ROUNDS + 1):
                    for way, connection in ways.items():
                        found = [first_byte(connection, head + body) for _request in range(REQUESTS)]
                        # The first round opens the connections.
                        times[way] += found if number else []
            finally:
                front.terminate()
    finally:
        node.terminate()
    result = {
        way: {"p50_ms": round(statistics.median(found), 3), "p99_ms": round(statistics.quantiles(found, n=100)[98], 3)}
        for way, found in times.items()
    }
    result["added"] = {k: round(result["balanced"][k] - result["straight"][k], 3) for k in ("p50_ms", "p99_ms")}
    print(json.dumps({"requests": ROUNDS * REQUESTS, **result}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
