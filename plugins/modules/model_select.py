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
  - The order in O(workloads[].models) decides the model, and without it the catalog's entries that meet the
    workload's wishes are tried, the best first (see O(workloads[].quality)). With that model the largest context
    that fits is taken,
    then the most slots, on as few GPUs as hold that.
    An earlier workload's preference goes before a later one's.
  - A plan fits only if the engine's own scheduler would keep all of it in memory. Ollama 0.30 and newer place and
    unload models by a
    prediction of their own, which this module follows.
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
          - Where O(workloads[].models) is not given, one of V(chat), V(code), V(embedding), V(rag), V(reasoning),
            V(thinking), V(tools) and
            V(vision), which an entry of the catalog must have among its C(uses).
        type: str
        default: chat
      models:
        description:
          - Names of the catalog in order of preference. Without it, the catalog is chosen from.
        type: list
        elements: str
      preferred:
        description:
          - Names of the catalog that are tried before all others.
        type: list
        elements: str
      capabilities:
        description:
          - What a model has to be able to do beside its use, words as in O(workloads[].use).
        type: list
        elements: str
      languages:
        description:
          - Codes of languages such as V(ja). A model that nobody named needs a card that names them.
        type: list
        elements: str
      licences:
        description:
          - Licences that are allowed, as the catalog writes them, such as V(Apache-2.0).
        type: list
        elements: str
      quantization:
        description:
          - The least that is good enough, such as V(Q4_K_M). Without it, V(Q4_0) where the catalog is chosen from,
            and none where
            models are named.
        type: str
      quality:
        description:
          - A benchmark whose published figures order the models, by its name in O(benchmarks) or in an entry of
            O(catalog). V(parameters) takes none.
          - Without it, the first of O(benchmarks) for the use and for the first of C(languages), V(en) where none is
            named.
          - A model without a figure is held for no better than any measured model that is at least as large, and one
            larger than all of them for no better than the largest.
          - Where figures decide nothing, the number of parameters to two figures does, then the month of release,
            and of one model the library's own quantization.
        type: str
      context_length:
        description:
          - Tokens a slot, a number, or a mapping of C(min) and C(max).
          - Both ends and the powers of two between them are tried.
          - Without it, V(8192) to V(32768), and from V(4096) where models are named or embed. At least V(256), to which
            the engine rounds up.
        type: raw
      slots:
        description:
          - Requests served at once, a number, or a mapping of C(min) and C(max).
          - On a host without a GPU the minimum is taken.
          - Without it, V(1) to V(4).
        type: raw
      users:
        description:
          - How many are served at once. Each needs a slot.
        type: int
      tokens_per_second:
        description:
          - The least that one user gets. A model is turned down where the bandwidth of the memory over the bytes
            that a token reads is
            less; that bound is not reached in practice.
        type: float
      hybrid:
        description:
          - Whether a model may lie partly in the host's memory, where the GPUs do not hold it. For the only workload
            of a host.
        type: bool
        default: false
      hosts:
        description:
          - The hosts that must run it. Without it, every host.
        type: list
        elements: str
      replicas:
        description:
          - How many hosts of O(fleet) serve it. Without O(fleet), only told.
        type: int
  gpus:
    description:
      - The GPUs as RV(onprem.llm.gpu_info#module:gpus) gives them. Empty for a host that computes on its CPU.
      - Needed of a GPU are C(uuid), C(memory_total_bytes) and C(memory_free_bytes), and of one whose C(mig_mode) is
        V(Enabled) those of its C(mig_devices). A GPU whose C(mig_mode_pending) differs from its C(mig_mode) is left
        out; so are all but one of the C(mig_devices) of one C(gpu_instance_id), whose memory they share.
      - C(memory_bandwidth), which M(onprem.llm.gpu_info) does not give, is in bytes a second.
    type: list
    elements: dict
    default: []
  gpu_names:
    description:
      - Plans for GPUs that are not there, in place of O(gpus). Names of O(gpu_table) such as V(RTX 4090), V(2x
        L40S), V(RTX A6000 with ECC),
        V(H200 MIG 3g.71gb), or a size such as V(24564 MiB).
    type: list
    elements: str
  host:
    description:
      - The host's memory as RV(onprem.llm.gpu_info#module:host) gives it. C(memory_bandwidth), in bytes a second,
        gives a bound of the
        speed on a host without a GPU.
    type: dict
    default: {}
  host_size:
    description:
      - Plans for a host that is not there, in place of O(host). C(memory_gib), and where known C(cores),
        C(numa_nodes), and C(channels) and
        C(mega_transfers) of its memory, whose product times 8 bytes is its bandwidth.
    type: dict
  catalog:
    description:
      - Models that can be chosen. A later entry replaces an earlier one of the same name.
      - An entry has C(name), C(source) (C(type) V(registry) with C(digest), or C(type) V(gguf) with C(path),
        C(node_path) or C(url), and C(sha256)), C(size_bytes), C(quantization),
        C(parameters), C(released) (V(2025-04)), C(uses), C(licence), C(context_length), C(languages) (codes that its
        card names; all
        of them with C(languages_complete)), C(note), C(sources) (by field, where its value was read), C(benchmarks) (by
        name a C(value) and its C(source)),
        C(variants) (other quantizations of the
        same model, tag and bytes) and C(shape), the hyper-parameters under
          GGUF's names.
      - Where a GGUF file is given, its header takes the place of C(shape) and C(size_bytes) and the account is
        exact for the weights. C(header), a file with the beginning of the weights' file, does the same for a model
        of a
        registry. What the entry says otherwise is told.
      - C(projector_bytes) is the size of a vision projector in a file of its own, which counts on the first GPU with
        what it takes to compute.
    type: list
    elements: dict
    required: true
  benchmarks:
    description:
      - Published comparisons of models, one table each, as the collection's C(roles/models/files/benchmarks.yml) has
        them.
      - A table has a C(name), the C(source) and C(date) of its figures, C(figures) (a number by model, the higher the
        better), the C(uses) and the C(language) that it orders for without being named, and a C(title) and C(note).
      - Figures of different tables are never compared.
    type: list
    elements: dict
    default: []
  library:
    description:
      - Tags that the public library has, C(exist) by model, and models that run at ollama.com alone, C(cloud_only),
        so that a name that is not
        in O(catalog) gets a telling answer.
    type: dict
  gpu_table:
    description:
      - GPUs by name with their memory and its bandwidth, as the collection's C(roles/models/files/gpus.yml) has them.
    type: dict
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
      - Bytes that the driver takes for each model on each GPU.
      - Without it, what was measured on a GPU of that name (O(gpu_table)), and where that is not known, 555 MiB, the
        most that was measured on any.
    type: int
  fit_target_bytes:
    description:
      - Bytes that the engine keeps free on each GPU, its C(LLAMA_ARG_FIT_TARGET). The default is its own.
    type: int
    default: 1073741824
  display_bytes:
    description:
      - Bytes to leave free on a GPU with a screen, for what the screen shows later.
    type: int
    default: 0
  max_instances:
    description:
      - How many engines a plan may have, each with GPUs, context and slots of its own. More than one is for looking
        at; the
        P(onprem.llm.ollama#role) role runs one.
    type: int
    default: 1
  advise:
    description:
      - Whether to work out RV(tradeoffs) and RV(report).
    type: bool
    default: false
  explain:
    description:
      - Name of a model whose every term is wanted, see RV(explained).
    type: str
    default: ""
  purchase:
    description:
      - Whether to answer which GPUs of O(gpu_table) the workloads need, see RV(purchases), in place of a plan.
    type: bool
    default: false
  fleet:
    description:
      - All hosts of the fleet, each with C(name), C(gpus), C(host) and C(current_plan). Decides which of them serve
        a workload with
        O(workloads[].replicas), and plans O(host_name) for its part, or without that all of them, see RV(fleet).
    type: list
    elements: dict
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
  measurements:
    description:
      - What loads took on this host, see P(onprem.llm.measurements#filter). One that is more than 2 % and 8 MiB
        above the account of the same load takes its place.
    type: list
    elements: dict
    default: []
attributes:
  diff_mode:
    support: full
    details:
      - What O(current_plan) runs, and what RV(plan) would run. Nothing is changed by this module, and Ansible's default
        callback shows the difference of a task that changed something alone; RV(changes) says the same in sentences.
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

- name: Ask what two RTX 4090 would run for three Japanese users
  onprem.llm.model_select:
    gpu_names: [2x RTX 4090]
    engine_version: 0.32.15
    catalog: "{{ catalog }}"
    gpu_table: "{{ gpu_table }}"
    workloads:
      - name: chat
        languages: [ja]
        users: 3
        context_length: {min: 8192, max: 32768}
    advise: true
  delegate_to: localhost

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
      the driver takes, and of a vision model C(projector_bytes)), their sum C(total_bytes), the
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
            speed:
              active_bytes: 4828351955
              tokens_per_second_bound: 178.9
            order: the order of models
            runner_up:
            rejected: []
changes:
  description:
    - What RV(plan) changes of what runs by O(current_plan), models, contexts, slots, cache types, GPUs, the engine's
      version and environment. Empty where it is the same, and where there is no O(current_plan).
  returned: success, without O(purchase) and RV(fleet)
  type: list
  elements: str
  sample:
    - "chat: qwen3:8b Q4_K_M: 8192 -> 16384 tokens a slot, 4 -> 2 slots"
    - "ollama: OLLAMA_CONTEXT_LENGTH 8192 -> 16384, OLLAMA_NUM_PARALLEL 4 -> 2"
tradeoffs:
  description: What the same host would run with one thing changed (C(change)).
  returned: with O(advise)
  type: list
  elements: dict
  sample:
    - change: KV cache q8_0 instead of f16
      models: [qwen3:32b]
      context_length: 32768
      slots: 2
      gpus: 1
report:
  description: The plan, or RV(purchases), as lines for people.
  returned: with O(advise) or O(purchase)
  type: list
  elements: str
  sample: ["ollama on RTX 4090"]
explained:
  description:
    - Every term of the account of O(explain) with its rule, C(bytes) on C(device). C(rule_name) is the short name that
      RV(report) has in its table.
  returned: with O(explain)
  type: list
  elements: dict
  sample:
    - model: qwen3:8b
      device: gpu0
      term: kv_cache
      bytes: 1207959552
      rule: K and V rows of every cell of every layer that keeps them
      rule_name: cells
purchases:
  description: GPUs that serve the workloads, in how many, and what they would run, by memory.
  returned: with O(purchase)
  type: list
  elements: dict
  sample: []
fleet:
  description:
    - What serves what (C(serves), by workload) and what runs nothing (C(idle), by host), C(faults) and C(plans) by
      host.
  returned: with O(fleet) and without O(host_name)
  type: dict
  sample: {}
remarks:
  description: Sentences about devices that were left out or whose memory something else takes. They are also
    given as warnings.
  returned: success
  type: list
  elements: str
  sample: []
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import (
    _catalog,
    _fleet,
    _hardware,
    _measurements,
    _memory,
    _plan_diff,
    _plan_text,
    _purchase,
    _select,
)

WORKLOAD = {
    "name": {"type": "str", "required": True},
    "use": {"type": "str", "default": "chat"},
    "models": {"type": "list", "elements": "str"},
    "preferred": {"type": "list", "elements": "str"},
    "capabilities": {"type": "list", "elements": "str"},
    "languages": {"type": "list", "elements": "str"},
    "licences": {"type": "list", "elements": "str"},
    "quantization": {"type": "str"},
    "quality": {"type": "str"},
    "context_length": {"type": "raw"},
    "slots": {"type": "raw"},
    "users": {"type": "int"},
    "tokens_per_second": {"type": "float", "no_log": False},
    "hybrid": {"type": "bool", "default": False},
    "hosts": {"type": "list", "elements": "str"},
    "replicas": {"type": "int"},
}
OPTIONS = (
    "engine_version",
    "host_name",
    "kv_cache_type",
    "flash_attention",
    "headroom_bytes",
    "cuda_context_bytes",
    "host_memory_fraction",
    "fit_target_bytes",
    "display_bytes",
    "max_instances",
)


def answer(given: dict) -> dict:
    """What the module returns for its parameters.

    :raises _select.PlanError: there is no plan.
    """
    options = _select.Options(
        **{name: given[name] for name in OPTIONS}, measured=_measurements.taken(given["measurements"])
    )
    table = _hardware.table(given["gpu_table"])
    gpus = _hardware.named(given["gpu_names"], table) if given["gpu_names"] else given["gpus"]
    host = _hardware.host_by_size(given["host_size"]) if given["host_size"] else given["host"]
    if given["purchase"]:
        wanted, entries = _select.read(given["workloads"], given["catalog"], options, given["benchmarks"])
        rows = _purchase.gpus_for(wanted, entries, table, host, options, _catalog.library(given["library"]))
        return {"purchases": rows, "report": _plan_text.purchase_lines(rows), "remarks": []}
    told: dict = {}
    workloads = given["workloads"]
    if given["fleet"] and any(work.get("replicas") for work in workloads):
        wanted, entries = _select.read(workloads, given["catalog"], options, given["benchmarks"])
        # Every host must come to the same division of the work; what this one measured is its own affair.
        shared = dataclasses.replace(options, measured={})
        hosts = [_fleet.host(data, shared, table) for data in given["fleet"]]
        fleet = _fleet.plan_fleet(hosts, wanted, entries, shared, _catalog.library(given["library"]))
        if not options.host_name:
            summary = _fleet.summary(fleet.plans)
            lines = _plan_text.fleet_lines(summary["serves"], summary["idle"])
            return {
                "fleet": {**summary, "faults": fleet.faults, "plans": fleet.plans},
                "report": lines,
                "remarks": [],
            }
        # A host is told of its own part alone: several hundred hosts ask.
        mine = {work.name for work in fleet.assigned.get(options.host_name, [])}
        workloads = [{**work, "replicas": None, "hosts": None} for work in workloads if work["name"] in mine]
        if not workloads:
            raise _select.PlanError(
                f"no workload is for {options.host_name}: their replicas are on other hosts; "
                "give it one, or take it out of llm_nodes"
            )
    outcome = _select.make_outcome(
        workloads,
        gpus,
        host,
        given["catalog"],
        options,
        given["current_plan"],
        given["gpu_table"],
        given["library"],
        given["advise"],
        given["explain"],
        given["benchmarks"],
    )
    told.update(
        plan=outcome.plan, remarks=outcome.remarks, changes=_plan_diff.changes(given["current_plan"], outcome.plan)
    )
    if given["advise"]:
        names = {str(gpu.get("uuid")): "{} ({})".format(gpu.get("name"), gpu.get("uuid")) for gpu in gpus}
        told["tradeoffs"] = outcome.tradeoffs
        told["report"] = _plan_text.plan_lines(outcome.plan, outcome.remarks, outcome.tradeoffs, names)
        told["report"] += [f"against the plan in force: {change}" for change in told["changes"]]
    if given["explain"]:
        told["explained"] = outcome.explained
        told["report"] = told.get("report", []) + _plan_text.explained_lines(outcome.explained)
    return told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workloads": {"type": "list", "elements": "dict", "required": True, "options": WORKLOAD},
            "gpus": {"type": "list", "elements": "dict", "default": []},
            "gpu_names": {"type": "list", "elements": "str"},
            "host": {"type": "dict", "default": {}},
            "host_size": {"type": "dict"},
            "catalog": {"type": "list", "elements": "dict", "required": True},
            "benchmarks": {"type": "list", "elements": "dict", "default": []},
            "library": {"type": "dict"},
            "gpu_table": {"type": "dict"},
            "engine_version": {"type": "str", "required": True},
            "host_name": {"type": "str", "default": ""},
            "kv_cache_type": {"type": "str", "choices": list(_memory.KV_CACHE_TYPES), "default": "f16"},
            "flash_attention": {"type": "bool", "default": True},
            "headroom_bytes": {"type": "int", "default": 0},
            "cuda_context_bytes": {"type": "int"},
            "host_memory_fraction": {"type": "float", "default": 0.75},
            "fit_target_bytes": {"type": "int", "default": _memory.FIT_TARGET_BYTES},
            "display_bytes": {"type": "int", "default": 0},
            "max_instances": {"type": "int", "default": 1},
            "current_plan": {"type": "dict"},
            "measurements": {"type": "list", "elements": "dict", "default": []},
            "fleet": {"type": "list", "elements": "dict"},
            "advise": {"type": "bool", "default": False},
            "explain": {"type": "str", "default": ""},
            "purchase": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        told = answer(module.params)
    except _select.PlanError as error:
        module.fail_json(msg=str(error))
    for remark in told["remarks"]:
        module.warn(remark)
    if module._diff and told.get("changes"):
        before, after = (_plan_diff.stated(plan) for plan in (module.params["current_plan"], told["plan"]))
        told["diff"] = {
            "before_header": "the plan in force",
            "after_header": "the plan",
            "before": "\n".join(before) + "\n",
            "after": "\n".join(after) + "\n",
        }
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
