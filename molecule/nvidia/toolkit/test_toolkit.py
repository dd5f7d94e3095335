"""The container toolkit on one host, with real apt and systemd: installed, held, moved, its spec written, and removed.

The tests stand in the order in which they run: each goes on from what the one before left, with those that take long
and without them.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.fleet import gpus, toolkit_packages
from tests.plays import ROOT, callback, run

HOST = "nvidia-gpu1"
INVENTORY = ROOT / "molecule/nvidia/inventory"
STATE = ROOT / "build/molecule/nvidia-toolkit"
BASE = "nvidia-container-toolkit-base"
SPEC = "/run/cdi/nvidia.yaml"
CONVERGE = ROOT / "molecule/nvidia/toolkit/converge.yml"
OTHER_VERSION = {"nvidia_container_toolkit_version": "1.19.1"}
GPU = "GPU-6f1d2c3a-8b40-4e57-9c21-0a4005d7e9b10"


def on_host(command: str, check: bool = True, **more: str) -> str:
    done = subprocess.run(
        ["docker", "exec", "-i", HOST, "sh", "-c", command], check=check, capture_output=True, text=True, **more
    )
    return done.stdout + ("" if check else done.stderr)


def write(path: str, text: str) -> None:
    on_host(f"mkdir -p $(dirname {path}) && cat >{path}", input=text)


def converge(*arguments: str, **wish: object) -> subprocess.CompletedProcess[str]:
    return run(CONVERGE, *arguments, inventory=INVENTORY, variables=wish, timeout=300)


def changed(result: subprocess.CompletedProcess[str]) -> int:
    recap = re.search(rf"{HOST}\s+: ok=\d+\s+changed=(\d+)\s+unreachable=0\s+failed=0", result.stdout)
    assert recap, result.stdout[-4000:]
    return int(recap[1])


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0, result.stdout[-2000:]
    return " ".join(result.stdout.split())


def packages() -> dict[str, str]:
    said = on_host("dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' '*nvidia-container*' || :")
    rows = [row.split() for row in said.splitlines() if row[1:2] == "i"]
    return {name: f"{state} {version}" for state, name, version in rows}


def named() -> list[str]:
    """The devices that the spec in force names."""
    return re.findall(r'(?m)^    - name: "?([^"\n]+)"?$', on_host(f"cat {SPEC}"))


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """The host with GPUs, a driver's module on its disk, the repository, and no CDI spec."""
    toolkit_packages.make(STATE)
    kernel = on_host("uname -r").strip()
    for path, (content, mode) in gpus.files("l40s-2x").items():
        write(path, content.decode())
        on_host(f"chmod {mode:o} {path}")
    on_host("rm -r /etc/cdi")
    on_host(f"mkdir -p /lib/modules/{kernel} && echo 'updates/dkms/nvidia.ko:' >/lib/modules/{kernel}/modules.dep")
    tar = f"tar -C {STATE} -c srv | docker exec -i {HOST} tar -C /srv --strip-components 1 -x"
    subprocess.run(["bash", "-c", tar], check=True)
    server = "/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv 8481"
    on_host(f"systemd-run --quiet --unit=toolkit-repository {server}")
    yield
    on_host("systemctl stop toolkit-repository; rm -rf /srv/libnvidia-container")


@pytest.mark.long
def test_check_mode_says_what_would_come_and_brings_nothing() -> None:
    before = packages(), on_host("ls /etc/apt/sources.list.d /etc/onprem-llm 2>&1 || :")
    result = converge("--check", "--diff")
    assert changed(result) > 0
    assert f"Install {BASE} 1.20.0]" in result.stdout
    assert "+URIs: http://127.0.0.1:8481/libnvidia-container/stable/deb/amd64" in result.stdout
    assert (packages(), on_host("ls /etc/apt/sources.list.d /etc/onprem-llm 2>&1 || :")) == before


def test_a_bare_host_gets_the_toolkit_and_its_spec() -> None:
    result = converge()
    assert changed(result) > 0
    assert packages() == {BASE: "hi 1.20.0-1"}
    assert {"0", "1", "all", GPU} <= set(named())
    assert on_host("systemctl is-enabled nvidia-cdi-refresh.path nvidia-cdi-refresh.service").split() == ["enabled"] * 2
    assert on_host("systemctl is-active nvidia-cdi-refresh.path").strip() == "active"
    record = json.loads(on_host("cat /etc/onprem-llm/nvidia_container_toolkit.json"))
    assert record == {"installed": [BASE], "held": [BASE]}
    source = on_host("cat /etc/apt/sources.list.d/onprem-llm-nvidia-container-toolkit.sources")
    assert "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n ." in source


def test_the_second_run_changes_nothing_and_executes_next_to_nothing(tmp_path) -> None:
    counted = {"EXECUTIONS_FILE": str(tmp_path / "executions.json"), **callback("executions")}
    result = run(CONVERGE, inventory=INVENTORY, environment=counted, timeout=300)
    assert changed(result) == 0
    executions = json.loads((tmp_path / "executions.json").read_text())["hosts"][HOST]["executions"]
    # Facts and arguments; the role's include and, as no preflight was before it, the GPUs by an include, the faults and
    # two skipped. After a preflight the role is one skipped include.
    assert executions == 8, executions


def test_upgrades_of_others_leave_it_alone() -> None:
    simulated = on_host("apt-get update -qq && apt-get --simulate dist-upgrade")
    assert BASE not in "".join(line for line in simulated.splitlines(True) if line.startswith("Inst"))
    # Without the hold it would have moved.
    assert "1.21.0-1" in on_host(f"apt-cache policy {BASE}")


@pytest.mark.long
def test_another_version_is_moved_to_and_back() -> None:
    on_host("apt-get install -y -qq libnvidia-container1=1.20.0-1")
    assert changed(converge(nvidia_container_toolkit_version="1.19.1")) > 0
    assert packages() == {BASE: "hi 1.19.1-1", "libnvidia-container1": "hi 1.19.1-1"}
    assert changed(converge()) > 0
    assert packages() == {BASE: "hi 1.20.0-1", "libnvidia-container1": "hi 1.20.0-1"}


@pytest.mark.long
def test_a_lost_hold_and_units_that_were_disabled_are_mended() -> None:
    on_host(f"apt-mark unhold {BASE}; systemctl disable -q --now nvidia-cdi-refresh.path")
    assert changed(converge()) > 0
    assert packages()[BASE] == "hi 1.20.0-1"
    assert on_host("systemctl is-active nvidia-cdi-refresh.path").strip() == "active"


def test_a_new_driver_has_its_spec_by_itself() -> None:
    """By the toolkit's own units, without a run of the role."""
    assert "libcuda.so.595.80" in on_host(f"cat {SPEC}")
    on_host("sed -i 's/ 595.80,/ 596.10,/' /etc/simulated-gpus.csv; touch /lib/modules/$(uname -r)/modules.dep")
    for _attempt in range(40):
        if "libcuda.so.596.10" in on_host(f"cat {SPEC}"):
            break
        time.sleep(0.25)
    else:
        pytest.fail(on_host("journalctl -u nvidia-cdi-refresh.service --no-pager | tail -20"))


def test_a_driver_that_nobody_told_of_is_found() -> None:
    # The unit that watches may still have an event of before.
    on_host("systemctl stop nvidia-cdi-refresh.path; sed -i 's/ 596.10,/ 596.20,/' /etc/simulated-gpus.csv")
    result = converge()
    assert changed(result) > 0
    assert "libcuda.so.596.20" in on_host(f"cat {SPEC}")


@pytest.mark.long
def test_mig_has_the_spec_written_anew() -> None:
    on_host("systemctl stop nvidia-cdi-refresh.path")
    files = gpus.files("h200-mig")
    for path in ("/etc/simulated-gpus.csv", "/etc/simulated-mig-devices.csv"):
        write(path, files[path][0].decode())
    assert "0:0" not in named()
    assert changed(converge()) > 0
    assert {"0:0", "0:4", "MIG-8e4b1c73-5a02-5d3e-9f16-c2a7d0b4e683"} <= set(named())
    # The first is its instances; the second has MIG, too, and none.
    assert not {"0", "1"} & set(named())
    assert on_host("systemctl is-active nvidia-cdi-refresh.path").strip() == "active"
    on_host("systemctl stop nvidia-cdi-refresh.path; rm /etc/simulated-mig-devices.csv")
    write("/etc/simulated-gpus.csv", gpus.files("l40s-2x")["/etc/simulated-gpus.csv"][0].decode())
    assert changed(converge()) > 0
    assert {"0", "1", GPU} <= set(named())


@pytest.mark.long
def test_a_spec_that_does_not_come_is_told_with_the_reason() -> None:
    on_host(f"rm {SPEC}; sed -i s/nvidia.ko/other.ko/ /lib/modules/$(uname -r)/modules.dep")
    # The units saw the file change, too.
    time.sleep(1)
    result = converge()
    on_host("sed -i s/other.ko/nvidia.ko/ /lib/modules/$(uname -r)/modules.dep")
    text = said(result)
    assert "The CDI spec was written anew, and is not as it must be" in text
    assert "Named are none" in text
    assert changed(converge()) >= 0
    assert {"0", "1", "all"} <= set(named())


@pytest.mark.parametrize(
    ("prepare", "undo", "wish", "expected"),
    [
        (
            "apt-get install -y -qq nvidia-docker2; install -D /usr/bin/nvidia-ctk /usr/local/bin/nvidia-ctk",
            "dpkg --purge nvidia-docker2; rm /usr/local/bin/nvidia-ctk", {},
            ["nvidia-docker2 2.8.0-1", "A second toolkit is on the host: /usr/local/bin/nvidia-ctk"],
        ),
        pytest.param(
            "true", "true", {"nvidia_container_toolkit_version": "1.30.0"}, ["does not have the version"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            f"apt-mark unhold {BASE}; rm /etc/apt/sources.list.d/onprem-llm-nvidia-container-toolkit.sources",
            f"apt-mark hold {BASE}",
            {"nvidia_container_toolkit_repository_url": "http://127.0.0.1:9/stable", **OTHER_VERSION},
            ["The repository does not answer"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            "true", "true",
            {"nvidia_container_toolkit_repository_key_file": str(STATE / "other.asc"), **OTHER_VERSION},
            ["is not signed by the key that was expected"],
            marks=pytest.mark.long,
        ),
    ],
    ids=["two others", "no such version", "unreachable", "another key"],
)  # fmt: skip
def test_what_is_in_the_way_is_told(prepare: str, undo: str, wish: dict[str, str], expected: list[str]) -> None:
    on_host(prepare)
    try:
        text = said(converge(**wish))
    finally:
        on_host(undo)
    assert [words for words in expected if words not in text] == []
    assert packages()[BASE].endswith("1.20.0-1")
    # A repository that gave nothing is not left behind to break the next update.
    on_host("apt-get update -qq")


@pytest.mark.long
def test_it_is_whole_again_after_all_that() -> None:
    assert changed(converge(nvidia_container_toolkit_version="1.20.0")) == 0


def test_removal_leaves_nothing() -> None:
    on_host("dpkg --purge --force-hold libnvidia-container1")
    result = run(ROOT / "molecule/nvidia/toolkit/remove.yml", inventory=INVENTORY, timeout=300)
    assert changed(result) > 0
    assert packages() == {}
    places = "/etc /usr/local /run/cdi /usr/lib/systemd"
    rest = on_host(f"find {places} -name '*nvidia-c*' -o -name '*onprem*nvidia*'; apt-mark showhold")
    assert rest == ""
    again = run(ROOT / "molecule/nvidia/toolkit/remove.yml", inventory=INVENTORY, timeout=300)
    assert changed(again) == 0
