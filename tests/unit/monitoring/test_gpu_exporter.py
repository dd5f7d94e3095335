"""A GPU exporter beside our own program: its unit, what is refused, scraped and let in, and what shows a GPU."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from role_templates import evaluated, rendered, role_variables, trusted

from tests.packages import unpacked

SHA256, DIGEST = "a" * 64, "sha256:" + "b" * 64
HOST: dict[str, Any] = {
    "inventory_hostname": "gpu1",
    "group_names": ["llm_nodes", "gpu_nodes"],
    "groups": {"llm_nodes": ["gpu1"], "gpu_nodes": ["gpu1"], "gateways": ["gw1"], "monitoring_servers": ["mon1"]},
    "hostvars": {"gpu1": {}, "mon1": {}},
    "ansible_facts": {"architecture": "x86_64", "default_ipv4": {"address": "192.0.2.11"}},
    "__monitoring_beside": {"stdout_lines": []},
}
RELEASE = {"monitoring_gpu_exporter": "nvidia_gpu_exporter", "monitoring_gpu_exporter_sha256": SHA256}
DCGM = {"monitoring_gpu_exporter": "dcgm", "monitoring_dcgm_digest": DIGEST}
# Lines that the programs have written: DCGM exporter on an L4 with driver 580.105.08, nvidia_gpu_exporter on an
# RTX 2080 SUPER with 471.11, both from public repositories; the last two are those programs without a GPU.
DCGM_TOLD = """# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 31
"""  # noqa: E501
SMI_TOLD = """# HELP nvidia_smi_gpu_info A metric with a constant '1' value labeled by gpu uuid, name and others.
# TYPE nvidia_smi_gpu_info gauge
nvidia_smi_gpu_info{driver_model_current="WDDM",driver_model_pending="WDDM",driver_version="471.11",name="NVIDIA GeForce RTX 2080 SUPER",uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa",vbios_version="90.04.7a.40.73"} 1
"""  # noqa: E501
NONE_TOLD = "# HELP nvidia_smi_failed_scrapes_total Number of failed scrapes\nnvidia_smi_failed_scrapes_total 7\n"


def stated(name: str, **variables: Any) -> Any:
    known = {**role_variables("monitoring"), **trusted({**HOST, **variables})}
    return evaluated(known[name], known)


def unit(**variables: Any) -> str:
    return rendered("monitoring", "onprem-llm-gpu-exporter.service.j2", **trusted({**HOST, **variables}))


def faults(**variables: Any) -> list[str]:
    known = {**role_variables("monitoring"), **trusted({**HOST, **variables})}
    told = [str(evaluated(trusted(text), known)) for text in known["__monitoring_faults"]]
    return [text for text in told if text.startswith(("monitoring_gpu_exporter", "monitoring_dcgm"))]


def test_the_programs_own_flags_are_pinned_and_bound_to_an_address() -> None:
    text = unit(**RELEASE)
    assert "User=prometheus\n" in text
    assert "nvidia_gpu_exporter --web.listen-address=192.0.2.11:9835 --collect.interval=15s\n" in text
    alone = unit(**RELEASE, groups={**HOST["groups"], "monitoring_servers": []})
    assert "--web.listen-address=127.0.0.1:9835" in alone, "nobody is there to listen"


@pytest.mark.parametrize(
    ("runtime", "way"), [("cdi", "--device nvidia.com/gpu=all"), ("legacy", "--env NVIDIA_VISIBLE_DEVICES=all")]
)
def test_the_container_is_pinned_by_digest_and_has_no_rights(runtime: str, way: str) -> None:
    text = unit(**DCGM, nvidia_container_toolkit_runtime=runtime)
    image = f"nvcr.io/nvidia/k8s/dcgm-exporter@{DIGEST}"
    command = re.search(r"(?m)^ExecStart=(.*)$", text)
    assert command
    assert command[1].endswith(f"{image} --address 192.0.2.11:9400")
    assert way in command[1]
    for word in ("--cap-drop ALL", "--read-only", "no-new-privileges", "--pull never"):
        assert word in command[1]
    assert f"docker pull --quiet {image}" in text
    assert "After=network-online.target docker.service\n" in text
    assert "--publish" not in text


@pytest.mark.parametrize("variables", [RELEASE, DCGM])
def test_systemd_takes_the_unit(variables: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "onprem-llm-gpu-exporter.service"
    # systemd-analyze wants the program to be there.
    file.write_text(re.sub(r"(?m)^(Exec\w+=-?)\S+", r"\1/bin/true", unit(**variables)))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if file.name in line] == []


@pytest.mark.parametrize("address", ["aarch64", "x86_64"])
def test_the_release_by_architecture(address: str) -> None:
    url = stated("monitoring_gpu_exporter_url", ansible_facts={"architecture": address})
    name = {"aarch64": "arm64", "x86_64": "x86_64"}[address]
    assert url == (
        "https://github.com/utkuozdemir/nvidia_gpu_exporter/releases/download/v1.14.0/"
        f"nvidia_gpu_exporter_1.14.0_linux_{name}.tar.gz"
    )


@pytest.mark.parametrize("variables", [{}, RELEASE, DCGM])
def test_no_fault(variables: dict[str, Any]) -> None:
    assert faults(**variables) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"monitoring_gpu_exporter": "nvidia_gpu_exporter"}, "monitoring_gpu_exporter_sha256 is '': give the SHA-256"),
        ({**RELEASE, "monitoring_gpu_exporter_sha256": "abc"}, "monitoring_gpu_exporter_sha256 is 'abc'"),
        ({**RELEASE, "monitoring_gpu_exporter_url": "/srv/x"}, "monitoring_gpu_exporter_url is /srv/x"),
        ({**RELEASE, "monitoring_gpu_exporter_port": 70000}, "monitoring_gpu_exporter_port is 70000"),
        ({"monitoring_gpu_exporter": "dcgm"}, "monitoring_dcgm_digest is '': give the digest"),
        ({**DCGM, "monitoring_dcgm_image": "dcgm"}, "monitoring_dcgm_image is dcgm"),
        (
            {**DCGM, "__monitoring_beside": {"stdout_lines": ["listens 0.0.0.0:9400 python3"]}},
            "monitoring_gpu_exporter_port is 9400, and python3 listens there",
        ),
    ],
)
def test_a_fault_says_what_is_to_be_given(variables: dict[str, Any], said: str) -> None:
    found = faults(**variables)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_a_port_that_is_the_exporters_own_is_no_fault() -> None:
    lines = ["listens 192.0.2.11:9400 dcgm-exporter", "gpu exporter is here"]
    assert faults(**DCGM, __monitoring_beside={"stdout_lines": lines}) == []


@pytest.mark.parametrize(
    ("variables", "there"),
    [(RELEASE, True), (DCGM, True), ({}, False), ({**DCGM, "group_names": ["llm_nodes", "cpu_nodes"]}, False)],
)
def test_it_is_where_gpus_are(variables: dict[str, Any], there: bool) -> None:
    assert ("onprem-llm-gpu-exporter.service" in stated("__monitoring_unit_files", **variables)) is there
    units = [unit["name"] for unit in stated("__monitoring_units", **variables)]
    assert ("onprem-llm-gpu-exporter.service" in units) is there


@pytest.mark.parametrize(
    ("told", "shows"),
    [
        pytest.param(DCGM_TOLD, True, id="dcgm"),
        pytest.param(SMI_TOLD, True, id="nvidia_gpu_exporter"),
        pytest.param(NONE_TOLD, False, id="no GPU that it can read"),
        pytest.param("", False, id="nothing"),
        pytest.param("# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).\n", False, id="a name without a sample"),
    ],
)
def test_what_shows_a_gpu(told: str, shows: bool) -> None:
    """As verify.yml judges an answer; the alert asks for the same two names."""
    pattern = stated("__monitoring_gpu_exporter_shows")
    assert bool(re.search(pattern, told)) is shows
    rules = Path(__file__).resolve().parents[3] / "roles/monitoring_server/files/rules/alerts.yml"
    for name in re.findall(r"nvidia_smi_\w+|DCGM_\w+", pattern):
        assert name in rules.read_text(encoding="utf-8")


@pytest.mark.parametrize("told", [DCGM_TOLD, SMI_TOLD])
def test_promtool_reads_what_they_tell(told: str) -> None:
    promtool = unpacked("prometheus") / "usr/bin/promtool"
    done = subprocess.run([promtool, "check", "metrics"], input=told, capture_output=True, text=True, check=False)
    assert "error while linting" not in done.stderr
    assert "parse" not in done.stderr


def test_the_monitoring_server_asks_it() -> None:
    host = {**HOST, "inventory_hostname": "mon1", "ansible_managed": ""}
    hosts = {"gpu1": {"ansible_host": "192.0.2.11", **DCGM}, "gw1": {"ansible_host": "192.0.2.31", **DCGM}, "mon1": {}}
    text = rendered(
        "monitoring_server", "targets.json.j2", **trusted({**host, "hostvars": hosts, "item": {"what": "node"}})
    )
    asked = {entry["targets"][0]: entry["labels"] for entry in json.loads(text)}
    assert asked["192.0.2.11:9100"] == {"instance": "gpu1"}
    assert asked["192.0.2.11:9400"] == {"instance": "gpu1", "job": "gpu"}
    assert "192.0.2.31:9400" not in asked, "no GPU, no exporter"


@pytest.mark.parametrize(("variables", "port"), [(DCGM, 9400), (RELEASE, 9835), ({}, 0)])
def test_the_firewall_knows_the_port(variables: dict[str, Any], port: int) -> None:
    known = {**role_variables("firewall"), **trusted({**HOST, **variables})}
    assert int(evaluated(known["__firewall_gpu_exporter_port"], known)) == port
