# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the node exporter of this host's engine, GPUs, certificates and firewall, and of its gateway.

The program looks every few seconds, stays out of the way of requests (it reads what the engine, nginx and the kernel
tell anyway), and replaces one file of metrics as a whole. What it cannot read is left out, and said in
onprem_llm_collector_success. FAMILIES is the table of all that it tells; docs/metrics.md is made of it.

What gateways count goes by the access log, from where the program stopped last; counts and usage by month survive in
the state directory. Needs Python 3.9 and nothing beside it.
"""

from __future__ import annotations

import argparse
import calendar
import collections
import contextlib
import datetime
import glob
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

PREFIX = "onprem_llm_"
OTHER = "other"
# What one host may tell at most; names that come from outside are what could grow.
MAX_MODELS, MAX_USERS, MAX_SERIES = 50, 200, 5000
KEPT_MONTHS = 25
# So much of the log is read at a time, in bytes; the rest in the next pass.
LOG_PORTION = 16 * 2**20
FIRST_TOKEN_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
DURATION_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Xid messages that mean hardware or the driver, and those that a program may cause itself (NVIDIA, "XID Errors").
CRITICAL_XIDS = (48, 62, 63, 64, 74, 79, 94, 95, 119, 120)
PROGRAM_XIDS = (13, 31, 43, 45)
SLOWDOWNS = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


class Family(NamedTuple):
    """A metric: its name without the prefix, its kind, its labels, what it means, and which hosts have it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    where: str


# "name kind labels meaning", a line each; names are without the prefix.
TABLE = """
on all hosts:
metrics_timestamp_seconds gauge - Unix time of the last pass over all collectors.
collector_success gauge collector 1 when the collector could read what it tells of.
collector_duration_seconds gauge collector Duration of the collector's last pass.
certificate_not_after_timestamp_seconds gauge name Unix time at which the certificate ends.
firewall_active gauge - 1 when UFW is on, now and at the next boot.
firewall_container_rules gauge - 1 when DOCKER-USER leads to the rules that shut containers off.
on nodes:
release_info gauge engine,collection,driver Versions that the last run recorded; always 1.
engine_reachable gauge - 1 when the engine answers now.
engine_matches_release gauge - 1 when the engine's version is the one that the last run recorded.
engine_since_timestamp_seconds gauge - Unix time at which the engine began to answer, or stopped.
node_ready gauge - 1 when every planned model has answered since it was loaded.
warming_held gauge - 1 while somebody keeps models from being loaded.
docker_active gauge - 1 when Docker's service runs.
plan_timestamp_seconds gauge - Unix time at which the plan was written.
models_planned gauge - Models that the plan has.
models_installed gauge - Models that the engine has on its disk.
models_loaded gauge - Models that are in memory.
models_installed_bytes gauge - Size of the installed models; shared layers count in each.
models_directory_bytes gauge - Space that the models' directory takes on its disk.
models_filesystem_size_bytes gauge - Size of the file system with the models.
models_filesystem_free_bytes gauge - Space free for the engine on that file system.
planned_model_installed gauge model 1 when the planned model is on the disk.
planned_model_ready gauge model 1 when the planned model is loaded and has answered.
planned_model_failures gauge model Failures in a row to load the model or to get its answer.
planned_model_load_seconds gauge model Duration of the last load with its first answer.
planned_model_slots gauge model Requests that the engine computes at a time for the model.
planned_model_bytes gauge model Memory that the plan predicts for the model.
planned_model_on_gpu gauge model 1 when a loaded model that the plan gives GPUs has its weights there.
loaded_model_size_bytes gauge model Memory that the loaded model takes, by the engine's account.
loaded_model_vram_bytes gauge model Part of that memory that is GPU memory.
loaded_model_gpu_ratio gauge model Share of the loaded model's memory that is GPU memory.
loaded_model_context_tokens gauge model Context length with which the model is loaded.
loaded_model_expiry_timestamp_seconds gauge model Unix time at which the engine may unload the model.
loaded_model_planned gauge model 1 when the plan has the loaded model.
gpus_planned gauge - GPUs that the plan uses.
installed_model_timestamp_seconds gauge model Unix time at which the planned model was last pulled or made.
recovery_failures gauge - Deep health checks in a row that have failed.
recovery_restarts_total counter - Restarts of the engine because of failed checks.
recovery_restarts_today gauge - Such restarts within the last 24 hours.
recovery_last_restart_timestamp_seconds gauge - Unix time of the last such restart within these hours.
recovery_held gauge - 1 while checks fail and nothing may be done about it.
recovery_withheld_models gauge - Models that the node has taken out of service by itself.
recovery_model_withheld_since_timestamp_seconds gauge model Unix time since which the model is out of service.
on nodes with NVIDIA GPUs:
gpu_proof_success gauge - 1 when the engine computes on the plan's GPUs, 0 when it does not.
gpu_proof_timestamp_seconds gauge - Unix time of the last proof.
gpu_proof_cause_info gauge cause What is wrong by the last proof; always 1.
gpus_visible gauge - GPUs that nvidia-smi lists.
gpu_info gauge gpu,index,name A GPU by its UUID; always 1.
gpu_temperature_celsius gauge gpu Temperature of the GPU.
gpu_utilization_ratio gauge gpu Share of the time in which the GPU computed.
gpu_memory_used_bytes gauge gpu GPU memory in use.
gpu_memory_total_bytes gauge gpu GPU memory.
gpu_power_watts gauge gpu Power that the GPU draws.
gpu_power_limit_watts gauge gpu Power that the GPU may draw.
gpu_clocks_slowed gauge gpu,reason 1 while the GPU is slowed down to protect itself.
gpu_ecc_errors_total counter gpu Uncorrected memory errors since the driver was loaded.
gpu_row_remap_pending gauge gpu 1 when a row of memory is replaced at the next reset.
gpu_row_remap_failed gauge gpu 1 when a row of memory could not be replaced.
xid_errors_total counter code Xid messages of the driver since boot.
xid_last_timestamp_seconds gauge code Unix time of the last Xid message with this code since boot.
driver_matches gauge - 1 when the loaded driver is the one on the disk.
cdi_specs gauge - CDI specifications that name NVIDIA's GPUs.
on gateways:
gateway_requests_total counter user,model,status Requests by who asked and what was answered.
gateway_first_token_seconds histogram model Time to the first byte of a successful answer, waiting included.
gateway_request_duration_seconds histogram model Time of a successful request to its last byte, waiting included.
gateway_prompt_tokens_total counter user,model Tokens of requests.
gateway_completion_tokens_total counter user,model Tokens of answers.
gateway_engine_seconds_total counter user,model Time of requests at the engine; behind a balancer, waiting included.
gateway_gpu_seconds_total counter user,model That time by the request's share of the model's GPUs (GPUs / slots).
gateway_running_requests gauge model Requests that the engines compute.
gateway_waiting_requests gauge model Requests that wait for a slot.
gateway_slots gauge model Requests that may run at a time.
gateway_node_up gauge node,model 1 when the balancer sends the node requests for the model.
gateway_node_drained gauge node 1 when somebody has drained the node.
gateway_status_up gauge - 1 when the gateway tells its state.
gateway_users gauge - Users that the gateway knows.
gateway_log_lines_total counter - Lines of the access log that were read.
gateway_log_bad_lines_total counter - Lines of the access log that could not be understood.
gateway_log_lost_total counter - Logs that were gone before they were read to the end.
"""


def _families(table: str) -> Iterator[Family]:
    where = ""
    for line in table.strip().splitlines():
        if line.startswith("on "):
            where = line[3:].rstrip(":")
        else:
            name, kind, labels, meaning = line.split(" ", 3)
            yield Family(name, kind, () if labels == "-" else tuple(labels.split(",")), meaning, where)


FAMILIES = tuple(_families(TABLE))


class CollectorError(Exception):
    """What a collector tells of cannot be read."""


class Exposition:
    """Samples by family, in the order of FAMILIES."""

    def __init__(self) -> None:
        self._known = {family.name: family for family in FAMILIES}
        self._lines: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, name: str, value: float | None, /, **labels: object) -> None:
        """One sample; none where the value is not known or is no number."""
        family = self._known[name]
        if set(labels) != set(family.labels):
            raise KeyError(f"{name} has the labels {family.labels}, not {tuple(labels)}")
        if value is not None and not math.isnan(value):
            self._line(name, "", {key: str(labels[key]) for key in family.labels}, value)

    def histogram(self, name: str, bounds: Iterable[float], counted: Mapping[str, Any], **labels: str) -> None:
        """:param counted: ``counts`` (by bound, the last beyond all of them), ``sum`` and how many: their total."""
        total = 0
        for bound, count in zip((*map(str, bounds), "+Inf"), counted["counts"]):
            total += count
            self._line(name, "_bucket", {**labels, "le": bound}, total)
        self._line(name, "_sum", labels, counted["sum"])
        self._line(name, "_count", labels, total)

    def _line(self, name: str, suffix: str, labels: Mapping[str, str], value: float) -> None:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        self._lines[name].append(f"{PREFIX}{name}{suffix}{'{' + inside + '}' if inside else ''} {value + 0!r}")

    def merge(self, other: Exposition) -> None:
        for name, lines in other._lines.items():
            self._lines[name] += lines

    def text(self) -> str:
        found = []
        for family in FAMILIES:
            lines = self._lines.get(family.name)
            if lines:
                found += [
                    f"# HELP {PREFIX}{family.name} {family.meaning}",
                    f"# TYPE {PREFIX}{family.name} {family.kind}",
                ]
                found += lines[:MAX_SERIES]
        return "\n".join(found) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def replace_file(path: str, text: str, mode: int = 0o644) -> None:
    """Write *text* to *path* so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_json(path: str) -> Any:
    """What the file holds; None where there is none. Raises CollectorError for what is no JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CollectorError(f"{path}: {error}") from error


def ask(url: str, timeout: float = 5.0) -> dict[str, Any]:
    """A JSON object from a server of this host. Raises CollectorError."""
    # An HTTP proxy in the environment is for the way out.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            answer = json.load(response)
    except (OSError, ValueError) as error:
        raise CollectorError(f"{url}: {error}") from error
    if not isinstance(answer, dict):
        raise CollectorError(f"{url}: expected a JSON object")
    return answer


def command(*argv: str, timeout: float = 20.0, accept: tuple[int, ...] = (0,)) -> str:
    """What a program prints. Raises CollectorError where it is missing, slow or fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin", "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise CollectorError(f"{argv[0]}: {error}") from error
    if done.returncode not in accept:
        raise CollectorError(f"{argv[0]}: exit status {done.returncode}: {done.stderr.decode(errors='replace')[:200]}")
    return done.stdout.decode(errors="replace")


def unix_time(text: object) -> float | None:
    """Seconds since the epoch of a time in ISO 8601, as the engine and warm.json give it; None for anything else."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)$", str(text))
    if not match:
        return None
    seconds = float(calendar.timegm(tuple(map(int, match.groups()[:6]))))
    zone = match[8].replace(":", "")
    if zone != "Z":
        seconds -= (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 3600 + int(zone[3:5]) * 60)
    return seconds + float(match[7] or 0)


def number(text: object) -> float | None:
    """A number as nvidia-smi and nginx write it; None for [N/A], Not Supported, - and the like."""
    try:
        value = float(str(text).strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def full_name(model: str) -> str:
    """The name as the engine gives it: a model without a tag has the tag that Ollama adds."""
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


# --- every host


def certificates(out: Exposition, patterns: Iterable[str]) -> None:
    failed = []
    for path in sorted({path for pattern in patterns for path in glob.glob(pattern)}):
        try:
            line = command("openssl", "x509", "-noout", "-enddate", "-in", path)
            end = datetime.datetime.strptime(line.strip(), "notAfter=%b %d %H:%M:%S %Y GMT")
        except (CollectorError, ValueError) as error:
            failed.append(f"{path}: {error}")
            continue
        stem = os.path.splitext(os.path.basename(path))[0]
        out.add("certificate_not_after_timestamp_seconds", calendar.timegm(end.timetuple()), name=stem)
    if failed:
        raise CollectorError("; ".join(failed))


def firewall(out: Exposition, root: str) -> None:
    """UFW by its configuration and the kernel's rules; nothing where the role firewall was not at work."""
    try:
        with open(f"{root}/etc/ufw/after.rules", encoding="utf-8") as file:
            ours = "onprem.llm firewall" in file.read()
        with open(f"{root}/etc/ufw/ufw.conf", encoding="utf-8") as file:
            enabled = re.search(r"(?m)^ENABLED=[\"']?yes", file.read()) is not None
    except FileNotFoundError:
        return
    except OSError as error:
        raise CollectorError(str(error)) from error
    if ours:
        rules = command("iptables-save", "-t", "filter")
        out.add("firewall_active", int(enabled and re.search(r"(?m)^-A INPUT .*-?j ufw-", rules) is not None))
        shut = re.search(r"(?m)^-A DOCKER-USER .*-j ONPREM-LLM", rules) is not None
        out.add("firewall_container_rules", int(shut and re.search(r"(?m)^-A ONPREM-LLM\S* ", rules) is not None))


# --- nodes


def planned_models(plan: Any) -> list[dict[str, Any]]:
    if not isinstance(plan, dict) or plan.get("schema") != 1:
        raise CollectorError("the plan is not of schema 1")
    return [model for instance in plan["instances"] for model in instance["models"]]


def gpu_floor(model: Mapping[str, Any]) -> float:
    """Bytes of GPU memory below which a model that should be on GPUs is not: half of its weights.

    As the health check has it: graphs lie in host memory, and Ollama 0.32 gives too small a size_vram for some models.
    """
    return ((model.get("account") or {}).get("weights_bytes") or 2) / 2


def engine(out: Exposition, url: str, plan_path: str, release_path: str) -> None:
    plan = read_json(plan_path)
    if plan is None:
        return
    models = {full_name(model["name"]): model for model in planned_models(plan)}
    out.add("plan_timestamp_seconds", os.stat(plan_path).st_mtime)
    out.add("models_planned", len(models))
    out.add("gpus_planned", len({gpu for model in models.values() for gpu in model.get("gpus") or []}))
    for name, model in list(models.items())[:MAX_MODELS]:
        out.add("planned_model_slots", model.get("slots"), model=name)
        out.add("planned_model_bytes", (model.get("account") or {}).get("total_bytes"), model=name)
    release = read_json(release_path) or {}
    recorded = (release.get("engine") or {}).get("version")
    if release:
        out.add(
            "release_info", 1, engine=recorded or "", collection=(release.get("collection") or {}).get("version") or "",
            driver=(release.get("packages") or {}).get("nvidia_driver") or "",
        )  # fmt: skip
    try:
        version = ask(f"{url}/api/version").get("version")
        installed = ask(f"{url}/api/tags").get("models") or []
        loaded = ask(f"{url}/api/ps").get("models") or []
    except CollectorError:
        out.add("engine_reachable", 0)
        raise
    out.add("engine_reachable", 1)
    if recorded:
        out.add("engine_matches_release", int(version == recorded))
    names = {str(model.get("name")) for model in installed}
    out.add("models_installed", len(names))
    out.add("models_installed_bytes", sum(int(model.get("size") or 0) for model in installed))
    made = {str(model.get("name")): unix_time(model.get("modified_at")) for model in installed}
    for name in list(models)[:MAX_MODELS]:
        out.add("planned_model_installed", int(name in names), model=name)
        out.add("installed_model_timestamp_seconds", made.get(name), model=name)
    out.add("models_loaded", len(loaded))
    # The largest are named where there are too many.
    for row in sorted(loaded, key=lambda model: -int(model.get("size") or 0))[:MAX_MODELS]:
        name, size, vram = str(row.get("name")), int(row.get("size") or 0), int(row.get("size_vram") or 0)
        out.add("loaded_model_size_bytes", size, model=name)
        out.add("loaded_model_vram_bytes", vram, model=name)
        out.add("loaded_model_gpu_ratio", vram / size if size else None, model=name)
        out.add("loaded_model_context_tokens", row.get("context_length"), model=name)
        out.add("loaded_model_expiry_timestamp_seconds", unix_time(row.get("expires_at")), model=name)
        out.add("loaded_model_planned", int(name in models), model=name)
        if models.get(name, {}).get("gpus"):
            out.add("planned_model_on_gpu", int(vram >= gpu_floor(models[name])), model=name)


def warmth(out: Exposition, path: str, hold: str) -> None:
    state = read_json(path)
    if state is None:
        raise CollectorError(f"{path} is not there: onprem-llm-warm.service does not run")
    out.add("node_ready", int(bool(state.get("ready"))))
    out.add("warming_held", int(os.path.exists(hold)))
    out.add("engine_since_timestamp_seconds", unix_time((state.get("engine") or {}).get("since")))
    for model in (state.get("models") or [])[:MAX_MODELS]:
        name = full_name(str(model.get("name")))
        ready = model.get("state") in ("answered", "withheld") and bool(model.get("loaded"))
        out.add("planned_model_ready", int(ready), model=name)
        out.add("planned_model_failures", model.get("failures"), model=name)
        out.add("planned_model_load_seconds", model.get("seconds"), model=name)


def recovery(out: Exposition, path: str) -> None:
    """What onprem-llm-recovery.service has counted and done; nothing where it has not run yet."""
    state = read_json(path)
    if state is None:
        return
    now, restarts = time.time(), [float(moment) for moment in state["restarts"]]
    out.add("recovery_failures", state["failures"])
    out.add("recovery_restarts_total", state["restarts_total"])
    out.add("recovery_restarts_today", sum(now - moment < 86400 for moment in restarts))
    out.add("recovery_last_restart_timestamp_seconds", max(restarts, default=None))
    out.add("recovery_held", int(bool(state["held"] and state["failing_since"])))
    withheld = state["withheld"] if (state["withheld_until"] or 0) > now else []
    out.add("recovery_withheld_models", len(withheld))
    for name in withheld[:MAX_MODELS]:
        out.add("recovery_model_withheld_since_timestamp_seconds", state["withheld_since"], model=name)


def gpu_proof(out: Exposition, path: str) -> None:
    """What onprem-llm-gpu-proof.service last saw. A plan without GPUs has no proof."""
    state = read_json(path)
    if state is None or state["status"] == "idle":
        return
    out.add("gpu_proof_success", int(state["status"] != "unhealthy"))
    out.add("gpu_proof_timestamp_seconds", unix_time(state["ts"]))
    if state.get("cause"):
        out.add("gpu_proof_cause_info", 1, cause=state["cause"])


def disk(out: Exposition, directory: str) -> None:
    try:
        space = os.statvfs(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CollectorError(str(error)) from error
    out.add("models_filesystem_size_bytes", space.f_blocks * space.f_frsize)
    out.add("models_filesystem_free_bytes", space.f_bavail * space.f_frsize)
    taken = 0
    for place, _directories, files in os.walk(directory):
        for file in files:
            with contextlib.suppress(OSError):  # gone meanwhile
                taken += os.lstat(os.path.join(place, file)).st_blocks * 512
    out.add("models_directory_bytes", taken)


# --- GPUs


def has_gpus(root: str) -> bool:
    """Whether the driver is loaded, or NVIDIA's program is there to say why not."""
    places = (f"{root}/proc/driver/nvidia/version", f"{root}/usr/bin/nvidia-smi", f"{root}/usr/local/bin/nvidia-smi")
    return any(os.path.exists(place) for place in places)


def query(kind: str, fields: Iterable[str]) -> list[dict[str, str]]:
    """What nvidia-smi tells of each GPU, by field. Raises CollectorError, as for a field that the version lacks."""
    fields = list(fields)
    text = command("nvidia-smi", f"--query-{kind}={','.join(fields)}", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()]
    if any(len(row) != len(fields) for row in rows):
        raise CollectorError(f"nvidia-smi told something else than {len(fields)} fields")
    return [dict(zip(fields, row)) for row in rows]


def append_lines(path: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines at a log's end. It is opened each time, so that a rotation needs nobody to tell of it."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def gpu_lines(rows: Iterable[Mapping[str, str]], now: float) -> Iterator[dict[str, Any]]:
    """One log entry a GPU: its time in UTC, percent, MiB and degrees Celsius; null for what the GPU does not tell."""
    stamp = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).isoformat(timespec="milliseconds")
    for row in rows:
        yield {
            "ts": stamp.replace("+00:00", "Z"), "event": "gpu_metrics", "gpu_index": number(row["index"]),
            "gpu_uuid": row["uuid"], "gpu_name": row["name"], "utilization_pct": number(row["utilization.gpu"]),
            "vram_used_mb": number(row["memory.used"]), "vram_total_mb": number(row["memory.total"]),
            "temperature_c": number(row["temperature.gpu"]), "power_w": number(row["power.draw"]),
        }  # fmt: skip


def gpus(out: Exposition, root: str, log: str) -> None:
    if not has_gpus(root):
        return
    measured = (
        ("temperature.gpu", "gpu_temperature_celsius", 1.0), ("utilization.gpu", "gpu_utilization_ratio", 0.01),
        ("memory.used", "gpu_memory_used_bytes", 2.0**20), ("memory.total", "gpu_memory_total_bytes", 2.0**20),
        ("power.draw", "gpu_power_watts", 1.0), ("power.limit", "gpu_power_limit_watts", 1.0),
    )  # fmt: skip
    basic = ["index", "uuid", "name", *(field for field, _name, _factor in measured)]
    try:
        rows = query("gpu", basic)
    except CollectorError:
        out.add("gpus_visible", 0)
        raise
    out.add("gpus_visible", len(rows))
    if log:
        append_lines(log, gpu_lines(rows, time.time()))
    for row in rows:
        uuid = row["uuid"]
        out.add("gpu_info", 1, gpu=uuid, index=row["index"], name=row["name"])
        for field, name, factor in measured:
            value = number(row[field])
            out.add(name, None if value is None else value * factor, gpu=uuid)
    # What some versions and some GPUs do not know; each is asked by itself, under its new name and its old one.
    for events in ("clocks_event_reasons", "clocks_throttle_reasons"):
        with contextlib.suppress(CollectorError):
            for row in query("gpu", ["uuid", *(f"{events}.{reason}" for reason in SLOWDOWNS)]):
                for reason in SLOWDOWNS:
                    told = {"Active": 1, "Not Active": 0}.get(row[f"{events}.{reason}"])
                    out.add("gpu_clocks_slowed", told, gpu=row["uuid"], reason=reason)
            break
    with contextlib.suppress(CollectorError):
        for row in query("gpu", ["uuid", "ecc.errors.uncorrected.volatile.total"]):
            out.add("gpu_ecc_errors_total", number(row["ecc.errors.uncorrected.volatile.total"]), gpu=row["uuid"])
    # Newer versions tell it beside everything else, older ones by a query of its own.
    for kind, key in (("gpu", "uuid"), ("remapped-rows", "gpu_uuid")):
        rows = []
        with contextlib.suppress(CollectorError):
            rows = query(kind, [key, "remapped_rows.pending", "remapped_rows.failure"])
        for row in rows:
            flags = {"Yes": 1, "1": 1, "No": 0, "0": 0}
            out.add("gpu_row_remap_pending", flags.get(row["remapped_rows.pending"]), gpu=row[key])
            out.add("gpu_row_remap_failed", flags.get(row["remapped_rows.failure"]), gpu=row[key])
        if rows:
            break


def docker(out: Exposition) -> None:
    """Containers outlive it where ``live-restore`` is on, so that nothing else tells that it is gone."""
    # 3: it is not active.
    said = command("systemctl", "is-active", "docker.service", accept=(0, 3)).strip()
    out.add("docker_active", int(said in ("active", "reloading")))


def cdi(out: Exposition, root: str) -> None:
    if not has_gpus(root):
        return
    specs = 0
    for path in glob.glob(f"{root}/etc/cdi/*.*") + glob.glob(f"{root}/var/run/cdi/*.*"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            specs += "nvidia.com/gpu" in file.read(4096)
    out.add("cdi_specs", specs)


def driver(out: Exposition, root: str) -> None:
    if not has_gpus(root):
        return
    try:
        with open(f"{root}/proc/driver/nvidia/version", encoding="utf-8") as file:
            loaded = re.search(r"Kernel Module[\w\s()-]*?\s(\d+\.\d+(?:\.\d+)?)\s", file.read())
    except OSError:
        loaded = None
    if loaded:
        on_disk = command("modinfo", "--field=version", "nvidia").strip()
        out.add("driver_matches", int(on_disk == loaded[1]))


def xids(out: Exposition, root: str) -> None:
    """Xid messages since boot. Codes that alerts ask for are there from the start, so that the first one counts."""
    if not has_gpus(root):
        return
    journal = command(
        "journalctl",
        "--dmesg",
        "--boot",
        "--no-pager",
        "--quiet",
        "--output=short-unix",
        "--grep=NVRM: Xid",
        accept=(0, 1),
    )
    codes = {str(code): 0 for code in CRITICAL_XIDS + PROGRAM_XIDS}
    last: dict[str, float] = {}
    for line in journal.splitlines():
        match = re.match(r"(\d+\.\d+) .*NVRM: Xid \([^)]*\): (\d{1,3})\b", line)
        if match:
            codes[match[2]] = codes.get(match[2], 0) + 1
            last[match[2]] = float(match[1])
    for code, count in sorted(codes.items(), key=lambda item: int(item[0])):
        out.add("xid_errors_total", count, code=code)
        out.add("xid_last_timestamp_seconds", last.get(code), code=code)


# --- gateways


class Ledger:
    """What the access log has told so far. Counters only grow, and outlive this program in one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            stored = read_json(path)
        except CollectorError as error:
            print(f"{error}: kept as {path}.broken, counting anew", file=sys.stderr, flush=True)
            os.replace(path, f"{path}.broken")
            stored = None
        stored = stored if isinstance(stored, dict) and stored.get("schema") == 1 else {}
        self.inode: int | None = stored.get("inode")
        self.offset: int = stored.get("offset", 0)
        self.counts: dict[str, int] = {"lines": 0, "bad_lines": 0, "lost": 0, **stored.get("counts", {})}
        # user → model → {requests by status, prompt_tokens, completion_tokens, engine_seconds, gpu_seconds}
        self.users: dict[str, dict[str, dict[str, Any]]] = stored.get("users", {})
        self.first_token: dict[str, dict[str, Any]] = stored.get("first_token", {})
        self.duration: dict[str, dict[str, Any]] = stored.get("duration", {})
        # month → user → model → the same, without status
        self.months: dict[str, dict[str, dict[str, dict[str, float]]]] = stored.get("months", {})
        self._quiet = False

    def save(self) -> None:
        state = {
            "schema": 1, "inode": self.inode, "offset": self.offset, "counts": self.counts, "users": self.users,
            "first_token": self.first_token, "duration": self.duration, "months": self.months,
        }  # fmt: skip
        replace_file(self.path, json.dumps(state, separators=(",", ":")), 0o640)

    # - reading

    def read(self, log: str, shares: Mapping[str, float]) -> bool:
        """Take in what the log has got since, over rotations. Whether there was anything.

        :param shares: GPUs a slot by model.
        """
        try:
            now = os.stat(log)
        except FileNotFoundError:
            return False
        before = (self.inode, self.offset)
        if self.inode is None:
            self.inode = now.st_ino
        if self.inode != now.st_ino:
            self._leave(log, shares)
        if self.inode == now.st_ino:
            if now.st_size < self.offset:  # emptied in its place
                self.offset = 0
            self._portion(log, shares)
        return (self.inode, self.offset) != before

    def _leave(self, log: str, shares: Mapping[str, float]) -> None:
        """Read the renamed log to its end. nginx writes to it until it is told to open its logs anew.

        So it is left only when a whole pass has brought nothing more.
        """
        for path in glob.glob(f"{log}.*"):
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == self.inode:
                    if self._portion(path, shares):
                        self._quiet = False
                        return
                    if not self._quiet:
                        self._quiet = True
                        return
                    break
        else:
            self.counts["lost"] += 1
        self._quiet = False
        self.inode, self.offset = os.stat(log).st_ino, 0

    def _portion(self, path: str, shares: Mapping[str, float]) -> int:
        """Take whole lines from the offset on, as many bytes as one pass reads; returns how many they were."""
        with open(path, "rb") as file:
            file.seek(self.offset)
            data = file.read(LOG_PORTION)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == LOG_PORTION:  # one line that long is no line of ours
            end = len(data)
        for line in data[:end].splitlines():
            self.counts["lines"] += 1
            try:
                self._count(json.loads(line), shares)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.counts["bad_lines"] += 1
        self.offset += end
        return end

    def _count(self, row: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        status, user, model = int(row["status"]), str(row["user"]), str(row["model"])
        moment = unix_time(row["time"])
        if moment is None:
            raise ValueError("no time")
        asked = model or "none"
        model = self._name(asked, {name for models in self.users.values() for name in models}, MAX_MODELS)
        named = self._name(user or "none", self.users.keys(), MAX_USERS)
        entry = self.users.setdefault(named, {}).setdefault(model, {"requests": {}, **_nothing()})
        entry["requests"][str(status)] = entry["requests"].get(str(status), 0) + 1
        # A node that broke off is tried anew elsewhere, and nginx names the times of both.
        times = [number(part) for part in re.split(r"[,:]", str(row.get("upstream_time", "")))]
        seconds = sum(part for part in times if part is not None)
        values = {
            "prompt_tokens": number(row.get("prompt_tokens")) or 0.0,
            "completion_tokens": number(row.get("completion_tokens")) or 0.0,
            "engine_seconds": seconds,
            "gpu_seconds": seconds * shares.get(asked, 0.0),
        }
        for key, value in values.items():
            entry[key] += value
        if user:
            month = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m")
            used = (
                self.months.setdefault(month, {})
                .setdefault(named, {})
                .setdefault(model, {**_nothing(), "requests": 0.0, "failed": 0.0})
            )
            used["requests"] += 1
            used["failed"] += status >= 400
            for key, value in values.items():
                used[key] += value
            for old in sorted(self.months)[:-KEPT_MONTHS]:
                del self.months[old]
        if status < 400 and row["model"]:
            # The log has the engine's part; whoever waited in nginx before has waited for the first token, too.
            first = number(str(row.get("upstream_header_time", "")).rsplit(",", maxsplit=1)[-1])
            if first is not None:
                waited = max(0.0, float(row["request_time"]) - seconds) if seconds else 0.0
                _observe(self.first_token, model, FIRST_TOKEN_BUCKETS, waited + first)
            _observe(self.duration, model, DURATION_BUCKETS, float(row["request_time"]))

    @staticmethod
    def _name(name: str, known: Iterable[str], most: int) -> str:
        known = set(known)
        return name if name in known or len(known) < most else OTHER

    # - telling

    def tell(self, out: Exposition) -> None:
        for user, models in sorted(self.users.items()):
            for model, entry in sorted(models.items()):
                for status, count in sorted(entry["requests"].items()):
                    out.add("gateway_requests_total", count, user=user, model=model, status=status)
                for key in _nothing():
                    out.add(f"gateway_{key}_total", entry[key], user=user, model=model)
        for name, bounds, counted in (
            ("gateway_first_token_seconds", FIRST_TOKEN_BUCKETS, self.first_token),
            ("gateway_request_duration_seconds", DURATION_BUCKETS, self.duration),
        ):
            for model, found in sorted(counted.items()):
                out.histogram(name, bounds, found, model=model)
        for name, count in self.counts.items():
            out.add(f"gateway_log_{name}_total", count)


def _nothing() -> dict[str, float]:
    return {"prompt_tokens": 0.0, "completion_tokens": 0.0, "engine_seconds": 0.0, "gpu_seconds": 0.0}


def _observe(histograms: dict[str, dict[str, Any]], key: str, bounds: tuple[float, ...], value: float) -> None:
    found = histograms.setdefault(key, {"counts": [0] * (len(bounds) + 1), "sum": 0.0})
    found["counts"][next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    found["sum"] += value


def gateway_log(out: Exposition, ledger: Ledger, log: str, rules: Mapping[str, Any]) -> None:
    shares = {
        model["name"]: (model.get("gpus") or 0) / model["slots"]
        for model in rules.get("models") or []
        if model.get("slots")
    }
    try:
        if ledger.read(log, shares):
            ledger.save()
    except OSError as error:
        raise CollectorError(str(error)) from error
    finally:
        ledger.tell(out)


def gateway_state(out: Exposition, url: str, rules: Mapping[str, Any], drained: str) -> None:
    out.add("gateway_users", len(rules.get("users") or []))
    nodes = set(rules.get("nodes") or {})
    held = set(os.listdir(drained)) if os.path.isdir(drained) else set()
    for node in sorted(nodes | held):
        out.add("gateway_node_drained", int(node in held), node=node)
    try:
        models = ask(url).get("models") or {}
    except CollectorError:
        out.add("gateway_status_up", 0)
        raise
    out.add("gateway_status_up", 1)
    # Behind a balancer, who waits and who runs is the balancer's to tell.
    if rules.get("queue") is not None:
        for name, state in list(models.items() if isinstance(models, dict) else ())[:MAX_MODELS]:
            out.add("gateway_slots", state.get("slots"), model=name)
            out.add("gateway_running_requests", state.get("running"), model=name)
            out.add("gateway_waiting_requests", state.get("waiting"), model=name)


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of what HAProxy tells, whose labels have neither quotes nor commas."""
    for line in text.splitlines():
        match = re.match(r"([a-z_]+)\{([^}]*)\} (\S+)", line)
        value = number(match[3]) if match else None
        if match and value is not None:
            yield match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2])), value


def balancer(out: Exposition, path: str) -> None:
    """HAProxy's own metrics by its socket: queues, running requests, slots and state, by model and node."""
    if not os.path.exists(path):
        return
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        raise CollectorError(f"{path}: {error}") from error
    totals: dict[tuple[str, str], float] = collections.defaultdict(float)
    for name, labels, value in samples(answer.decode(errors="replace")):
        kind, _colon, model = labels.get("proxy", "").partition(":")
        model = model.replace("::", "/")
        if kind != "model" or not model:
            continue
        if name == "haproxy_backend_current_queue":
            totals["gateway_waiting_requests", model] += value
        elif name == "haproxy_server_current_sessions":
            totals["gateway_running_requests", model] += value
        elif name == "haproxy_server_limit_sessions":
            totals["gateway_slots", model] += value
        elif name == "haproxy_server_status" and labels.get("state") == "UP":
            out.add("gateway_node_up", value, node=labels.get("server", ""), model=model)
    for (name, model), value in sorted(totals.items()):
        out.add(name, value, model=model)


# --- the program


def collectors(options: argparse.Namespace) -> dict[str, tuple[float, Callable[[Exposition], None]]]:
    """What this host tells: by name, the seconds between two looks, and the look itself."""
    found: dict[str, tuple[float, Callable[[Exposition], None]]] = {
        "certificates": (600, lambda out: certificates(out, options.certificates)),
        "firewall": (60, lambda out: firewall(out, options.root)),
    }
    if options.engine:
        found["engine"] = (0, lambda out: engine(out, options.engine, options.plan, options.release))
        found["warmth"] = (0, lambda out: warmth(out, options.warm, options.hold))
        found["recovery"] = (0, lambda out: recovery(out, options.recovery))
        found["gpu_proof"] = (0, lambda out: gpu_proof(out, options.gpu_proof))
        found["disk"] = (600, lambda out: disk(out, options.models))
        found["gpus"] = (options.gpu_interval, lambda out: gpus(out, options.root, options.gpu_log))
        found["docker"] = (60, docker)
        found["cdi"] = (60, lambda out: cdi(out, options.root))
        found["driver"] = (600, lambda out: driver(out, options.root))
        found["xids"] = (60, lambda out: xids(out, options.root))
    if options.gateway_log:
        ledger = Ledger(os.path.join(options.state, "gateway.json"))

        def rules() -> dict[str, Any]:
            return read_json(options.gateway_rules) or {}

        found["gateway_log"] = (0, lambda out: gateway_log(out, ledger, options.gateway_log, rules()))
        found["gateway_state"] = (0, lambda out: gateway_state(out, options.gateway_status, rules(), options.drained))
        found["balancer"] = (0, lambda out: balancer(out, options.balancer))
    return found


class Pass:
    """Passes over all collectors. What is not due yet is told as it was."""

    def __init__(self, found: Mapping[str, tuple[float, Callable[[Exposition], None]]]) -> None:
        self._collectors = found
        self._kept: dict[str, Exposition] = {}
        self._due: dict[str, float] = dict.fromkeys(found, -math.inf)
        self._failures: dict[str, str] = {}

    def text(self) -> str:
        for name, (interval, collect) in self._collectors.items():
            begin = time.monotonic()
            if begin < self._due[name]:
                continue
            out, failure = Exposition(), ""
            try:
                collect(out)
            except (CollectorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                failure = f"{type(error).__name__}: {error}"
            if failure != self._failures.get(name, ""):  # said once, not every few seconds
                print(f"{name}: {failure or 'works again'}", file=sys.stderr, flush=True)
            self._failures[name] = failure
            out.add("collector_success", int(not failure), collector=name)
            out.add("collector_duration_seconds", round(time.monotonic() - begin, 4), collector=name)
            # What failed is tried again soon.
            self._kept[name], self._due[name] = out, begin + (min(interval, 60) if failure else interval)
        whole = Exposition()
        whole.add("metrics_timestamp_seconds", round(time.time(), 3))
        for part in self._kept.values():
            whole.merge(part)
        return whole.text()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Tell the node exporter of engine, GPUs, certificates, firewall and gateway."
    )
    parser.add_argument("--metrics", required=True, help="file for the node exporter's textfile collector")
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between two passes; 0 for one pass alone")
    parser.add_argument("--root", default="", help="directory below which the system's files lie")
    parser.add_argument("--certificates", action="append", default=[], help="pattern of certificates' files")
    parser.add_argument("--engine", help="URL of the engine, on a node")
    parser.add_argument("--plan", default="/etc/onprem-llm/plan.json")
    parser.add_argument("--release", default="/etc/onprem-llm/release.json")
    parser.add_argument("--warm", default="/run/onprem-llm/warm.json")
    parser.add_argument("--hold", default="/run/onprem-llm-warm.hold")
    parser.add_argument("--recovery", default="/var/lib/onprem-llm-recovery/state.json")
    parser.add_argument("--gpu-proof", default="/run/onprem-llm-gpu/proof.json")
    parser.add_argument("--models", default="/var/lib/onprem-llm/ollama", help="directory of the models")
    parser.add_argument("--gpu-interval", type=float, default=30.0, help="seconds between two questions to nvidia-smi")
    parser.add_argument("--gpu-log", default="", help="file that gets a JSON line a GPU each time")
    parser.add_argument("--gateway-log", help="nginx's access log, on a gateway")
    parser.add_argument("--gateway-rules", default="/etc/nginx/onprem-llm-gateway.json")
    parser.add_argument("--gateway-status", default="http://127.0.0.1:9145/status")
    parser.add_argument("--balancer", default="/run/onprem-llm-balancer/metrics.sock")
    parser.add_argument("--drained", default="/etc/onprem-llm/drained")
    parser.add_argument("--state", default="/var/lib/onprem-llm-metrics", help="directory of what has to be remembered")
    options = parser.parse_args(arguments)
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_arguments: sys.exit(0))
    passes = Pass(collectors(options))
    while True:
        replace_file(options.metrics, passes.text())
        if not options.interval:
            return 0
        time.sleep(options.interval)


if __name__ == "__main__":
    sys.exit(main())
