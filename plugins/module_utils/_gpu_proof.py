# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every planned model sits where the plan says, by the runner's own log and the engine's /api/ps.

/api/ps alone is no proof: it counts what the engine believes to have placed. The runner prints, after each load, how
many of the model's layers it put on a GPU; Ollama's own engine (ggml.go, 0.17) and llama.cpp (llama-model.cpp, all
versions) use the same words for it.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._catalog import canonical_name
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# Ollama's server/routes.go prints the first once a start; llm/server.go (to 0.29) and llm/llama_server.go print the
# runner's command line, whose --model is the blob of the weights.
_SERVER_START = re.compile(r"Listening on \S+ \(version ")
_RUNNER_START = re.compile(r"starting (?:runner|llama-server)\b.*--model \S*sha256-([0-9a-f]{64})")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")


def offloaded_layers(log: str) -> tuple[dict[str, tuple[int, int]], bool]:
    """Layers on the GPU and layers in all, by the weights' SHA-256, of each model's last load since the engine's last
    start, and whether the log reaches back to that start.

    A load that printed no count is not in it: a runner without any GPU backend prints none.
    """
    found: dict[str, tuple[int, int]] = {}
    blob = None
    complete = False
    for line in log.splitlines():
        start = _RUNNER_START.search(line)
        count = _OFFLOADED.search(line)
        if _SERVER_START.search(line):
            found, blob, complete = {}, None, True
        elif start:
            blob = start.group(1)
            found.pop(blob, None)
        elif count and blob:
            found[blob] = (int(count.group(1)), int(count.group(2)))
    return found, complete


def judge(
    models: t.Iterable[t.Mapping[str, t.Any]],
    log: str,
    installed: t.Iterable[t.Mapping[str, t.Any]],
    loaded: t.Iterable[t.Mapping[str, t.Any]],
) -> list[dict[str, t.Any]]:
    """One finding for each planned model, in the plan's order.

    A busy engine's log is rotated in a day or two, and its loads with it. Then, and only then, /api/ps is believed:
    reloading a model that serves users just to see the line again would be worse.

    :arg models: the plan's models, of one instance.
    :arg log: the lines of the instance's container log, at least those that name a start or offloaded layers.
    :arg installed: the engine's models, each with name and weights_digest.
    :arg loaded: the models that /api/ps names, each with name, size_bytes and size_vram_bytes.
    :returns: mappings of model, planned ("gpu" or "cpu"), layers_on_gpu and layers (None where the log says nothing),
        size_bytes and size_vram_bytes (None where it is not loaded), evidence ("log", or "api" where the log was
        rotated), and problem: empty, or what is wrong and why that may be.
    """
    layers, complete = offloaded_layers(log)
    digests = {canonical_name(item["name"]): str(item.get("weights_digest") or "")[-64:] for item in installed}
    running = {canonical_name(item["name"]): item for item in loaded}
    findings = {}
    for model in models:
        name = canonical_name(model["name"])
        present = running.get(name, {})
        on_gpu, total = layers.get(digests.get(name, ""), (None, None))
        finding: dict[str, t.Any] = {
            "model": model["name"],
            "planned": "gpu" if model.get("gpus") else "cpu",
            "layers_on_gpu": on_gpu,
            "layers": total,
            "size_bytes": present.get("size_bytes"),
            "size_vram_bytes": present.get("size_vram_bytes"),
            "evidence": "log" if complete or total else "api",
        }
        findings[name] = dict(finding, problem=_problem(finding))
    return list(findings.values())


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
