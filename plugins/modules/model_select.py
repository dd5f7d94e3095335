#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_select
short_description: Choose models, context and slots that fit a host's memory
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Turns workloads, GPUs and a catalog of models into a plan that says which model runs for each workload, with
    how much context,
    how many parallel slots and on which GPUs, with an account of the memory in bytes, and with one sentence for
      every model turned down.
  - The order in O(workloads[].models) decides the model. With that model the largest context that fits is taken,
    then the most slots.
    An earlier workload's preference goes before a later one's.
  - All workloads of a host share one engine, so its context and slots are equal for all of them. Each gets at
    least the minimum it asks for.
    An embedding model takes one slot and never more context than it was trained for.
  - The same input gives the same plan. The module touches nothing and is meant to run on the controller
    (C(delegate_to) V(localhost)),
    where it reads the header of GGUF files named in the catalog.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  workloads:
    description:
      - What the host shall serve.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the workload, once a host.
        type: str
        required: true
      use:
        description:
          - What it is for. V(embedding) needs an embedding model, everything else one that generates.
        type: str
        default: chat
      models:
        description:
          - Names of the catalog in order of preference.
        type: list
        elements: str
        required: true
      context_length:
        description:
          - Tokens a slot, a number, or a mapping of C(min) and C(max).
          - Both ends and the powers of two between them are tried.
          - Without it, V(4096) to V(32768).
        type: raw
      slots:
        description:
          - Requests served at once, a number, or a mapping of C(min) and C(max).
          - On a host without a GPU the minimum is taken.
          - Without it, V(1) to V(4).
        type: raw
  gpus:
    description:
      - The GPUs as RV(onprem.llm.gpu_info#module:gpus) gives them. Empty for a host that computes on its CPU.
    type: list
    elements: dict
    required: true
  host:
    description:
      - The host's memory as RV(onprem.llm.gpu_info#module:host) gives it.
    type: dict
    required: true
  catalog:
    description:
      - Models that can be chosen. A later entry replaces an earlier one of the same name.
      - An entry has C(name), C(source) (C(type) V(registry) with C(digest), or C(type) V(gguf) with C(path) and
        C(sha256)), C(size_bytes), C(quantization),
        C(uses), C(licence), C(context_length), C(languages), C(note) and C(shape), the hyper-parameters under
          GGUF's names.
      - Where a GGUF file is given, its header takes the place of C(shape) and C(size_bytes) and the account is
        exact for the weights.
    type: list
    elements: dict
    required: true
  engine_version:
    description:
      - Version of Ollama that will run the plan, whose memory rules are followed.
    type: str
    required: true
  host_name:
    description:
      - Name that stands in the plan and in messages.
    type: str
    default: ""
  kv_cache_type:
    description:
      - Type of the KV cache. The quantized ones need O(flash_attention).
    type: str
    choices:
      - f16
      - q8_0
      - q4_0
    default: f16
  flash_attention:
    description:
      - Whether the engine runs with flash attention.
    type: bool
    default: true
  headroom_bytes:
    description:
      - Bytes to leave free on each GPU (or of the host's memory) beside what the rules already leave.
    type: int
    default: 0
  cuda_context_bytes:
    description:
      - Bytes that the driver takes for each model on each GPU. The default of 555 MiB is the upper value of those
        measured.
    type: int
    default: 581959680
  host_memory_fraction:
    description:
      - Part of the host's memory that models may take where there is no GPU. Never more than was available when
        the plan was first made.
    type: float
    default: 0.75
  current_plan:
    description:
      - The plan in force, if there is one.
      - What was free on a device when the plan in force was made is taken for this plan, too, as long as the
        device has the same identity and size.
        Otherwise the memory that the running engine itself holds would count as taken and every run would plan
          for less.
    type: dict
attributes:
  idempotent:
    details:
      - This action does not modify state. Hand it O(current_plan), so that the plan of a host with loaded models
        stays the same.
seealso:
  - module: onprem.llm.gpu_info
  - module: onprem.llm.ollama_model
"""

EXAMPLES = r"""
- name: See what the host has
  onprem.llm.gpu_info:
  register: gpus

- name: Choose what it runs
  onprem.llm.model_select:
    host_name: "{{ inventory_hostname }}"
    gpus: "{{ gpus.gpus }}"
    host: "{{ gpus.host }}"
    engine_version: 0.32.15
    catalog: "{{ catalog }}"
    workloads:
      - name: chat
        models: [qwen3:32b, qwen3:14b, qwen3:8b]
        context_length:
          min: 8192
          max: 32768
        slots:
          min: 2
          max: 8
      - name: search
        use: embedding
        models: [bge-m3:567m]
        context_length: 8192
        slots: 1
  delegate_to: localhost
  become: false
  register: selection
"""

RETURN = r"""
plan:
  description:
    - What will run. All sizes are bytes, all values of C(environment) strings.
    - C(devices) records, for each GPU or the host, its total memory, what was free when it was first planned for,
      the budget and what is planned.
    - Each model's C(account) has C(weights_bytes), C(kv_cache_bytes), C(compute_bytes), C(overhead_bytes) (what
      the driver takes), their sum C(total_bytes), the
      C(budget_bytes) of its devices and C(confidence), V(low) or V(medium). A model that serves two workloads is
        in memory once.
  returned: success
  type: dict
  sample:
    schema: 1
    host: node1
    engine:
      name: ollama
      version: 0.32.15
    devices:
      - id: GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10
        total_bytes: 48305799168
        free_bytes: 47668264960
        budget_bytes: 46594523136
        planned_bytes: 10907628448
    instances:
      - name: ollama
        gpus:
          - GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10
        environment:
          OLLAMA_CONTEXT_LENGTH: "32768"
          OLLAMA_FLASH_ATTENTION: "1"
          OLLAMA_KV_CACHE_TYPE: f16
          OLLAMA_MAX_LOADED_MODELS: "1"
          OLLAMA_NUM_PARALLEL: "1"
        models:
          - name: qwen3:8b
            workload: chat
            use: chat
            quantization: Q4_K_M
            context_length: 32768
            slots: 1
            kv_cache_type: f16
            gpus:
              - GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10
            layers: 36
            source:
              type: registry
              digest: sha256:a3de86cd1c132c822487ededd47a324c50491393e6565cd14bafa40d0b8e686f
            account:
              weights_bytes: 5225374496
              kv_cache_bytes: 4831838208
              compute_bytes: 268456064
              overhead_bytes: 581959680
              total_bytes: 10907628448
              budget_bytes: 46594523136
              confidence: low
            rejected: []
remarks:
  description: Sentences about devices that were left out or whose memory something else takes. They are also
    given as warnings.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _memory, _select


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workloads": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "use": {"type": "str", "default": "chat"},
                    "models": {"type": "list", "elements": "str", "required": True},
                    "context_length": {"type": "raw"},
                    "slots": {"type": "raw"},
                },
            },
            "gpus": {"type": "list", "elements": "dict", "required": True},
            "host": {"type": "dict", "required": True},
            "catalog": {"type": "list", "elements": "dict", "required": True},
            "engine_version": {"type": "str", "required": True},
            "host_name": {"type": "str", "default": ""},
            "kv_cache_type": {"type": "str", "choices": list(_memory.KV_CACHE_TYPES), "default": "f16"},
            "flash_attention": {"type": "bool", "default": True},
            "headroom_bytes": {"type": "int", "default": 0},
            "cuda_context_bytes": {"type": "int", "default": _memory.CUDA_CONTEXT_BYTES},
            "host_memory_fraction": {"type": "float", "default": 0.75},
            "current_plan": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    inputs = {name: given.pop(name) for name in ("workloads", "gpus", "host", "catalog", "current_plan")}
    try:
        plan, remarks = _select.make_plan(options=_select.Options(**given), **inputs)
    except _select.PlanError as error:
        module.fail_json(msg=str(error))
    for remark in remarks:
        module.warn(remark)
    module.exit_json(changed=False, plan=plan, remarks=remarks)


if __name__ == "__main__":
    main()
