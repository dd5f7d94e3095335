# SPDX-License-Identifier: GPL-3.0-or-later
"""What onprem-llm-balancer.service and the playbooks drain.yml and undrain.yml do with the balancer on a gateway.

``state`` writes the servers' state that HAProxy reads when it starts or reads its configuration anew. A server keeps
the health that the running process knows; one that it does not know, as all are after a boot, is down until its checks
have passed, so that no node is sent anything before it was seen warm. Nodes named by a file in the directory of drained
nodes are drained.

``reload`` has HAProxy read its configuration anew: the state before, the signal, and, once the new process is there,
``apply``: what has changed in the directory while it started is not lost. Fails where no new process comes.

``apply`` brings the running processes in line with that directory, at once and without a reload.

``streams`` tells what still runs on a node, in every process: one that has been replaced serves its last streams to
their end. ``cut`` ends these streams.

``status`` tells each backend's servers. All but ``state`` and ``reload`` print one JSON document.

Needs Python 3.9 and nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMEOUT = 5.0  # seconds that HAProxy has to answer
START = 30.0  # seconds that a new process has to come
# Bits of a server's administrative state, include/haproxy/server-t.h, SRV_ADMF_*.
FORCED_MAINTENANCE, FORCED_DRAIN = 0x01, 0x08
# Columns of `show servers state`, version 1 (management guide). What follows is empty for servers with fixed addresses.
COLUMNS = (
    "be_id", "be_name", "srv_id", "srv_name", "srv_addr",
    "srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight", "srv_time_since_last_change",
    "srv_check_status", "srv_check_result", "srv_check_health", "srv_check_state", "srv_agent_state",
    "bk_f_forced_id", "srv_f_forced_id", "srv_fqdn", "srv_port", "srvrecord",
    "srv_use_ssl", "srv_check_port", "srv_check_addr", "srv_agent_addr", "srv_agent_port",
)  # fmt: skip
# A server that is down and whose checks have not said anything yet; check state 6 is "enabled and configured".
DOWN = {
    "srv_op_state": "0", "srv_admin_state": "0", "srv_uweight": "1", "srv_iweight": "1",
    "srv_time_since_last_change": "0", "srv_check_status": "1", "srv_check_result": "0", "srv_check_health": "0",
    "srv_check_state": "6", "srv_agent_state": "0", "bk_f_forced_id": "0", "srv_f_forced_id": "0", "srv_fqdn": "-",
    "srvrecord": "-", "srv_use_ssl": "1", "srv_check_port": "0", "srv_check_addr": "-", "srv_agent_addr": "-",
    "srv_agent_port": "0",
}  # fmt: skip


class Unreachable(Exception):
    """The balancer does not answer at its socket; ``absent``: no process listens there."""

    def __init__(self, message: str, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


def ask(path: str, command: str) -> str:
    """One command to one of HAProxy's sockets, and its whole answer. Raises Unreachable."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            # The master's socket waits for more commands until told that there are none.
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
    except OSError as error:
        absent = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
        raise Unreachable(f"{path}: {error}", absent) from error
    return b"".join(parts).decode(errors="replace")


def configured_servers(text: str) -> list[dict[str, str]]:
    """Backend, name, address and port of each server that a configuration has, in order, numbered as HAProxy does."""
    found: list[dict[str, str]] = []
    backend, proxies, servers = "", 1, 0
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("frontend", "backend", "listen"):
            proxies, servers, backend = proxies + 1, 0, words[1]
        elif words and words[0] == "server":
            servers += 1
            address, _colon, port = words[2].rpartition(":")
            place = {"be_id": str(proxies), "be_name": backend, "srv_id": str(servers), "srv_name": words[1]}
            found.append({**place, "srv_addr": address.strip("[]"), "srv_port": port})
    return found


def state_rows(dump: str) -> list[dict[str, str]]:
    """The servers of `show servers state`; none of a text that is no such table."""
    lines = [line for line in dump.splitlines() if line.strip()]
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        return []
    header = lines[1][2:].split()
    return [dict(zip(header, line.split())) for line in lines[2:]]


def next_state(configuration: str, dump: str, drained: set[str]) -> str:
    """The state file for a configuration, by what the running process says (nothing, where none runs)."""
    known = {(row["be_name"], row["srv_name"], row["srv_addr"], row["srv_port"]): row for row in state_rows(dump)}
    lines = ["1", "# " + " ".join(COLUMNS)]
    for server in configured_servers(configuration):
        key = (server["be_name"], server["srv_name"], server["srv_addr"], server["srv_port"])
        row = {**DOWN, **known.get(key, {}), **server}
        admin = int(row["srv_admin_state"]) & ~(FORCED_DRAIN | FORCED_MAINTENANCE)
        row["srv_admin_state"] = str(admin | (FORCED_DRAIN if server["srv_name"] in drained else 0))
        lines.append(" ".join(row[column] for column in COLUMNS))
    return "\n".join(lines) + "\n"


def commands(dump: str, drained: set[str]) -> list[str]:
    """What brings the running servers in line with the nodes that are to be drained."""
    wanted = []
    for row in state_rows(dump):
        forced = int(row["srv_admin_state"]) & (FORCED_DRAIN | FORCED_MAINTENANCE)
        place = f"{row['be_name']}/{row['srv_name']}"
        if row["srv_name"] in drained and forced != FORCED_DRAIN:
            wanted.append(f"set server {place} state drain")
        elif row["srv_name"] not in drained and forced:
            wanted.append(f"set server {place} state ready")
    return wanted


def processes(listing: str) -> list[int]:
    """Process IDs of all workers, those that were replaced among them, of the master's `show proc`."""
    return [int(line.split()[0]) for line in listing.splitlines() if re.match(r"\d+\s+worker\b", line)]


def sessions(listing: str, node: str) -> list[dict[str, Any]]:
    """What runs on a node, of `show sess`: the stream's address in memory, its backend, its age as it stands there."""
    found = []
    for line in listing.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if fields.get("srv") == node:
            found.append({"id": line.split(":", 1)[0], "backend": fields.get("be", ""), "age": fields.get("age", "")})
    return found


class Balancer:
    def __init__(self, options: argparse.Namespace) -> None:
        self._run = options.run
        self._configuration = options.configuration
        self._drained = options.drained

    def drained(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self._drained) if entry.is_file()}
        except FileNotFoundError:
            return set()

    def _ask(self, command: str) -> str:
        return ask(f"{self._run}/admin.sock", command)

    def _tell(self, pid: int, command: str) -> str:
        """One worker's answer."""
        return ask(f"{self._run}/master.sock", f"@!{pid} {command}")

    def _ask_all(self, command: str) -> list[tuple[int, str]]:
        return [(pid, self._tell(pid, command)) for pid in self._workers()]

    def _workers(self) -> list[int]:
        """All worker processes. A master that reads its configuration anew refuses connections for a moment.

        Raises Unreachable.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                found = processes(ask(f"{self._run}/master.sock", "show proc"))
                fault = Unreachable("it has no worker")
            except Unreachable as error:
                found, fault = [], error
            if found:
                return found
            if time.monotonic() > deadline:
                raise fault
            time.sleep(0.05)

    def _health(self) -> str:
        """What the running process knows of its servers; nothing where none runs. Raises Unreachable.

        One that is just being replaced may end the connection without an answer. To take that for no process would take
        every server down, so a reload waits for the answer, or does not happen.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                dump = self._ask("show servers state")
                if state_rows(dump):
                    return dump
                fault = Unreachable("it does not tell its servers' state")
            except Unreachable as error:
                if error.absent:
                    return ""
                fault = error
            if time.monotonic() > deadline:
                raise fault
            time.sleep(0.1)

    def state(self) -> None:
        text = next_state(Path(self._configuration).read_text(encoding="utf-8"), self._health(), self.drained())
        with tempfile.NamedTemporaryFile("w", dir=self._run, prefix=".servers.", delete=False) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, f"{self._run}/servers.state")

    def reload(self, master: int) -> None:
        before = set(self._workers())
        self.state()
        os.kill(master, signal.SIGUSR2)
        deadline = time.monotonic() + START
        while not set(self._workers()) - before:
            if time.monotonic() > deadline:
                raise Unreachable("no new process has come; the old one serves on")
            time.sleep(0.05)
        self.apply()

    def apply(self) -> dict[str, Any]:
        """To each worker by its number: while one takes over from another, either may answer at the common socket.

        A worker that starts later than this looks is told by :meth:`reload`, which looks at the directory again.
        """
        told = []
        for pid in self._workers():
            try:
                wanted = commands(self._tell(pid, "show servers state"), self.drained())
                for command in wanted:
                    answer = self._tell(pid, command).strip()
                    if answer:
                        raise Unreachable(f"{command}: {answer}")
                told += wanted
            except Unreachable:
                # One that was replaced may have served its last stream meanwhile.
                if pid in self._workers():
                    raise
        told = sorted(set(told), key=told.index)
        return {"changed": bool(told), "commands": told}

    def streams(self, node: str) -> dict[str, Any]:
        found = []
        for pid, listing in self._ask_all("show sess"):
            found += [{"process": pid, **session} for session in sessions(listing, node)]
        return {"node": node, "running": len(found), "streams": found}

    def cut(self, node: str) -> dict[str, Any]:
        running = self.streams(node)["streams"]
        for stream in running:
            self._tell(stream["process"], f"shutdown session {stream['id']}")
        return {"changed": bool(running), "streams": running}

    def status(self) -> dict[str, Any]:
        header, *lines = self._ask("show stat").lstrip("# ").splitlines()
        rows = [dict(zip(header.split(","), line.split(","))) for line in lines if line]
        servers = [
            {
                "backend": row["pxname"],
                "node": row["svname"],
                "status": row["status"],
                "running": int(row["scur"]),
                "slots": int(row["slim"] or 0),
                "check": row.get("last_chk") or row.get("check_status", ""),
            }
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        ]
        return {"drained": sorted(self.drained()), "servers": servers}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="the balancer's state on this gateway")
    parser.add_argument("--run", default="/run/onprem-llm-balancer", help="directory of its sockets")
    parser.add_argument("--configuration", default="/etc/onprem-llm/balancer/haproxy.cfg")
    parser.add_argument("--drained", default="/etc/onprem-llm/drained", help="directory with a file a drained node")
    orders = parser.add_subparsers(dest="order", required=True)
    for order in ("state", "apply", "status"):
        orders.add_parser(order)
    orders.add_parser("reload").add_argument("master", type=int, help="HAProxy's first process")
    for order in ("streams", "cut"):
        orders.add_parser(order).add_argument("node")
    options = parser.parse_args(arguments)
    balancer = Balancer(options)
    try:
        if options.order == "state":
            balancer.state()
        elif options.order == "reload":
            balancer.reload(options.master)
        else:
            method = getattr(balancer, options.order)
            print(json.dumps(method(options.node) if "node" in options else method()))
    except Unreachable as error:
        print(f"the balancer does not answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
