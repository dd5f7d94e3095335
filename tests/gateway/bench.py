# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make bench-gateway``: what the gateway costs, beside a direct connection, the seeds' configuration and the least
that does the same.

One fixed upstream, no model. The paths take turns, so that what else the machine does meets all of them alike.
Seconds to the first byte of
an answer are measured on kept connections; tokens a second with 64 streams at 100 tokens a second each. Writes
build/bench/gateway.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import selectors
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.gateway import packages
from tests.gateway.client import Client, prompt
from tests.gateway.sites import Site, endpoint, free_port, variables

RESULT = packages.ROOT / "build/bench/gateway.json"
METRICS = packages.ROOT / "roles/monitoring/files/programs/metrics.py"
STREAMS, PACE = 64, 100
MODEL = {
    "name": "gemma3:270m",
    "queue": "gemma3:270m",
    "slots": 1000,
    "keep_alive": "-1",
    "options": {"num_ctx": 8192},
    "tag": {},
}
UNBOUND = {"requests_per_second": 1e6, "burst": 2e6, "concurrency": 1000}

# The least: TLS, kept connections, a plain map of keys, every token at once.
FLOOR = """
map_hash_bucket_size 256;
map $http_authorization $floor_user {{ default ""; "Bearer {key}" app; }}
upstream floor {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000; }}
server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/etc/onprem-llm/pki/gateway.crt;
    ssl_certificate_key {directory}/etc/onprem-llm/pki/gateway.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    keepalive_requests 1000000;
    location / {{
        if ($floor_user = "") {{ return 401; }}
        proxy_pass http://floor;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host localhost:11434;
        proxy_buffering off;
    }}
}}
"""
# The seeds': any bearer, no TLS, a pool that HTTP/1.0 to the upstream leaves unused.
SEED = """
upstream seed {{ server 127.0.0.1:{upstream}; keepalive 32; }}
server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000;
    client_max_body_size 10m;
    set $api_key "";
    if ($http_authorization ~* "^Bearer\\s+(.+)$") {{ set $api_key $1; }}
    if ($api_key = "") {{ return 401; }}
    location /api/ {{
        proxy_pass http://seed;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_read_timeout 600s;
        proxy_buffering off;
        add_header Access-Control-Allow-Origin "https://your-app.example.com";
    }}
}}
"""


class Bench:
    """The upstream and one nginx a configuration, all on loopback."""

    def __init__(self, directory: Path) -> None:
        self.key, self.directory, self.nginx = secrets.token_urlsafe(32), directory, packages.unpack()
        self.upstream = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.upstream", str(self.upstream)], cwd=packages.ROOT
        )
        self.watcher: subprocess.Popen[bytes] | None = None
        self.sites: dict[str, Site] = {}
        self.ports = {"direct": self.upstream}
        self.authorities: dict[str, str] = {"direct": "", "seed": ""}

    def site(self, name: str) -> tuple[Site, int]:
        site = Site(self.nginx, self.directory / name)
        self.sites[name], self.ports[name] = site, free_port()
        self.authorities[name] = str(site.certify()) if name != "seed" else ""
        return site, self.ports[name]

    def plain(self, name: str, text: str) -> None:
        site, port = self.site(name)
        site.write("bench.conf", text.format(key=self.key, upstream=self.upstream, port=port, directory=site.directory))
        site.start(port)

    def gateway(self, name: str, **given: Any) -> None:
        """The role's own configuration; ``given`` overrides its variables."""
        site, port = self.site(name)
        user = {
            "name": "app", "role": "admin" if name == "keys" else "user",
            "api_keys": [{"sha256": hashlib.sha256(self.key.encode()).hexdigest()}],
            "models": ["gemma3:270m"], "limits": UNBOUND | {"daily_tokens": 10**12},
        }  # fmt: skip
        values = variables([("127.0.0.1", self.upstream)], port, {
            "gateway_users": [user], "__gateway_models": [MODEL], "gateway_address_requests_per_second": 100000,
            "gateway_address_requests_burst": 100000, **given,
        })  # fmt: skip
        site.render(values)
        if "node" in self.sites:
            for file in ("gateway-client.crt", "gateway-client.key", "ca.crt"):
                shutil.copy(
                    self.sites["node"].directory / "etc/onprem-llm/pki" / file, site.directory / "etc/onprem-llm/pki"
                )
        site.start(port)

    def watched(self, name: str) -> None:
        """A gateway whose log and state the metrics program reads each second, 15 times as often as on a host."""
        status = free_port()
        self.gateway(name, gateway_status_port=status)
        place = self.sites[name].directory
        self.watcher = subprocess.Popen(
            [
                sys.executable, "-I", "-B", METRICS, "--metrics", place / "metrics.prom", "--interval", "1",
                "--root", place, "--state", place, "--gateway-log", place / "var/log/nginx/onprem-llm-gateway.log",
                "--gateway-rules", place / "etc/nginx/onprem-llm-gateway.json",
                "--gateway-status", f"http://127.0.0.1:{status}/status",
            ],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def seen(self, name: str) -> int:
        """Requests that the metrics program has counted."""
        time.sleep(3)
        text = (self.sites[name].directory / "metrics.prom").read_text(encoding="utf-8")
        return sum(
            int(float(value)) for value in re.findall(r"(?m)^onprem_llm_gateway_requests_total\{.*\} (\S+)$", text)
        )

    def node(self) -> int:
        """An endpoint as the role of that name has it, with mutual TLS; return its port."""
        self.sites["node"], port = endpoint(self.nginx, self.directory / "node", self.upstream)
        return port

    def counters(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.upstream}/counters", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def cpu_seconds(self, name: str) -> float:
        """What this nginx's processes have used."""
        pids = [self.sites[name].pid]
        pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def client(self, name: str) -> Client:
        return Client(self.ports[name], self.authorities[name], self.key)

    def first_bytes(self, names: list[str], rounds: int, each: int) -> dict[str, list[float]]:
        """Milliseconds to the first byte, in turns."""
        clients = {name: self.client(name) for name in names}
        request = {name: client.request(prompt(2000, 3)) for name, client in clients.items()}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for _ in range(each):
                    seconds = clients[name].ask(request[name])[0]
                    if turn:
                        times[name].append(seconds * 1000)
        for client in clients.values():
            client.close()
        return times

    def tokens_a_second(self, name: str, tokens: int) -> float:
        """With all streams at once."""
        clients = [self.client(name) for _ in range(STREAMS)]
        request = clients[0].request(prompt(2000, tokens, PACE))
        selector = selectors.DefaultSelector()
        tails: dict[Client, bytes] = {}
        started = time.perf_counter()
        for client in clients:
            client.socket.sendall(request)
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ, client)
        received = 0
        while len(tails) < STREAMS or selector.get_map():
            for key, _ in selector.select(10):
                client = key.data
                while True:
                    try:
                        data = client.socket.recv(65536)
                    except (BlockingIOError, ssl.SSLWantReadError):
                        break
                    if not data:
                        raise OSError("a stream ended early")
                    received += data.count(b'"done":')
                    tails[client] = (tails.get(client, b"") + data)[-7:]
                    if tails[client] == b"\r\n0\r\n\r\n":
                        selector.unregister(client.socket)
                        break
        seconds = time.perf_counter() - started
        for client in clients:
            client.close()
        return received / seconds

    def close(self) -> None:
        if self.watcher:
            self.watcher.terminate()
            self.watcher.wait()
        for site in self.sites.values():
            site.stop()
        self.process.terminate()
        self.process.wait()


def added(times: dict[str, list[float]], name: str, over: str, quantile: float) -> float:
    def value(rows: list[float]) -> float:
        return statistics.quantiles(rows, n=1000)[int(quantile * 1000) - 1]

    return round(value(times[name]) - value(times[over]), 4)


def measure(bench: Bench, rounds: int, tokens: int) -> dict[str, Any]:
    bench.plain("floor", FLOOR)
    bench.plain("seed", SEED)
    bench.gateway("gateway")
    # The same without a look at the body: an admin's route.
    bench.gateway(
        "keys", __gateway_routes=[{"path": "/api/chat", "method": "POST", "role": "admin"}], gateway_admin_api=True
    )
    node = bench.node()
    bench.gateway(
        "fleet", gateway_upstream_tls=True, gateway_upstreams=[{"name": "node", "address": "127.0.0.1", "port": node}]
    )
    bench.watched("watched")
    times = bench.first_bytes(["direct", "seed", "floor", "gateway", "watched", "keys", "fleet"], rounds, 20)
    single = bench.client("gateway")
    _, reads, _ = single.ask(single.request(prompt(2000, 64, PACE)))
    rates: dict[str, list[float]] = {"direct": [], "gateway": []}
    connections, cpu, count = 0, 0.0, 0
    for turn in range(4):
        for name in ("direct", "gateway") if turn % 2 else ("gateway", "direct"):
            opened, used = bench.counters()["connections"], bench.cpu_seconds("gateway")
            rates[name].append(bench.tokens_a_second(name, tokens))
            if name == "gateway":
                connections = max(connections, bench.counters()["connections"] - opened - 1)
                cpu += bench.cpu_seconds("gateway") - used
                count += STREAMS * tokens
    return {
        "added_ttft_p50_ms": added(times, "gateway", "direct", 0.5),
        "added_ttft_p99_ms": added(times, "gateway", "direct", 0.99),
        "seed_added_ttft_p50_ms": added(times, "seed", "direct", 0.5),
        "tls_map_added_ttft_p50_ms": added(times, "floor", "direct", 0.5),
        "rights_added_ttft_p50_ms": added(times, "gateway", "keys", 0.5),
        "node_tls_added_ttft_p50_ms": added(times, "fleet", "gateway", 0.5),
        "metrics_added_ttft_p50_ms": added(times, "watched", "gateway", 0.5),
        "metrics_added_ttft_p99_ms": added(times, "watched", "gateway", 0.99),
        "metrics_requests_counted": bench.seen("watched"),
        "direct_ttft_p50_ms": round(statistics.median(times["direct"]), 4),
        "requests_each": len(times["direct"]),
        "throughput_ratio": round(statistics.median(rates["gateway"]) / statistics.median(rates["direct"]), 4),
        "tokens_per_second": round(statistics.median(rates["gateway"]), 1),
        "streams": STREAMS,
        "upstream_connections": connections,
        "reads_per_stream": reads,
        "tokens_per_stream": 64,
        "nginx_cpu_us_per_token": round(cpu / count * 1e6, 1),
        "nginx": bench.nginx.version,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="turns of 20 requests a path")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of each of the 64 streams")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onprem-llm-bench-") as directory:
        bench = Bench(Path(directory))
        try:
            result = measure(bench, arguments.rounds, arguments.tokens)
        finally:
            bench.close()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
