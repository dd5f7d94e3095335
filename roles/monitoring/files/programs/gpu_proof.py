# SPDX-License-Identifier: GPL-3.0-or-later
"""Say whether the engine of this host still computes on the GPUs that the plan gives it, and if not, why.

What a restart of Docker, a ``systemctl daemon-reload``, a new driver or new MIG instances take away is asked for, rung
by rung: the driver answers and shows the plan's GPUs; a CDI spec names them, for this driver; the container runs and
was given them; from inside, it gets at them; each planned model's runner is a process on a GPU; and /api/ps counts
enough of it there. The first rung that does not hold is the cause. Nothing is loaded, unloaded, written or restarted.

Standard output gets one JSON line, the file named by --state the same at length. Exit status: 0 where nothing is
wrong, 1 where something is, 2 where the plan cannot be read. Needs Python 3.9 and nothing beside it, and runs as root:
Docker's socket, the engine's store and other users' processes are to be read.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

HEALTHY, DEGRADED, UNHEALTHY, IDLE = "healthy", "degraded", "unhealthy", "idle"
KIND = "nvidia.com/gpu"
# In the order in which Docker reads them: what a later one names goes before (tags.cncf.io's pkg/cdi).
SPEC_PATTERNS = ("/etc/cdi/*.json", "/etc/cdi/*.yaml", "/var/run/cdi/*.json", "/var/run/cdi/*.yaml")
MODULE_VERSION = "/proc/driver/nvidia/version"
MIB = 2**20

# What nvidia-smi says (NVML's nvmlErrorString and its own sentences), as a cause.
FAILURES = (
    ("driver/library version mismatch", "driver_mismatch"),
    ("couldn't communicate with the nvidia driver", "driver_not_loaded"),
    ("driver not loaded", "driver_not_loaded"),
    ("unable to determine the device handle", "gpu_lost"),
    ("gpu is lost", "gpu_lost"),
    ("no devices were found", "gpu_missing"),
)
# What is wrong, and what mends it.
CAUSES = {
    "driver_hangs": "the driver does not answer; see the kernel log for Xid lines, and restart the host",
    "driver_mismatch": (
        "the driver was upgraded and is not loaded yet, or the CDI spec is older than the driver; restart the host "
        "(nvidia_driver_reboot), or have the spec written anew (site.yml)"
    ),
    "driver_not_loaded": "the NVIDIA kernel module is not loaded; see the role nvidia_driver",
    "driver_missing": "there is no nvidia-smi on the host; see the role nvidia_driver",
    "gpu_lost": "a GPU does not answer any more; see the kernel log for Xid lines, and restart the host",
    "gpu_missing": "the driver does not show a GPU of the plan; see whether it is still there, or make a new plan",
    "cdi_spec_missing": (
        "no CDI spec names the plan's GPUs, so the container gets none at its next start; "
        "systemctl restart nvidia-cdi-refresh.service, or run site.yml"
    ),
    "container_stopped": "the engine's container does not run; see docker logs, and run site.yml",
    "container_without_gpu": "the container was made without the plan's GPUs; run site.yml, which makes it anew",
    "nvml_lost": (
        "the container lost its GPUs, as after a systemctl daemon-reload where it has them by the legacy runtime; "
        "docker restart brings them back, and CDI (nvidia_container_toolkit_runtime: cdi) keeps them"
    ),
    "cpu_fallback": "the engine computes on the CPU; restart the container, and see its log for why it found no GPU",
    "spilled": (
        "part of a model is not in GPU memory; something else took it, or context and slots are larger than planned"
    ),
}
# Of a model that is on the CPU no more than told, where the GPU proof is only reported.
PLACEMENT = ("cpu_fallback", "spilled")


class Failed(Exception):
    """A rung does not hold; the arguments are its cause and what was seen."""


class Unknown(Exception):
    """A rung cannot be asked."""


def run(argv: Sequence[str], timeout: float) -> tuple[int, str]:
    """Exit status and output of a command. A process that hangs in the driver cannot be killed, and is left behind.

    :raises Failed: it did not end within ``timeout`` seconds.
    :raises FileNotFoundError: there is no such program.
    """
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )  # fmt: skip
    try:
        output, _none = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed("driver_hangs", f"{argv[0]} gave no answer within {timeout:g} s") from None
    return process.returncode, output.decode("utf-8", "replace").strip()


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else "no output"


class Host:
    """What is asked of this host."""

    def __init__(self, options: argparse.Namespace, plan: dict[str, Any]) -> None:
        self.options = options
        instance = (plan["instances"] or [{}])[0]
        self.gpus = [str(name) for name in instance.get("gpus") or []]
        self.models = [model for model in instance.get("models") or [] if model.get("gpus")]
        self.processes: dict[int, int | None] = {}  # on a GPU: bytes that the driver counts by process
        self.container: dict[str, Any] = {}
        self.docker = ""  # its words, where it gave no container
        self.found: list[dict[str, Any]] = []

    # Each rung says what it saw, or raises Failed or Unknown.

    def driver(self) -> str:
        """The driver answers, and shows the plan's GPUs."""
        try:
            code, text = run([self.options.nvidia_smi, "-L"], self.options.timeout)
        except FileNotFoundError:
            raise Failed("driver_missing", f"{self.options.nvidia_smi}: no such program") from None
        known = re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", text)
        if code or not known:
            said = text.lower()
            cause = next((cause for words, cause in FAILURES if words in said), "driver_not_loaded")
            raise Failed(cause, first_line(text))
        missing = [gpu for gpu in self.gpus if gpu not in known]
        if missing:
            raise Failed("gpu_missing", f"{', '.join(missing)} is planned for; the driver shows {', '.join(known)}")
        return f"{len(self.gpus)} of {len(known)} GPUs are the plan's"

    def spec(self) -> str:
        """A CDI spec names the plan's GPUs, for the driver that is loaded."""
        requests = self._requests()
        if self.container and not any(request.get("Driver") == "cdi" for request in requests):
            raise Unknown("the container has its GPUs by NVIDIA's runtime, not by CDI")
        texts: dict[str, str] = {}
        for pattern in SPEC_PATTERNS:
            for path in sorted(glob.glob(self.options.root + pattern)):
                with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                    if KIND in text:
                        texts[path] = text
        # A spec is YAML, and the distribution's Python has no reader for it; a name of a GPU stands in it as it is.
        naming = {gpu: [path for path, text in texts.items() if gpu in text] for gpu in self.gpus}
        missing = [gpu for gpu, paths in naming.items() if not paths]
        if missing:
            where = ", ".join(texts) or "no spec in /etc/cdi or /var/run/cdi"
            raise Failed("cdi_spec_missing", f"{where} names {', '.join(missing)}" if not texts else
                         f"{where} does not name {', '.join(missing)}")  # fmt: skip
        loaded = self._loaded_version()
        for path in sorted({paths[-1] for paths in naming.values()}):
            written = re.search(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)", texts[path])
            if loaded and written and written.group(1) != loaded:
                raise Failed("driver_mismatch", f"{path} is for driver {written.group(1)}, and {loaded} is loaded")
        return ", ".join(sorted({paths[-1] for paths in naming.values()}))

    def given(self) -> str:
        """The container runs, and was given the plan's GPUs."""
        state = self.container.get("State") or {}
        if not state.get("Running"):
            why = state.get("Error") or state.get("Status") or first_line(self.docker.replace("[]", "").strip())
            raise Failed("cdi_spec_missing" if "CDI device" in why else "container_stopped", why)
        wanted = {f"{KIND}={gpu}" for gpu in self.gpus}
        given: set[str] = set()
        for request in self._requests():
            given |= {str(name) for name in request.get("DeviceIDs") or []}
        environment = (self.container.get("Config") or {}).get("Env") or []
        for value in environment:
            if value.startswith("NVIDIA_VISIBLE_DEVICES="):
                given |= {f"{KIND}={name}" for name in value.partition("=")[2].split(",")}
        if not wanted <= given and f"{KIND}=all" not in given:
            raise Failed("container_without_gpu", f"it was given {', '.join(sorted(given)) or 'no GPU'}")
        return f"{', '.join(sorted(given))}, since {state.get('StartedAt', '')[:19]}"

    def inside(self) -> str:
        """From inside the container, its GPUs answer: the kernel still lets it open them."""
        self._set_aside()
        command = ["docker", "exec", self.options.container]
        code, text = run([*command, "nvidia-smi", "-L"], self.options.timeout)
        if code == 0 and "UUID: " in text:
            return f"{len(re.findall('(?m)^GPU ', text))} GPUs"
        # It is in the container where the spec mounts it; 126 and 127 are Docker's for what cannot be started.
        if code not in (126, 127):
            raise_inside(text)
        # Opened for reading and closed again; that alone is what a lost device cgroup refuses.
        script = 'set -- /dev/nvidiactl /dev/nvidia[0-9]*; for f do : <"$f" || exit 1; done; echo "$# device nodes"'
        code, text = run([*command, "sh", "-c", script], self.options.timeout)
        if code:
            raise_inside(text)
        return text

    def runners(self) -> str:
        """Every planned model that is loaded has a runner that is a process on a GPU."""
        self._set_aside()
        code, text = run(
            [self.options.nvidia_smi, "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"],
            self.options.timeout,
        )
        if code:
            raise Unknown(f"nvidia-smi does not tell of processes: {first_line(text)}")
        for line in text.splitlines():
            match = re.match(r"\s*(\d+),\s*(\S+)", line)
            if match:
                size = int(match.group(2)) * MIB if match.group(2).isdigit() else None
                pid = int(match.group(1))
                known = self.processes.get(pid)
                self.processes[pid] = size if known is None else known + (size or 0)
        loaded = self._loaded()
        running = self._runners_of_container()
        off, on = [], []
        for model in self.models:
            name = full_name(model["name"])
            blob = self._blob(name)
            if name not in loaded or blob is None:
                continue
            pids = [pid for pid, line in running.items() if blob in line]
            here = [pid for pid in pids if pid in self.processes]
            self.found.append({
                "model": name, "pid": (here or pids or [None])[0], "on_gpu": bool(here),
                "gpu_bytes": self.processes.get(here[0]) if here else None,
                "vram_bytes": loaded[name].get("size_vram"),
            })  # fmt: skip
            (on if here else off).append(f"{name} ({', '.join(map(str, pids)) or 'no runner'})")
        if off:
            raise Failed("cpu_fallback", f"no process on a GPU: {', '.join(off)}")
        if not on:
            raise Unknown("no planned model is loaded")
        return ", ".join(on)

    def share(self) -> str:
        """/api/ps counts at least half of each model's weights in GPU memory (roles/monitoring, gpu_floor)."""
        loaded = self._loaded()
        told, short = [], []
        for model in self.models:
            name = full_name(model["name"])
            if name not in loaded:
                continue
            vram, size = loaded[name].get("size_vram") or 0, loaded[name].get("size") or 0
            floor = ((model.get("account") or {}).get("weights_bytes") or 2) / 2
            told.append(f"{name} {vram} of {size} bytes")
            if vram < floor and not (model.get("hybrid") and vram):
                short.append((vram, told[-1]))
        if short:
            cause = "spilled" if any(vram for vram, _text in short) else "cpu_fallback"
            raise Failed(cause, ", ".join(text for _vram, text in short))
        if not told:
            raise Unknown("no planned model is loaded")
        return ", ".join(told)

    # What the rungs share.

    def look(self) -> None:
        """Docker's account of the container; without Docker, none."""
        try:
            _code, self.docker = run(["docker", "container", "inspect", self.options.container], self.options.timeout)
            self.container = json.loads(self.docker)[0]
        except Failed as failed:
            self.docker = failed.args[1]
        except FileNotFoundError:
            self.docker = "there is no docker"
        except (ValueError, IndexError):
            pass

    def _requests(self) -> list[dict[str, Any]]:
        return (self.container.get("HostConfig") or {}).get("DeviceRequests") or []

    def _set_aside(self) -> None:
        if self.options.simulated:
            raise Unknown("the GPUs are simulated, and the models compute on the CPU")

    def _loaded_version(self) -> str:
        with contextlib.suppress(OSError), open(self.options.root + MODULE_VERSION, encoding="utf-8") as file:
            match = re.search(r"(?:Kernel Module|for \S+)\s+(\d+\.\d+(?:\.\d+)?)\s", file.read())
            return match.group(1) if match else ""
        return ""

    def _loaded(self) -> dict[str, dict[str, Any]]:
        """Loaded models by name."""
        # A proxy in the environment is for the way out, never for the engine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.options.engine}/api/ps", timeout=self.options.timeout) as answer:
                return {str(model.get("name")): model for model in json.load(answer).get("models") or []}
        except (OSError, ValueError, AttributeError) as error:
            raise Unknown(f"the engine does not say what is loaded: {error}") from error

    def _runners_of_container(self) -> dict[int, str]:
        """Command lines of the container's processes by their number on this host."""
        identity, found = str(self.container.get("Id") or "?"), {}
        for path in glob.glob(f"{self.options.root}/proc/[0-9]*/cgroup"):
            with contextlib.suppress(OSError):
                with open(path, encoding="utf-8") as file:
                    if identity not in file.read():
                        continue
                with open(os.path.join(os.path.dirname(path), "cmdline"), "rb") as file:
                    found[int(path.split("/")[-2])] = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
        return found

    def _blob(self, name: str) -> str | None:
        """SHA-256 of a model's weights, by its manifest in the engine's store; None where it cannot be read."""
        mounts = self.container.get("Mounts") or []
        environment = (self.container.get("Config") or {}).get("Env") or []
        said = [value.partition("=")[2] for value in environment if value.startswith("OLLAMA_MODELS=")]
        models = (said or ["/root/.ollama/models"])[0]
        inside = next((m for m in mounts if models.startswith(str(m.get("Destination")).rstrip("/") + "/")), {})
        store = str(inside.get("Source")) + models[len(str(inside.get("Destination"))) :]
        place, _colon, tag = name.rpartition(":")
        parts = place.split("/")
        parts = [*["registry.ollama.ai", "library"][: max(0, 3 - len(parts))], *parts]
        try:
            path = os.path.join(self.options.root + store, "manifests", *parts, tag)
            with open(path, encoding="utf-8") as file:
                layers = json.load(file)["layers"]
            weights = [layer for layer in layers if layer["mediaType"] == "application/vnd.ollama.image.model"]
            return str(weights[0]["digest"]).rpartition(":")[2]
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None


def raise_inside(text: str) -> None:
    """:raises Failed: always, with the cause that the words from inside the container tell."""
    said = text.lower()
    cause = "driver_mismatch" if "version mismatch" in said else "nvml_lost"
    raise Failed(cause, first_line(text))


def full_name(model: str) -> str:
    """The name as /api/ps gives it: with the tag that Ollama adds, and without the scheme of the registry."""
    scheme, separator, rest = model.partition("://")
    model = rest if separator and scheme in ("http", "https") else model
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


def check(host: Host, required: bool) -> dict[str, Any]:
    """The report: every rung with what was seen, and the first that does not hold as the cause."""
    started, begin = time.time(), time.monotonic()
    host.look()
    rungs: list[dict[str, Any]] = []
    cause, seen = "", ""
    for name, ask in (
        ("driver", host.driver), ("cdi_spec", host.spec), ("container", host.given), ("inside", host.inside),
        ("runners", host.runners), ("share", host.share),
    ) if host.gpus else ():  # fmt: skip
        if cause:
            # Above a broken rung nothing is known, and asking again would hang again.
            rungs.append({"rung": name, "ok": None, "found": "not asked"})
            continue
        try:
            rungs.append({"rung": name, "ok": True, "found": ask()})
        except Unknown as unknown:
            rungs.append({"rung": name, "ok": None, "found": str(unknown)})
        except Failed as failed:
            cause, seen = failed.args
            rungs.append({"rung": name, "ok": False, "found": seen})
    status = IDLE if not host.gpus else HEALTHY
    if cause:
        status = DEGRADED if cause in PLACEMENT and not required else UNHEALTHY
    moment = datetime.datetime.fromtimestamp(started, datetime.timezone.utc)
    return {
        "schema": 1,
        "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": "gpu_proof",
        "level": {HEALTHY: "info", IDLE: "info", DEGRADED: "warning", UNHEALTHY: "error"}[status],
        "status": status,
        "cause": cause,
        "message": f"{CAUSES[cause]} ({seen})" if cause else "",
        "duration_ms": round((time.monotonic() - begin) * 1000, 1),
        "simulated": host.options.simulated,
        "gpus": host.gpus,
        "rungs": rungs,
        "models": host.found,
    }


def replace_file(path: str, text: str) -> None:
    """Write *text* to *path* so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Say whether this host's engine still computes on its GPUs.")
    parser.add_argument("--plan", default="/etc/onprem-llm/plan.json", help="the host's plan.json")
    parser.add_argument("--engine", required=True, help="URL of the engine")
    parser.add_argument("--container", default="onprem-llm-ollama", help="name of the engine's container")
    parser.add_argument("--nvidia-smi", default="nvidia-smi", help="the nvidia-smi of the host")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds that each question may take")
    parser.add_argument("--state", help="file that gets the report")
    parser.add_argument(
        "--gpu-proof",
        choices=("required", "report"),
        default="required",
        help="whether a planned GPU model on the CPU is a fault or a remark",
    )
    parser.add_argument(
        "--simulated", action="store_true", help="the GPUs are simulated: no device node and no process is asked for"
    )
    parser.add_argument(
        "--root", default="", help="directory in place of / for /proc, CDI specs and the engine's store"
    )
    options = parser.parse_args(arguments)
    options.engine = options.engine.rstrip("/")
    try:
        with open(options.plan, encoding="utf-8") as file:
            plan = json.load(file)
        if plan.get("schema") != 1:
            raise ValueError(f"schema {plan.get('schema')!r} is not 1")
        host = Host(options, plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{options.plan}: cannot be read as a plan: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    report = check(host, options.gpu_proof == "required")
    print(json.dumps(report, ensure_ascii=False), flush=True)
    if report["cause"]:
        print(f"{report['level']}: {report['cause']}: {report['message']}", file=sys.stderr)
    if options.state:
        replace_file(options.state, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 1 if report["status"] == UNHEALTHY else 0


if __name__ == "__main__":
    sys.exit(main())
