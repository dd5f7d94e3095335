#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_probe
short_description: Have every planned model answer fixed prompts, and judge the answers by earlier ones
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Asks each model the prompts, one after the other, with seed 0 and temperature 0. An embedding model is asked for
    an embedding of each.
  - Returns answers, tokens per second and memory. With O(judge) it fails where they are worse than O(before), or a
    model does not answer.
  - Users should not be served meanwhile; their requests would count into the speed.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  api_url:
    description:
      - Address of the engine as the host reaches it.
    type: str
    required: true
  models:
    description:
      - The planned models, as the plan has them, with C(name), C(use) and C(account).
    type: list
    elements: dict
    required: true
  prompts:
    description:
      - What each model is asked.
    type: list
    elements: str
    required: true
  answer_length:
    description:
      - Tokens of each answer at most.
    type: int
    default: 32
  seconds:
    description:
      - Seconds for all of it together. What is not answered by then has failed.
    type: float
    default: 600
  judge:
    description:
      - Whether to fail by what was found.
    type: bool
    default: false
  before:
    description:
      - RV(probe) of an earlier call, to be held against.
    type: dict
  speed_loss_percent:
    description:
      - The most of its tokens per second that a model may lose, in percent.
    type: float
    default: 20
  answer_agreement:
    description:
      - The least share of an earlier answer that a new one begins with, the mean over all prompts.
    type: float
    default: 0.3
"""

EXAMPLES = r"""
- name: Measure what runs
  onprem.llm.engine_probe:
    api_url: http://172.30.250.2:11434
    models: "{{ plan.instances[0].models }}"
    prompts: ["The capital of Japan is"]
  register: before

- name: Hold the new engine against it
  onprem.llm.engine_probe:
    api_url: http://172.30.250.2:11434
    models: "{{ plan.instances[0].models }}"
    prompts: ["The capital of Japan is"]
    judge: true
    before: "{{ before.probe }}"
"""

RETURN = r"""
probe:
  description: What was found, by model.
  returned: always
  type: dict
  sample:
    gemma3:270m: {answers: [" Tokyo."], tokens_per_second: 61.2, size_bytes: 612368384, error: ""}
faults:
  description: What speaks against the engine, a sentence each.
  returned: always
  type: list
  elements: str
  sample: []
seconds:
  description: What it took.
  returned: always
  type: float
  sample: 3.2
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api, _upgrade
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name


class Probe:
    """The questions to one engine, all by one deadline."""

    def __init__(self, url: str, prompts: list[str], tokens: int, seconds: float) -> None:
        self._client = _ollama_api.Client(url, seconds)
        self._prompts, self._tokens = prompts, tokens
        self._end = time.monotonic() + seconds

    def _ask(self, path: str, body: dict[str, t.Any]) -> dict[str, t.Any]:
        left = self._end - time.monotonic()
        if left <= 0:
            raise _ollama_api.OllamaError("the time for the gate is over")
        self._client.timeout = left
        # -1: what is loaded to stay does stay.
        answer = self._client.request("POST", path, {**body, "keep_alive": -1})
        if not isinstance(answer, dict):
            raise _ollama_api.OllamaError(f"{path}: the answer is no JSON object")
        return answer

    def text(self, name: str) -> dict[str, t.Any]:
        """Answers of a model that writes, and the pace of the fastest, which what else the host does disturbs least."""
        answers, pace = [], []
        for prompt in self._prompts:
            options = {"seed": 0, "temperature": 0, "num_predict": self._tokens}
            found = self._ask("/api/generate", {"model": name, "prompt": prompt, "stream": False, "options": options})
            count, spent = found.get("eval_count") or 0, found.get("eval_duration") or 0
            if not count:
                raise _ollama_api.OllamaError("/api/generate: the answer has no token")
            answers.append(str(found.get("response") or ""))
            # A short answer's time is mostly its first token's.
            if spent and count >= self._tokens // 2:
                pace.append(count / spent * 1e9)
        return {"answers": answers, "tokens_per_second": round(max(pace), 2) if pace else None}

    def embedding(self, name: str) -> dict[str, t.Any]:
        answers = []
        for prompt in self._prompts:
            found = (self._ask("/api/embed", {"model": name, "input": prompt}).get("embeddings") or [[]])[0]
            if not found:
                raise _ollama_api.OllamaError("/api/embed: the answer has no embedding")
            answers.append([round(float(value), 6) for value in found])
        return {"answers": answers, "tokens_per_second": None}

    def all(self, models: list[dict[str, t.Any]]) -> dict[str, dict[str, t.Any]]:
        """By model; one that fails leaves the others their turn."""
        found: dict[str, dict[str, t.Any]] = {}
        for model in models:
            name = str(model["name"])
            try:
                asked = self.embedding(name) if model.get("use") == "embedding" else self.text(name)
                found[name] = {**asked, "error": ""}
            except _ollama_api.OllamaError as error:
                found[name] = {"answers": [], "tokens_per_second": None, "error": str(error)}
        try:
            sizes = self._sizes()
        except _ollama_api.OllamaError:
            sizes = {}
        for name, about in found.items():
            about["size_bytes"] = sizes.get(local_name(name))
        return found

    def _sizes(self) -> dict[str, int]:
        """Bytes of what is in memory, by every name that it serves: one runner serves all models of its weights."""
        running, tags = self._client.running(), self._client.tags()
        listed = {str(entry.get("name")) for entry in running}
        known = {str(tag.get("name")): self._client.model(str(tag.get("name")), tags) for tag in tags}
        models = {name: model for name, model in known.items() if model}
        return {
            name: int(entry.get("size") or 0)
            for entry in running
            for name in _ollama_api.served(str(entry.get("name")), models, listed)
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "api_url": {"type": "str", "required": True},
            "models": {"type": "list", "elements": "dict", "required": True},
            "prompts": {"type": "list", "elements": "str", "required": True},
            "answer_length": {"type": "int", "default": 32},
            "seconds": {"type": "float", "default": 600},
            "judge": {"type": "bool", "default": False},
            "before": {"type": "dict"},
            "speed_loss_percent": {"type": "float", "default": 20},
            "answer_agreement": {"type": "float", "default": 0.3},
        },
        supports_check_mode=True,
    )
    params, began = module.params, time.monotonic()
    try:
        probe = Probe(params["api_url"], params["prompts"], params["answer_length"], params["seconds"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    found = probe.all(params["models"])
    faults = _upgrade.judge(
        params["models"], params["before"], found, params["speed_loss_percent"], params["answer_agreement"]
    )
    result = {"changed": False, "probe": found, "faults": faults, "seconds": round(time.monotonic() - began, 1)}
    if params["judge"] and faults:
        module.fail_json(msg="; ".join(faults), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
