# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU proof, with log lines in the words of the engines' source: ml/backend/ggml/ggml.go and llm/server.go of 0.17,
llm/llama_server.go of 0.32 and llama.cpp's llama-model.cpp."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.filter.gpu_proof import FilterModule
from ansible_collections.onprem.llm.plugins.module_utils._gpu_proof import loads, process_bytes

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


def test_models_that_share_a_runner_are_where_it_is():
    installed = [*INSTALLED, {"name": "clerk:1", "weights_digest": CHAT}]
    log = START + runner(CHAT) + LLAMA.format(19, 19)
    both = [planned("GPU-1"), planned("GPU-1", name="clerk:1")]
    shared = [{**WHOLE[0], "serves": ["clerk:1", "gemma3:270m"]}]
    assert [item["problem"] for item in judge(both, log, installed, shared)] == ["", ""]
    spilled = judge(both, START + runner(CHAT) + LLAMA.format(12, 19), installed, shared)
    assert ["12 of 19" in item["problem"] for item in spilled] == [True, True]
    alone = [{**WHOLE[0], "serves": ["gemma3:270m"]}]
    assert ["not loaded" in item["problem"] for item in judge(both, log, installed, alone)] == [False, True]


def test_noise_is_ignored():
    log = (
        "offloaded 1/2 layers to GPU\n"
        + START
        + "[GIN] 2026/11/21 | 200 | POST /api/generate\n"
        + runner(CHAT)
        + "offloading output layer to GPU\n"
    )
    runs, complete = loads(log)
    assert complete
    assert (runs[CHAT].layers, runs[CHAT].gpu_bytes) == (None, None)


# Bytes: in llama.cpp's words, with a sliding window's second cache and a context reserved twice, and in those of
# Ollama's own engine.
LLAMA_BUFFERS = (
    LLAMA.format(19, 19) + "load_tensors:   CPU_Mapped model buffer size =   170.00 MiB\n"
    "load_tensors:        CUDA0 model buffer size =   235.00 MiB\n"
    "llama_context:  CUDA_Host  output buffer size =     1.00 MiB\n"
    "llama_kv_cache:        CUDA0 KV buffer size =    24.00 MiB\n"
    "llama_kv_cache:        CUDA0 KV buffer size =    22.50 MiB\n"
    "sched_reserve:      CUDA0 compute buffer size =    99.00 MiB\n"
    "sched_reserve:      CUDA0 compute buffer size =    55.50 MiB\n"
    "sched_reserve:  CUDA_Host compute buffer size =    21.00 MiB\n"
)
ENGINE_BUFFERS = SLOG.format(19, 19) + "".join(
    f'time=2026-11-21T06:00:01.000Z level=INFO source=device.go:{line} msg="{kind}" device={device} size="{size}"\n'
    for line, kind, device, size in (
        (240, "model weights", "CUDA0", "235.0 MiB"),
        (245, "model weights", "CPU", "170.0 MiB"),
        (251, "kv cache", "CUDA0", "46.5 MiB"),
        (262, "compute graph", "CUDA0", "0.1 GiB"),
    )
)
MIB = 2**20


def accounted(total: float, confidence: str = "medium", overhead: float = 500.0, **terms: float) -> dict[str, object]:
    """A planned model with an account of so many MiB in buffers."""
    account = {"total_bytes": int((total + overhead) * MIB), "overhead_bytes": int(overhead * MIB)}
    account |= {name: int(size * MIB) for name, size in terms.items()}
    return planned("GPU-1") | {"account": account | {"confidence": confidence}}


@pytest.mark.parametrize(
    ("version", "buffers", "size"), [("0.32", LLAMA_BUFFERS, 337.0), ("0.17", ENGINE_BUFFERS, 281.5 + 102.4)]
)
def test_bytes_on_the_gpu_are_those_of_its_buffers(version, buffers, size):
    (finding,) = judge([accounted(size)], START + runner(CHAT, version) + buffers, INSTALLED, WHOLE, strict=True)
    assert finding["gpu_bytes"] == pytest.approx(size * MIB, abs=2)
    assert finding["problem"] == ""
    assert "19 of 19 layers" in finding["found"]
    assert "planned" in finding["found"]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (accounted(337), ""),
        (accounted(337 * 1.1), ""),
        (accounted(337 / 1.1), ""),
        (accounted(400), "(at least 344 MiB would do)"),
        (accounted(280), "(at most 322 MiB would do)"),
        (accounted(1000, "low", weights_bytes=250, budget_bytes=2000), ""),
        (accounted(1000, "low", weights_bytes=600, budget_bytes=2000), "at least"),
        (accounted(200, "low", weights_bytes=100, budget_bytes=300), "at most"),
    ],
    ids=["exact", "under by 9 %", "over by 10 %", "much under", "much over", "low, under", "low, weights", "low, over"],
)
def test_bytes_are_held_against_the_plan(model, problem):
    log = START + runner(CHAT) + LLAMA_BUFFERS
    (finding,) = judge([model], log, INSTALLED, WHOLE, strict=True)
    assert problem in finding["problem"]
    assert bool(problem) == bool(finding["problem"])
    assert judge([model], log, INSTALLED, WHOLE) == [finding], "site.yml's own proof says the same"


def test_a_projectors_buffer_is_none_of_the_models():
    log = START + runner(CHAT) + LLAMA_BUFFERS + "alloc_compute_meta:      CUDA0 compute buffer size =   990.50 MiB\n"
    seeing = accounted(337, overhead=1900, projector_bytes=1400)
    (finding,) = judge([seeing], log, INSTALLED, WHOLE, strict=True)
    assert (finding["problem"], finding["measured_bytes"]) == ("", 337 * MIB)
    # The process has it, of which the plan knows an upper value.
    for size, problem in ((950, ""), (2300, ""), (500, "at least"), (2900, "at most")):
        (finding,) = judge([seeing], "", INSTALLED, WHOLE, f"sha256-{CHAT} GPU-1 {size}\n", strict=True)
        assert problem in finding["problem"]
        assert bool(problem) == bool(finding["problem"])


def test_kv_cache_on_the_cpu_is_missed_on_the_gpu():
    buffers = LLAMA_BUFFERS.replace("CUDA0 KV", "CPU KV")
    (finding,) = judge([accounted(337)], START + runner(CHAT) + buffers, INSTALLED, WHOLE, strict=True)
    assert finding["gpu_bytes"] == int(290.5 * MIB)
    assert judge([accounted(350)], START + runner(CHAT) + buffers, INSTALLED, WHOLE, strict=True)[0]["problem"]


def test_layers_without_buffers_prove_no_bytes():
    (finding,) = judge([accounted(337)], START + runner(CHAT) + LLAMA.format(19, 19), INSTALLED, WHOLE, strict=True)
    assert "nothing proves" in finding["problem"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (f"sha256-{CHAT} GPU-1 830\n", ""),
        (f"sha256-{CHAT} GPU-1 400\nsha256-{CHAT} GPU-2 437\nsha256-{EMBEDDING} GPU-1 9000\n", ""),
        (f"sha256-{CHAT} GPU-1 600\n", "at least"),
        (f"sha256-{CHAT} GPU-1 1400\n", "at most"),
        (f"sha256-{CHAT} GPU-1 [N/A]\n GPU-1 830\n", "nothing proves that its bytes"),
        ("", "nothing proves that its bytes"),
    ],
    ids=["one GPU", "two GPUs", "too little", "too much", "not told", "no process"],
)
def test_process_speaks_where_the_log_was_rotated(lines, problem):
    (finding,) = judge([accounted(337)], "", INSTALLED, WHOLE, lines, strict=True)
    assert problem in finding["problem"]
    assert bool(problem) == bool(finding["problem"])
    assert finding["evidence"] == ("process" if process_bytes(lines) else "api")


def test_log_goes_before_the_process():
    log = START + runner(CHAT) + LLAMA.format(12, 19)
    (finding,) = judge([accounted(337)], log, INSTALLED, SPILLED, f"sha256-{CHAT} GPU-1 830", strict=True)
    assert finding["evidence"] == "log"
    assert "12 of 19 layers" in finding["problem"]
