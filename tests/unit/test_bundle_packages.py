# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages of four archives, each with a key of its own, are bundled by apt itself; and apt installs from the bundle.

The archives are made here and served on loopback: one for the distribution's packages, one laid out as Docker's
(``docker_source: upstream``), NVIDIA's with several branches of its driver, and its container toolkit's. What a host
wants, and how apt is told of the archives, is what the roles say.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _apt, _nvidia_driver

TOOLS = ("apt-get", "dpkg-deb", "gpg")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}, which every Debian and Ubuntu can have"
)
BUILD = "1~debian.13~trixie"
DRIVERS, TOOLKITS = ("580.82.07", "580.95.05", "595.71.05"), ("1.20.0", "1.21.0")
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - onprem.llm.bundle_wants:
        hosts: [gpu01, gw01]
        releases: [trixie]
        mirrors: {Debian: "{{ archive }}/debian"}
      register: wanted
    - ansible.builtin.copy: {content: "{{ wanted.wants | to_json }}", dest: "{{ place }}/wants.json"}
"""


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, **more)


class Key:
    """A signing key in a keyring of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self._gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "")
        run(*self._gpg, "--quick-generate-key", "archive@example.com", "ed25519", "sign", "never")
        self.public = home / "public.asc"
        self.public.write_text(run(*self._gpg, "--armor", "--export").stdout)

    def clearsign(self, text: str) -> str:
        return run(*self._gpg, "--clearsign", input=text).stdout


class Archive:
    """A package archive as apt knows it: ``dists/trixie``, ``pool``, ``InRelease``; flat without a component."""

    def __init__(self, place: Path, component: str = "") -> None:
        self.place, self.component, self._paragraphs = place, component, [""]
        (place / "pool").mkdir(parents=True)

    def add(self, name: str, version: str = "1.0-1", **fields: str) -> Path:
        """Hold an empty package."""
        tree = self.place / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        control = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "T <t@example.com>"}
        control |= fields | {"Description": f"{name} of a test"}
        text = "".join(f"{field}: {value}\n" for field, value in control.items())
        (tree / "DEBIAN/control").write_text(text)
        path = self.place / f"pool/{name}_{version.rpartition(':')[2]}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path)
        shutil.rmtree(tree)
        data = path.read_bytes()
        text += f"Filename: pool/{path.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        self._paragraphs.append(text)
        return path

    def sign(self, key: Key, suite: str = "trixie") -> None:
        below = f"{self.component}/binary-amd64/" if self.component else ""
        top = self.place / f"dists/{suite}" if self.component else self.place
        path = top / f"{below}Packages"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self._paragraphs))
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        release = (
            f"Suite: {suite}\nCodename: {suite}\nComponents: {self.component}\nArchitectures: amd64\n"
            "Date: Sat, 01 Jan 2000 00:00:00 UTC\n"
            f"SHA256:\n {digest} {size} {below}Packages\n"
        )
        (top / "InRelease").write_text(key.clearsign(release))


class Site:
    """Two archives, and what the site's hosts want of them."""

    def __init__(self, place: Path, url: str) -> None:
        self.place, self.url = place, url
        self.debian, self.docker = Archive(place / "web/debian", "main"), Archive(place / "web/docker/debian", "stable")
        self.cuda, self.toolkit = Archive(place / "web/cuda/debian13/x86_64"), Archive(place / "web/toolkit/deb/amd64")
        self.debian_key, self.docker_key = Key(place / "key-debian"), Key(place / "key-docker")
        self.nvidia_key = Key(place / "key-nvidia")
        self.fingerprint = _nvidia_driver.fingerprint_of_key(self.nvidia_key.public.read_text())

    def fill(self) -> None:
        """Have all archives hold what is wanted, and what that needs."""
        self.wanted = self.wants()
        packages = self.wanted["packages"][0]
        for name, start in packages["packages"].items():
            if not start:
                self.debian.add(name)
        self.debian.add("iptables")
        for name in ("dkms", "linux-headers-amd64"):
            self.debian.add(name)
        # As Docker's own: another version beside the pinned one, and what is recommended and must not come.
        starts = {name: start for name, start in packages["packages"].items() if start}
        for name, start in starts.items():
            fields = {}
            if name == "docker-ce":
                needs = f"containerd.io (>= 1.6), docker-ce-cli (= {starts['docker-ce-cli']}{BUILD}), iptables"
                fields = {"Depends": needs, "Recommends": "docker-ce-rootless-extras"}
            self.docker.add(name, f"{start}{BUILD}", **fields)
            self.docker.add(name, re.sub(r"\d+\.\d+\.\d+-", f"99.0.0-{BUILD}", start))
        self.docker.add("docker-ce-rootless-extras", f"{starts['docker-ce']}{BUILD}")
        # As NVIDIA's: what belongs together needs exactly its own version, and newer branches lie beside it.
        for version in DRIVERS:
            own = f"{version}-1"
            for name in ("libcuda1", "nvidia-persistenced", "nvidia-fabricmanager", "libnvidia-nscq"):
                self.cuda.add(name, own)
            self.cuda.add("nvidia-driver-cuda", own, Depends=f"libcuda1 (= {own}), nvidia-kernel-module (= {own})")
            for name, other in (("open-dkms", "dkms"), ("dkms", "open-dkms")):
                fields = {"Depends": "dkms", "Conflicts": f"nvidia-kernel-{other}"}
                self.cuda.add(f"nvidia-kernel-{name}", own, Provides=f"nvidia-kernel-module (= {own})", **fields)
        for version in TOOLKITS:
            self.toolkit.add("nvidia-container-toolkit-base", f"{version}-1")
        self.debian.sign(self.debian_key)
        self.docker.sign(self.docker_key)
        self.cuda.sign(self.nvidia_key)
        (self.cuda.place / f"{self.fingerprint[-8:]}.pub").write_text(self.nvidia_key.public.read_text())
        self.toolkit.sign(self.docker_key)

    def wants(self) -> dict[str, Any]:
        """As the action says; the distribution's archive is that of the test."""
        hosts = {"gpu01": {"ansible_host": "192.0.2.11"}, "gw01": {"ansible_host": "192.0.2.12"}}
        nodes = {"children": {"gpu_nodes": {"hosts": {"gpu01": None}}}}
        groups = {"llm_nodes": nodes, "gateways": {"hosts": {"gw01": None}}}
        variables = {
            "docker_source": "upstream",
            "docker_repository_url": f"{self.url}/docker",
            "docker_repository_key_file": str(self.docker_key.public),
            "nvidia_driver_source": f"{self.url}/cuda",
            "nvidia_driver_repository_fingerprint": self.fingerprint,
            "nvidia_container_toolkit_repository_url": f"{self.url}/toolkit",
            "nvidia_container_toolkit_repository_key_file": str(self.docker_key.public),
            "ollama_image_archive": "/none.tar",
            "models_workloads": [],
            "archive": self.url,
            "place": str(self.place),
        }
        inventory, playbook = self.place / "hosts.yml", self.place / "play.yml"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "children": groups, "vars": variables}}))
        playbook.write_text(PLAY)
        settings = {"ANSIBLE_COLLECTIONS_PATH": str(Path(sys.executable).parents[1] / "collections")}
        command = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [command, "-i", inventory, playbook], env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        wants: dict[str, Any] = json.loads((self.place / "wants.json").read_text())
        for packages in wants["packages"]:
            found = packages["sources"]["archive.sources"]
            assert f"URIs: {self.url}/debian\n" in found
            # The keyring of the distribution is the machine's, and this archive is not signed with it.
            packages["sources"]["archive.sources"] = (
                f"Types: deb\nURIs: {self.url}/debian\nSuites: trixie\nComponents: main\n"
                f"Signed-By: {self.debian_key.public}\n"
            )
        return wants


class Bundle:
    """A bundle of it in the making, and the modules that make and hold it."""

    def __init__(self, site: Site, place: Path, call: Callable[..., dict[str, Any]]) -> None:
        self.site, self.place, self._call = site, place, call
        self.wants = copy.deepcopy(site.wanted)
        self.nvidia = self.wants["packages"][1:]
        del self.wants["packages"][1:]
        self.packages: dict[str, str] = self.wants["packages"][0]["packages"]

    def make(self) -> dict[str, Any]:
        return self._call("bundle", path=str(self.place / "bundle"), wants=self.wants, version="0.1.0")

    def faults(self, wants: dict[str, Any]) -> list[str]:
        given = {"path": str(self.place / "bundle"), "wants": wants, "stamps": str(self.place / "stamps")}
        return [fault["message"] for fault in self._call("bundle_info", **given)["faults"]]

    def installs(self, packages: dict[str, str]) -> set[str]:
        """What apt takes for these packages from the bundle, as at the site, with no other source."""
        root = self.place / "root"
        source = f"Types: deb\nURIs: file:{self.place}/bundle/apt/trixie/\nSuites: ./\nTrusted: yes\n"
        _apt.prepare(str(root), {"bundle.sources": source})
        options = _apt.options(str(root), "amd64")
        run("apt-get", *options, "-qq", "-o", "APT::Update::Error-Mode=any", "update")
        versions = [f"{name}={start}*" if start else name for name, start in packages.items()]
        shown = run("apt-get", *options, "-qq", "-y", "--print-uris", "install", *versions).stdout
        run("apt-get", *options, "-qq", "-y", "--download-only", "install", *versions)
        return {name for name, _version, _kind in _apt.chosen(shown)}

    def debs(self, pattern: str = "*") -> list[Path]:
        return sorted((self.place / "bundle/apt/trixie").glob(f"{pattern}.deb"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    import importlib

    from ansible.module_utils.testing import patch_module_args

    def module(name: str, **arguments: Any) -> dict[str, Any]:
        given = {**arguments, "_ansible_remote_tmp": str(tmp_path), "_ansible_keep_remote_files": False}
        found = importlib.import_module(f"ansible_collections.onprem.llm.plugins.modules.{name}")
        with patch_module_args(given), pytest.raises(SystemExit):
            found.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return result

    return module


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    handler = functools.partial(_Quiet, directory=str(place / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = Site(place, f"http://127.0.0.1:{server.server_port}")
        site.fill()
        yield site
        server.shutdown()


@pytest.fixture
def bundle(site: Site, tmp_path: Path, call: Callable[..., dict[str, Any]]) -> Bundle:
    return Bundle(site, tmp_path, call)


def test_docker_s_own_packages_come_with_what_they_need_and_install_from_the_bundle(bundle: Bundle) -> None:
    made = bundle.make()
    assert made.get("changed"), made["msg"]
    names = {path.name.split("_")[0] for path in bundle.debs()}
    assert names == {*bundle.packages, "iptables"}
    assert {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "nginx"} <= names
    (engine,) = bundle.debs("docker-ce_*")
    assert engine.name == f"docker-ce_{bundle.packages['docker-ce'].removeprefix('5:')}{BUILD}_amd64.deb"
    assert bundle.faults(bundle.wants) == []
    assert bundle.make()["changed"] is False
    other = copy.deepcopy(bundle.wants)
    other["packages"][0]["packages"]["docker-ce"] = "5:99.1.0-"
    (fault,) = bundle.faults(other)
    assert re.search(r"it has the package docker-ce 5:\S+ for trixie, and gpu01, gw01 want 5:99.1.0-\*", fault)

    assert bundle.installs(bundle.packages) == names


def test_drivers_for_every_kind_of_gpu_come_in_one_version_with_the_toolkit(bundle: Bundle) -> None:
    bundle.wants["packages"] = bundle.nvidia
    assert {host for want in bundle.nvidia for host in want["hosts"]} == {"gpu01"}
    made = bundle.make()
    assert made.get("changed"), made["msg"]
    driver = {"libcuda1", "libnvidia-nscq", "nvidia-driver-cuda", "nvidia-fabricmanager", "nvidia-persistenced"}
    kinds = {"nvidia-kernel-open-dkms", "nvidia-kernel-dkms"}
    others = {"dkms_1.0-1", "linux-headers-amd64_1.0-1", "nvidia-container-toolkit-base_1.20.0-1"}
    assert {path.name.removesuffix("_amd64.deb") for path in bundle.debs()} == {
        *(f"{name}_580.95.05-1" for name in driver | kinds), *others
    }  # fmt: skip
    assert bundle.faults(bundle.wants) == []
    for kind in kinds:
        (want,) = [want["packages"] for want in bundle.nvidia if kind in want["packages"]]
        assert bundle.installs(want) == {*driver, kind, "dkms", "linux-headers-amd64"}


def test_a_driver_of_an_exact_version(bundle: Bundle) -> None:
    bundle.wants["packages"] = bundle.nvidia[:1]
    (want,) = bundle.wants["packages"]
    want["preferences"] = want["preferences"].replace("580.*", "580.82.07*")
    want["packages"] = {name: start and "580.82.07" for name, start in want["packages"].items()}
    bundle.make()
    assert {path.name.split("_")[1] for path in bundle.debs("*nvidia*")} == {"580.82.07-1"}


def test_a_repository_of_nvidia_s_whose_key_is_another(bundle: Bundle) -> None:
    bundle.wants["packages"] = bundle.nvidia
    for want in bundle.nvidia:
        for repository in want.get("repositories") or []:
            repository["fingerprint"] = "0" * 40
    said = bundle.make()["msg"]
    assert f"{bundle.site.url}/cuda/debian13/x86_64/ has the fingerprint {bundle.site.fingerprint}; {'0' * 40}" in said
    assert bundle.debs() == []


def test_an_archive_of_another_key_is_told_by_its_address(bundle: Bundle) -> None:
    site = bundle.site
    site.docker.sign(site.debian_key)
    try:
        said = bundle.make()["msg"]
    finally:
        site.docker.sign(site.docker_key)
    assert f"{site.url}/docker/debian trixie InRelease" in said
    assert "apt-get for trixie: " in said
    assert re.search(r"NO_PUBKEY|not signed|Missing key", said), said
    assert bundle.debs() == []


def test_a_version_that_docker_has_not(bundle: Bundle) -> None:
    bundle.packages["docker-ce"] = "5:28.9.9-"
    assert "Version '5:28.9.9-*' for 'docker-ce' was not found" in bundle.make()["msg"]


def test_a_package_with_a_changed_byte_is_told_by_its_name(bundle: Bundle) -> None:
    (path,) = (bundle.site.place / "web/docker/debian/pool").glob(f"containerd.io_{bundle.packages['containerd.io']}*")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        said = bundle.make()["msg"]
    finally:
        path.write_bytes(good)
    assert path.name in said
    assert "sha256" in said
    assert bundle.debs("containerd.io_*") == []
    assert not (bundle.place / "bundle/bundle.json").exists()
