# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of a host's container toolkit, and what is decided about it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _container_toolkit as toolkit

URL = "https://nvidia.github.io/libnvidia-container/stable"
WHOLE = {"index": 0, "uuid": "GPU-a", "mig_mode": None, "mig_devices": []}
DIVIDED = {
    "index": 1,
    "uuid": "GPU-b",
    "mig_mode": "Enabled",
    "mig_devices": [{"index": 0, "uuid": "MIG-x"}, {"index": 1, "uuid": "MIG-y"}],
}
ALL = ["0", "GPU-a", "1:0", "MIG-x", "1:1", "MIG-y", "all"]
HELD = [{"name": toolkit.BASE, "version": "1.20.0-1", "held": True}]
OURS = {"version": "1.20.0", "packages": HELD, "record": {"installed": [toolkit.BASE]}, "units_enabled": True}


def spec(names: Sequence[str], path: str = "/etc/cdi/nvidia.yaml", **more: Any) -> dict[str, Any]:
    return {"path": path, "kind": toolkit.KIND, "devices": list(names), "valid": True, "driver_version": None, **more}


def judged(
    specs: Sequence[dict[str, Any]],
    gpus: Sequence[dict[str, Any]] = (WHOLE,),
    there: dict[str, Any] | None = None,
    loaded: str | None = "580.95.05",
    **wish: Any,
) -> dict[str, Any]:
    """The judgement on a host with these specs, GPUs and toolkit."""
    info = {
        "gpus": list(gpus), "cdi": {"specs": list(specs)}, "toolkit": there or {}, "driver": {"loaded_version": loaded}
    }  # fmt: skip
    default: dict[str, Any] = {
        "source": "auto", "version": "1.20.0", "runtime": "cdi", "cdi_spec": "any", "hold": True, "url": URL,
        "planned": [],
    }  # fmt: skip
    return toolkit.judge(info, toolkit.Wish(**{**default, **wish}))


# --- Specs of somebody else, and nothing to be installed


@pytest.mark.parametrize(
    ("names", "gpus", "planned"),
    [
        pytest.param(["0", "GPU-a", "all"], [WHOLE], ["GPU-a"], id="whole GPU"),
        pytest.param(["0"], [WHOLE], [], id="by index alone, before a plan"),
        pytest.param(ALL, [WHOLE, DIVIDED], ["MIG-y"], id="plan on a MIG instance"),
        pytest.param(["1:0", "1:1"], [DIVIDED], [], id="instances by index, before a plan"),
        pytest.param(ALL, [WHOLE, {**DIVIDED, "mig_devices": []}], ["GPU-a"], id="divided into nothing"),
        pytest.param(["all"], [WHOLE, DIVIDED], [], id="all of them"),
        pytest.param(["0", "GPU-a"], [WHOLE], [], id="plan on the CPU"),
    ],
)
@pytest.mark.parametrize("source", ["auto", "none"])
def test_what_is_named_is_left_alone(
    names: list[str], gpus: list[dict[str, Any]], planned: list[str], source: str
) -> None:
    found = judged([spec(names)], gpus, planned=planned, source=source)
    assert (found["faults"], found["outstanding"], found["refresh"]) == ([], [], "")
    assert not found["managed"]
    assert not found["write_source"]


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
        pytest.param([], [WHOLE], [], "No CDI spec in /etc/cdi or /var/run/cdi names", id="none"),
    ],
)
def test_what_is_not_named_is_one_fault_where_nothing_may_be_written(
    names: list[str], gpus: list[dict[str, Any]], planned: list[str], said: str
) -> None:
    found = judged([spec(names)] if names else [], gpus, planned=planned, source="none")
    [fault] = found["faults"]
    assert said in fault
    assert toolkit.GENERATE in fault
    assert found["refresh"] == ""


def test_a_spec_that_cannot_be_read_says_why() -> None:
    broken = {**spec([]), "kind": None, "valid": False, "reason": "line 3: neither YAML nor JSON"}
    [fault] = judged([broken], source="none")["faults"]
    assert "/etc/cdi/nvidia.yaml: line 3: neither YAML nor JSON" in fault


# --- A toolkit that is missing, older, or held by nobody


def test_a_bare_host_gets_the_base_package_and_its_spec() -> None:
    found = judged([])
    assert found["outstanding"] == [toolkit.BASE]
    assert found["packages"] == {toolkit.BASE: "1.20.0-"}
    assert found["write_source"]
    assert found["refresh"]
    assert found["faults"] == []


@pytest.mark.parametrize("source", ["auto", "nvidia"])
def test_what_was_installed_is_done_with(source: str) -> None:
    found = judged([spec(["0", "GPU-a", "all"], "/run/cdi/nvidia.yaml")], there=OURS, source=source)
    assert found["managed"]
    assert (found["outstanding"], found["refresh"], found["faults"], found["notes"]) == ([], "", [], [])
    assert not found["enable"]


@pytest.mark.parametrize(
    ("package", "hold", "due"),
    [
        ({"version": "1.19.1-1", "held": True}, True, True),
        ({"version": "1.20.0-1", "held": False}, True, True),
        ({"version": "1.20.0-1", "held": False}, False, False),
        ({"version": "1.20.0-2", "held": True}, True, False),
    ],
)
def test_another_version_or_a_lost_hold_is_outstanding(package: dict[str, Any], hold: bool, due: bool) -> None:
    there = {**OURS, "packages": [{"name": toolkit.BASE, **package}]}
    found = judged([spec(["0", "GPU-a"], "/run/cdi/nvidia.yaml")], there=there, hold=hold)
    assert bool(found["outstanding"]) is due


def test_the_installed_set_moves_together() -> None:
    packages = [{"name": name, "version": "1.19.1-1", "held": True} for name in toolkit.SET]
    found = judged([spec(["0", "GPU-a"])], there={**OURS, "version": "1.19.1", "packages": packages})
    assert sorted(found["outstanding"]) == sorted(toolkit.SET)


def test_somebody_elses_toolkit_stays_under_auto() -> None:
    there = {"version": "1.19.1", "packages": [{"name": toolkit.BASE, "version": "1.19.1-1", "held": False}]}
    found = judged([spec(["0", "GPU-a"])], there=there)
    assert not found["managed"]
    assert (found["outstanding"], found["faults"]) == ([], [])
    assert any("CVE-2026-24260" in note for note in found["notes"])


@pytest.mark.parametrize("source", ["auto", "none"])
def test_a_toolkit_below_the_floor_is_a_fault(source: str) -> None:
    there = {"version": "1.17.7", "packages": [{"name": toolkit.BASE, "version": "1.17.7-1", "held": False}]}
    [fault] = judged([spec(["0", "GPU-a"])], there=there, source=source)["faults"]
    assert "CVE-2025-23266" in fault
    assert "1.17.8" in fault


def test_a_toolkit_below_the_floor_is_replaced_where_that_is_asked_for() -> None:
    there = {"version": "1.17.7", "packages": [{"name": toolkit.BASE, "version": "1.17.7-1", "held": False}]}
    found = judged([spec(["0", "GPU-a"])], there=there, source="nvidia")
    assert (found["outstanding"], found["faults"]) == ([toolkit.BASE], [])


def test_the_runtime_of_old_needs_the_whole_set_and_says_its_defect() -> None:
    found = judged([], runtime="legacy")
    assert set(found["outstanding"]) == set(toolkit.SET)
    assert found["refresh"] == ""
    assert any("daemon-reload" in note for note in found["notes"])


# --- A spec that does not fit any more


@pytest.mark.parametrize(
    ("names", "gpus", "more", "reason"),
    [
        (["0", "GPU-a"], [WHOLE, {**WHOLE, "index": 1, "uuid": "GPU-c"}], {}, "no spec names GPU 1 (GPU-c)"),
        (["0", "GPU-a", "1", "GPU-b"], [WHOLE, DIVIDED], {}, "no spec names MIG device 1:0 (MIG-x)"),
        (["0", "GPU-a"], [WHOLE], {"driver_version": "575.51.03"}, "of driver 575.51.03, and 580.95.05 is loaded"),
    ],
    ids=["new GPU", "MIG", "driver"],
)
def test_gpus_mig_and_driver_have_it_written_anew(
    names: list[str], gpus: list[dict[str, Any]], more: dict[str, Any], reason: str
) -> None:
    found = judged([spec(names, "/run/cdi/nvidia.yaml", **more)], gpus, there=OURS)
    assert reason in found["refresh"]
    assert found["faults"] == []
    assert found["outstanding"] == []
    [fault] = judged([spec(names, **more)], gpus, source="none")["faults"]
    assert toolkit.GENERATE in fault


def test_a_driver_that_waits_for_a_restart_is_no_reason() -> None:
    info = {
        "gpus": [WHOLE], "toolkit": OURS, "driver": {"loaded_version": "580.82.07", "installed_version": "580.95.05"},
        "cdi": {"specs": [spec(["0", "GPU-a"], "/run/cdi/nvidia.yaml", driver_version="580.95.05")]},
    }  # fmt: skip
    wish = toolkit.Wish("auto", "1.20.0", "cdi", "any", True, URL, [])
    assert toolkit.judge(info, wish)["refresh"] == ""


def test_an_old_spec_behind_the_new_one_is_nobodys_concern() -> None:
    old = spec(["0", "GPU-a", "7"], driver_version="550.54.15")
    new = spec(["0", "GPU-a"], "/var/run/cdi/nvidia.yaml", driver_version="580.95.05")
    # 7 is still resolved by the old one, and there is no such GPU.
    found = judged([new, old], there=OURS)
    assert (found["refresh"], found["faults"]) == ("", [])
    found = judged([{**new, "devices": ["0"]}, old], there=OURS)
    assert "550.54.15" in found["refresh"]


def test_one_name_in_two_files_of_a_directory_is_resolved_by_neither() -> None:
    [fault] = judged([spec(["0", "GPU-a"]), spec(["GPU-a"], "/etc/cdi/gpus.json")])["faults"]
    assert "nvidia.com/gpu=GPU-a in /etc/cdi/nvidia.yaml and /etc/cdi/gpus.json" in fault


def test_units_that_do_not_start_with_the_host_are_enabled() -> None:
    specs = [spec(["0", "GPU-a"], "/run/cdi/nvidia.yaml")]
    assert judged(specs, there={**OURS, "units_enabled": False})["enable"]
    assert not judged(specs, there={**OURS, "units_enabled": None})["enable"]
    assert not judged(specs, there={**OURS, "units_enabled": False}, source="none")["enable"]


# --- Bad input, and others in the way


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"version": "latest"}, "nvidia_container_toolkit_version is latest"),
        ({"version": "1.17.4"}, "which has CVE-2025-23266"),
        ({"url": "nvidia.github.io"}, "nvidia_container_toolkit_repository_url is nvidia.github.io"),
    ],
)
def test_a_wish_that_cannot_be_is_named(wish: dict[str, str], said: str) -> None:
    [fault] = judged([], source="nvidia", **wish)["faults"]
    assert said in fault


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"packages": [{"name": "nvidia-docker2", "version": "2.13.0-1", "held": False}]}, "nvidia-docker2 2.13.0-1"),
        ({"packages": [{"name": "nvidia-container-runtime", "version": "3.5.0-1", "held": False}]}, "runtime 3.5.0-1"),
        ({"copies": ["/usr/local/bin/nvidia-ctk"]}, "A second toolkit is on the host: /usr/local/bin/nvidia-ctk"),
    ],
)
def test_a_second_toolkit_is_refused_where_one_would_be_installed(there: dict[str, Any], said: str) -> None:
    [fault] = judged([], there=there, source="nvidia")["faults"]
    assert said in fault
    kept = judged([spec(["0", "GPU-a"])], there=there, source="none")
    assert kept["faults"] == []
    assert kept["notes"]


def test_the_empty_package_of_that_name_is_in_nobodys_way() -> None:
    there = {"packages": [{"name": "nvidia-container-runtime", "version": "3.14.0-1", "held": False}]}
    assert judged([], there=there, source="nvidia")["faults"] == []


def test_a_repository_that_apt_knows_is_not_told_twice() -> None:
    theirs = {"path": "/etc/apt/sources.list.d/nvidia-container-toolkit.list", "url": f"{URL}/deb"}
    assert not judged([], there={"sources": [theirs]})["write_source"]
    ours = {"path": toolkit.SOURCES_FILE, "url": f"{URL}/deb/amd64"}
    assert judged([], there={"sources": [ours]})["write_source"]
    [fault] = judged([], there={"sources": [ours, theirs]})["faults"]
    assert "Signed-By" in fault
    # NVIDIA's repositories of one distribution each are others.
    old = {**theirs, "url": "https://nvidia.github.io/libnvidia-container/ubuntu18.04/amd64"}
    assert judged([], there={"sources": [old]})["write_source"]


def test_without_a_toolkit_what_asks_for_one_is_a_fault_where_nobody_installs_it() -> None:
    [fault] = judged([spec(["0", "GPU-a"])], source="none", cdi_spec="toolkit")["faults"]
    assert "there is no nvidia-ctk" in fault
    assert judged([spec(["0", "GPU-a"])], cdi_spec="toolkit")["outstanding"] == [toolkit.BASE]


# --- The look at a host


class Host:
    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str = "") -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def look(self) -> dict[str, Any]:
        return toolkit.look(str(self.root))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_nothing_is_there(host: Host) -> None:
    assert host.look() == {"sources": [], "units_enabled": None, "record": None}


def test_what_is_there(host: Host) -> None:
    host.write(
        "/etc/apt/sources.list.d/nvidia-container-toolkit.list",
        f"deb [signed-by=/usr/share/keyrings/x.gpg] {URL}/deb/$(ARCH) /\n#deb {URL}/experimental /\n",
    )
    host.write("/etc/apt/sources.list.d/off.sources", f"Types: deb\nURIs: {URL}/deb/amd64\nSuites: /\nEnabled: no\n")
    host.write("/etc/apt/sources.list.d/on.sources", f"Types: deb\nURIs: {URL}/deb/amd64\nSuites: /\n")
    host.write(toolkit.RECORD, json.dumps({"installed": [], "held": []}))
    for unit in toolkit.UNITS:
        host.write(f"/usr/lib/systemd/system/{unit}")
    found = host.look()
    assert found["sources"] == [
        {"path": "/etc/apt/sources.list.d/nvidia-container-toolkit.list", "url": f"{URL}/deb"},
        {"path": "/etc/apt/sources.list.d/on.sources", "url": f"{URL}/deb/amd64"},
    ]
    assert found["units_enabled"] is False
    assert found["record"] == {"installed": [], "held": []}
    for unit in toolkit.UNITS:
        host.write(f"/etc/systemd/system/multi-user.target.wants/{unit}")
    assert host.look()["units_enabled"] is True


def test_the_key_is_the_one_with_that_fingerprint(tmp_path: Path) -> None:
    """NVIDIA's key by its fingerprint, which anybody can compute of the file."""
    gpg = shutil.which("gpg")
    if not gpg:
        pytest.skip("needs gpg")
    role = Path(__file__).resolve().parents[4] / "roles/nvidia_container_toolkit"
    key = role / "files/nvidia-container-toolkit.asc"
    shown = subprocess.run(
        [gpg, "--homedir", tmp_path, "--batch", "--show-keys", "--with-colons", key],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    fingerprint = next(line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:"))
    assert f"__nvidia_container_toolkit_key_fingerprint: {fingerprint}" in (role / "vars/main.yml").read_text()
    assert fingerprint == "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
