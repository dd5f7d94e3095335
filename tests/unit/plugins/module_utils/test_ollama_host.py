# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Ollama on the host: its processes, its GPU memory, its models."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.onprem.llm.plugins.module_utils import _ollama_host as host

EVERYONE = [
    host.Process(1, 0, "systemd"),
    host.Process(50, 1, "ollama"),
    host.Process(51, 50, "llama-server"),
    host.Process(52, 51, "helper"),
    host.Process(60, 1, "python3"),
]


def test_runners_belong_to_the_server() -> None:
    assert host.family(EVERYONE) == {50, 51, 52}
    assert host.family([EVERYONE[0], EVERYONE[4]]) == set()


def test_gpu_memory_of_its_own_processes_counts() -> None:
    answer = "51, 2048\n51, 512\n60, 9000\n52, [N/A]\n"
    assert host.gpu_memory(answer, {50, 51, 52}) == (2048 + 512 + 1) * 2**20
    assert host.gpu_memory("", {50}) == 0
    assert host.gpu_memory("NVIDIA-SMI has failed because it couldn't communicate", {50}) == 0


def test_own_process_is_seen_with_its_name() -> None:
    found = {process.pid: process for process in host.processes()}
    assert found[os.getpid()].parent == os.getppid()


def test_models_directory_by_the_unit(tmp_path: Path) -> None:
    models = tmp_path / ".ollama" / "models"
    assert host.models_directory({"Environment": f"HOME={tmp_path}"}) == ""
    models.mkdir(parents=True)
    assert host.models_directory({"Environment": f"HOME={tmp_path} PATH=/bin"}) == str(models)
    (tmp_path / "a b").mkdir()
    assert host.models_directory({"Environment": f'"OLLAMA_MODELS={tmp_path}/a b"'}) == f"{tmp_path}/a b"
    assert host.models_directory({"User": "nobody-of-this-name"}) == ""
    text = "LoadState=loaded\nEnvironment=A=b C=d\nUser=ollama\n"
    assert host.unit(text) == {"LoadState": "loaded", "Environment": "A=b C=d", "User": "ollama"}
