#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_outdated
short_description: Tell whether a systemd unit runs with older configuration than the disk holds
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Compares when a unit was started or reloaded with when its files were written.
  - A run that is cut off between a changed file and its handler leaves the file on the disk only, and the next run
    finds nothing to change. This module finds it, so that the handler can be notified after all.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  units:
    description:
      - The units with the files that each reads.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the unit with its suffix, such as V(nginx.service).
        type: str
        required: true
      files:
        description:
          - Files, directories or patterns of them. A directory stands for all files below it.
          - What is not there is passed over.
        type: list
        elements: path
        default: []
      reloads:
        description:
          - Whether a reload makes the unit read its files again. If not, only a start does.
        type: bool
        default: false
notes:
  - A file is dated by its last change of content. One that was written before the unit's start and moved into place
    after it goes unnoticed.
  - RV(ignore:changed) is true where RV(outdated) or RV(unread) name a unit, although nothing was modified, so that
    C(notify) works.
"""

EXAMPLES = r"""
- name: See whether nginx runs with its newest configuration
  onprem.llm.unit_outdated:
    units:
      - name: nginx.service
        files: [/etc/nginx]
        reloads: true
  notify: Reload nginx
"""

RETURN = r"""
outdated:
  description:
    - The units that run with older configuration, each with the files that are newer. A unit that does not run is
      never outdated.
  returned: always
  type: dict
  sample:
    nginx.service: [/etc/nginx/conf.d/site.conf]
unread:
  description:
    - The units whose own files systemd has not read since they were changed. C(systemctl daemon-reload) makes it.
  returned: always
  type: list
  elements: str
  sample: [nginx.service]
down:
  description:
    - The units that do not run, or that would not be started at the next boot.
  returned: always
  type: list
  elements: str
  sample: []
"""

import datetime
import glob
import os
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule

# Of the two, only the second moves when a running unit is reloaded.
STARTED = "ActiveEnterTimestamp"
RELOADED = "StateChangeTimestamp"
# Files of units that a boot starts, or that something which is started brings along.
BOOTED = ("enabled", "enabled-runtime", "static", "indirect", "generated", "alias")


def properties(module: AnsibleModule, unit: str) -> dict[str, str]:
    """What systemd says of a unit; for one that it does not know, a state that is not active."""
    wanted = f"ActiveState,UnitFileState,NeedDaemonReload,{STARTED},{RELOADED}"
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property={wanted}", "--", unit]
    code, output, error = module.run_command(command, environ_update={"LC_ALL": "C"})
    if code != 0:
        module.fail_json(msg=f"systemd does not tell of {unit}: {error.strip()}")
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def seconds(timestamp: str) -> float:
    """Seconds since the epoch of what systemd writes, such as ``Sat 2026-11-21 09:41:13.123456 UTC``."""
    moment = datetime.datetime.strptime(timestamp.split(" ", 1)[1], "%Y-%m-%d %H:%M:%S.%f UTC")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def existing_files(patterns: list[str]) -> Iterator[str]:
    """The files that patterns stand for, those below directories among them."""
    for pattern in patterns:
        for path in glob.glob(pattern):
            if os.path.isdir(path):
                for directory, _dummy, names in os.walk(path):
                    yield from (os.path.join(directory, name) for name in names)
            else:
                yield path


def newer_files(patterns: list[str], moment: float) -> list[str]:
    """The files whose content is newer than ``moment``, in seconds since the epoch."""
    found = []
    for path in existing_files(patterns):
        try:
            if os.stat(path).st_mtime > moment:
                found.append(path)
        except FileNotFoundError:
            continue  # gone between the listing and the look, or a link to nowhere
    return sorted(found)


def main() -> None:
    unit = {
        "name": {"type": "str", "required": True},
        "files": {"type": "list", "elements": "path", "default": []},
        "reloads": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={"units": {"type": "list", "elements": "dict", "required": True, "options": unit}},
        supports_check_mode=True,
    )
    outdated: dict[str, list[str]] = {}
    unread: list[str] = []
    down: list[str] = []
    for wanted in module.params["units"]:
        state = properties(module, wanted["name"])
        if state.get("NeedDaemonReload") == "yes":
            unread.append(wanted["name"])
        runs = state.get("ActiveState") in ("active", "reloading")
        if not runs or state.get("UnitFileState") not in BOOTED:
            down.append(wanted["name"])
        if not runs:
            continue
        files = newer_files(wanted["files"], seconds(state[RELOADED if wanted["reloads"] else STARTED]))
        if files:
            outdated[wanted["name"]] = files
    module.exit_json(changed=bool(outdated or unread), outdated=outdated, unread=unread, down=down)


if __name__ == "__main__":
    main()
