# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role nvidia_container_toolkit misses in CDI specs: GPUs, MIG instances, devices of the plan."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from role_templates import evaluated, role_variables

WHOLE = {"index": 0, "uuid": "GPU-a", "mig_mode": None, "mig_devices": []}
DIVIDED = {
    "index": 1,
    "uuid": "GPU-b",
    "mig_mode": "Enabled",
    "mig_devices": [{"index": 0, "uuid": "MIG-x"}, {"index": 1, "uuid": "MIG-y"}],
}
ALL = ["0", "GPU-a", "1:0", "MIG-x", "1:1", "MIG-y", "all"]


def faults(names: list[str], gpus: list[dict[str, Any]], planned: list[str] | None) -> list[str]:
    """The role's faults for a host with these GPUs, a spec of these names and a plan on these devices."""
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": name, "containerEdits": {"env": ["A=b"]}} for name in names],
    }
    variables = role_variables("nvidia_container_toolkit")
    variables["__nvidia_container_toolkit_host"] = {"stdout": yaml.safe_dump(spec), "stderr": "CLI version 1.20.0"}
    variables["nvidia_driver_gpu_info"] = {"gpus": gpus}
    if planned is not None:
        variables["models_selection"] = {"plan": {"instances": [{"gpus": planned}]}}
    found: list[str] = evaluated(variables["__nvidia_container_toolkit_faults"], variables)
    return found


@pytest.mark.parametrize(
    ("names", "gpus", "planned"),
    [
        pytest.param(["0", "GPU-a", "all"], [WHOLE], ["GPU-a"], id="whole GPU"),
        pytest.param(["0"], [WHOLE], None, id="by index alone, before a plan"),
        pytest.param(ALL, [WHOLE, DIVIDED], ["MIG-y"], id="plan on a MIG instance"),
        pytest.param(["1:0", "1:1"], [DIVIDED], None, id="instances by index, before a plan"),
        pytest.param(ALL, [WHOLE, {**DIVIDED, "mig_devices": []}], ["GPU-a"], id="divided into nothing"),
        pytest.param(["all"], [WHOLE, DIVIDED], [], id="all of them"),
        pytest.param(["0", "GPU-a"], [WHOLE], [], id="plan on the CPU"),
    ],
)
def test_what_is_named_is_no_fault(names: list[str], gpus: list[dict[str, Any]], planned: list[str] | None) -> None:
    assert faults(names, gpus, planned) == []


@pytest.mark.parametrize(
    ("names", "gpus", "planned", "said"),
    [
        pytest.param(["1", "GPU-b"], [DIVIDED], ["MIG-x"], "MIG device 1:0 (MIG-x), MIG device 1:1", id="before MIG"),
        pytest.param(ALL[:4], [WHOLE, DIVIDED], ["MIG-x"], "of MIG device 1:1 (MIG-y). They", id="instance made later"),
        pytest.param(["1:0"], [WHOLE], ["GPU-a"], "of GPU 0 (GPU-a). They", id="MIG turned off"),
        pytest.param(
            ["1:0", "1:1"], [DIVIDED], ["MIG-x"], "no CDI spec names nvidia.com/gpu=MIG-x (they", id="no UUID"
        ),
        pytest.param(["all"], [WHOLE], ["GPU-a"], "no CDI spec names nvidia.com/gpu=GPU-a (they name all)", id="all"),
    ],
)
def test_what_is_not_named_is_one_fault_with_the_way_out(
    names: list[str], gpus: list[dict[str, Any]], planned: list[str], said: str
) -> None:
    [fault] = faults(names, gpus, planned)
    assert said in fault
    assert "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml" in fault
