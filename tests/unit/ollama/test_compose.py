# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the engine's container gets its GPUs, by the Compose file and Docker's settings that the roles make."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from role_templates import evaluated, rendered, role_variables, trusted

GPUS = ["GPU-a", "GPU-b"]


def service(gpus: list[str], runtime: str | None) -> dict[str, Any]:
    more = {"nvidia_container_toolkit_runtime": runtime} if runtime else {}
    text = rendered(
        "ollama",
        "compose.yml.j2",
        ollama_plan={"instances": [{"gpus": gpus, "environment": {"OLLAMA_NUM_PARALLEL": "1"}}]},
        __ollama_image_reference="ollama/ollama:0.32.15",
        __ollama_environment={"HOME": "/var/lib/ollama"},
        __ollama_cpuset={"cpus": "", "threads": 0},
        __ollama_memory_bytes=0,
        __ollama_selinux=False,
        __ollama_uid="990",
        __ollama_gid="990",
        **more,
    )
    found: dict[str, Any] = yaml.safe_load("\n".join(text.splitlines()[1:]))["services"]["ollama"]
    return found


@pytest.mark.parametrize("runtime", [None, "cdi"])
def test_gpus_by_cdi(runtime: str | None) -> None:
    found = service(GPUS, runtime)
    (device,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"]) == ("cdi", ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"])
    assert "runtime" not in found
    assert found["environment"] == {"HOME": "/var/lib/ollama"}


def test_gpus_by_the_runtime_of_old() -> None:
    found = service(GPUS, "legacy")
    assert found["runtime"] == "nvidia"
    assert "deploy" not in found
    assert found["environment"] == {
        "HOME": "/var/lib/ollama",
        "NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    }


@pytest.mark.parametrize("runtime", ["cdi", "legacy"])
def test_no_gpu_is_given_where_none_is_planned(runtime: str) -> None:
    found = service([], runtime)
    assert not {"deploy", "runtime"} & found.keys()
    assert "NVIDIA_VISIBLE_DEVICES" not in found["environment"]


@pytest.mark.parametrize(
    ("runtime", "groups", "runtimes"),
    [
        ("cdi", ["gpu_nodes"], None),
        ("legacy", ["gpu_nodes"], {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}),
        ("legacy", ["cpu_nodes"], None),
    ],
)
def test_docker_knows_the_runtime_where_it_is_wanted(runtime: str, groups: list[str], runtimes: Any) -> None:
    variables = {
        **role_variables("docker"), "nvidia_container_toolkit_runtime": runtime, "group_names": groups,
        "docker_daemon_options": {"default-address-pools": [{"base": "10.200.0.0/16", "size": 24}]},
    }  # fmt: skip
    wanted = evaluated(trusted("{{ __docker_daemon_wanted }}"), variables)
    assert wanted.get("runtimes") == runtimes
    assert wanted["features"] == {"cdi": True}
    assert wanted["default-address-pools"]
