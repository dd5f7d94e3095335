# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's own configuration on loopback: its variables evaluated, its templates rendered, their paths led into
one directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.loader import init_plugin_loader
from ansible.template import trust_as_template

from tests.gateway.packages import ROOT, Nginx
from tests.unit.certificates import Authority
from tests.unit.role_templates import ROLES, evaluated, role_variables

TEMPLATES = {
    "gateway.conf.j2": "etc/nginx/conf.d/onprem-llm-gateway.conf",
    "gateway.json.j2": "etc/nginx/onprem-llm-gateway.json",
}
PROGRAM = "etc/nginx/onprem-llm-gateway"
MAIN = """
{modules}
daemon off;
{user}
pid {directory}/run/nginx.pid;
error_log {directory}/var/log/nginx/error.log warn;
worker_processes {workers};
worker_rlimit_nofile 8192;
events {{ worker_connections {connections}; }}
http {{
    lua_package_path "{lua}";
    lua_package_cpath "{lua_c}";
    access_log off;
    client_body_temp_path {directory}/run/body;
    proxy_temp_path {directory}/run/proxy;
    fastcgi_temp_path {directory}/run/fastcgi;
    uwsgi_temp_path {directory}/run/uwsgi;
    scgi_temp_path {directory}/run/scgi;
    include {directory}/etc/nginx/conf.d/*.conf;
}}
"""


# Templates name the collection's filters, which Ansible finds below a directory of collections.
init_plugin_loader([str(ROOT / ".venv/collections")])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def variables(
    upstreams: list[tuple[str, int]], port: int, given: Mapping[str, Any], nginx_version: str = "1.22.1"
) -> dict[str, Any]:
    """The role's variables for upstreams without mutual TLS and a gateway on 127.0.0.1; ``given`` overrides."""
    return role_variables("gateway") | {
        "inventory_hostname": "localhost",
        "group_names": ["gateways"],
        "groups": {"gateways": ["localhost"], "llm_nodes": []},
        "hostvars": {},
        "ansible_managed": "Rendered on loopback.",
        "ansible_facts": {"distribution": "Debian", "distribution_major_version": "12"},
        "__gateway_state": {"stdout_lines": [f"installed nginx={nginx_version}-0"]},
        "gateway_address": "127.0.0.1",
        "gateway_port": port,
        "gateway_status_port": free_port(),
        "gateway_http_redirect": False,
        "gateway_dns_names": ["localhost"],
        "gateway_ip_addresses": ["127.0.0.1"],
        "gateway_upstreams": [
            {"name": f"engine{i}", "address": host, "port": at} for i, (host, at) in enumerate(upstreams)
        ],
        "gateway_upstream_tls": False,
        **given,
    }


class Site:
    """One nginx with files of its own below ``directory``."""

    def __init__(self, nginx: Nginx, directory: Path, workers: int | str = 1, connections: int = 2048) -> None:
        """:param connections: how many each worker may have."""
        self.nginx, self.directory, self.workers, self.connections = nginx, directory, workers, connections
        for name in ("run/onprem-llm-gateway", "etc/nginx/conf.d", "etc/onprem-llm/pki", "var/log/nginx"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def moved(self, text: str) -> str:
        """A configuration with its paths below the directory."""
        for path in (
            "/etc/nginx/", "/etc/onprem-llm/", "/var/log/nginx/", "/var/lib/prometheus/",
            "/run/onprem-llm-", "/run/onprem-llm/",
        ):  # fmt: skip
            text = text.replace(path, f"{self.directory}{path}")
        return text

    def certify(self) -> Path:
        """Write a certificate where the role has its own; return the authority's."""
        authority = Authority(self.directory)
        for suffix, path in zip(("crt", "key"), authority.issue("localhost")):
            os.replace(path, self.directory / "etc/onprem-llm/pki" / f"gateway.{suffix}")
        return Path(authority.ca)

    def render(self, values: Mapping[str, Any]) -> None:
        """The role's files, as its tasks write them."""
        for template, path in TEMPLATES.items():
            self.render_template("gateway", template, values, path)
        shutil.copytree(ROLES / "gateway/files/lua", self.directory / PROGRAM, dirs_exist_ok=True)

    def render_template(
        self, role: str, template: str, values: Mapping[str, Any], path: str = "etc/nginx/conf.d/site.conf"
    ) -> None:
        source = (ROLES / role / "templates" / template).read_text(encoding="utf-8")
        (self.directory / path).write_text(
            self.moved(evaluated(trust_as_template(source), dict(values))), encoding="utf-8"
        )

    def write(self, name: str, text: str) -> None:
        (self.directory / "etc/nginx/conf.d" / name).write_text(text, encoding="utf-8")

    def start(self, port: int) -> None:
        """Run nginx until its port answers.

        :raises RuntimeError: it does not.
        """
        lua, lua_c = self.nginx.lua_paths
        main = self.directory / "etc/nginx/nginx.conf"
        root = os.geteuid() == 0
        main.write_text(
            MAIN.format(
                directory=self.directory, workers=self.workers, connections=self.connections, lua=lua, lua_c=lua_c,
                user="user root;" if root else "",
                modules="\n".join(f"load_module {module};" for module in self.nginx.modules),
            )
        )  # fmt: skip
        self._process = subprocess.Popen(
            [*self.nginx.command, "-c", main, "-p", self.directory, "-e", self.directory / "var/log/nginx/error.log"],
            env=self.nginx.environment,
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"nginx does not answer on {port}: {self.errors()}")

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def errors(self) -> str:
        return (self.directory / "var/log/nginx/error.log").read_text(encoding="utf-8", errors="replace")

    def wait(self) -> None:
        """Until nginx ends."""
        assert self._process
        self._process.wait()

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def endpoint(nginx: Nginx, directory: Path, engine: int) -> tuple[Site, int]:
    """A node's endpoint as the role of that name has it, before an engine on a port of 127.0.0.1; it runs, and its
    port. A gateway's certificate, key and authority lie in its directory, as ``gateway-client.*`` and ``ca.crt``.
    """
    site = Site(nginx, directory)
    authority = Authority(directory)
    pki = site.directory / "etc/onprem-llm/pki"
    for name, common, names in (
        ("endpoint", "node", ("endpoint.onprem-llm.internal",)),
        ("gateway-client", "localhost", ()),
    ):
        for suffix, path in zip(("crt", "key"), authority.issue(common, *names)):
            os.replace(path, pki / f"{name}.{suffix}")
    (pki / "ca.crt").write_bytes(Path(authority.ca).read_bytes())
    port = free_port()
    site.render_template("endpoint", "endpoint.conf.j2", role_variables("endpoint") | {
        "ansible_managed": "", "inventory_hostname": "node", "endpoint_address": "127.0.0.1", "endpoint_port": port,
        "endpoint_client_names": ["localhost"], "endpoint_engine_address": "127.0.0.1",
        "endpoint_engine_port": engine,
        "endpoint_read_timeout_seconds": 900, "endpoint_admin_api": False,
        **{name: role_variables("gateway")[name] for name in ("__gateway_routes", "__gateway_node_files")},
    })  # fmt: skip
    site.start(port)
    return site, port
