#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrade_lock
short_description: Keep two upgrades of one fleet from running at once
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - The lock is a file on one host of the fleet that names who holds it, from where, and since when.
  - One whose run is dead on this very controller is taken over. One of another controller is refused, with the way out.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
  action:
    description: Has an action plugin, which tells who asks and whether the holder's process lives on the controller.
    support: full
options:
  state:
    description:
      - V(held) takes the lock, V(free) gives it back where this run holds it.
    type: str
    choices: [held, free]
    default: held
  path:
    description:
      - The file.
    type: path
    default: /var/lib/onprem-llm/upgrade.lock
  playbook:
    description:
      - What the lock is held for, as others are told.
    type: str
    default: upgrade.yml
  break_run:
    description:
      - Run that the operator has declared dead, whose lock is taken over.
    type: str
    default: ""
  owner:
    description:
      - Who asks. The action plugin gives it.
    type: dict
  taken_from:
    description:
      - The run whose lock is replaced. The action plugin gives it.
    type: str
"""

EXAMPLES = r"""
- name: Keep others from upgrading meanwhile
  onprem.llm.upgrade_lock:
  delegate_to: "{{ groups['gateways'][0] }}"
  run_once: true

- name: Let others upgrade again
  onprem.llm.upgrade_lock:
    state: free
  delegate_to: "{{ groups['gateways'][0] }}"
  run_once: true
"""

RETURN = r"""
holder:
  description: Who holds the lock. Null where nobody does.
  returned: always
  type: dict
  sample:
    run: c0ffee12
    user: ops
    controller: control1
    since: "2026-11-22T12:00:00Z"
    playbook: upgrade.yml
taken:
  description: Whether this run has it.
  returned: always
  type: bool
  sample: true
"""

import json
import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule


def held_by(path: str) -> dict[str, t.Any] | None:
    """Who holds the lock; somebody unknown where the file cannot be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def take(path: str, owner: dict[str, t.Any], over: str | None) -> None:
    """Write the lock. FileExistsError where another was faster; ``over`` is the run whose lock is replaced."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".upgrade-lock-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            json.dump(owner, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        if over is not None and str((held_by(path) or {}).get("run") or "unknown") == over:
            os.replace(temporary, path)
            return
        os.link(temporary, path)
        os.unlink(temporary)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "free"], "default": "held"},
            "path": {"type": "path", "default": "/var/lib/onprem-llm/upgrade.lock"},
            "playbook": {"type": "str", "default": "upgrade.yml"},
            "break_run": {"type": "str", "default": ""},
            "owner": {"type": "dict"},
            "taken_from": {"type": "str"},
        },
        supports_check_mode=True,
    )
    path, owner = module.params["path"], module.params["owner"]
    if not owner or not owner.get("run"):
        module.fail_json(msg="owner is not given; the action plugin of this module gives it")
    holder = held_by(path)
    own = holder is not None and holder.get("run") == owner["run"]
    if module.params["state"] == "free":
        if own and not module.check_mode:
            os.unlink(path)
        module.exit_json(changed=own, holder=None if own else holder, taken=False)
    if own:
        module.exit_json(changed=False, holder=holder, taken=True)
    over = module.params["taken_from"]
    if holder is None or over == str(holder.get("run") or "unknown"):
        if not module.check_mode:
            try:
                take(path, owner, over)
            except FileExistsError:
                module.exit_json(changed=False, holder=held_by(path), taken=False)
            except OSError as error:
                module.fail_json(msg=f"{path} cannot be written: {error.strerror}")
        module.exit_json(changed=True, holder=owner, taken=True)
    module.exit_json(changed=False, holder=holder, taken=False)


if __name__ == "__main__":
    main()
