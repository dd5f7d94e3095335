# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rungs of every host: clock, disk, memory, names, certificates, firewall, logs."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import secrets
import socket
import struct
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import (
    Finding,
    Unreadable,
    broken,
    not_asked,
    ok,
    remark,
)
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import NO_COMMAND, TIMED_OUT, Host
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

SITE = "ansible-playbook site.yml --limit {host}"
PKI = "/etc/onprem-llm/pki"
# A file system this full is worth a look. It is full where so much is used and less is left than a log, a layer of an
# image and a renewed certificate may take: of a large one, a small share is still much.
DISK_REMARK, DISK_BROKEN, DISK_LEAST_BYTES = 0.85, 0.97, 2 * 2**30
INODES_BROKEN = 0.99
CERTIFICATE_REMARK_DAYS = 14
# A kill that is older than a day is history: what it hit was started again, or is another rung's matter.
KILL_SECONDS = 86400
_KILL = re.compile(r"(?:Out of memory|Memory cgroup out of memory): Killed process (\d+) \(([^)]*)\)")
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?")
_UPTIME_STAMP = re.compile(r"^\[ *(\d+\.\d+)\]")
# Those whose contents are the kernel's own, or read-only by nature.
_PSEUDO = {
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fuse.lxcfs", "fusectl", "hugetlbfs", "iso9660", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs",
    "securityfs", "squashfs", "sysfs", "tracefs",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a host is to be, from the inventory. Paths and addresses are the host's own."""

    name: str = "this host"
    engine_url: str = "http://172.30.250.2:11434"
    engine_container: str = "onprem-llm-ollama"
    data_dir: str = "/var/lib/onprem-llm/ollama"
    controller_time: float | None = None
    clock_tolerance: float = 60
    time_service: bool = True
    gpu_proof: bool = True
    compare_speed: bool = True
    hash_seconds: float = 60
    endpoint_address: str = ""
    endpoint_port: int = 8443
    gateway_address: str = "127.0.0.1"
    gateway_port: int = 443
    gateway_name: str = ""
    gateway_key: str = ""
    gateway_model: str = ""
    nodes: tuple[str, ...] = ()
    mirrors: tuple[tuple[str, str], ...] = ()
    registry_place: str = ""

    def mend(self, text: str = SITE) -> str:
        """A command with the host's name in it."""
        return text.format(host=self.name)


def clock(host: Host, wanted: Wanted) -> Finding:
    if wanted.controller_time is not None:
        offset = host.now - wanted.controller_time
        if abs(offset) > wanted.clock_tolerance:
            side = "ahead of" if offset > 0 else "behind"
            return broken(
                "clock",
                f"{abs(offset):.0f} s {side} the controller's clock; at most {wanted.clock_tolerance:g} are tolerated",
                "Certificates seem expired or not valid yet, keys end at the wrong time, and logs do not match.",
                "timedatectl status; chronyc tracking; then " + wanted.mend() + " (system_time_sync)",
            )
    answer = host.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    synchronized = answer.out.strip()
    seen = "not compared with the controller's" if wanted.controller_time is None else f"{offset:+.0f} s"
    if wanted.time_service and synchronized == "no":
        return remark("clock", f"{seen}, and no time service has synchronized it", "It will drift.", wanted.mend())
    return ok("clock", seen + ("" if synchronized != "yes" else ", synchronized"))


def disk(host: Host, wanted: Wanted) -> Finding:
    full, near, seen = [], [], []
    for device, place, kind, options in _mounts(host):
        if kind in _PSEUDO:
            continue
        try:
            room = os.statvfs(host.path(place))
        except OSError:
            continue
        if room.f_blocks * room.f_frsize < 16 * 2**20:
            continue
        usable = room.f_blocks - room.f_bfree + room.f_bavail
        share = 1 - room.f_bavail / usable if usable else 1.0
        free = room.f_bavail * room.f_frsize
        inodes = 1 - room.f_favail / room.f_files if room.f_files else 0.0
        text = f"{place}: {share:.0%} used, {human_bytes(free)} free"
        if "ro" in options.split(",") and device.startswith("/dev/") and _matters(place):
            full.append(f"{place} is mounted read-only")
        elif inodes >= INODES_BROKEN and kind != "btrfs":
            full.append(f"{place}: {inodes:.0%} of its inodes used")
        elif share >= DISK_BROKEN and free < DISK_LEAST_BYTES:
            full.append(text)
        elif share >= DISK_REMARK and kind != "tmpfs":
            near.append(text)
        if place in ("/", "/var", wanted.data_dir):
            seen.append(text)
    if full:
        return broken(
            "disk",
            "; ".join(full),
            "What writes there fails: Docker, logs, transfers of models, renewed certificates.",
            "df -h; df -i; du -xh --max-depth=2 PLACE | sort -h; models that no plan wants: "
            "ansible-playbook playbooks/models.yml (models_prune); docker system df",
        )
    if near:
        return remark("disk", "; ".join(near), "It fills up.", "df -h")
    return ok("disk", "; ".join(seen) or "every file system has room")


def _matters(place: str) -> bool:
    return place == "/" or place.startswith(("/var", "/etc", "/opt", "/srv", "/home", "/boot"))


def _mounts(host: Host) -> list[tuple[str, str, str, str]]:
    text = host.read("/proc/self/mounts") or host.read("/proc/mounts") or ""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4:
            place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[1])
            # A file that is mounted over another, and what Docker mounts for its containers.
            if not place.startswith(("/proc/", "/sys/", "/run/docker/", "/var/lib/docker/")) and os.path.isdir(
                host.path(place)
            ):
                found[place] = (fields[0], place, fields[2], fields[3])
    return list(found.values())


def kernel_log(host: Host) -> list[tuple[float | None, str]]:
    """Lines of the kernel's log since boot, each with its time in seconds since 1970, as far as it is told.

    :raises Unreadable: nobody tells it.
    """
    return t.cast("list[tuple[float | None, str]]", host.once("kernel log", lambda: _kernel_log(host)))


def _kernel_log(host: Host) -> list[tuple[float | None, str]]:
    text = host.read("/var/log/kern.log") if host.root.rstrip("/") else None
    if text is None and not host.root.rstrip("/"):
        answer = host.run("journalctl", "--dmesg", "--boot", "--no-pager", "--output=short-iso")
        if answer.status != 0:
            answer = host.run("dmesg")
        if answer.status != 0:
            raise Unreadable(f"neither journalctl nor dmesg tells the kernel's log: {answer.line}")
        text = answer.out
    lines: list[tuple[float | None, str]] = []
    boot = re.search(r"(?m)^btime (\d+)", host.read("/proc/stat") or "")
    for line in (text or "").splitlines():
        stamp, since = _STAMP.match(line), _UPTIME_STAMP.match(line)
        moment = None
        if stamp:
            zone = (stamp[2] or "Z").replace("Z", "+00:00")
            zone = zone if ":" in zone else zone[:3] + ":" + zone[3:]
            moment = datetime.datetime.fromisoformat(stamp[1] + zone).timestamp()
        elif since and boot:
            moment = int(boot[1]) + float(since[1])
        lines.append((moment, line))
    return lines


def memory_kills(host: Host, wanted: Wanted) -> Finding:
    killed = []
    for moment, line in kernel_log(host):
        match = _KILL.search(line)
        if match:
            killed.append((moment, f"{match[2]} (process {match[1]})"))
    recent = [what for moment, what in killed if moment is None or host.now - moment < KILL_SECONDS]
    if recent:
        return broken(
            "memory_kills",
            f"killed for want of memory within a day: {', '.join(recent[-5:])}",
            "The host's memory, or the container's limit, is smaller than what runs. Whatever was killed starts again "
            "and is killed again.",
            "free -m; docker stats --no-stream; then less for this host: fewer models, a shorter context or fewer "
            "slots (models_workloads), and " + wanted.mend("ansible-playbook playbooks/plan.yml --limit {host}"),
        )
    if killed:
        return remark("memory_kills", f"killed longer than a day ago: {killed[-1][1]}", "It was short of memory once.")
    return ok("memory_kills", "nothing in the kernel's log")


def dns(host: Host, wanted: Wanted) -> Finding:
    text = host.read("/etc/resolv.conf") or ""
    servers = re.findall(r"(?m)^nameserver\s+(\S+)", text)
    if not servers:
        return not_asked("dns", "no name server in /etc/resolv.conf; the fleet needs none")
    reasons = []
    for server in servers[:3]:
        reason = _asked_name_server(server)
        if not reason:
            return ok("dns", f"{server} answers")
        reasons.append(f"{server}: {reason}")
    return broken(
        "dns",
        "; ".join(reasons),
        "No name is resolved: packages and registries that are known by name cannot be reached. The fleet's own parts "
        "speak to each other by address.",
        "resolvectl status; cat /etc/resolv.conf; dig @" + servers[0] + " localhost",
    )


def _asked_name_server(server: str, timeout: float = 3) -> str:
    """Why a name server gives no answer; empty where it gives one, whichever. Two tries, since datagrams get lost."""
    try:
        address = ipaddress.ip_address(server.split("%")[0])
    except ValueError:
        return "is no address"
    number = secrets.randbelow(2**16)
    # Who the root servers are (RFC 1035): a question that names nobody and that every resolver can answer.
    question = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!2H", 2, 1)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    reason = ""
    for _try in range(2):
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(timeout)
            try:
                asking.connect((server, 53))
                asking.send(question)
                if asking.recv(512)[:2] == question[:2]:
                    return ""
                reason = "its answer is to another question"
            except socket.timeout:
                reason = f"no answer within {timeout:g} s"
            except OSError as error:
                return error.strerror or str(error)
    return reason


def certificate(host: Host, wanted: Wanted) -> Finding:
    paths = [path for path in host.glob(PKI + "/*.crt") if not path.endswith("/ca.crt")]
    conf = host.read("/etc/nginx/conf.d/onprem-llm-gateway.conf") or ""
    given = re.findall(r"(?m)^\s*ssl_certificate(?:_key)?\s+([^;\s]+);", conf)
    pairs = [(path, path[:-3] + "key") for path in paths]
    if len(given) >= 2 and (given[0], given[1]) not in pairs:
        pairs.append((given[0], given[1]))
    if not pairs:
        return not_asked("certificate", "this host has none")
    wrong, ends = [], []
    for path, key in pairs:
        reason, end = _certificate(host, path, key)
        if reason:
            wrong.append(f"{path}: {reason}")
        elif end is not None:
            ends.append(((end - host.now) / 86400, path))
    if wrong:
        ours = all(text.startswith(PKI) for text in wrong)
        return broken(
            "certificate",
            "; ".join(wrong),
            "Clients, gateways or nodes refuse the connection, at the latest when nginx reads its files anew.",
            wanted.mend() if ours else "put the new certificate at gateway_tls_certificate, then " + wanted.mend(),
        )
    days, path = min(ends, default=(9999.0, ""))
    if days < CERTIFICATE_REMARK_DAYS:
        return remark("certificate", f"{path} ends in {days:.0f} days", "It must be renewed.", wanted.mend())
    return ok("certificate", f"{len(pairs)}, the first ends in {days:.0f} days")


def _certificate(host: Host, path: str, key: str) -> tuple[str, float | None]:
    """What is wrong with a certificate, and when it ends, in seconds since 1970."""
    real = host.path(path)
    told = host.run("openssl", "x509", "-in", real, "-noout", "-startdate", "-enddate", "-pubkey")
    if told.status == NO_COMMAND:
        raise Unreadable("there is no openssl on the host to read certificates with")
    if told.status != 0:
        return f"cannot be read: {told.line}", None
    dates = dict(re.findall(r"(?m)^(notBefore|notAfter)=(.*)$", told.out))
    start, end = (_openssl_time(dates.get(name, "")) for name in ("notBefore", "notAfter"))
    if end is not None and end < host.now:
        return f"ended {dates['notAfter']}", end
    if start is not None and start > host.now:
        return f"is not valid before {dates['notBefore']}", end
    if path.startswith(PKI):
        chain = host.run("openssl", "verify", "-CAfile", host.path(PKI + "/ca.crt"), real)
        if chain.status != 0:
            reason = re.search(r"(?m)^error \d+ at .*: (.*)$", chain.out + "\n" + chain.err)
            return f"does not lead to the fleet's authority: {reason[1] if reason else chain.line}", end
    public = host.run("openssl", "pkey", "-in", host.path(key), "-pubout")
    if public.status != 0:
        return f"its key {key} cannot be read: {public.line}", end
    if public.out.strip() not in told.out:
        return f"its key {key} belongs to another certificate", end
    return "", end


def _openssl_time(text: str) -> float | None:
    try:
        moment = datetime.datetime.strptime(" ".join(text.split()), "%b %d %H:%M:%S %Y GMT")
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def firewall(host: Host, wanted: Wanted) -> Finding:
    status = host.run("ufw", "status", "verbose")
    if status.status == NO_COMMAND:
        return broken("firewall", "UFW is not installed", "Every port that listens can be reached.", wanted.mend())
    if status.status != 0:
        raise Unreadable(f"ufw status: {status.line}")
    if "Status: active" not in status.out:
        return broken(
            "firewall",
            "UFW is not active",
            "Every port that listens can be reached, the endpoint's and the exporter's among them.",
            wanted.mend() + "; by hand: ufw enable",
        )
    default = re.search(r"(?m)^Default: (.*)$", status.out)
    if default and not re.search(r"(deny|reject) \(incoming\).*(deny|reject|disabled) \(routed\)", default[1]):
        return broken("firewall", default[0], "What no rule names gets in.", wanted.mend())
    wrong = []
    for tool, family in (("iptables", "IPv4"), ("ip6tables", "IPv6")):
        rules = host.run(tool + "-save", "-t", "filter")
        if rules.status != 0:
            raise Unreadable(f"{tool}-save: {rules.line}")
        lines = rules.out.splitlines()
        entry = [line for line in lines if line.startswith("-A DOCKER-USER ")]
        docker = [line for line in lines if re.match(r"-A FORWARD .*DOCKER", line)]
        docker = [line for line in docker if "-j DOCKER-ISOLATION-STAGE-1" not in line]
        own = [line for line in lines if line.startswith("-A ONPREM-LLM ")]
        if not own or not re.search(r"-j DROP$", own[-1]):
            wrong.append(f"{family}: the chain ONPREM-LLM does not end in DROP")
        elif docker and (not entry or not entry[0].endswith("-j ONPREM-LLM")):
            wrong.append(
                f"{family}: DOCKER-USER does not begin with ONPREM-LLM: {'; '.join(entry[:2]) or 'it is empty'}"
            )
        elif docker and docker[0] != "-A FORWARD -j DOCKER-USER":
            wrong.append(f"{family}: Docker accepts before DOCKER-USER is asked: {docker[0]}")
        elif not any(re.match(r"-A ufw6?-before-input .*-j ONPREM-LLM-HOST$", line) for line in lines):
            wrong.append(f"{family}: containers reach the host past ONPREM-LLM-HOST")
    if wrong:
        return broken(
            "firewall",
            "; ".join(wrong),
            "Published ports and containers' own addresses can be reached past UFW, since Docker translates before it.",
            wanted.mend() + "; by hand: ufw reload",
        )
    return ok("firewall", "UFW is active, and containers are shut off (IPv4, IPv6)")


def logs(host: Host, wanted: Wanted) -> Finding:
    dry = host.run("logrotate", "-d", "/etc/logrotate.conf")
    if dry.status == NO_COMMAND:
        return broken("logs", "logrotate is not installed", "Logs grow until the disk is full.", wanted.mend())
    if dry.status == TIMED_OUT:
        raise Unreadable(dry.err)
    errors = re.findall(r"(?m)^error: (.*)$", dry.err + "\n" + dry.out)
    if errors:
        return broken(
            "logs",
            "; ".join(errors[:4]),
            "logrotate skips what it cannot read, and the logs named there grow until the disk is full.",
            "logrotate -d /etc/logrotate.conf; " + wanted.mend(),
        )
    if not host.exists("/etc/logrotate.d/onprem-llm"):
        return broken("logs", "/etc/logrotate.d/onprem-llm is not there", "Our logs grow.", wanted.mend())
    timer = host.unit("logrotate.timer").get("ActiveState", "unknown")
    if timer != "active":
        return broken(
            "logs",
            f"logrotate.timer is {timer}",
            "Nothing is rotated until it runs.",
            "systemctl enable --now logrotate.timer",
        )
    return ok("logs", "logrotate reads its configuration without an error, and its timer runs")
