# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU proof, with log lines in the words of the engines' source: ml/backend/ggml/ggml.go and llm/server.go of 0.17,
llm/llama_server.go of 0.32 and llama.cpp's llama-model.cpp."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.filter.gpu_proof import FilterModule
from ansible_collections.onprem.llm.plugins.module_utils._gpu_proof import offloaded_layers

judge = FilterModule().filters()["gpu_proof"]

CHAT, EMBEDDING = "a5" * 32, "b6" * 32
START = (
    'time=2026-11-21T06:00:00.000Z level=INFO source=routes.go:2008 msg="Listening on [::]:11434 (version 0.32.15)"\n'
)
SLOG = 'time=2026-11-21T06:00:01.000Z level=INFO source=ggml.go:494 msg="offloaded {}/{} layers to GPU"\n'
LLAMA = "load_tensors: offloaded {}/{} layers to GPU\n"


def runner(blob: str, version: str = "0.32") -> str:
    words = "starting runner" if version == "0.17" else "starting llama-server"
    exe = "/usr/bin/ollama runner --ollama-engine" if version == "0.17" else "/usr/lib/ollama/llama-server"
    command = f"{exe} --model /var/lib/ollama/models/blobs/sha256-{blob} --port 40001"
    return f'time=2026-11-21T06:00:01.000Z level=INFO source=server.go:430 msg="{words}" cmd="{command}"\n'


def planned(*gpus: str, name: str = "gemma3:270m") -> dict[str, object]:
    return {"name": name, "gpus": list(gpus)}


INSTALLED = [
    {"name": "gemma3:270m", "weights_digest": "sha256:" + CHAT},
    {"name": "embed:latest", "weights_digest": EMBEDDING},
]
WHOLE = [{"name": "gemma3:270m", "size_bytes": 2**30, "size_vram_bytes": 2**30}]
SPILLED = [{"name": "gemma3:270m", "size_bytes": 2**30, "size_vram_bytes": 2**29}]
ON_CPU = [{"name": "gemma3:270m", "size_bytes": 2**30, "size_vram_bytes": 0}]

CASES = {
    "0.17 all layers": (START + runner(CHAT, "0.17") + SLOG.format(19, 19), WHOLE, ""),
    "0.32 all layers": (START + runner(CHAT) + LLAMA.format(19, 19), WHOLE, ""),
    # 0.32 under-reports sliding-window models, so fewer bytes in /api/ps are no spill where the runner has every layer.
    "0.32 all layers, fewer bytes": (START + runner(CHAT) + LLAMA.format(19, 19), SPILLED, ""),
    "loaded twice, the last one counts": (
        START + runner(CHAT) + LLAMA.format(3, 19) + runner(CHAT) + LLAMA.format(19, 19),
        WHOLE,
        "",
    ),
    "spill": (
        START + runner(CHAT) + LLAMA.format(12, 19),
        SPILLED,
        "12 of 19 layers are on the GPU (512 MiB of 1.0 GiB",
    ),
    "spill that /api/ps hides": (START + runner(CHAT) + LLAMA.format(18, 19), WHOLE, "18 of 19 layers"),
    "spill after a good load": (
        START + runner(CHAT) + LLAMA.format(19, 19) + runner(CHAT) + LLAMA.format(3, 19),
        WHOLE,
        "3 of 19",
    ),
    "cpu fallback, counted": (START + runner(CHAT) + LLAMA.format(0, 19), ON_CPU, "runs on the CPU (0 of 19 layers"),
    "cpu fallback, not counted": (START + runner(CHAT), ON_CPU, "runs on the CPU (no layer"),
    "cpu fallback that /api/ps hides": (START + runner(CHAT), WHOLE, "nothing proves the plan"),
    "good load before a restart, none after": (
        START + runner(CHAT) + LLAMA.format(19, 19) + START,
        WHOLE,
        "nothing proves the plan",
    ),
    "reload that printed no count": (
        START + runner(CHAT) + LLAMA.format(19, 19) + runner(CHAT),
        WHOLE,
        "nothing proves the plan",
    ),
    "another model's count": (START + runner(EMBEDDING) + LLAMA.format(19, 19), WHOLE, "nothing proves the plan"),
    "not loaded": (START + runner(CHAT) + LLAMA.format(19, 19), [], "not loaded"),
    "log rotated, all bytes": ("", WHOLE, ""),
    "log rotated, spill": ("", SPILLED, "rotated away"),
    "log rotated, cpu": ("", ON_CPU, "runs on the CPU"),
    "log rotated before a later load": (runner(CHAT) + LLAMA.format(12, 19), SPILLED, "12 of 19"),
}


@pytest.mark.parametrize(("log", "loaded", "problem"), CASES.values(), ids=CASES.keys())
def test_model_planned_for_a_gpu(log, loaded, problem):
    (finding,) = judge([planned("GPU-1")], log, INSTALLED, loaded)
    assert problem in finding["problem"]
    assert bool(problem) == bool(finding["problem"])
    assert finding["planned"] == "gpu"


@pytest.mark.parametrize(
    ("loaded", "problem"),
    [(ON_CPU, ""), (WHOLE, ""), ([], "not loaded")],
    ids=["on the CPU", "on a GPU all the same", "not loaded"],
)
def test_model_planned_for_the_cpu_needs_only_be_loaded(loaded, problem):
    (finding,) = judge([planned()], START, INSTALLED, loaded)
    assert problem in finding["problem"]
    assert bool(problem) == bool(finding["problem"])


def test_findings_carry_the_figures():
    (finding,) = judge([planned("GPU-1")], START + runner(CHAT) + LLAMA.format(12, 19), INSTALLED, SPILLED)
    figures = {key: finding[key] for key in ("layers_on_gpu", "layers", "size_bytes", "size_vram_bytes", "evidence")}
    assert figures == {
        "layers_on_gpu": 12,
        "layers": 19,
        "size_bytes": 2**30,
        "size_vram_bytes": 2**29,
        "evidence": "log",
    }


def test_models_are_judged_apart_and_once():
    log = START + runner(CHAT) + LLAMA.format(19, 19) + runner(EMBEDDING) + LLAMA.format(2, 5)
    loaded = [*WHOLE, {"name": "embed:latest", "size_bytes": 100, "size_vram_bytes": 40}]
    findings = judge([planned("GPU-1"), planned("GPU-1", name="embed"), planned("GPU-1")], log, INSTALLED, loaded)
    assert [(item["model"], bool(item["problem"])) for item in findings] == [("gemma3:270m", False), ("embed", True)]


def test_noise_is_ignored():
    log = (
        "offloaded 1/2 layers to GPU\n"
        + START
        + "[GIN] 2026/11/21 | 200 | POST /api/generate\n"
        + runner(CHAT)
        + "offloading output layer to GPU\n"
    )
    assert offloaded_layers(log) == ({}, True)
