#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: Tell of a host's GPUs, and of what an installation of their driver would meet
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Returns what M(onprem.llm.gpu_info) returns, and whether the node serves, in one execution.
  - Where a driver is wished and not there as wished, it also tries the package repository in a directory of its own,
    with apt's own programs, proxies and authorities. Nothing of the host's apt is changed. A key that has expired, a
    place that is not reached and a branch that does not exist are found before anything is installed.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  nvidia_smi:
    description: As in M(onprem.llm.gpu_info).
    type: str
    default: nvidia-smi
  timeout:
    description: As in M(onprem.llm.gpu_info).
    type: float
    default: 20
  root:
    description: As in M(onprem.llm.gpu_info).
    type: path
    default: /
  wish:
    description: What the role P(onprem.llm.nvidia_driver#role) wishes. An empty one asks for no more than the GPUs.
    type: dict
    default: {}
  system:
    description: The role's data of the host's release.
    type: dict
    default: {}
  repository_file:
    description: Where the role keeps apt's source of the driver.
    type: path
    default: /etc/apt/sources.list.d/onprem-llm-nvidia.sources
  record_file:
    description: Where the role keeps what it installed.
    type: path
    default: /etc/onprem-llm/nvidia_driver.json
  key:
    description:
      - The ASCII-armored key of the repository. Empty has it fetched from there, and believed by its fingerprint.
    type: str
    default: ""
seealso:
  - module: onprem.llm.gpu_info
    description: The GPUs alone.
"""

EXAMPLES = r"""
- name: Look at the GPUs, and at what a driver's installation would meet
  onprem.llm.nvidia_driver_info:
  register: nvidia_driver_gpu_info
"""

RETURN = r"""
gpus:
  description: As everything else that M(onprem.llm.gpu_info) returns.
  returned: always
  type: list
  elements: dict
serving:
  description: Whether the node's models are warm, as C(/run/onprem-llm/warm.json) says.
  returned: always
  type: bool
settings_unit:
  description: The role's unit that repeats settings at each start; empty where there is none.
  returned: always
  type: str
  sample: ""
installation:
  description: What an installation meets; null where none is wished.
  returned: always
  type: dict
  contains:
    packages:
      description: Version and hold of those packages of the wished set, and of those in its way, that are installed.
      type: dict
      sample: {nvidia-driver-cuda: {version: 580.95.05-1, held: true}}
    repository_file:
      description: Whether O(repository_file) is there.
      type: bool
      sample: true
    other_sources:
      description: Other files with apt sources that name the same repository.
      type: list
      elements: str
      sample: [/etc/apt/sources.list.d/cuda-debian13-x86_64.list]
    audit:
      description: Packages that dpkg has left half installed or half configured.
      type: list
      elements: str
      sample: []
    locked_by:
      description: The process that holds the package manager's lock; empty where none does.
      type: str
      sample: apt-get (4711)
    record:
      description: What O(record_file) holds.
      type: dict
      sample: {held: [nvidia-driver-cuda]}
    repository:
      description: What the repository answered, where something is to be installed from it.
      type: dict
      contains:
        url:
          description: Its place.
          type: str
          sample: https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/
        source:
          description: The source entry by which apt knows it, with its key.
          type: str
          sample: "Types: deb\n..."
        versions:
          description: Versions that it has of each package, newest first.
          type: dict
          sample: {nvidia-driver-cuda: [595.71.05-1, 580.95.05-1]}
        error:
          description: Why it cannot be used; empty where it can.
          type: str
          sample: ""
"""

import fcntl
import glob
import json
import os
import re
import shutil
import struct
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _apt, _gpu_host, _nvidia_driver

UNIT = "/etc/systemd/system/onprem-llm-nvidia.service"
WARM = "/run/onprem-llm/warm.json"
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")


def read(path: str) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def parsed(path: str) -> dict[str, t.Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Apt:
    """The host's apt and dpkg, asked and never changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, *command: str) -> tuple[int, str]:
        code, out, err = self.module.run_command(list(command), environ_update={"LC_ALL": "C.UTF-8", "LANGUAGE": "C"})
        return code, out + "\n" + err

    def installed(self, names: t.Sequence[str]) -> dict[str, dict[str, t.Any]]:
        """Version and hold of those packages that are installed."""
        form = "${db:Status-Want}\t${db:Status-Status}\t${Package}\t${Version}\n"
        _code, out = self.run("dpkg-query", "--show", "--showformat", form, *names) if names else (0, "")
        rows = [line.split("\t") for line in out.splitlines()]
        return {row[2]: {"version": row[3], "held": row[0] == "hold"} for row in rows if row[1:2] == ["installed"]}

    def audit(self) -> list[str]:
        form = "${db:Status-Status} ${db:Status-Eflag} ${Package}\n"
        _code, out = self.run("dpkg-query", "--show", "--showformat", form)
        rows = [line.split() for line in out.splitlines()]
        sound = ("installed", "config-files", "not-installed")
        return [row[2] for row in rows if len(row) == 3 and (row[0] not in sound or row[1] != "ok")]

    def locked_by(self) -> str:
        """Who holds dpkg's lock; asked without taking it (fcntl(2), F_GETLK)."""
        for path in LOCKS:
            try:
                with open(path, "rb+") as stream:
                    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                    kind, _whence, _start, _length, pid = struct.unpack(
                        "hhqqi4x", fcntl.fcntl(stream, fcntl.F_GETLK, asked)
                    )
            except (OSError, struct.error):
                continue
            if kind != fcntl.F_UNLCK:
                return f"{read(f'/proc/{pid}/comm').strip() or 'a process'} ({pid})"
        return ""

    def other_sources(self, url: str, own: str) -> list[str]:
        """Files other than ours with a source of the same place."""
        places = ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]
        wanted = re.sub(r"/+$", "", url.split("://", 1)[-1])
        found = []
        for path in places:
            if path == own or not path.endswith((".list", ".sources")):
                continue
            text = "\n".join(line for line in read(path).splitlines() if not line.lstrip().startswith("#"))
            if any(re.sub(r"/+$", "", item.split("://", 1)[-1]) == wanted for item in re.findall(r"\S+:/+\S+", text)):
                found.append(path)
        return found

    def fetched(self, url: str, directory: str) -> str:
        """A file from the repository, by apt's own way out.

        :raises ValueError: it cannot be had; with apt's words.
        """
        target = os.path.join(directory, "key")
        code, said = self.run("/usr/lib/apt/apt-helper", "download-file", url, target)
        text = read(target)
        if code != 0 or not text:
            raise ValueError(said.strip())
        return text

    def tried(self, url: str, key: str, key_name: str, fingerprint: str, names: t.Sequence[str]) -> dict[str, t.Any]:
        """What a repository answers to an apt of its own."""
        result: dict[str, t.Any] = {"url": url, "source": "", "versions": {}, "error": ""}
        directory = tempfile.mkdtemp(prefix="onprem-llm-nvidia-")
        try:
            os.chmod(directory, 0o755)
            if not key:
                try:
                    key = self.fetched(url + key_name, directory)
                except ValueError as error:
                    result["error"] = _nvidia_driver.apt_failure(str(error), url + key_name)
                    return result
            try:
                result["source"] = _nvidia_driver.trusted_source(url, key, fingerprint)
            except ValueError as error:
                result["error"] = str(error)
                return result
            _apt.prepare(directory, {"nvidia.sources": result["source"]})
            _code, architecture = self.run("dpkg", "--print-architecture")
            # A signature's age is no fault of a repository that stays as it is; its key's end is told by the signature.
            options = _apt.options(directory, architecture.strip())
            code, said = self.run("apt-get", *options, "-o", "Acquire::Retries=1", "update")
            if code != 0 or re.search(r"(?m)^(E:|Err:|W: (GPG|OpenPGP|Failed))", said):
                result["error"] = _nvidia_driver.apt_failure(said, url)
                return result
            _code, said = self.run("apt-cache", *options, "madison", *names)
            result["versions"] = _nvidia_driver.madison(said)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return result

    def known(self, names: t.Sequence[str]) -> dict[str, list[str]]:
        """Versions in the lists that the host's apt has."""
        return _nvidia_driver.madison(self.run("apt-cache", "madison", *names)[1]) if names else {}


class Dnf:
    """The host's rpm, asked and never changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def installed(self, names: t.Sequence[str]) -> dict[str, dict[str, t.Any]]:
        """Version and lock of those packages that are installed."""
        form = "%{NAME}\t%{VERSION}-%{RELEASE}\n"
        _code, out, _err = self.module.run_command(["rpm", "--query", "--queryformat", form, *names])
        locked = read("/etc/dnf/plugins/versionlock.list") + read("/etc/dnf/versionlock.toml")
        rows = [line.split("\t") for line in out.splitlines()]
        return {row[0]: {"version": row[1], "held": row[0] in locked} for row in rows if len(row) == 2}


def installation(module: AnsibleModule, info: dict[str, t.Any]) -> dict[str, t.Any] | None:
    """What an installation of the wished driver meets on this host."""
    wish, system = module.params["wish"], module.params["system"]
    kind = _nvidia_driver.source_kind(wish.get("source") or _nvidia_driver.NONE)
    if not system.get(kind):
        return None
    wanted = _nvidia_driver.packages(info, wish, system)
    there = [item["name"] for item in (info.get("driver") or {}).get("packages") or []]
    asked = list(dict.fromkeys([*wanted.driver, *there]))
    names = [*wanted.names, *wanted.rivals, *wanted.others]
    own = module.params["repository_file"]
    url = _nvidia_driver.repository_url(wish["source"], system, wish.get("architecture") or "")
    result: dict[str, t.Any] = {
        "packages": {},
        "repository_file": os.path.exists(own),
        "other_sources": [],
        "audit": [],
        "locked_by": "",
        "record": parsed(module.params["record_file"]),
        "repository": {},
    }
    if system.get("manager") == "dnf":
        result["packages"] = Dnf(module).installed(names)
        return result
    apt = Apt(module)
    result["packages"] = apt.installed([*names, "nvidia-driver-pinning-*"])
    if not _nvidia_driver.packages_due({**info, "installation": result}, wish, wanted, kind):
        return result
    result["audit"] = apt.audit()
    result["locked_by"] = apt.locked_by()
    if url and not wish.get("one_repository"):
        result["other_sources"] = apt.other_sources(url, own)
        key_name, fingerprint = _nvidia_driver.key_of_repository(wish, system, bool(module.params["key"]))
        result["repository"] = apt.tried(url, module.params["key"], key_name, fingerprint, asked)
    else:
        result["repository"] = {"url": "", "source": "", "versions": apt.known(asked), "error": ""}
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "nvidia_smi": {"type": "str", "default": "nvidia-smi"},
            "timeout": {"type": "float", "default": 20},
            "root": {"type": "path", "default": "/"},
            "wish": {"type": "dict", "default": {}},
            "system": {"type": "dict", "default": {}},
            "repository_file": {"type": "path", "default": "/etc/apt/sources.list.d/onprem-llm-nvidia.sources"},
            "record_file": {"type": "path", "default": "/etc/onprem-llm/nvidia_driver.json"},
            "key": {"type": "str", "default": "", "no_log": False},
        },
        supports_check_mode=True,
    )
    if module.params["timeout"] <= 0:
        module.fail_json(msg="timeout is {:g}; a number of seconds above 0 is needed".format(module.params["timeout"]))
    root = module.params["root"]
    if not os.path.isdir(root):
        module.fail_json(msg=f"root is {root}, which is no directory; / reads the running system")
    info = _gpu_host.collect(module.params["nvidia_smi"], module.params["timeout"], root=root)
    info["serving"] = bool(parsed(WARM).get("ready"))
    info["settings_unit"] = read(UNIT)
    info["installation"] = installation(module, info)
    module.exit_json(changed=False, **info)


if __name__ == "__main__":
    main()
