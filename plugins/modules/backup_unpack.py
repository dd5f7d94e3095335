#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_unpack
short_description: Take in an archive of backup_pack
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads an archive that M(onprem.llm.backup_pack) wrote, holds every file against the manifest, and puts those that
    differ in their places. Nothing is written before all were read.
  - Files of users or groups that the host does not have belong to root alone until a role says more.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - The files are secrets.
  idempotent:
    support: full
options:
  path:
    description: The archive on the managed host, in the clear.
    type: path
    required: true
  places:
    description: Where the archive's places lie on this host. Those that are not named here are left out.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the place in the archive.
        type: str
        required: true
      path:
        description: The file or directory.
        type: path
        required: true
      match:
        description: Not used here; the same list serves both modules.
        type: str
        default: ""
  host:
    description: Name of the host that the archive has to be of.
    type: str
    required: true
  version:
    description: Version of the collection that the archive has to be of.
    type: str
    required: true
  other_version:
    description: Whether another version's archive is taken in, too. One of another schema never is.
    type: bool
    default: false
  overwrite:
    description: Whether files that are there and differ are replaced. If not, they are an error.
    type: bool
    default: true
seealso:
  - module: onprem.llm.backup_pack
"""

EXAMPLES = r"""
- name: Take the host's certificates and its plan back
  onprem.llm.backup_unpack:
    path: /var/tmp/restore/host.tar.gz
    places:
      - {name: pki, path: /etc/onprem-llm/pki}
      - {name: plan, path: /etc/onprem-llm/plan.json}
    host: "{{ inventory_hostname }}"
    version: 0.1.0
"""

RETURN = r"""
files:
  description: Paths that were written, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/onprem-llm/plan.json]
made:
  description: When the backup was made, in seconds since 1970.
  returned: success
  type: int
  sample: 1795348800
left_out:
  description: Places of the archive that O(places) does not name.
  returned: success
  type: list
  elements: str
  sample: [prometheus]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _backup


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "places": {"type": "list", "elements": "dict", "required": True, "options": _backup.PLACE},
            "host": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "other_version": {"type": "bool", "default": False},
            "overwrite": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    places = [_backup.Place(**place) for place in given["places"]]
    try:
        backup = _backup.Backup(given["path"])
        refusal = backup.refusal(given["host"], given["version"], given["other_version"])
        if refusal:
            module.fail_json(msg=f"The backup is refused: {refusal}.")
        wanted = _backup.changes(backup, places)
        others = [change.path for change in wanted if change.there]
        if others and not given["overwrite"]:
            module.fail_json(
                msg=(
                    f"{', '.join(others[:5])}: there already, and other than in the backup. Move them away first; "
                    f"nothing was written."
                )
            )
        short = _backup.shortage(wanted)
        if short:
            module.fail_json(msg=f"There is no room for the backup: {short}.")
        if not module.check_mode:
            _backup.unpack(backup, wanted)
    except (_backup.BackupError, OSError) as error:
        module.fail_json(msg=f"The backup is refused: {error}.")
    known = {place.name for place in places}
    module.exit_json(
        changed=bool(wanted),
        files=[change.path for change in wanted],
        made=backup.about.get("made", 0),
        left_out=sorted({entry.place for entry in backup.entries} - known),
    )


if __name__ == "__main__":
    main()
