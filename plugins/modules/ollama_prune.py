#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_prune
short_description: Remove the models of an Ollama server that nobody wants
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Removes the models that are not in O(keep) through the server's API, then the files in its models directory that no
    model has, and transfers that nobody has gone on with for a week.
  - A model stays, wanted or not, while the server has it in memory for one of O(keep), since models of the same
    weights share what is there.
  - A file of the directory that is younger than an hour stays, unless it was a removed model's; it may belong to a
    model that is being made.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.ollama
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  keep:
    description:
      - Names of the models that stay. Without a tag it is C(latest).
    type: list
    elements: str
    required: true
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it.
    type: path
    required: true
  staging_dir:
    description:
      - Where M(onprem.llm.ollama_model) keeps transfers. Without it, C(staging) beside O(models_dir).
    type: path
seealso:
  - module: onprem.llm.ollama_model
"""

EXAMPLES = r"""
- name: Keep what the plan has, and nothing else
  onprem.llm.ollama_prune:
    keep: "{{ planned_models }}"
    models_dir: /var/lib/onprem-llm/ollama/models
"""

RETURN = r"""
removed:
  description: Names of the models that were removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: ["gemma3:270m"]
files:
  description: How many files that no model has, and unfinished transfers, were removed beside them.
  returned: success
  type: int
  sample: 1
freed_bytes:
  description: Size of all that was removed, in bytes.
  returned: success
  type: int
  sample: 253113196
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _model_name
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._transfer import Staging, TransferError


def unwanted(client: api.Client, keep: set) -> list:
    """Names of the server's models that go."""
    tags = client.tags()
    names = [tag["name"] for tag in tags if tag.get("name")]
    others = [name for name in names if name not in keep]
    loaded = {item.get("name") for item in client.running()} & set(others)
    if not loaded:
        return others
    shared = {model.weights_digest for model in (client.model(name, tags) for name in keep & set(names)) if model}
    return [name for name in others if name not in loaded or client.model(name, tags).weights_digest not in shared]


def stale_transfers(path: str) -> list:
    if not os.path.isdir(path):
        return []
    with Staging(path) as staging:
        return [(digest, staging.held(digest)) for digest in staging.stale()]


def prune(module: AnsibleModule) -> dict:
    client = api.Client(module.params["api_url"], module.params["timeout"])
    keep = {_model_name.shown(*_model_name.parts(name)) for name in module.params["keep"]}
    models_dir = module.params["models_dir"]
    staging_dir = module.params["staging_dir"] or os.path.join(os.path.dirname(models_dir), "staging")
    removed = sorted(unwanted(client, keep))
    with store.Store(models_dir) as own:
        named = own.names()
        if set(removed) - set(named):
            raise store.StoreError(
                "the server has {}, and {} has not; is it the server's models directory?".format(
                    ", ".join(sorted(set(removed) - set(named))), models_dir
                )
            )
        used = {digest for name, digests in named.items() if name not in removed for digest in digests}
        files = own.unreferenced()
        loose = len(files)
        freed = sum(files.values())
        for digest in {digest for name in removed for digest in named[name]} - used:
            freed += own.size(digest) or 0
            files[store.blob_name(digest)] = 0
        stale = stale_transfers(staging_dir)
        if not module.check_mode:
            for name in removed:
                client.delete(name)
            for name in files:
                own.remove_blob(name)
            if stale:
                with Staging(staging_dir) as staging:
                    for digest, _held in stale:
                        staging.discard(digest)
    left = sorted(set(named) - set(removed))
    return {
        "changed": bool(removed or files or stale),
        "removed": removed,
        "files": loose + len(stale),
        "freed_bytes": freed + sum(held for _digest, held in stale),
        "diff": {
            "before": {"models": sorted(named), "files_without_a_model": loose + len(stale)},
            "after": {"models": left, "files_without_a_model": 0},
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "api_url": {"type": "str", "default": "http://127.0.0.1:11434"},
            "timeout": {"type": "float", "default": 600},
            "keep": {"type": "list", "elements": "str", "required": True},
            "models_dir": {"type": "path", "required": True},
            "staging_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**prune(module))
    except (api.OllamaError, store.StoreError, TransferError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
