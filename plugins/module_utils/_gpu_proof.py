# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every planned model sits where the plan says, by the runner's own log, nvidia-smi and the engine's /api/ps.

/api/ps alone is no proof: it counts what the engine believes to have placed (0.17.7 and 0.32.15 report 452 and 275 MB
for the same load). The runner prints, after each load, how many of the model's layers it put on a GPU; Ollama's own
engine (ggml.go, 0.17) and llama.cpp (llama-model.cpp, all versions) use the same words for it. Then each prints the
buffers that it allocated, by device: llama.cpp a line a buffer, Ollama's engine one for weights, cache and graph.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

MIB = 2**20

# How far the bytes on the GPU may be from the account's. The share covers a batch that the engine took smaller than
# planned, and what builds of llama.cpp differ by, of which the account follows two (_llama_cpp.py: nothing for most
# models, a few per cent for hybrids); the bytes are what small models' rounding and the buffer for the logits, which a
# build has on the device or beside it, can make. A spill of single layers is seen by their count.
TOLERANCE_SHARE = 0.12
TOLERANCE_BYTES = 8 * MIB
# What a process has besides, by nvidia-smi: cuBLAS' workspace and the growth of its pools.
PROCESS_BYTES = 300 * MIB

# Ollama's server/routes.go prints the first once a start; llm/server.go (to 0.29) and llm/llama_server.go print the
# runner's command line, whose --model is the blob of the weights.
_SERVER_START = re.compile(r"Listening on \S+ \(version ")
_RUNNER_START = re.compile(r"starting (?:runner|llama-server)\b.*--model \S*sha256-([0-9a-f]{64})")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# llama.cpp: "load_tensors: CUDA0 model buffer size = 235.16 MiB"; CUDA_Host is pinned memory of the host.
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size *= *([\d.]+) MiB")
# Ollama's engine (ml/device.go): msg="kv cache" device=CUDA0 size="24.0 MiB".
_MEMORY = re.compile(r'msg="(model weights|kv cache|compute graph)" device=(\S+) size="([\d.]+) ([KMGT]iB|B)"')
_UNITS = {"B": 1, "KiB": 2**10, "MiB": MIB, "GiB": 2**30, "TiB": 2**40}
# A vision projector's compute buffer (clip.cpp), whose line reads like the model's; the plan has it apart.
_PROJECTOR = "_compute_meta:"
# A context that is reserved anew prints these once more; a sliding window's second cache is a buffer of its own.
_REPEATED = ("compute", "output", "model weights", "kv cache", "compute graph")


@dataclass
class Load:
    """What a runner printed of one load: layers on GPUs, layers in all, bytes by (device, kind of buffer)."""

    on_gpu: int | None = None
    layers: int | None = None
    buffers: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, device: str, kind: str, size: int) -> None:
        before = 0 if kind in _REPEATED else self.buffers.get((device, kind), 0)
        self.buffers[(device, kind)] = before + size

    @property
    def gpu_bytes(self) -> int | None:
        """Bytes of all buffers on GPUs; None where no buffer was printed."""
        on_gpu = [size for (device, _kind), size in self.buffers.items() if re.match(r"CUDA\d+$", device)]
        return sum(on_gpu) if self.buffers else None

    @property
    def bytes(self) -> int | None:
        """Bytes of all buffers, on GPUs and in host memory; None where no buffer was printed."""
        return sum(self.buffers.values()) if self.buffers else None


def loads(log: str) -> tuple[dict[str, Load], bool]:
    """Each model's last load since the engine's last start, by the weights' SHA-256, and whether the log reaches back
    to that start.

    A load that printed no count has none: a runner without any GPU backend prints none.
    """
    found: dict[str, Load] = {}
    load = None
    complete = False
    for line in log.splitlines():
        start = _RUNNER_START.search(line)
        if _SERVER_START.search(line):
            found, load, complete = {}, None, True
        elif start:
            load = found[start.group(1)] = Load()
        elif load is not None:
            count, buffer, memory = _OFFLOADED.search(line), _BUFFER.search(line), _MEMORY.search(line)
            if _PROJECTOR in line:
                continue
            if count:
                load.on_gpu, load.layers = int(count.group(1)), int(count.group(2))
            elif buffer:
                load.add(buffer.group(1), buffer.group(2), int(float(buffer.group(3)) * MIB))
            elif memory:
                load.add(memory.group(2), memory.group(1), int(float(memory.group(3)) * _UNITS[memory.group(4)]))
    return found, complete


def process_bytes(lines: str) -> dict[str, int]:
    """GPU memory of the runners by the weights' SHA-256, from lines of blob, GPU and MiB, one a process and GPU.

    nvidia-smi prints [N/A] where the driver does not tell (MIG, WSL): such a process is left out.
    """
    found: dict[str, int] = {}
    for line in lines.splitlines():
        match = re.match(r"(?:sha256-)?([0-9a-f]{64}) \S+ (\d+)$", line.strip())
        if match:
            found[match.group(1)] = found.get(match.group(1), 0) + int(match.group(2)) * MIB
    return found


def judge(
    models: t.Iterable[t.Mapping[str, t.Any]],
    log: str,
    installed: t.Iterable[t.Mapping[str, t.Any]],
    loaded: t.Iterable[t.Mapping[str, t.Any]],
    processes: str = "",
    strict: bool = False,
) -> list[dict[str, t.Any]]:
    """One finding for each planned model, in the plan's order.

    A busy engine's log is rotated in a day or two, and its loads with it. Then the runner's process in nvidia-smi
    speaks, and where there is none /api/ps is believed, unless ``strict``.

    :arg models: the plan's models, of one instance.
    :arg log: the lines of the instance's container log, at least those that name a start, offloaded layers or buffers.
    :arg installed: the engine's models, each with name and weights_digest.
    :arg loaded: the models that /api/ps names, each with name, size_bytes, size_vram_bytes and serves, the names that
        its runner serves (its own alone where that is left out).
    :arg processes: the runners' memory by nvidia-smi, see :func:`process_bytes`.
    :arg strict: whether the bytes on the GPU must be proven by the log or by nvidia-smi. Where one of them says how
        many they are, they must be those of the plan's account, within the tolerance, in any case.
    :returns: mappings of model, planned ("gpu" or "cpu"), layers_on_gpu and layers (None where the log says nothing),
        gpu_bytes (None where neither log nor nvidia-smi says), measured_bytes (of all the runner's buffers on the
        planned devices, None where the log does not say), planned_bytes, digest (of the weights as installed),
        size_bytes and size_vram_bytes (None where it is not loaded), evidence ("log", "process", or "api" where neither
        says anything), found: all that in words, and problem: empty, or what is wrong and why that may be.
    """
    runs, complete = loads(log)
    used = process_bytes(processes)
    digests = {local_name(item["name"]): str(item.get("weights_digest") or "")[-64:] for item in installed}
    running = {local_name(name): item for item in loaded for name in item.get("serves") or [item["name"]]}
    findings = {}
    for model in models:
        name = local_name(model["name"])
        present = running.get(name, {})
        blob = digests.get(name, "")
        load = runs.get(blob, Load())
        by_log = complete or bool(load.layers)
        account = model.get("account") or {}
        overhead = 0 if by_log or blob not in used else account.get("overhead_bytes", 0)
        finding: dict[str, t.Any] = {
            "model": model["name"],
            "planned": "gpu" if model.get("gpus") else "cpu",
            "layers_on_gpu": load.on_gpu,
            "layers": load.layers,
            "gpu_bytes": load.gpu_bytes if by_log else used.get(blob),
            "measured_bytes": None if not by_log else load.gpu_bytes if model.get("gpus") else load.bytes,
            "planned_bytes": account.get("total_bytes", 0) - account.get("overhead_bytes", 0) + overhead,
            "digest": blob,
            "size_bytes": present.get("size_bytes"),
            "size_vram_bytes": present.get("size_vram_bytes"),
            "evidence": "log" if by_log else "process" if blob in used else "api",
        }
        problem = _problem(finding)
        if not problem and (strict or finding["gpu_bytes"] is not None):
            problem = _bytes_problem(finding, account)
        findings[name] = dict(finding, found=_found(finding), problem=problem)
    return list(findings.values())


def _bytes_problem(finding: t.Mapping[str, t.Any], account: t.Mapping[str, t.Any]) -> str:
    """What is wrong with the bytes on the GPU, or nothing."""
    if finding["planned"] == "cpu":
        return ""
    name, measured, planned = finding["model"], finding["gpu_bytes"], finding["planned_bytes"]
    if measured is None:
        return (
            f"{name}: nothing proves that its bytes are on the GPU: the log of its load was rotated away, or names no "
            "buffers, and nvidia-smi shows no process of its runner. With ollama_verify_reload: true it is loaded "
            "anew, and proven."
        )
    slack = int(planned * TOLERANCE_SHARE) + TOLERANCE_BYTES
    least, most = planned - slack, planned + slack
    if finding["evidence"] == "process":
        most += PROCESS_BYTES
        # That is an upper value.
        least -= account.get("projector_bytes", 0)
    if account.get("confidence") == "low":
        # Of an architecture that the account does not know, it has exact weights, and upper bounds for the rest.
        least = min(least, int(account.get("weights_bytes", 0) * (1 - TOLERANCE_SHARE)))
        most = max(most, account.get("budget_bytes", 0))
    if measured < least:
        return (
            f"{name} has {human_bytes(measured)} on the GPU where the plan says {human_bytes(planned)} (at least "
            f"{human_bytes(least)} would do): part of it is elsewhere, or context and slots in force are smaller than "
            "planned."
        )
    if measured > most:
        return (
            f"{name} has {human_bytes(measured)} on the GPU where the plan says {human_bytes(planned)} (at most "
            f"{human_bytes(most)} would do): context and slots in force are larger than planned, or the account is "
            "wrong for this model, and what else is planned may not fit."
        )
    return ""


def _found(finding: t.Mapping[str, t.Any]) -> str:
    """Where a model is, in words."""
    if finding["size_bytes"] is None:
        return "not loaded"
    parts = []
    if finding["layers"]:
        parts.append("{} of {} layers on the GPU".format(finding["layers_on_gpu"], finding["layers"]))
    if finding["gpu_bytes"] is not None:
        by = "its runner's log" if finding["evidence"] == "log" else "nvidia-smi"
        text = "{} in GPU memory by {}".format(human_bytes(finding["gpu_bytes"]), by)
        if finding["planned"] == "gpu":
            text += ", {} planned".format(human_bytes(finding["planned_bytes"]))
        parts.append(text)
    if finding["evidence"] == "api":
        size = human_bytes(finding["size_vram_bytes"] or 0)
        parts.append(f"{size} in GPU memory by /api/ps alone; the log of its load was rotated away")
    return "; ".join(parts) or "no layer on a GPU by its runner's log"


def _problem(finding: t.Mapping[str, t.Any]) -> str:
    name, on_gpu, total = finding["model"], finding["layers_on_gpu"], finding["layers"]
    size, vram = finding["size_bytes"], finding["size_vram_bytes"]
    if size is None:
        return (
            f"{name} is planned but not loaded: it was unloaded, evicted by another model, or the engine restarted. "
            "The models role loads it again."
        )
    if finding["planned"] == "cpu":
        return ""
    where = f"{human_bytes(vram or 0)} of {human_bytes(size)} in GPU memory by /api/ps"
    if not vram or on_gpu == 0:
        layers = f"0 of {total} layers on the GPU" if total else "no layer on a GPU by the runner's log"
        return (
            f"{name} is planned for the GPU but runs on the CPU ({layers}, {where}). The container lost or never had "
            "its GPU (compare nvidia-smi on the host with the CDI specification, then recreate the container), or the "
            "driver is older than the engine's libraries need."
        )
    if on_gpu is None and finding["evidence"] == "process":
        return ""
    if on_gpu is None and finding["evidence"] == "log":
        return (
            f"{name}: its runner counted no layers on a GPU in the log since the engine's start ({where}), so nothing "
            "proves the plan. A runner without a GPU backend prints none."
        )
    if on_gpu is None:
        return "" if vram >= size else f"{name} is spilled to the CPU: {where}; the log of its load was rotated away."
    if on_gpu < total:
        return (
            f"{name} is spilled to the CPU: {on_gpu} of {total} layers are on the GPU ({where}). Something else took "
            "GPU memory after the plan was made, or the context and slots in force are larger than planned."
        )
    return ""
