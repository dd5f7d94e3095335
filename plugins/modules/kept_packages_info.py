#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_packages_info
short_description: Tell which packages a change of versions would move, and whether they could come back
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Brings apt's package lists up to date, and has apt work out what it would install, replace and remove for the wanted
    versions. Nothing is installed.
  - Of each package that would be replaced or removed, it is said whether its file can still be had, from apt's cache or
    its repository, so that M(onprem.llm.kept_packages) could keep it.
  - On a host without apt nothing is said.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  packages:
    description:
      - The wanted packages, as a mapping of names to the start of the version that is wanted, empty for what apt itself
        would choose.
    type: dict
    required: true
seealso:
  - module: onprem.llm.kept_packages
"""

EXAMPLES = r"""
- name: See what the distribution's newest Docker takes
  onprem.llm.kept_packages_info:
    packages: {docker.io: "", containerd: ""}
  register: docker
"""

RETURN = r"""
moves:
  description: The packages that would move, those among them that nobody named.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    old:
      description: The version that is installed, empty where it is not.
      type: str
    new:
      description: The version that would be, empty where the package would go.
      type: str
    kept:
      description: Whether it can be had again as it is. True of a package that is new.
      type: bool
fault:
  description: Why apt cannot do what is wanted, in its words. Empty where it can.
  returned: always
  type: str
  sample: ""
lists_fault:
  description: Why apt's package lists are not up to date, in its words. Empty where they are.
  returned: always
  type: str
  sample: ""
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _kept_packages

# A repository that does not answer is given up after so long, once.
UPDATE = (
    "apt-get", "--quiet", "--option", "Acquire::Retries=0", "--option", "Acquire::http::Timeout=10",
    "--option", "Acquire::https::Timeout=10", "--option", "DPkg::Lock::Timeout=60", "update",
)  # fmt: skip


def complaints(error: str) -> str:
    """What apt complains of, as one line."""
    return " ".join(line for line in error.splitlines() if line.startswith(("E:", "W:", " ")))[:600].strip()


def main() -> None:
    module = AnsibleModule(
        argument_spec={"packages": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    module.run_command_environ_update = _kept_packages.ENVIRONMENT
    packages = {str(name): str(start or "") for name, start in module.params["packages"].items()}
    if not packages or not module.get_bin_path("apt-get"):
        module.exit_json(changed=False, moves=[], fault="", lists_fault="")
    code, _output, error = module.run_command(list(UPDATE))
    lists_fault = complaints(error) if code != 0 or "Failed to fetch" in error else ""
    code, output, error = module.run_command(
        [*_kept_packages.INSTALL, "--simulate", "install", *_kept_packages.wanted(packages)]
    )
    if code != 0:
        # What it cannot resolve, it explains on its output.
        told = output.partition("The following packages have unmet dependencies:")[2]
        said = " ".join(f"{complaints(error)} {told}".split()) or f"status {code}"
        module.exit_json(changed=False, moves=[], fault=said, lists_fault=lists_fault)
    moves = _kept_packages.moves(output)
    there = _kept_packages.installed(module.run_command, [move.name for move in moves if move.old])
    found = [
        {"name": move.name, "old": move.old, "new": move.new, "kept": not move.old or can_be_had(module, move, there)}
        for move in moves
    ]
    module.exit_json(changed=False, moves=found, fault="", lists_fault=lists_fault)


def can_be_had(module: AnsibleModule, move: _kept_packages.Move, there: t.Mapping[str, tuple[str, str]]) -> bool:
    """Whether apt's cache or its repository holds the file of what is installed."""
    _version, architecture = there.get(move.name, ("", ""))
    if _kept_packages.cached(_kept_packages.file_name(move.name, move.old, architecture)):
        return True
    code, output, _error = module.run_command(["apt-get", "--print-uris", "download", f"{move.name}={move.old}"])
    return code == 0 and bool(output.strip())


if __name__ == "__main__":
    main()
