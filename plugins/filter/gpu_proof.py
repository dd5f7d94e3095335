# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_proof
short_description: Judge whether every planned model sits where the plan says
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Compares the plan's models with the engine's log and with what the engine reports as loaded.
  - A model that is planned for a GPU is where it should be when its runner printed, at its last load, that all layers
    are on the GPU, and the engine reports GPU memory for it.
  - The bytes of the runner's buffers on GPUs, or of its process in nvidia-smi, must be those of the plan as well,
    within 12 % and 8 MiB; with O(strict), one of them has to be there.
positional: log, installed, loaded, processes, strict
options:
  _input:
    description: The models of one instance of the plan.
    type: list
    elements: dict
    required: true
  log:
    description:
      - The container's log, whole, or the lines that name a start of the server or of a runner, offloaded layers, and
        buffers.
    type: str
    required: true
  installed:
    description: RV(onprem.llm.ollama_model_info#module:models).
    type: list
    elements: dict
    required: true
  loaded:
    description: RV(onprem.llm.ollama_model_info#module:loaded).
    type: list
    elements: dict
    required: true
  processes:
    description:
      - A line for each process and GPU that nvidia-smi shows, with the name of the weights' blob from the process's
        command line, the GPU's UUID, and MiB.
    type: str
    default: ""
  strict:
    description: Whether the bytes on the GPU must be proven.
    type: bool
    default: false
seealso:
  - module: onprem.llm.ollama_model_info
"""

EXAMPLES = r"""
- name: Say what is wrong with the models' places
  ansible.builtin.debug:
    msg: "{{ proof | map(attribute='problem') }}"
  vars:
    proof: "{{ instance.models | onprem.llm.gpu_proof(log.stdout, engine.models, engine.loaded) }}"
    instance: "{{ models_selection.plan.instances[0] }}"
"""

RETURN = r"""
_value:
  description: One mapping for each planned model.
  type: list
  elements: dict
  contains:
    model:
      description: The model's name.
      type: str
    planned:
      description: Where the plan puts it, V(gpu) or V(cpu).
      type: str
    layers_on_gpu:
      description: Layers that its runner put on GPUs. Null where the log does not say.
      type: int
    layers:
      description: Layers in all, the output layer included. Null where the log does not say.
      type: int
    gpu_bytes:
      description: Bytes on GPUs by the runner's buffers or its process. Null where neither says.
      type: int
    measured_bytes:
      description: Bytes of all the runner's buffers on the planned devices by its log. Null where the log does not say.
      type: int
    digest:
      description: SHA-256 of the weights as installed, empty where the engine does not say.
      type: str
    planned_bytes:
      description: Bytes that the plan's account has for it there, with the CUDA context where the evidence is
        V(process).
      type: int
    size_bytes:
      description: Bytes that the engine reports for the loaded model. Null where it is not loaded.
      type: int
    size_vram_bytes:
      description: Bytes of that in GPU memory. Null where it is not loaded.
      type: int
    evidence:
      description:
        - V(log), V(process) where the log no longer reaches back to the load and nvidia-smi shows the runner, or V(api)
          where only the engine's own figures speak.
      type: str
    found:
      description: Where the model is, in words.
      type: str
    problem:
      description: Empty, or what is wrong and what may be the reason.
      type: str
"""

from ansible_collections.onprem.llm.plugins.module_utils import _gpu_proof


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"gpu_proof": _gpu_proof.judge}
