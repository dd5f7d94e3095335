# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done about a driver, decided from what a host tells: faults, packages, steps."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_driver as driver

from tests.plays import ROOT

ROLE = ROOT / "roles/nvidia_driver"
VARIABLES = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
RELEASES = {
    name: yaml.safe_load((ROLE / f"vars/{name}.yml").read_text(encoding="utf-8"))["__nvidia_driver_release_data"]
    for name in VARIABLES["__nvidia_driver_releases"]
}
L40S, V100, B200 = (
    {"address": "0000:01:00.0", "class": "0x030200", "device_id": device, "architecture": architecture}
    for device, architecture in (("0x26b9", "ada"), ("0x1db6", "volta"), ("0x2901", "blackwell"))
)
GPU = {
    "index": 0,
    "uuid": "GPU-a",
    "name": "NVIDIA L40S",
    "compute_capability": "8.9",
    "pci_bus_id": "00000000:01:00.0",
    "architecture": "ada",
    "mig_mode": None,
    "mig_devices": [],
    "ecc_mode": "Enabled",
    "ecc_mode_pending": "Enabled",
    "persistence_mode": "Enabled",
    "power_limit_watts": 350.0,
    "power_limit_min_watts": 100.0,
    "power_limit_max_watts": 350.0,
    "processes": [],
}
KERNEL = {
    "running": "6.12.43+deb13-amd64",
    "newest_installed": "6.12.48+deb13-amd64",
    "modules": {"6.12.43+deb13-amd64": None, "6.12.48+deb13-amd64": None},
    "dkms_failed": [],
    "nouveau_loaded": False,
    "nouveau_blacklisted": True,
    "secure_boot": "disabled",
    "mok_enrolled": None,
}
WISH: dict[str, Any] = {
    "source": "nvidia",
    "branch": "580",
    "version": "",
    "kernel_modules": "auto",
    "hold": True,
    "reboot": "forbid",
    "drained": False,
    "persistence": "",
    "power_limit_watts": 0,
    "ecc": "",
    "mig": [],
    "fingerprint": "",
    "key_given": False,
    "one_repository": False,
    "distribution": "Debian 13.2",
    "architecture": "x86_64",
    "host": "node1",
    "today": "2026-11",
    "branches": VARIABLES["__nvidia_driver_branches"],
    "minima": VARIABLES["__nvidia_driver_minima"],
    "supported": list(RELEASES),
}
SET = ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms"]
HEADERS = ["linux-headers-6.12.43+deb13-amd64", "linux-headers-6.12.48+deb13-amd64", "linux-headers-amd64"]
OFFERED = {name: ["595.71.05-1", "580.95.05-1", "580.82.07-1"] for name in SET}


def bare(card: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A host with a GPU and no driver, whose repository answers."""
    return copy.deepcopy(
        {
            "gpus": [],
            "pci_devices": [card or L40S],
            "driver": {"loaded_version": None, "installed_version": None, "packages": [], "runfile": False},
            "kernel": KERNEL,
            "fabric": {"nvswitches": 0, "fabricmanager_active": None},
            "state": "no_driver",
            "problems": [{"code": "nvidia_smi_missing", "message": "there is no nvidia-smi"}],
            "serving": False,
            "settings_unit": "",
            "installation": {
                "packages": {},
                "repository_file": False,
                "other_sources": [],
                "audit": [],
                "locked_by": "",
                "record": {},
                "repository": {"url": "https://example.com/", "source": "Types: deb", "versions": OFFERED, "error": ""},
            },
        }
        | more
    )


def ready(version: str = "580.95.05", **more: Any) -> dict[str, Any]:
    """A host on which the role has installed a driver, and it runs."""
    host = bare(gpus=[GPU], state="ready", problems=[])
    host["driver"] = {
        "loaded_version": version,
        "installed_version": version,
        "runfile": False,
        "packages": [{"name": name, "version": f"{version}-1", "held": True} for name in SET],
    }
    host["kernel"]["modules"] = dict.fromkeys(KERNEL["modules"], version)
    there = {name: {"version": f"{version}-1", "held": True} for name in SET}
    there |= {name: {"version": "1", "held": False} for name in HEADERS}
    there[f"nvidia-driver-pinning-{version.split('.')[0]}"] = {"version": f"{version}-1", "held": False}
    host["installation"] |= {"packages": there, "repository_file": True, "record": {"held": SET}}
    return host | more


def decide(host: dict[str, Any], release: str = "debian-13", **wish: Any) -> dict[str, Any]:
    wished = WISH | wish
    return driver.decide(host, wished, {} if wished["source"] == "none" else RELEASES[release])


def test_bare_host_gets_the_newest_of_the_branch() -> None:
    found = decide(bare())
    assert found["faults"] == []
    assert found["steps"] == {"packages": True, "nouveau": False, "settings": False, "mig": False, "restart": False}
    assert found["transaction"] == [f"{name}=580.95.05-1" for name in SET]
    assert found["install"] == ["nvidia-driver-pinning-580", *HEADERS, *(f"{name} 580.95.05-1" for name in SET)]


def test_host_as_wished_has_nothing_due() -> None:
    found = decide(ready())
    assert (found["faults"], found["due"], found["works"]) == ([], False, True)


def test_without_a_source_nothing_is_done() -> None:
    found = decide(bare(), source="none")
    assert found["due"] is False
    assert "has no driver (there is no nvidia-smi). Have this role install it" in found["faults"][0]


@pytest.mark.parametrize(
    ("release", "card", "branch", "source", "expected"),
    [
        ("debian-12", L40S, "580", "nvidia", ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms"]),
        ("debian-13", V100, "580", "nvidia", ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-dkms"]),
        (
            "ubuntu-24.04",
            L40S,
            "580",
            "nvidia",
            ["libnvidia-compute-580", "nvidia-utils-580", "nvidia-persistenced", "nvidia-dkms-580-open"],
        ),
        (
            "ubuntu-26.04",
            L40S,
            "595",
            "nvidia",
            ["libnvidia-compute", "nvidia-utils", "nvidia-persistenced", "nvidia-dkms-open"],
        ),
        (
            "ubuntu-24.04",
            L40S,
            "580",
            "distribution",
            [
                "nvidia-headless-no-dkms-580-server-open",
                "nvidia-utils-580-server",
                "linux-modules-nvidia-580-server-open-generic",
            ],
        ),
        ("redhat-9", L40S, "580", "nvidia", ["nvidia-driver-cuda", "nvidia-persistenced", "kmod-nvidia-open-dkms"]),
    ],
)
def test_names_of_packages(release: str, card: dict[str, Any], branch: str, source: str, expected: list[str]) -> None:
    host = bare(card)
    host["kernel"] |= {"running": "6.8.0-85-generic", "newest_installed": "6.8.0-85-generic"}
    found = driver.packages(host, WISH | {"branch": branch, "source": source}, RELEASES[release])
    assert found.driver == expected


def test_nvswitches_bring_fabric_manager_along() -> None:
    host = bare(fabric={"nvswitches": 4, "fabricmanager_active": None})
    assert driver.packages(host, WISH, RELEASES["debian-13"]).driver[-2:] == ["nvidia-fabricmanager", "libnvidia-nscq"]


def test_every_release_names_packages_of_both_kinds_of_modules() -> None:
    for release, data in RELEASES.items():
        for flavour in ("open", "proprietary"):
            names = driver.packages(bare(), WISH | {"kernel_modules": flavour}, data).names
            assert names, release
            assert not [name for name in names if "{" in name], release


def test_one_version_of_the_whole_set_is_chosen() -> None:
    offered = {"a": ["580.95.05-1", "580.82.07-1"], "b": ["580.82.07-1"], "c": ["3:580.82.07-1.el9"]}
    wish = {"branch": "580", "version": ""}
    assert driver.chosen_versions(["a", "b"], offered, wish, ["c", "d"]) == {
        "a": "580.82.07-1",
        "b": "580.82.07-1",
        "c": "3:580.82.07-1.el9",
    }
    assert driver.chosen_versions(["a", "d"], offered, wish) == {}


def change(host: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    node = host
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = to
    return host


@pytest.mark.parametrize(
    ("host", "wish", "said"),
    [
        pytest.param(bare(), {"branch": "581"}, "nvidia_driver_branch is 581; known branches are", id="unknown branch"),
        pytest.param(bare(), {"branch": "535"}, "the engine needs 550 or newer", id="branch below the engine's"),
        pytest.param(bare(V100), {"branch": "595"}, "580 is the last branch that drives it", id="Volta after 580"),
        pytest.param(bare(V100), {"kernel_modules": "open"}, "only the proprietary ones drive", id="Volta, open"),
        pytest.param(
            bare(B200), {"kernel_modules": "proprietary"}, "which only the open ones drive", id="Blackwell, proprietary"
        ),
        pytest.param(
            bare(pci_devices=[V100, B200]), {}, "no driver runs both, so take one out", id="Volta beside Blackwell"
        ),
        pytest.param(
            bare(), {"version": "595.71.05"}, "must be of nvidia_driver_branch", id="version of another branch"
        ),
        pytest.param(bare(), {"branch": "610"}, "It has branches 580, 595", id="branch that is not offered"),
        pytest.param(bare(), {"source": "nividia"}, "it must be none, nvidia, distribution, or the URL", id="source"),
        pytest.param(bare(), {"architecture": "riscv64"}, "has no driver for riscv64", id="architecture"),
        pytest.param(change(bare(), "driver", "runfile", to=True), {}, "nvidia-uninstall", id="runfile"),
        pytest.param(
            change(bare(), "kernel", "secure_boot", to="enabled"), {}, "mokutil --import", id="Secure Boot without key"
        ),
        pytest.param(
            change(bare(), "kernel", "nouveau_loaded", to=True),
            {"reboot": ""},
            "nouveau holds the GPU, so the host has to be restarted",
            id="nouveau and no consent",
        ),
        pytest.param(
            change(bare(), "installation", "other_sources", to=["/etc/apt/sources.list.d/cuda.list"]),
            {},
            "/etc/apt/sources.list.d/cuda.list names NVIDIA's repository, too",
            id="second source",
        ),
        pytest.param(
            change(bare(), "installation", "audit", to=["half"]), {}, "dpkg --configure -a", id="half installed"
        ),
        pytest.param(
            change(
                bare(), "installation", "packages", to={"nvidia-open-kernel-dkms": {"version": "550.1", "held": False}}
            ),
            {},
            "is of the other source",
            id="the distribution's modules",
        ),
        pytest.param(
            change(ready(), "installation", "record", to={}),
            {"branch": "595"},
            "nvidia-driver-cuda is held at 580.95.05-1, not by this role",
            id="held by others",
        ),
        pytest.param(ready(), {"branch": "595", "reboot": ""}, "driver 580.95.05 is loaded", id="move without consent"),
        pytest.param(ready(), {"power_limit_watts": 900}, "takes 100 to 350", id="power limit"),
        pytest.param(ready(), {"mig": [{"gpu": "0", "profiles": ["1g.5gb"]}]}, "which has no MIG", id="no MIG"),
        pytest.param(
            ready(), {"mig": [{"gpu": "7", "profiles": []}]}, "names the GPU 7; the host has 0", id="MIG, index"
        ),
        pytest.param(ready(), {"mig": [{"gpu": "0", "profiles": ["big"]}]}, "has the profile big", id="MIG, profile"),
    ],
)
def test_what_is_refused(host: dict[str, Any], wish: dict[str, Any], said: str) -> None:
    assert said in " ".join(decide(host, **wish)["faults"])


def test_other_release_and_unknown_key_are_refused() -> None:
    unknown = driver.decide(bare(), WISH | {"distribution": "Arch Linux"}, {})
    assert "knows no packages for Arch Linux" in unknown["faults"][0]
    assert "fingerprint of the key" in decide(bare(), "redhat-10")["faults"][0]
    assert "begins with 595" in decide(bare(), "ubuntu-26.04")["faults"][0]


def test_signed_modules_need_no_key() -> None:
    host = change(bare(), "kernel", "secure_boot", to="enabled")
    host["installation"]["repository"] = {}
    assert decide(host, "ubuntu-24.04", source="distribution")["faults"] == []


def test_move_of_a_node_that_serves_is_put_off() -> None:
    found = decide(ready(serving=True), branch="595", reboot="allow")
    assert found["faults"] == []
    assert found["due"] is False
    assert "ansible-playbook onprem.llm.driver -e target=node1" in found["notes"][1]
    assert decide(ready(serving=True), branch="595", reboot="allow", drained=True)["steps"]["packages"] is True


def test_restart_is_for_those_that_do_not_serve() -> None:
    problems = [{"code": "restart_due", "message": "a newer driver is on the disk"}]
    host = ready(problems=problems)
    host["driver"]["installed_version"] = "580.99.01"
    assert decide(host, source="none", reboot="allow")["steps"]["restart"] is True
    assert decide(host, source="none", reboot="forbid")["due"] is False
    serving = host | {"serving": True}
    assert decide(serving, source="none", reboot="allow")["due"] is False
    broken = serving | {"state": "broken"}
    assert "The node still serves" in decide(broken, source="none", reboot="allow")["faults"][0]


def test_downgrade_moves_what_is_installed_beside() -> None:
    host = ready("595.71.05")
    host["driver"]["packages"].append({"name": "libnvidia-encode1", "version": "595.71.05-1", "held": False})
    host["installation"]["repository"]["versions"] = OFFERED | {"libnvidia-encode1": ["595.71.05-1", "580.95.05-1"]}
    found = decide(host)
    assert found["transaction"] == [*(f"{name}=580.95.05-1" for name in SET), "libnvidia-encode1=580.95.05-1"]
    assert found["old_pins"] == ["nvidia-driver-pinning-595"]


def test_failed_build_is_told_with_the_end_of_its_log() -> None:
    host = ready()
    host["kernel"]["modules"]["6.12.48+deb13-amd64"] = None
    host["kernel"]["dkms_failed"] = [{"kernel": "6.12.48+deb13-amd64", "log": "CC nv.o\nerror: no follow_pfn\n"}]
    (fault,) = driver.module_faults(host)
    assert "for the kernel 6.12.48+deb13-amd64" in fault
    assert "error: no follow_pfn" in fault


def test_settings() -> None:
    found = decide(ready(), power_limit_watts=300, ecc="disabled")
    assert found["steps"]["settings"] is True
    assert found["once"] == [["-i", "0", "--ecc-config=0"]]
    assert "ExecStart=-/usr/bin/nvidia-smi -i 0 --power-limit=300\n" in found["settings_unit"]
    settled = ready(settings_unit=found["settings_unit"])
    settled["gpus"][0] |= {"power_limit_watts": 300.0, "ecc_mode": "Disabled", "ecc_mode_pending": "Disabled"}
    assert decide(settled, power_limit_watts=300, ecc="disabled")["due"] is False
    assert decide(settled)["steps"]["settings"] is True  # the unit is not wished any more


DIVIDED = {"mig_mode": "Enabled", "mig_devices": [{"profile": "3g.71gb"}, {"profile": "3g.71gb"}]}
WHOLE = {"mig_mode": "Disabled", "mig_devices": []}
MAKE = ["mig", "-i", "0", "--create-gpu-instance=3g.71gb,3g.71gb", "--default-compute-instance"]
DESTROY = [["mig", "-i", "0", "--destroy-compute-instance"], ["mig", "-i", "0", "--destroy-gpu-instance"]]


@pytest.mark.parametrize(
    ("state", "profiles", "commands"),
    [
        (WHOLE, ["3g.71gb", "3g.71gb"], [["-i", "0", "--multi-instance-gpu=1"], MAKE]),
        (DIVIDED, ["3g.71gb", "3g.71gb"], []),
        (DIVIDED, [], [*DESTROY, ["-i", "0", "--multi-instance-gpu=0"]]),
        (DIVIDED | {"mig_devices": []}, ["3g.71gb", "3g.71gb"], [MAKE]),
        ({"mig_mode": "Enabled", "mig_devices": [{"profile": "7g.141gb"}]}, ["3g.71gb", "3g.71gb"], [*DESTROY, MAKE]),
        (WHOLE, [], []),
    ],
)
def test_mig_layout(state: dict[str, Any], profiles: list[str], commands: list[list[str]]) -> None:
    host = ready()
    host["gpus"][0] |= state
    wish = WISH | {"mig": [{"gpu": "all", "profiles": profiles}]}
    assert driver.mig_commands(host, wish) == (commands, [])


def test_mig_waits_for_a_free_gpu() -> None:
    host = ready()
    host["gpus"][0] |= WHOLE | {"processes": [{"pid": 1, "name": "llama-server", "memory_bytes": 1}]}
    found = decide(host, mig=[{"gpu": "0", "profiles": ["3g.71gb", "3g.71gb"]}])
    assert found["steps"]["mig"] is False
    assert "the GPUs are to be divided otherwise, and the node serves" in found["notes"][1]


def test_fingerprint_is_gnupgs(tmp_path: Path) -> None:
    gpg = ["gpg", "--homedir", str(tmp_path), "--batch", "--quiet", "--no-permission-warning", "--passphrase", ""]
    for algorithm in ("rsa2048", "ed25519"):
        subprocess.run([*gpg, "--quick-generate-key", algorithm, algorithm, "sign"], check=True, capture_output=True)
        armored = subprocess.run([*gpg, "--armor", "--export", algorithm], check=True, capture_output=True, text=True)
        listed = subprocess.run(
            [*gpg, "--with-colons", "--list-keys", algorithm], check=True, capture_output=True, text=True
        ).stdout
        expected = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        assert driver.fingerprint_of_key(armored.stdout) == expected
    with pytest.raises(ValueError, match="no OpenPGP"):
        driver.fingerprint_of_key("<html>Not found</html>")


@pytest.mark.parametrize(
    ("said", "means"),
    [
        # sqv of Debian 13 (apt 3.0), gpgv of Ubuntu 22.04 (apt 2.4).
        ("Err:1 http://a InRelease\n  sqv: The primary key is not live because: Expired on 2024-01-31", "has expired"),
        ("W: GPG error: http://a: The following signatures were invalid: EXPKEYSIG 1234", "has expired"),
        ("Err:1 http://a InRelease\n Missing key 3CCA71C3, which is needed to verify signature.", "not of the key"),
        ("E: The repository 'http://a Release' does not have a Release file.", "no package repository at that place"),
        ("Err:1 http://a InRelease\n  Could not connect to 127.0.0.1:9 (127.0.0.1).", "not reached"),
        ("E: Something new", "apt refuses it"),
    ],
)  # fmt: skip
def test_words_of_apt(said: str, means: str) -> None:
    assert means in driver.apt_failure(said, "http://a/")


def test_mirror_is_one_variable() -> None:
    data = RELEASES["debian-13"]
    own = "https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/"
    assert driver.repository_url("nvidia", data, "x86_64") == own
    assert (
        driver.repository_url("https://m.example.com/cuda/", data, "aarch64")
        == "https://m.example.com/cuda/debian13/sbsa/"
    )
    assert driver.repository_url("distribution", data, "x86_64") == ""


def test_end_of_life_is_told() -> None:
    assert "NVIDIA ended branch 610 in 2026-08" in decide(ready("610.43.02"), source="none")["notes"][0]
    assert "ended" not in decide(ready(), source="none")["notes"][0]
