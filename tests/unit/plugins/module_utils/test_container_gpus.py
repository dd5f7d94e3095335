# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CDI specifications as NVIDIA's toolkit writes them, by PyYAML and without, and what is wrong with some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _block_yaml, _container_gpus
from hypothesis import given, settings
from hypothesis import strategies as st

# In the form of nvidia-ctk cdi generate, with every kind of its lines and few of each.
SPEC = """---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-uvm
  - hostPath: /dev/nvidiactl
    path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03
    options:
    - ro
    - nosuid
  - containerPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.03
    hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.03
    options: []
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: GPU-11111111-2222-3333-4444-555555555555
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
kind: nvidia.com/gpu
"""
PATHS = (
    "dev/nvidia-uvm", "dev/nvidiactl", "dev/nvidia0",
    "usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.03",
)  # fmt: skip
DEVICES = ["0", "GPU-11111111-2222-3333-4444-555555555555", "all"]
DRIVER = {"loaded_version": "580.159.03", "installed_version": "580.159.03", "library_version": "580.159.03"}
TOOLKIT: dict[str, Any] = {"packages": [], "copies": []}


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def absent(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
    raise FileNotFoundError(2, "No such file", argv[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in PATHS:
        put(tmp_path, path)
    put(tmp_path, "run/cdi/nvidia.yaml", SPEC)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    return tmp_path


@pytest.fixture(params=["PyYAML", "without"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(_container_gpus, "yaml", None)


@pytest.mark.usefixtures("parser")
def test_a_specification_of_the_toolkit(root: Path) -> None:
    assert _container_gpus.specs(str(root)) == [
        {"path": "/var/run/cdi/nvidia.yaml", "kind": "nvidia.com/gpu", "devices": DEVICES, "version": "0.5.0",
         "valid": True, "reason": None, "driver_version": "580.159.03"}
    ]  # fmt: skip
    assert _container_gpus.problems(_container_gpus.specs(str(root)), TOOLKIT, DRIVER) == []


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SPEC.replace("cdiVersion: 0.5.0\n", ""), "no cdiVersion"),
        (SPEC.replace("nvidia.com/gpu", "gpu"), "VENDOR/CLASS"),
        (SPEC.replace('  name: "0"\n', ""), "has no name"),
        (SPEC.replace('name: "0"', "name: 0"), "device 0 is no text"),
        (SPEC.replace("name: all", 'name: "0"'), "the device 0 twice"),
        (SPEC[: SPEC.index("devices:")] + "kind: nvidia.com/gpu\n", "names no devices"),
        (SPEC[: SPEC.index("devices:")] + "devices: []\nkind: nvidia.com/gpu\n", "names no devices"),
        (SPEC.replace("- name: all\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n", "- name: all\n"),
         "device all has no containerEdits"),
        ("- a\n- b\n", "no mapping"),
        ("", "no mapping"),
        (SPEC.replace("devices:\n", "devices\n"), "neither JSON nor YAML"),
        (SPEC.replace("cdiVersion: 0.5.0", "cdiVersion: [0.5.0"), "neither JSON nor YAML"),
        ("\t- x", "neither JSON nor YAML"),
        (SPEC.replace("path: /dev/nvidia0", "path: /dev/nvidia7"), "it names /dev/nvidia7, which is not there"),
        (SPEC.replace("580.159.03", "580.142"), "libcuda.so.580.142, which is not there"),
    ],
)  # fmt: skip
def test_a_specification_that_cannot_be_used_says_why(root: Path, text: str, reason: str) -> None:
    put(root, "run/cdi/nvidia.yaml", text)
    [found] = _container_gpus.specs(str(root))
    assert found["valid"] is False
    assert reason in found["reason"]
    [told] = _container_gpus.problems([found], TOOLKIT, DRIVER)
    assert told["code"] == "cdi_invalid"
    assert "nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml" in told["message"]


def test_json_and_other_files(root: Path) -> None:
    put(root, "etc/cdi/nvidia.json", json.dumps(yaml.safe_load(SPEC)))
    put(root, "etc/cdi/README", "no specification")
    put(root, "etc/cdi/other.yaml", SPEC.replace("nvidia.com/gpu", "vendor.com/net"))
    put(root, "etc/cdi/broken.yaml", "kind: vendor.com/net\n")
    assert [one["path"] for one in _container_gpus.specs(str(root))] == [
        "/etc/cdi/nvidia.json",
        "/var/run/cdi/nvidia.yaml",
    ]


def test_two_of_one_directory_conflict_and_two_directories_do_not(root: Path) -> None:
    put(root, "etc/cdi/nvidia.yaml", SPEC)
    assert _container_gpus.problems(_container_gpus.specs(str(root)), TOOLKIT, DRIVER) == []
    put(root, "etc/cdi/by-hand.yaml", SPEC)
    [told] = _container_gpus.problems(_container_gpus.specs(str(root)), TOOLKIT, DRIVER)
    assert told["code"] == "cdi_conflict"
    assert "/etc/cdi/by-hand.yaml and /etc/cdi/nvidia.yaml both name nvidia.com/gpu=0" in told["message"]


@pytest.mark.parametrize(
    ("driver", "codes"),
    [
        ({"loaded_version": "590.48.01", "installed_version": None, "library_version": None}, ["cdi_stale"]),
        ({"loaded_version": "580.142", "installed_version": "580.159.03", "library_version": None}, []),
        ({"loaded_version": None, "installed_version": None, "library_version": None}, []),
    ],
    ids=["of another driver", "of the driver that comes with the restart", "no driver"],
)
def test_a_specification_of_another_driver(root: Path, driver: dict[str, str | None], codes: list[str]) -> None:
    found = _container_gpus.problems(_container_gpus.specs(str(root)), TOOLKIT, driver)
    assert [item["code"] for item in found] == codes


def test_two_toolkits() -> None:
    packages = [{"name": "nvidia-container-toolkit"}, {"name": "nvidia-docker2"}]
    old = {"packages": packages, "copies": []}
    assert [item["code"] for item in _container_gpus.problems([], old, DRIVER)] == ["two_toolkits"]


def test_a_toolkit_beside_its_packages(tmp_path: Path) -> None:
    put(tmp_path, "usr/local/bin/nvidia-ctk")
    alone = _container_gpus.toolkit(absent, str(tmp_path), [])
    assert (alone["copies"], _container_gpus.problems([], alone, DRIVER)) == (["/usr/local/bin/nvidia-ctk"], [])
    package = {"name": "nvidia-container-toolkit", "version": "1.20.0-1"}
    [told] = _container_gpus.problems([], _container_gpus.toolkit(absent, str(tmp_path), [package]), DRIVER)
    assert (told["code"], "/usr/local/bin/nvidia-ctk is there" in told["message"]) == ("two_toolkits", True)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ('{"features": {"cdi": true}}', "cdi"),
        ('{"features": {"cdi": true}, "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}', "cdi"),
        ('{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}', "legacy"),
        ('{"features": {"cdi": true}, "default-runtime": "nvidia", "runtimes": {"nvidia": {}}}', "legacy"),
        ('{"features": {"cdi": false}}', None),
        ('{"features": []}', None),
        ("[]", None),
        ("{", None),
        ("", None),
        (None, None),
    ],
)
def test_how_docker_gives_gpus(settings: str | None, mode: str | None) -> None:
    assert _container_gpus.docker_mode(settings) == mode


@pytest.mark.parametrize(
    ("packages", "out", "version"),
    [
        ([{"name": "nvidia-container-toolkit-base", "version": "1.20.0-1"}], None, "1.20.0"),
        ([], "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: abc\n", "1.17.8"),
        ([], None, None),
    ],
)
def test_the_toolkits_version(packages: list[Any], out: str | None, version: str | None) -> None:
    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        return (0, out, "") if out else absent(argv, timeout)

    assert _container_gpus._version(run, "/", packages) == version


def test_the_unit_that_watches_for_a_new_driver(tmp_path: Path) -> None:
    unit = "nvidia-cdi-refresh.path"
    assert _container_gpus.unit_state(unit, absent, str(tmp_path)) == "absent"
    put(tmp_path, f"usr/lib/systemd/system/{unit}")
    assert _container_gpus.unit_state(unit, absent, str(tmp_path)) == "inactive", "nothing runs below another root"


# What the reader without PyYAML understands, PyYAML understands likewise; what it does not, it refuses.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.text("abcXYZ019 _-./:=", max_size=12),
    st.just([]),
    st.just({}),
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.from_regex(r"\A[a-z][A-Za-z]{0,6}\Z"), inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


class WithoutAliases(yaml.SafeDumper):
    """Go's writers know no aliases either."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@settings(max_examples=150)
@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,6}\Z"), documents, min_size=1, max_size=4))
def test_what_a_writer_writes_is_read_as_it_was(value: dict[str, Any]) -> None:
    text = yaml.dump(value, Dumper=WithoutAliases, default_flow_style=False, width=10**6)
    assert _block_yaml.load(text) == yaml.safe_load(text) == value


@given(st.text("ab-:[]{}'\"#&*!|> \n\t", max_size=60))
def test_text_that_is_refused_by_none_is_read_alike(text: str) -> None:
    try:
        mine = _block_yaml.load(text)
    except ValueError:
        return
    assert mine == yaml.safe_load(text)
