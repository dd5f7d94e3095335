#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_host_info
short_description: Tell whether an Ollama runs on the host itself, outside of containers
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Looks for what Ollama's install script leaves, the unit C(ollama.service) and the program, and for processes called
    C(ollama) that are in no container.
  - Tells where its models are and how much GPU memory it holds.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  record:
    description:
      - A JSON file whose content is returned with the rest.
    type: path
seealso:
  - module: onprem.llm.ollama_adopt
"""

EXAMPLES = r"""
- name: Look for an Ollama of others
  onprem.llm.ollama_host_info:
  register: beside

- name: Say where its models are
  ansible.builtin.debug:
    msg: "{{ beside.models_dir }}: {{ beside.models | join(', ') }}"
  when: beside.found
"""

RETURN = r"""
found:
  description: Whether there is a unit, a program or a process.
  returned: success
  type: bool
  sample: true
unit:
  description: State of C(ollama.service).
  returned: success
  type: dict
  contains:
    there:
      description: Whether systemd knows the unit.
      type: bool
      sample: true
    active:
      description: Whether it runs.
      type: bool
      sample: true
    enabled:
      description: Whether it starts at boot.
      type: bool
      sample: true
programs:
  description: Paths of its program.
  returned: success
  type: list
  elements: str
  sample: [/usr/local/bin/ollama]
processes:
  description: PIDs of servers and of their runners.
  returned: success
  type: list
  elements: int
  sample: [2503]
models_dir:
  description: Its models directory, empty where there is none.
  returned: success
  type: str
  sample: /usr/share/ollama/.ollama/models
models:
  description: Names of its models.
  returned: success
  type: list
  elements: str
  sample: ["gemma3:270m"]
gpu_memory_bytes:
  description: GPU memory that its processes hold, in bytes.
  returned: success
  type: int
  sample: 0
record:
  description: Content of O(record), null where there is no such file.
  returned: success
  type: dict
  sample: null
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_host as host
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store


def record(module: AnsibleModule):
    path = module.params["record"]
    if not path or not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        return module.fail_json(msg=f"record is {path}, and cannot be read as JSON: {error}")


def main() -> None:
    module = AnsibleModule(argument_spec={"record": {"type": "path"}}, supports_check_mode=True)
    names = "--property=LoadState,ActiveState,UnitFileState,User,Environment"
    properties = host.unit(module.run_command(["systemctl", "show", names, "ollama.service"])[1])
    programs = [path for path in host.PROGRAMS if os.access(path, os.X_OK) and os.path.realpath(path) == path]
    pids = host.family(host.processes())
    memory = 0
    smi = module.get_bin_path("nvidia-smi")
    if pids and smi:
        memory = host.gpu_memory(module.run_command([smi, *host.GPU_QUERY])[1], pids)
    there = properties.get("LoadState") == "loaded"
    directory = host.models_directory(properties) if there or programs or pids else ""
    module.exit_json(
        found=bool(there or programs or pids),
        unit={
            "there": there,
            "active": properties.get("ActiveState") in ("active", "activating", "reloading"),
            "enabled": properties.get("UnitFileState") == "enabled",
        },
        programs=programs,
        processes=sorted(pids),
        models_dir=directory,
        models=list(store.models_of(directory)) if directory else [],
        gpu_memory_bytes=memory,
        record=record(module),
    )


if __name__ == "__main__":
    main()
