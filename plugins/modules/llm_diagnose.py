#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_diagnose
short_description: Find the first cause why a host of the fleet does not serve
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Climbs a ladder from the hardware to the answer, and tells of each rung what was checked, what was seen, what it
    means, and what mends it. What a broken rung leaves open is told as unknown, not as broken.
  - It changes nothing, loads and unloads no model, and never fails for what it finds.
  - Every command, request and file is bounded in time or size. Reading whole model files takes O(hash_seconds) at most.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  functions:
    description:
      - What the host is to do, which decides the rungs.
      - V(balancer) is a gateway before several nodes, V(mirror) the host of a model mirror, V(mirrored) a node that
        gets its models from one.
    type: list
    elements: str
    choices: [gpu_node, node, endpoint, gateway, balancer, mirror, mirrored]
    required: true
  host_name:
    description:
      - The host's name in the inventory, for the commands that are proposed.
    type: str
    default: this host
  root:
    description:
      - Directory below which files are read, those of C(/proc), C(/sys) and C(/etc) among them, as for a system that is
        mounted elsewhere. Commands are those of the running system.
      - With another than V(/) the kernel's log is its C(var/log/kern.log).
    type: path
    default: /
  timeout:
    description:
      - Seconds that each command has.
    type: float
    default: 20
  controller_time:
    description:
      - Seconds since 1970 by the controller's clock, with which the host's is compared.
    type: float
  clock_tolerance:
    description:
      - Seconds by which the two may differ.
    type: float
    default: 60
  time_service:
    description:
      - Whether the host is to have a time service.
    type: bool
    default: true
  engine_url:
    description:
      - Where the engine answers on the host.
    type: str
    default: http://172.30.250.2:11434
  data_dir:
    description:
      - Directory of the engine's data, which holds C(models).
    type: path
    default: /var/lib/onprem-llm/ollama
  hash_seconds:
    description:
      - Seconds for reading model files whole. The smaller ones come first; what is not read is told.
    type: float
    default: 60
  gpu_proof:
    description:
      - Whether a model that is not on the GPU as planned is a fault. If not, it is a remark.
    type: bool
    default: true
  compare_speed:
    description:
      - Whether a model's speed is held against what its GPU's memory allows. V(false) for a simulated GPU.
    type: bool
    default: true
  gateway_address:
    description:
      - Where the gateway answers on the host.
    type: str
    default: 127.0.0.1
  gateway_port:
    description:
      - Its port.
    type: int
    default: 443
  gateway_name:
    description:
      - The name under which users know it.
    type: str
    default: ""
  gateway_key:
    description:
      - A user's key, to see whether an answer is streamed.
    type: str
    default: ""
  gateway_model:
    description:
      - The model that is asked with it.
    type: str
    default: ""
  mirrors:
    description:
      - The mirrors of a node, in its order.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The mirror's name in the inventory.
        type: str
        required: true
      place:
        description: Its address and port.
        type: str
        required: true
  collect:
    description:
      - Whether RV(collected) is wanted, for a support bundle.
    type: bool
    default: false
seealso:
  - module: onprem.llm.gpu_info
    description: What the rungs of the GPU know.
  - module: onprem.llm.report_diagnosis
    description: Tells the findings of all hosts together.
"""

EXAMPLES = r"""
- name: See why the node does not serve
  onprem.llm.llm_diagnose:
    functions: [gpu_node, node, endpoint]
    host_name: "{{ inventory_hostname }}"
  register: diagnosis

- name: Tell the first cause
  ansible.builtin.debug:
    msg: "{{ diagnosis.causes | first | default('nothing is broken') }}"
"""

RETURN = r"""
findings:
  description: One for each rung of the host, in the ladder's order.
  returned: success
  type: list
  elements: dict
  contains:
    rung:
      description: Name of the rung.
      type: str
      sample: cdi
    checked:
      description: What is so where nothing is broken.
      type: str
      sample: The CDI specifications name every planned GPU
    verdict:
      description:
        - V(ok), V(broken), V(remark) for what is worth a look, V(unknown) for what another broken rung leaves open or
          what could not be asked, V(not asked) for what does not apply.
      type: str
      sample: broken
    seen:
      description: What was read from the host.
      type: str
      sample: "the specifications lack GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10"
    means:
      description: What follows from it.
      type: str
      sample: They were written for other GPUs
    mend:
      description: What mends it.
      type: str
      sample: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml
    about:
      description: Other hosts of which it tells.
      type: list
      elements: str
      sample: []
    because:
      description: The broken rungs that leave this one open.
      type: list
      elements: str
      sample: []
causes:
  description:
    - Names of the broken rungs, the first cause on top, and of those that could not be asked for a reason of their own.
  returned: success
  type: list
  elements: str
  sample: [cdi]
collected:
  description:
    - Texts for a support bundle, by name. Files with keys and users are not among them, and what looks like a
      credential, a password in an address or a prompt is taken out of the others.
  returned: when O(collect) is V(true)
  type: dict
  sample: {commands/uname_-a.txt: "exit status 0..."}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_bundle import collect
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import Host
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_run import diagnose

TAKEN = (
    "controller_time", "clock_tolerance", "time_service", "engine_url", "data_dir", "hash_seconds", "gpu_proof",
    "compare_speed", "gateway_address", "gateway_port", "gateway_name", "gateway_key", "gateway_model",
)  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "functions": {"type": "list", "elements": "str", "choices": list(ladder.FUNCTIONS), "required": True},
            "host_name": {"type": "str", "default": "this host"},
            "root": {"type": "path", "default": "/"},
            "timeout": {"type": "float", "default": 20},
            "controller_time": {"type": "float"},
            "clock_tolerance": {"type": "float", "default": 60},
            "time_service": {"type": "bool", "default": True},
            "engine_url": {"type": "str", "default": "http://172.30.250.2:11434"},
            "data_dir": {"type": "path", "default": "/var/lib/onprem-llm/ollama"},
            "hash_seconds": {"type": "float", "default": 60},
            "gpu_proof": {"type": "bool", "default": True},
            "compare_speed": {"type": "bool", "default": True},
            "gateway_address": {"type": "str", "default": "127.0.0.1"},
            "gateway_port": {"type": "int", "default": 443},
            "gateway_name": {"type": "str", "default": ""},
            "gateway_key": {"type": "str", "default": "", "no_log": True},
            "gateway_model": {"type": "str", "default": ""},
            "collect": {"type": "bool", "default": False},
            "mirrors": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "place": {"type": "str", "required": True}},
            },
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["timeout"] <= 0:
        module.fail_json(msg="timeout is {:g}; a number of seconds above 0 is needed".format(given["timeout"]))
    wanted = Wanted(
        name=given["host_name"],
        mirrors=tuple((mirror["name"], mirror["place"]) for mirror in given["mirrors"]),
        **{name: given[name] for name in TAKEN},
    )
    host = Host(given["root"], given["timeout"])
    found = diagnose(host, wanted, given["functions"])
    causes = [item.rung for item in ladder.faults(found)]
    more = {"collected": collect(host, wanted)} if given["collect"] else {}
    module.exit_json(changed=False, findings=ladder.as_data(found), causes=causes, **more)


if __name__ == "__main__":
    main()
