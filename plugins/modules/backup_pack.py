#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_pack
short_description: Pack what a host alone has into one archive
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Writes a compressed tar archive of the files in O(places), with a manifest of their SHA-256, owners and modes as its
    first member. M(onprem.llm.backup_unpack) takes it in.
  - The archive holds keys in the clear. It has the mode 0600; whoever calls this encrypts it before it is kept, and
    removes it.
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
    support: none
    details:
      - Each backup is one of its time.
options:
  path:
    description: The archive on the managed host. Needed where it is written.
    type: path
  places:
    description: What is backed up. What is not there is left out.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the place in the archive.
        type: str
        required: true
      path:
        description: A file, or a directory with all regular files below it.
        type: path
        required: true
      match:
        description: Of a directory, only files at relative paths that this regular expression finds.
        type: str
        default: ""
  host:
    description: Name of the host, which the manifest has.
    type: str
    required: true
  version:
    description: Version of the collection, which the manifest has.
    type: str
    required: true
  limit_bytes:
    description: The most that the files may have together. More is refused before anything is written.
    type: int
    default: 268435456
seealso:
  - module: onprem.llm.backup_unpack
"""

EXAMPLES = r"""
- name: Pack the host's certificates and its plan
  onprem.llm.backup_pack:
    path: /var/tmp/backup/host.tar.gz
    places:
      - {name: pki, path: /etc/onprem-llm/pki}
      - {name: plan, path: /etc/onprem-llm/plan.json}
    host: "{{ inventory_hostname }}"
    version: 0.1.0
"""

RETURN = r"""
places:
  description: Bytes by place, of those that hold anything.
  returned: success
  type: dict
  sample: {"pki": 4312, "plan": 2987}
size_bytes:
  description: Bytes of all files, before compression.
  returned: success
  type: int
  sample: 7299
files:
  description: Number of files in the archive; 0 in check mode.
  returned: success
  type: int
  sample: 9
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _backup


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "places": {"type": "list", "elements": "dict", "required": True, "options": _backup.PLACE},
            "host": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "limit_bytes": {"type": "int", "default": 268435456},
        },
        supports_check_mode=True,
    )
    given = module.params
    places = [_backup.Place(**place) for place in given["places"]]
    if not module.check_mode and not given["path"]:
        module.fail_json(msg="path is not given; the archive's path on the managed host is needed")
    try:
        sizes = _backup.sizes(places)
        total = sum(sizes.values())
        if total > given["limit_bytes"]:
            largest = max(sizes, key=lambda name: sizes[name])
            module.fail_json(
                msg=(
                    f"limit_bytes is {given['limit_bytes']}, and there are {total} bytes, {sizes[largest]} of them in "
                    f"{largest}; leave that out, or raise the limit where the controller has eight times as much memory"
                )
            )
        entries = []
        if not module.check_mode:
            about = {"host": given["host"], "version": given["version"], "made": int(time.time())}
            entries = _backup.pack(given["path"], places, about)
    except (_backup.BackupError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, places=sizes, size_bytes=total, files=len(entries))


if __name__ == "__main__":
    main()
