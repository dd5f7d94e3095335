#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_adopt
short_description: Take over the models of another Ollama's store
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Brings every model of one models directory into another, with its name. The source stays as it is.
  - Each file is read, and has to have the sha256 that it is called by; a model with a damaged or missing one is left
    out with a warning.
  - On one file system a file is linked and takes no room twice. From another one, or where not everybody may read it,
    it is copied.
  - A model whose name the destination has already is left alone.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.transfer.turns
attributes:
  action:
    description: Has an action plugin, which shows how much is taken over of how much while it runs.
    support: full
  check_mode:
    support: full
    details:
      - The files are not read, so that a damaged one is found only when it is taken over.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  source:
    description:
      - The models directory to take from.
    type: path
    required: true
  destination:
    description:
      - The models directory of the server that is to have them. It is made if it is not there, for the owner of the
        directory that it is in.
    type: path
    required: true
seealso:
  - module: onprem.llm.ollama_host_info
"""

EXAMPLES = r"""
- name: Take over what was downloaded before
  onprem.llm.ollama_adopt:
    source: /usr/share/ollama/.ollama/models
    destination: /var/lib/onprem-llm/ollama/models
"""

RETURN = r"""
adopted:
  description: Names of the models that were taken over.
  returned: success
  type: list
  elements: str
  sample: ["gemma3:270m"]
kept:
  description: Names that the destination had.
  returned: success
  type: list
  elements: str
  sample: []
skipped:
  description: Models that were left out.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the model.
      type: str
      sample: house-model:1
    reason:
      description: What is wrong with it.
      type: str
      sample: its manifest names 'x', which is no digest
linked_bytes:
  description: Size of the files that were linked, in bytes.
  returned: success
  type: int
  sample: 253113024
copied_bytes:
  description: Size of the files that were copied, in bytes.
  returned: success
  type: int
  sample: 0
pending:
  description: Where it stands when it is not done, null where it is. The action plugin returns null.
  returned: success
  type: dict
  contains:
    phase:
      description: V(adopt).
      type: str
      sample: adopt
    done_bytes:
      description: Bytes of the files that are linked, copied or read.
      type: int
      sample: 104857600
    total_bytes:
      description: Bytes of all files that the destination lacked.
      type: int
      sample: 253113024
    resume:
      description: What the next call takes as O(resume).
      type: dict
      sample: {adopted: [], skipped: [], linked_bytes: 0, copied_bytes: 0, begun: []}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils import _transfer, _transfer_options, _turn


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "destination": {"type": "path", "required": True},
            **_transfer_options.TURNS,
        },
        supports_check_mode=True,
    )
    source, destination = module.params["source"], module.params["destination"]
    if not os.path.isdir(source):
        module.fail_json(msg=f"source is {source}; there is no such directory")
    resume = module.params["resume"]
    try:
        turn = _turn.Turn(_transfer.Limits(seconds=module.params["transfer_seconds"]), module.params["announce"])
        with store.Store(destination) as own:
            before = sorted(set(own.models()) - set(resume.get("adopted") or ()))
        result = store.adopt(
            source, destination, module.check_mode, lambda: not turn.announce and turn.left > 0, resume
        )
    except store.AdoptionPaused as paused:
        pending = _turn.Pending("adopt", paused.done_bytes, paused.total_bytes).result(paused.resume)
        module.exit_json(changed=True, pending=pending)
    except (OSError, store.StoreError) as error:
        module.fail_json(msg=f"destination is {destination}; it cannot be written: {error}")
    for name, reason in result.skipped:
        module.warn(f"{name} is not taken over: {reason}")
    module.exit_json(
        changed=bool(result.adopted),
        pending=None,
        adopted=result.adopted,
        kept=result.kept,
        skipped=[{"name": name, "reason": reason} for name, reason in result.skipped],
        linked_bytes=result.linked_bytes,
        copied_bytes=result.copied_bytes,
        diff={"before": {"models": before}, "after": {"models": sorted(before + result.adopted)}},
    )


if __name__ == "__main__":
    main()
