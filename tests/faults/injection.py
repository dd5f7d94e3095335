"""Faults as faults.yml has them, put into hosts of a fleet and taken out again.

What is put in at the reader is a tree below /run on the host: links to everything that the host has, and in their place
the few files that the fault changes. The diagnosis reads that tree as its root; the host itself stays as it is.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from tests import plays

HERE = Path(__file__).resolve().parent
TREE = "/run/faults-root"
CHAT = "gemma3:270m"
STORE = "/var/lib/onprem-llm/ollama/models"
MANIFEST = f"{STORE}/manifests/registry.ollama.ai/library/gemma3/270m"
SETTLE_SECONDS = 120
DRIVER = "595.80"

# Run on the host: builds the tree from a JSON object on standard input, path → what lies there. A system below a root
# has no links out of it, so what the host has is mounted there, and the tree is a file system of its own: unmounting it
# takes all of it away.
BUILD = """
import ctypes, json, os, shutil, sys
root, wanted = sys.argv[1], json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
FRESH = ("/dev", "/sys/bus", "/sys/module", "/sys/firmware", "/var/log/kern.log")
PROC = ("cmdline", "meminfo", "modules", "self/mounts", "stat", "sys/kernel/osrelease", "uptime", "version")
def mount(source, target, kind, flags):
    if libc.mount(source.encode(), target.encode(), kind, flags, None):
        raise OSError(ctypes.get_errno(), "mount", target)
kept = {name: open("/proc/" + name).read() for name in PROC if os.path.exists("/proc/" + name)}
os.makedirs(root, exist_ok=True)
mount("tmpfs", root, b"tmpfs", 0)
mount("none", root, None, PRIVATE)
own = {"/"} | {parent for path in [*wanted, "/proc/x", "/sys/x", "/run/x"] for parent in
               ["/".join(path.split("/")[:depth]) for depth in range(2, path.count("/") + 1)]}
def lay(place):
    os.makedirs(root + place, exist_ok=True)
    if place.startswith("/proc") or place in FRESH or place.startswith(FRESH) or not os.path.isdir(place):
        return
    for name in os.listdir(place):
        source = os.path.join(place, name)
        if source in wanted or source in own or source in FRESH or source == root:
            continue
        if os.path.islink(source):
            os.symlink(os.readlink(source), root + source)
        elif os.path.isdir(source):
            os.makedirs(root + source)
            mount(source, root + source, None, BIND | RECURSIVE)
        elif os.path.isfile(source) and os.path.getsize(source) < 1 << 24 and not place.startswith("/sys"):
            shutil.copy2(source, root + source)
for place in sorted(own):
    lay(place)
for name, text in kept.items():
    os.makedirs(os.path.dirname(root + "/proc/" + name), exist_ok=True)
    with open(root + "/proc/" + name, "w") as file:
        file.write(text)
for path, what in sorted(wanted.items()):
    if what is None:
        if os.path.lexists(root + path):
            os.unlink(root + path)
        continue
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    if "link" in what:
        os.symlink(what["link"], root + path)
        continue
    with open(root + path, "w") as file:
        file.write(what["content"])
    os.chmod(root + path, int(what.get("mode", "0644"), 8))
"""
ASK = """
import json, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open("http://172.30.250.2:11434/api/generate", sys.argv[1].encode(), timeout=120).read()
"""
# What a driver makes of a host with the two GPUs of the capture, as NVIDIA's documentation and recordings have it.
GPU_TREE: dict[str, Any] = {
    "/proc/driver/nvidia/version": (
        f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}  Release Build  (dvs-builder@U22-A23)  "
        "Tue Mar 10 10:08:49 UTC 2026\nGCC version:  gcc version 14.2.0 (Debian 14.2.0-19)\n"
    ),
    "/proc/modules": (
        "nvidia_uvm 4218880 4 - Live 0x0000000000000000 (O)\n"
        "nvidia 104075264 45 nvidia_uvm, Live 0x0000000000000000 (O)\n"
    ),
    "/sys/module/nvidia/version": f"{DRIVER}\n",
    "/sys/module/nvidia/refcnt": "45\n",
    "/dev/nvidia0": {"content": "", "mode": "0666"},
    "/dev/nvidia1": {"content": "", "mode": "0666"},
    "/dev/nvidiactl": {"content": "", "mode": "0666"},
    "/dev/nvidia-uvm": {"content": "", "mode": "0666"},
}
for _address in ("0000:01:00.0", "0000:41:00.0"):
    GPU_TREE |= {
        f"/sys/bus/pci/devices/{_address}/vendor": "0x10de\n",
        f"/sys/bus/pci/devices/{_address}/device": "0x26b9\n",
        f"/sys/bus/pci/devices/{_address}/class": "0x030200\n",
        f"/sys/bus/pci/devices/{_address}/driver": {"link": "/sys/bus/pci/drivers/nvidia"},
    }


@dataclass(frozen=True)
class Fault:
    """One entry of faults.yml."""

    name: str
    spec: Mapping[str, Any]

    @property
    def at_the_reader(self) -> bool:
        keys = ("reader", "gpu_tree", "kernel_log", "clock", "reader_plan", "reader_release")
        return any(key in self.spec for key in keys)

    @property
    def put(self) -> str:
        """How it is put in, in words, for the page."""
        kinds = {
            "reader": "files at the reader",
            "reader_plan": "another plan at the reader",
            "reader_release": "another release.json at the reader",
            "kernel_log": "a line in the kernel's log at the reader",
            "clock": "another time at the reader",
            "smi": "an `nvidia-smi` that says so",
            "smi_hangs": "an `nvidia-smi` that never ends",
            "modinfo": "a `modinfo` that says so",
            "capture": "values in the simulated GPU's capture",
        }
        found = [text for key, text in kinds.items() if key in self.spec]
        return ", ".join(found) or "on the host: `" + _first_line(self.spec["put"]) + "`"


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    longest = max(lines, key=len) if lines[0].startswith(("cp ", "cd ")) and len(lines) > 1 else lines[0]
    return longest if len(longest) <= 90 else longest[:87] + "..."


def load() -> list[Fault]:
    entries = yaml.safe_load((HERE / "faults.yml").read_text(encoding="utf-8"))
    return [Fault(entry["fault"], entry) for entry in entries]


class Fleet:
    """A fleet that runs, with its hosts by what they do.

    :arg inventory: its inventory. ``hosts``: gpu, node, gateway, mirror → name of a host.
    """

    def __init__(self, client: docker.DockerClient, inventory: Path, state: Path, hosts: Mapping[str, str]) -> None:
        self.client, self.inventory, self.state, self.hosts = client, inventory, state, hosts
        self.single = len(set(hosts.values())) == 1

    def can(self, fault: Fault) -> bool:
        return fault.spec["host"] in self.hosts and not (self.single and fault.spec.get("fleet"))

    # --- On a host

    def shell(self, host: str, script: str, check: bool = True) -> str:
        result = self.client.containers.get(host).exec_run(["bash", "-c", script])
        output = result.output.decode(errors="replace")
        if check and result.exit_code != 0:
            raise RuntimeError(f"{host}: {script}\n{output}")
        return output

    def feed(self, host: str, script: str, text: str) -> None:
        """Run a script with ``text`` as its standard input."""
        encoded = base64.b64encode(text.encode()).decode()
        self.shell(host, f"echo {encoded} | base64 -d | {script}")

    def filled(self, host: str, script: str) -> str:
        """A script with its placeholders filled in."""
        if "{weights}" in script or "{config}" in script:
            manifest = json.loads(self.shell(host, f"cat {MANIFEST}"))
            weights = next(layer for layer in manifest["layers"] if layer["mediaType"].endswith(".model"))
            script = script.replace("{weights}", f"{STORE}/blobs/{weights['digest'].replace(':', '-')}")
            script = script.replace("{config}", f"{STORE}/blobs/{manifest['config']['digest'].replace(':', '-')}")

        def ask(**more: object) -> str:
            body = json.dumps({"model": CHAT, **more})
            return f"python3 -I -c {shlex.quote(ASK)} {shlex.quote(body)}"

        certificate = "gateway" if host == self.hosts["gateway"] else "endpoint"
        for name, text in {
            "unload": ask(keep_alive=0),
            "load": ask(keep_alive=-1),
            "load_short": ask(keep_alive=-1, options={"num_ctx": 2048}),
            "manifest": MANIFEST,
            "certificate": certificate,
        }.items():
            script = script.replace("{" + name + "}", text)
        return script

    # --- Faults

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[dict[str, object]]:
        """The host with the fault; gives the variables that the diagnosis takes."""
        host, spec = self.hosts[fault.spec["host"]], fault.spec
        variables: dict[str, object] = dict(spec.get("variables", {}))
        try:
            if fault.at_the_reader:
                self._build(host, fault)
                variables["diagnose_root"] = TREE
            if "smi" in spec or "smi_hangs" in spec:
                said = f"cat <<'END'\n{spec.get('smi', '')}\nEND\nexit 9" if "smi" in spec else "exec sleep 600"
                self._replace(host, "/usr/bin/nvidia-smi", f"#!/bin/sh\n{said}\n")
            if spec.get("gpu_tree"):
                version = spec.get("modinfo", DRIVER)
                said = f"echo 'version:        {version}'; echo 'license:        Dual MIT/GPL'" if version else "exit 1"
                self._replace(host, "/usr/local/sbin/modinfo", f"#!/bin/sh\n{said}\n")
            if "capture" in spec:
                self._capture(host, spec["capture"])
            if "put" in spec:
                self.shell(host, self.filled(host, spec["put"]))
            yield variables
        finally:
            if "out" in spec:
                self.shell(host, self.filled(host, spec["out"]))
            for path in ("/usr/bin/nvidia-smi", "/usr/local/sbin/modinfo", "/etc/simulated-gpus.csv"):
                kept = "/run/faults-kept" + path.replace("/", "_")
                self.shell(host, f"if [ -e {kept}.none ]; then rm -f {path} {kept}.none; fi; "
                                 f"if [ -e {kept} ]; then cp -p {kept} {path}; rm {kept}; fi")  # fmt: skip
            self.shell(host, f"if mountpoint -q {TREE}; then umount --recursive --lazy {TREE}; rmdir {TREE}; fi")
            if "put" in spec:
                self.settle(host)

    def _replace(self, host: str, path: str, text: str) -> None:
        kept = "/run/faults-kept" + path.replace("/", "_")
        self.shell(host, f"if [ -e {path} ]; then cp -p {path} {kept}; else touch {kept}.none; fi")
        self.feed(host, f"cat > {path}", text)
        self.shell(host, f"chmod 755 {path}")

    def _capture(self, host: str, values: Mapping[str, str]) -> None:
        """Other values for the first of the simulated GPUs."""
        header, *rows = csv.reader(io.StringIO(self.shell(host, "cat /etc/simulated-gpus.csv")), skipinitialspace=True)
        names = [title.split(" ")[0] for title in header]
        for name, value in values.items():
            rows[0][names.index(name)] = value
        text = "".join(", ".join(row) + "\n" for row in [header, *rows])
        self._replace(host, "/etc/simulated-gpus.csv", text)

    def _build(self, host: str, fault: Fault) -> None:
        spec = fault.spec
        tree: dict[str, Any] = {"/var/log/kern.log": "", **(GPU_TREE if spec.get("gpu_tree") else {})}
        if "kernel_log" in spec:
            now = self.shell(host, "date --utc +%Y-%m-%dT%H:%M:%S").strip()
            tree["/var/log/kern.log"] = f"{now}.000000+00:00 {host} kernel: [12345.678901] {spec['kernel_log']}\n"
        if "clock" in spec:
            text = self.shell(host, "cat /proc/stat")
            tree["/proc/stat"] = re.sub(r"(?m)^btime (\d+)", lambda m: f"btime {int(m[1]) + spec['clock']}", text)
        if "reader_plan" in spec:
            plan = json.loads(self.shell(host, "cat /etc/onprem-llm/plan.json"))
            for part, values in spec["reader_plan"].items():
                plan["instances"][0]["models"][0][part].update(values)
            tree["/etc/onprem-llm/plan.json"] = json.dumps(plan)
        if "reader_release" in spec:
            release = json.loads(self.shell(host, "cat /etc/onprem-llm/release.json"))
            release["models"].update(spec["reader_release"])
            tree["/etc/onprem-llm/release.json"] = json.dumps(release)
        for path, what in spec.get("reader", {}).items():
            if what is None:
                for below in [known for known in tree if known.startswith(path + "/")]:
                    del tree[below]
            tree[path] = what
        ready = {path: {"content": what} if isinstance(what, str) else what for path, what in tree.items()}
        self.feed(host, f"python3 -I -c {shlex.quote(BUILD)} {TREE}", json.dumps(ready))

    def settle(self, host: str) -> None:
        """Wait until a node's models are warm again."""
        if host in (self.hosts.get("gpu"), self.hosts.get("node")):
            program = "/usr/local/lib/onprem-llm/warm.py"
            # Models that several faults have pushed out of the memory count as hopeless; the unit begins anew.
            self.shell(host, "systemctl restart onprem-llm-warm.service")
            self.shell(host, f"/usr/bin/python3 -I {program} await --seconds {SETTLE_SECONDS}")

    # --- Diagnosis

    def diagnose(self, *hosts: str, **variables: object) -> dict[str, Any]:
        """What playbooks/diagnose.yml reports; all hosts where none is named."""
        secrets = json.loads((self.state / "secrets.json").read_text(encoding="utf-8"))
        given = {"gateway_verify_api_key": secrets["users"]["app"]["api_key"], "gateway_verify_model": CHAT}
        with tempfile.TemporaryDirectory() as directory:
            arguments = ["--limit", ",".join(hosts)] if hosts else []
            started = time.monotonic()
            run = plays.run(
                plays.ROOT / "playbooks" / "diagnose.yml",
                *arguments,
                inventory=self.inventory,
                variables={**given, "diagnose_report_dir": directory, **variables},
                timeout=600,
            )
            path = Path(str(variables.get("diagnose_report_dir", directory))) / "diagnosis.json"
            if not path.exists():
                raise RuntimeError(run.stdout[-4000:])
            report = json.loads(path.read_text(encoding="utf-8"))
        report |= {"status": run.returncode, "output": run.stdout, "seconds": time.monotonic() - started}
        return report

    def hit(self, fault: Fault, report: Mapping[str, Any]) -> str:
        """Why the report does not name the fault as the first cause; empty where it does."""
        host = self.hosts[fault.spec["host"]]
        if report["status"] == 0:
            return "the run did not fail"
        if not report["causes"]:
            return "no cause is named"
        first = report["causes"][0]
        if (first["host"], first["rung"]) != (host, fault.spec["first"]):
            return f"the first cause is {first['host']}: {first['rung']}"
        finding = next(item for item in report["hosts"][host] if item["rung"] == first["rung"])
        if not re.search(fault.spec["says"], finding["seen"]):
            return f"it says: {finding['seen']}"
        if not finding["means"] or not finding["mend"]:
            return "it does not say what it means, or what mends it"
        return ""

    def try_out(self, fault: Fault) -> tuple[str, dict[str, Any]]:
        """Put in, diagnose, take out: why it was missed, and the report."""
        with self.fault(fault) as variables:
            hosts = [] if fault.spec.get("everywhere") else [self.hosts[fault.spec["host"]]]
            report = self.diagnose(*hosts, **variables)
        return self.hit(fault, report), report
