#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Manage a model of an Ollama server
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Fetches, creates, loads, unloads and deletes a model through Ollama's own API, on the host that reaches the
    server.
  - A model is known by the sha256 of its weights' layer (GGUF file), not by its tag, which may be re-pointed, and
    not by the digest of its manifest, which
    differs between a pulled and a created model of the same weights.
  - Errors that the server reports inside a successful answer's stream are errors.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.ollama
attributes:
  check_mode:
    support: full
    details:
      - Whether a registry would still give the pinned weights is known only once they are pulled.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(source=gguf) and without O(sha256) the file is read at every run to learn its digest.
options:
  name:
    description:
      - Name of the model with its tag, as users ask for it. Without a tag it is C(latest).
    type: str
    required: true
  state:
    description:
      - V(present), installed with the wanted weights and settings.
      - V(absent), not installed.
      - V(loaded), present and in memory.
      - V(unloaded), not in memory, installed or not.
    type: str
    choices: [present, absent, loaded, unloaded]
    default: present
  source:
    description:
      - Where a model that is not there comes from.
      - V(registry), the server pulls O(name). A model that is there is pulled again only if its weights are not
        O(digest).
      - V(gguf), it is created from the file O(gguf), which is sent to the server.
      - V(model), it is created from the installed model O(from).
    type: str
    choices: [registry, gguf, model]
    default: registry
  gguf:
    description:
      - Path of the GGUF file on the managed host, for O(source=gguf).
      - It need not be there once the server has the weights and O(sha256) is given.
    type: path
  sha256:
    description:
      - The sha256 of O(gguf), 64 hexadecimal digits.
    type: str
  digest:
    description:
      - The sha256 that the weights' layer must have, with or without V(sha256:) before it. A pin, for
        O(source=registry), where the module fails if the registry gives other weights.
      - For O(source=gguf), the weights that the server makes of the file where they may differ from it, see
        O(models_dir).
    type: str
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it, for O(source=gguf).
      - From 0.32 on, Ollama writes a file anew when a model is created from it. One that its own C(llama-quantize) did
        not write comes out with other bytes, and with another digest. With this directory the module puts the file's
        own bytes back, so that what was checked is what is served. Without it, the module fails and names O(digest) as
        the way to accept the server's.
    type: path
  from:
    description:
      - Name of the installed model to create from, for O(source=model). Its settings are inherited.
    type: str
  parameters:
    description:
      - Parameters of the model, such as C(temperature), C(stop) (a list) or C(num_predict). With O(source=registry)
        they are added to those that the registry's model has.
    type: dict
    default: {}
  system:
    description:
      - System message of a created model. Without it, that of O(from), or none.
    type: str
  template:
    description:
      - Prompt template of a created model. Without it the server decides.
    type: str
  context_length:
    description:
      - Tokens of context. Written into a created model as C(num_ctx), and used for loading.
      - Clamped to what the model was trained for, as the server does it.
      - Leave it out where the server's E(OLLAMA_CONTEXT_LENGTH) is to hold. Requests that name no context get
        that one, and another would reload the model.
    type: int
  keep_alive:
    description:
      - How long an idle model stays in memory, seconds or a duration such as V(30m), for O(state=loaded).
        Negative is for ever.
    type: str
    default: "-1"
  registry:
    description:
      - Host, or host and port, of the registry that a model is pulled from in place of Ollama's own, for
        O(source=registry). The model is pulled under that name and copied to O(name).
      - A O(name) that has a registry's host itself is pulled from there.
    type: str
    default: ""
  insecure:
    description:
      - Whether the server may pull from a registry over plain HTTP.
    type: bool
    default: false
seealso:
  - module: onprem.llm.ollama_model_info
  - name: Ollama API
    description: The requests that this module makes.
    link: https://docs.ollama.com/api
"""

EXAMPLES = r"""
- name: Have a model, its weights pinned
  onprem.llm.ollama_model:
    name: qwen3:8b
    digest: sha256:a3de86cd1c132c822487ededd47a324c50491393e6565cd14bafa40d0b8e686f

- name: Create a model from a file and keep it in memory
  onprem.llm.ollama_model:
    name: house-model:1
    source: gguf
    gguf: /srv/models/house-model.gguf
    sha256: "{{ house_model_sha256 }}"
    parameters:
      temperature: 0.3
    state: loaded

- name: Derive a model with a system message
  onprem.llm.ollama_model:
    name: clerk
    source: model
    from: house-model:1
    system: You are a clerk.

- name: Free the memory
  onprem.llm.ollama_model:
    name: clerk
    state: unloaded
"""

RETURN = r"""
model:
  description: The installed model, null where there is none, as after O(state=absent) and for a model that check
    mode did not fetch.
  returned: success
  type: dict
  contains:
    name:
      description: Name with tag.
      type: str
      sample: gemma3:270m
    digest:
      description: Digest of the manifest, as the server lists it.
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
  description: The model in memory, null where it is not.
  returned: success
  type: dict
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
      sample: 275188284
    context_length:
      description: Tokens of context.
      type: int
      sample: 512
    expires_at:
      description: When it leaves memory if nobody asks.
      type: str
      sample: "2319-03-03T02:30:20.333078831Z"
load_duration_seconds:
  description: Seconds that loading took, 0 where nothing was loaded.
  returned: success
  type: float
  sample: 1.2
uploaded_bytes:
  description: Bytes that were sent to the server, 0 where it had the weights.
  returned: success
  type: int
  sample: 253113024
differences:
  description: What was not as wanted, names of parameters, V(weights), V(system), V(template), or V(model) where
    there was none.
  returned: success
  type: list
  elements: str
  sample: [model]
"""

import time
from functools import cached_property

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._catalog import canonical_name, registry_name


class Manager:
    """One run: what is there, what is wanted, and the way between."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.client = api.Client(self.params["api_url"], self.params["timeout"])
        self.name = canonical_name(self.params["name"])
        self.keep_alive = api.keep_alive(self.params["keep_alive"])
        self.pin = api.full_digest(self.params["digest"]) if self.params["digest"] else None
        self.result = {
            "changed": False,
            "differences": [],
            "uploaded_bytes": 0,
            "load_duration_seconds": 0.0,
            "loaded": None,
        }

    def run(self) -> dict:
        state = self.params["state"]
        before = self.client.model(self.name)
        in_memory = self._in_memory(before)
        after, loaded = before, in_memory
        if state == "absent":
            after, loaded = None, None
            if before:
                self.result["changed"] = True
                if not self.module.check_mode:
                    self.client.delete(self.name)
        elif state == "unloaded":
            loaded = None
            if in_memory:
                self.result["changed"] = True
                if not self.module.check_mode:
                    self.client.unload(self.name)
        else:
            after = self.present(before)
            # A model that was created anew is not the one in memory.
            if state == "loaded":
                loaded = self.load(after, None if self.result["changed"] else in_memory)
            else:
                loaded = self._in_memory(after)
        self.result.update(
            model=after.result() if after else None,
            loaded=loaded,
            diff={"before": self._state(before, in_memory), "after": self._intended(after, loaded, before)},
        )
        return self.result

    def _in_memory(self, model):
        """The runner that serves the model. Ollama has one for all models of the same weights, listed under the name
        that was asked for first; to be unloaded, a model must be listed itself."""
        if model is None:
            return None
        running = [api.loaded(item) for item in self.client.running()]
        own = next((item for item in running if item["name"] == self.name), None)
        if own or self.params["state"] == "unloaded":
            return own
        for item in running:
            other = self.client.model(item["name"])
            if other and other.weights_digest == model.weights_digest:
                return item
        return None

    @staticmethod
    def _state(model, in_memory) -> dict:
        if model is None:
            return {"state": "absent"}
        return {
            "state": "loaded" if in_memory else "present",
            "weights_digest": model.weights_digest,
            "parameters": model.parameters,
            "system": model.system,
            "context_length_in_memory": in_memory["context_length"] if in_memory else None,
        }

    def _intended(self, model, in_memory, before) -> dict:
        state = self._state(model, in_memory)
        if not self.module.check_mode or not self.result["changed"] or self.params["state"] in ("absent", "unloaded"):
            return state
        state["state"] = self.params["state"]
        if self.result["differences"]:
            base = self._base()
            if self.params["source"] == "registry":
                state["weights_digest"] = self.pin
            else:
                wanted = self.wanted(base)
                state.update(weights_digest=wanted.weights_digest, parameters=wanted.parameters, system=wanted.system)
        if self.params["state"] == "loaded":
            state["context_length_in_memory"] = self._context(before)
        return state

    def _base(self):
        if self.params["source"] != "model":
            return None
        base = self.client.model(self.params["from"])
        if base is None and not self.module.check_mode:
            raise api.OllamaError(
                "the model {} to create {} from is not installed".format(self.params["from"], self.name)
            )
        return base

    def wanted(self, base) -> api.Wanted:
        """What a created model shall be."""
        parameters = dict(self.params["parameters"])
        if self.params["context_length"]:
            parameters["num_ctx"] = self.params["context_length"]
        system = self.params["system"]
        if self.params["source"] == "model":
            inherited = base.parameters if base else {}
            return api.Wanted(
                weights_digest=base.weights_digest if base else None,
                parameters=dict(inherited, **parameters),
                system=(base.system if base else "") if system is None else system,
                template=self.params["template"],
            )
        return api.Wanted(self.pin or self.file_digest, parameters, system or "", self.params["template"])

    @cached_property
    def file_digest(self) -> str:
        """The sha256 of the GGUF file, as given or as read."""
        if self.params["sha256"]:
            return api.full_digest(self.params["sha256"])
        try:
            return api.file_digest(self.params["gguf"])
        except OSError as error:
            raise api.OllamaError(
                "cannot read {}, and without sha256 nothing says whether {} has its weights: {}".format(
                    self.params["gguf"], self.name, error.strerror
                )
            ) from error

    def present(self, before):
        source = self.params["source"]
        if source == "registry":
            parameters = self.params["parameters"]
            lacking = before is None or (self.pin is not None and before.weights_digest != self.pin)
            if not lacking:
                found = [name for name in sorted(parameters) if before.parameters.get(name) != parameters[name]]
                if not found:
                    return before
                self.result.update(changed=True, differences=found)
                return before if self.module.check_mode else self._with_parameters(before, parameters)
            self.result.update(changed=True, differences=["weights" if before else "model"])
            if self.module.check_mode:
                return before
            origin = registry_name(self.name, self.params["registry"])
            self.client.pull(origin, self.params["insecure"])
            if origin != self.name:
                self.client.copy(origin, self.name)
                self.client.delete(origin)
            after = self._there()
            if self.pin and after.weights_digest != self.pin:
                raise api.OllamaError(
                    f"the registry's {self.name} has the weights {after.weights_digest}, not {self.pin} as digest asks "
                    "for; the tag was re-pointed, or the digest is another layer's"
                )
            lacking = [name for name in parameters if after.parameters.get(name) != parameters[name]]
            return self._with_parameters(after, parameters) if lacking else after
        base = self._base()
        wanted = self.wanted(base)
        found = api.differences(before, wanted) if before else ["model"]
        if not found:
            return before
        self.result.update(changed=True, differences=found)
        if self.module.check_mode:
            return before
        body = {"stream": True}
        if source == "model":
            body["from"] = canonical_name(self.params["from"])
        else:
            self._send(self.file_digest)
            body["files"] = {"model.gguf": self.file_digest}
        if wanted.parameters:
            body["parameters"] = wanted.parameters
        if wanted.system:
            body["system"] = wanted.system
        if wanted.template is not None:
            body["template"] = wanted.template
        self.client.create(self.name, body)
        after = self._there()
        if source == "gguf" and after.weights_digest != wanted.weights_digest:
            after = self._with_own_weights(after, wanted.weights_digest)
        left = api.differences(after, wanted)
        if left:
            raise api.OllamaError(
                "the server created {}, and it still differs from what is wanted in: {}".format(
                    self.name, ", ".join(left)
                )
            )
        return after

    def _with_parameters(self, model, parameters: dict):
        """The pulled model with these parameters, its others kept: the same weights under the same name."""
        body = {"stream": True, "from": self.name, "parameters": dict(model.parameters, **parameters)}
        self.client.create(self.name, body)
        after = self._there()
        if after.weights_digest != model.weights_digest:
            raise api.OllamaError(f"the server gave {self.name} other weights with its parameters")
        return after

    def _with_own_weights(self, model, digest: str):
        """The model with the weights ``digest`` in place of those that the server wrote of the file."""
        if not self.params["models_dir"] or digest != self.file_digest:
            raise api.OllamaError(
                f"the server made the weights {model.weights_digest} of the file, not {digest}: Ollama writes a file "
                "anew that its own llama-quantize did not write. Give models_dir, so that the file's own bytes are put "
                f"back, or accept the server's with digest: {model.weights_digest}"
            )
        try:
            store.put_weights_back(self.params["models_dir"], self.name, model.weights_digest, digest)
        except (store.StoreError, OSError) as error:
            raise api.OllamaError(f"cannot put the file's own weights back: {error}") from error
        return self._there()

    def _send(self, digest: str) -> None:
        if self.client.has_blob(digest):
            return
        try:
            self.result["uploaded_bytes"] = self.client.upload_blob(digest, self.params["gguf"])
        except OSError as error:
            raise api.OllamaError(
                "the server has not the weights {}, and the file {} cannot be read: {}".format(
                    digest, self.params["gguf"], error.strerror
                )
            ) from error

    def _there(self):
        model = self.client.model(self.name)
        if model is None:
            raise api.OllamaError(f"the server reported success, and {self.name} is not installed")
        return model

    def _context(self, model):
        """The context that the server will give, None where it decides."""
        asked = self.params["context_length"]
        trained = model.trained_context_length if model else None
        return min(asked, trained) if asked and trained else asked

    def load(self, model, in_memory):
        context = self._context(model)
        if in_memory:
            right_context = (
                context is None or in_memory["context_length"] is None or in_memory["context_length"] == context
            )
            right_time = api.seconds(self.keep_alive) >= 0 or api.pinned(in_memory["expires_at"], time.time())
            if right_context and right_time and (in_memory["digest"] == model.digest or in_memory["name"] != self.name):
                return in_memory
        self.result["changed"] = True
        if self.module.check_mode:
            return in_memory
        self.result["load_duration_seconds"] = round(self.client.load(model, self.keep_alive, context), 3)
        loaded = self._in_memory(model)
        if loaded is None:
            raise api.OllamaError(f"the server reported {self.name} loaded, and it is not in memory")
        return loaded


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "loaded", "unloaded"], "default": "present"},
            "api_url": {"type": "str", "default": "http://127.0.0.1:11434"},
            "timeout": {"type": "float", "default": 600},
            "source": {"type": "str", "choices": ["registry", "gguf", "model"], "default": "registry"},
            "gguf": {"type": "path"},
            "sha256": {"type": "str"},
            "digest": {"type": "str"},
            "models_dir": {"type": "path"},
            "from": {"type": "str"},
            "parameters": {"type": "dict", "default": {}},
            "system": {"type": "str"},
            "template": {"type": "str"},
            "context_length": {"type": "int"},
            "keep_alive": {"type": "str", "default": "-1"},
            "registry": {"type": "str", "default": ""},
            "insecure": {"type": "bool", "default": False},
        },
        required_if=[("source", "gguf", ["gguf"]), ("source", "model", ["from"])],
        supports_check_mode=True,
    )
    if module.params["context_length"] is not None and module.params["context_length"] < 1:
        module.fail_json(
            msg="context_length is {}; a number of tokens above 0 is needed".format(module.params["context_length"])
        )
    try:
        manager = Manager(module)
        module.exit_json(**manager.run())
    except (api.OllamaError, ValueError) as error:
        module.fail_json(msg="{}: {}".format(module.params["name"], error))


if __name__ == "__main__":
    main()
