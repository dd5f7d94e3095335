#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_keys
short_description: Make, end and revoke API keys of gateway users
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Keeps the digests of users' keys in a file of variables, which the role P(onprem.llm.gateway#role) reads as
    C(gateway_user_keys).
  - A key is 256 random bits. It is written once, to O(handout), and is in no output of this module.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  path:
    description: The file of variables. It is made where it is not there.
    type: path
    required: true
  users:
    description: Names of the users.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(added) gives each user a new key, unless one has the note O(request) already, and lets the others end after
        O(overlap_hours).
      - V(dropped) takes out what has ended. V(revoked) takes out all keys of the users, or those of O(digest).
    type: str
    choices: [added, dropped, revoked]
    required: true
  request:
    description: Note of the new keys. A second run with the same one makes none. Needed with O(state=added).
    type: str
  overlap_hours:
    description: Hours for which the old keys are still valid.
    type: int
    default: 336
  handout:
    description: A file that is not there yet, to which new keys are written as JSON, by user, for its owner's eyes
      alone. Needed with O(state=added).
    type: path
  digest:
    description: With O(state=revoked), the first digits of the SHA-256 of the one key that goes.
    type: str
    default: ""
seealso:
  - module: onprem.llm.check_inventory
"""

EXAMPLES = r"""
- name: Give a user a new key, and let the old one end in a week
  onprem.llm.gateway_keys:
    path: "{{ inventory_dir }}/group_vars/gateways/keys.yml"
    users: [app]
    state: added
    request: spring rotation
    overlap_hours: 168
    handout: "{{ inventory_dir }}/new-keys.json"
  delegate_to: localhost
"""

RETURN = r"""
made:
  description: Users who have a new key in O(handout), or would in check mode.
  returned: success
  type: list
  elements: str
  sample: [app]
digests:
  description: What stands in the file, or would in check mode.
  returned: success
  type: dict
  sample: {"app": [{"note": "spring rotation", "sha256":
  "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}
"""

import datetime
import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _disk, _gateway_keys


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "users": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["added", "dropped", "revoked"], "required": True},
            "request": {"type": "str"},
            "overlap_hours": {"type": "int", "default": 336},
            "handout": {"type": "path"},
            "digest": {"type": "str", "default": ""},
        },
        required_if=[("state", "added", ["request", "handout"])],
        supports_check_mode=True,
    )
    given = module.params
    now = datetime.datetime.now(datetime.timezone.utc)
    if given["overlap_hours"] < 0:
        module.fail_json(msg=f"overlap_hours is {given['overlap_hours']}; it must not be below 0.")
    try:
        with open(given["path"], encoding="utf-8") as stream:
            before = stream.read()
        keys = _gateway_keys.parse(before)
    except FileNotFoundError:
        before, keys = "", {}
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=(
                f"path is {given['path']}, which this module did not write: {error}. Move its "
                f"contents into gateway_users."
            )
        )
    made: dict = {}
    if given["state"] == "added":
        keys, made = _gateway_keys.add(
            keys, given["users"], given["request"], now, datetime.timedelta(hours=given["overlap_hours"])
        )
    elif given["state"] == "dropped":
        keys = _gateway_keys.drop(keys, given["users"], now)
    else:
        try:
            keys = _gateway_keys.revoke(keys, given["users"], given["digest"].lower())
        except ValueError:
            module.fail_json(
                msg=(
                    f"digest is {given['digest']}; no key of {', '.join(given['users'])} in {given['path']} has a "
                    f"SHA-256 that begins so, and nothing was revoked. Keys in gateway_users are taken out there."
                )
            )
    after = _gateway_keys.render(keys)
    changed = after != before and (bool(before) or any(keys.values()) or given["state"] == "revoked")
    if made and os.path.lexists(given["handout"]):
        module.fail_json(
            msg=(
                f"handout is {given['handout']}, which is there already; hand its keys out and remove "
                f"it first, or name another file."
            )
        )
    if changed and not module.check_mode:
        try:
            # The keys first: a digest whose key nobody has would lock its user out.
            if made:
                _disk.write(given["handout"], (json.dumps(made, indent=2, sort_keys=True) + "\n").encode())
            # An inventory's files are as closed as its owner's umask makes them.
            umask = os.umask(0o077)
            os.umask(umask)
            _disk.write(given["path"], after.encode(), 0o644 & ~umask)
        except OSError as error:
            module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}")
    module.exit_json(changed=changed, made=sorted(made), digests=keys)


if __name__ == "__main__":
    main()
