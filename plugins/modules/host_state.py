#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Read the state of files, packages, units, containers and file systems at once
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads in one execution what several roles want to know of a host before they change it.
  - What is not there is an answer, never a failure.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  files:
    description:
      - Paths of files whose presence, content and mode matter.
      - A file of more than 16 MiB is not read, and has no C(sha256).
    type: list
    elements: path
    default: []
  packages:
    description:
      - Names of packages. On a host without dpkg, none is installed.
    type: list
    elements: str
    default: []
  units:
    description:
      - Names of systemd units with their suffix.
    type: list
    elements: str
    default: []
  containers:
    description:
      - Names of Docker containers.
    type: list
    elements: str
    default: []
  users:
    description:
      - Names of users.
    type: list
    elements: str
    default: []
  filesystems:
    description:
      - Paths whose file systems matter. One that is not there yet stands for its nearest parent that is.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: See what there is
  onprem.llm.host_state:
    files: [/etc/nginx/nginx.conf]
    packages: [nginx]
    units: [nginx.service]
    filesystems: [/var/lib/onprem-llm]
  register: there
"""

RETURN = r"""
files:
  description: By path.
  returned: always
  type: dict
  sample:
    /etc/nginx/nginx.conf:
      exists: true
      mode: "0644"
      sha256: 9d5a2bb4e1d6fd4c0d1c1f7c2f1e2f8a5f0b0f7f3d0a6cf3c7f3d8d1a3a0c9b1
packages:
  description: Version of each package that is installed.
  returned: always
  type: dict
  sample: {nginx: 1.26.3-3+deb13u10}
units:
  description: By unit, whether it is active and whether it starts at boot.
  returned: always
  type: dict
  sample:
    nginx.service:
      active: true
      enabled: true
containers:
  description: Whether each container that exists runs. Without Docker, none exists.
  returned: always
  type: dict
  sample:
    onprem-llm-ollama:
      running: true
users:
  description: Number and primary group's number of each user that exists.
  returned: always
  type: dict
  sample:
    onprem-ollama: {uid: 997, gid: 997}
filesystems:
  description: By path, its file system's device, size and what ordinary users may still write, in bytes.
  returned: always
  type: dict
  sample:
    /var/lib/onprem-llm:
      device: 2049
      free_bytes: 81604378624
      total_bytes: 105555197952
"""

import hashlib
import os
import pwd
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _disk

# Configuration is small; weights of gigabytes are not to be read for a look.
READ_LIMIT = 16 * 1024 * 1024


def file_state(path: str) -> dict[str, t.Any]:
    """Presence, mode and content's SHA-256 of a file; of anything else its presence and mode."""
    try:
        found = os.stat(path)
        state = {"exists": True, "mode": format(stat.S_IMODE(found.st_mode), "04o"), "sha256": None}
        if stat.S_ISREG(found.st_mode) and found.st_size <= READ_LIMIT:
            with open(path, "rb") as stream:
                state["sha256"] = hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return {"exists": os.path.lexists(path), "mode": None, "sha256": None}
    return state


def filesystem_state(path: str) -> dict[str, t.Any]:
    """Device and room of the file system that holds a path, or will."""
    room = _disk.room(path)
    return {"device": room.device, "free_bytes": room.free_bytes, "total_bytes": room.total_bytes}


def package_versions(module: AnsibleModule, names: list[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    if not names or not module.get_bin_path("dpkg-query"):
        return {}
    form = "${db:Status-Status}\\t${Package}\\t${Version}\\n"
    _code, output, _error = module.run_command(["dpkg-query", "--show", "--showformat", form, *names])
    rows = [line.split("\t") for line in output.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def unit_states(module: AnsibleModule, names: list[str]) -> dict[str, dict[str, bool]]:
    """Whether each unit is active, and enabled; both false for one that is not known."""
    states = {name: {"active": False, "enabled": False} for name in names}
    if not names or not module.get_bin_path("systemctl"):
        return states
    for name, state in states.items():
        command = ["systemctl", "show", "--property=ActiveState,UnitFileState", "--", name]
        _code, output, _error = module.run_command(command, environ_update={"LC_ALL": "C"})
        said = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        state["active"] = said.get("ActiveState") in ("active", "reloading", "activating")
        state["enabled"] = said.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "alias")
    return states


def container_states(module: AnsibleModule, names: list[str]) -> dict[str, dict[str, bool]]:
    """Whether those containers that exist run."""
    found = {}
    for name in names if module.get_bin_path("docker") else []:
        command = ["docker", "container", "inspect", "--format", "{{.State.Running}}", name]
        code, output, _error = module.run_command(command)
        if code == 0:
            found[name] = {"running": output.strip() == "true"}
    return found


def user_numbers(names: list[str]) -> dict[str, dict[str, int]]:
    """Numbers of those users that exist."""
    found = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        found[name] = {"uid": entry.pw_uid, "gid": entry.pw_gid}
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "path", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "containers": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "filesystems": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        files={path: file_state(path) for path in module.params["files"]},
        packages=package_versions(module, module.params["packages"]),
        units=unit_states(module, module.params["units"]),
        containers=container_states(module, module.params["containers"]),
        users=user_numbers(module.params["users"]),
        filesystems={path: filesystem_state(path) for path in module.params["filesystems"]},
    )


if __name__ == "__main__":
    main()
