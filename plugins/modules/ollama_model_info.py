#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model_info
short_description: Tell which models an Ollama server has and holds in memory
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Returns the server's version, its installed models with the digest of their weights, and those in memory.
  - Compares with O(wanted) and names what is missing, so that a role knows which files to bring before it creates
    models.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.ollama
  - onprem.llm.transfer.turns
attributes:
  action:
    description: Has an action plugin, which shows how much is read of how much while it runs.
    support: full
options:
  name:
    description:
      - Return this model alone. Without a tag it is C(latest).
    type: str
  wanted:
    description:
      - Models to compare with. A model is missing if it is not installed or, with C(digest), if its weights are
        others.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the model.
        type: str
        required: true
      digest:
        description:
          - The sha256 of its weights, with or without V(sha256:) before it.
        type: str
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it, for O(verify).
    type: path
  verify:
    description:
      - Whether every file of the models is read and held against its name. That takes a minute for some 30 to 100 GB.
    type: bool
    default: false
seealso:
  - module: onprem.llm.ollama_model
"""

EXAMPLES = r"""
- name: See what the server has
  onprem.llm.ollama_model_info:
  register: server

- name: See which models of the plan are missing
  onprem.llm.ollama_model_info:
    wanted:
      - name: house-model:1
        digest: "{{ house_model_sha256 }}"
  register: server

- name: Read every file of what the server has
  onprem.llm.ollama_model_info:
    verify: true
    models_dir: /var/lib/onprem-llm/ollama/models
  register: server

- name: Say so
  ansible.builtin.debug:
    msg: "Missing: {{ server.missing }}"
"""

RETURN = r"""
version:
  description: Version of the server.
  returned: success
  type: str
  sample: 0.32.15
models:
  description: The installed models.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name with tag.
      type: str
      sample: gemma3:270m
    digest:
      description: Digest of the manifest.
      type: str
      sample: a5a469da27fcefff3ec60caccd923e7cedb4d56d5c5309a2e8b823dd31235be1
    weights_digest:
      description: Digest of the weights' layer.
      type: str
      sample: sha256:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    size_bytes:
      description: Size of all layers in bytes.
      type: int
      sample: 253113196
    quantization:
      description: Quantization as the server tells it.
      type: str
      sample: Q4_K_M
    family:
      description: Architecture.
      type: str
      sample: gemma3
    trained_context_length:
      description: Tokens of context that the model was trained for.
      type: int
      sample: 32768
    capabilities:
      description: What the server says the model can do.
      type: list
      elements: str
      sample: [completion]
    parameters:
      description: Its parameters.
      type: dict
      sample: {num_ctx: 512}
    system:
      description: Its system message.
      type: str
      sample: ""
    template:
      description: Its prompt template.
      type: str
      sample: "{{ .Prompt }}"
loaded:
  description: The models in memory.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name with tag.
      type: str
      sample: gemma3:270m
    digest:
      description: Digest of the manifest.
      type: str
      sample: a5a469da27fcefff3ec60caccd923e7cedb4d56d5c5309a2e8b823dd31235be1
    size_bytes:
      description: Bytes that the server says it takes.
      type: int
      sample: 275188284
    size_vram_bytes:
      description: Bytes of them on GPUs. On Ollama 0.32 too small for models with a sliding window; no proof by
        itself.
      type: int
      sample: 0
    context_length:
      description: Tokens of context.
      type: int
      sample: 512
    expires_at:
      description: When it leaves memory if nobody asks.
      type: str
      sample: "2319-03-03T02:30:20.333078831Z"
    serves:
      description:
        - Names of the models that are served by it, its own among them. The server has one runner for models of the
          same weights, adapters and options of loading, under the name that was asked for first.
      type: list
      elements: str
      sample: [clerk:latest, gemma3:270m]
missing:
  description: Names of O(wanted) that are not installed or have other weights, as they were given.
  returned: success
  type: list
  elements: str
  sample: [house-model:1]
damaged:
  description: By model, its files that are not what their name says, with the sha256 that they have, null where there
    is no file. Models without such a file are not named.
  returned: when O(verify)
  type: dict
  sample: {}
pending:
  description: Where O(verify) stands that is not done, null where it is. The action plugin returns null.
  returned: success
  type: dict
  contains:
    phase:
      description: V(verify).
      type: str
      sample: verify
    done_bytes:
      description: Bytes that are read.
      type: int
      sample: 104857600
    total_bytes:
      description: Bytes of all files of the models.
      type: int
      sample: 253113024
    resume:
      description: What the next call takes as O(resume).
      type: dict
      sample: {verified: [], damaged: {}, reading: []}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _digest, _transfer, _transfer_options, _turn
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name
from ansible_collections.onprem.llm.plugins.module_utils._ollama_verify import Verification


def verified(params: dict, only: str | None) -> dict:
    """By model, the blobs whose bytes are not those of their name. Each is read once, however many models have it."""
    turn = _turn.Turn(_transfer.Limits(seconds=params["transfer_seconds"]), params["announce"])
    with store.Store(params["models_dir"]) as own:
        known = Verification(own, turn, params["resume"])
        named = {name: own.blobs(name) for name in own.models() if only in (None, name)}
        try:
            known.read(blob for blobs in named.values() for blob in blobs)
        except _turn.Pending as pending:
            return {"damaged": {}, "pending": pending.result(known.resume())}
    found = {
        name: {blob.digest: known.damaged[blob.digest] for blob in blobs if blob.digest in known.damaged}
        for name, blobs in named.items()
    }
    return {"damaged": {name: digests for name, digests in found.items() if digests}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "api_url": {"type": "str", "default": "http://127.0.0.1:11434"},
            "timeout": {"type": "float", "default": 600},
            "name": {"type": "str"},
            "models_dir": {"type": "path"},
            "verify": {"type": "bool", "default": False},
            "wanted": {
                "type": "list",
                "elements": "dict",
                "options": {"name": {"type": "str", "required": True}, "digest": {"type": "str"}},
            },
            **_transfer_options.TURNS,
        },
        required_if=[("verify", True, ["models_dir"])],
        supports_check_mode=True,
    )
    only = local_name(module.params["name"]) if module.params["name"] else None
    try:
        _transfer_options.check(module.params)
        wanted = {
            item["name"]: _digest.parse(item["digest"]) if item["digest"] else None
            for item in module.params["wanted"] or []
        }
        client = api.Client(module.params["api_url"], module.params["timeout"])
        version = client.version()
        tags = client.tags()
        needed = {local_name(name) for name in wanted}
        running = client.running()
        listed = {str(item.get("name")) for item in running}
        found = {}
        for tag in tags:
            name = tag.get("name")
            asked = only is None or name == only or name in needed or name in listed
            model = client.model(name, tags) if name and asked else None
            if model:
                found[name] = model
        loaded = [dict(api.loaded(item), serves=api.served(str(item.get("name")), found, listed)) for item in running]
        more = verified(module.params, only) if module.params["verify"] else {}
    except (api.OllamaError, store.StoreError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    missing = []
    for name, digest in wanted.items():
        model = found.get(local_name(name))
        if model is None or (digest and model.weights_digest != digest):
            missing.append(name)
    module.exit_json(
        changed=False,
        version=version,
        models=[model.result() for name, model in sorted(found.items()) if only is None or name == only],
        loaded=[item for item in loaded if only is None or only in item["serves"]],
        missing=missing,
        **{"pending": None, **more},
    )


if __name__ == "__main__":
    main()
