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
      - V(modelfile), it is created as the Modelfile O(modelfile) says.
    type: str
    choices: [registry, gguf, model, modelfile]
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
  modelfile:
    description:
      - The text of a Modelfile, for O(source=modelfile), read by Ollama's own grammar. It is exclusive with the options
        that say the same field by field.
      - C(FROM) names an installed model, or the absolute path of a GGUF file on the managed host, which O(sha256)
        counts for. C(ADAPTER) is an absolute path there, too. C(DRAFT) is refused.
      - A C(SYSTEM) or C(TEMPLATE) that is empty takes the base's away, as O(system) does. Ollama's own client would
        leave it.
      - Ansible takes C({{ .Prompt }}) for an expression of its own. Read the text from a file by a lookup, or mark it
        C(!unsafe).
    type: str
  parameters:
    description:
      - Parameters of the model, such as C(temperature), C(stop) (a list) or C(num_predict). With O(source=registry)
        they are added to those that the registry's model has.
      - V(null) takes a parameter of O(from) away. Names and types are those of Ollama's API; others are errors.
    type: dict
    default: {}
  system:
    description:
      - System message of a created model. Without it, that of O(from), or none. Empty takes that of O(from) away, which
        needs O(models_dir), as the server's API cannot.
      - Whoever may ask the server for a model's description sees it, and so do this module's result and diff. It is no
        place for secrets. C(no_log) on the task keeps it out of Ansible's output.
    type: str
  template:
    description:
      - Prompt template of a created model. Without it the server decides. Empty takes that of O(from) away, which needs
        O(models_dir).
    type: str
  license:
    description:
      - Texts of licences of a created model. They come after those of O(from), which stay.
    type: list
    elements: str
  messages:
    description:
      - Messages that each conversation with a created model begins with, in place of those of O(from). An empty list
        takes those away, which needs O(models_dir).
    type: list
    elements: dict
    suboptions:
      role:
        description: Who says it.
        type: str
        required: true
        choices: [system, user, assistant]
      content:
        description: What is said.
        type: str
        required: true
  adapters:
    description:
      - A LoRA adapter of a created model, after those of O(from). Ollama takes one.
      - A model with an adapter is loaded beside the one without it, and takes memory of its own.
    type: list
    elements: dict
    suboptions:
      path:
        description:
          - GGUF file on the managed host. It need not be there once the server has it and C(sha256) is given.
        type: path
        required: true
      sha256:
        description: The sha256 of the file, 64 hexadecimal digits.
        type: str
  renderer:
    description:
      - Name of the engine's renderer that builds the prompts of a created model. Without it, that of O(from), or what
        the server decides.
    type: str
  parser:
    description:
      - Name of the engine's parser that reads the answers of a created model. Without it, that of O(from), or what the
        server decides.
    type: str
  requires:
    description:
      - The least version of Ollama that a created model needs. Without it, that of O(from).
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

- name: Make a model of a Modelfile that lies on the controller
  onprem.llm.ollama_model:
    name: company-assistant
    source: modelfile
    modelfile: "{{ lookup('ansible.builtin.file', 'company-assistant.Modelfile', rstrip=false) }}"

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
    messages:
      description: Messages that each conversation begins with.
      type: list
      elements: dict
      sample: [{role: user, content: Hello}]
    license_sha256:
      description: The sha256 of its licences, one after the other by newlines, empty where it has none.
      type: str
      sample: ""
    adapters:
      description: Digests of its adapters.
      type: list
      elements: str
      sample: []
    renderer:
      description: The engine's renderer that builds its prompts, where it has one.
      type: str
      sample: ""
    parser:
      description: The engine's parser that reads its answers, where it has one.
      type: str
      sample: ""
    requires:
      description: The least version of Ollama that it needs, where it says so.
      type: str
      sample: ""
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
  description: What was not as wanted, names of parameters, V(weights), V(system), V(template), V(license),
    V(messages), V(adapters), V(renderer), V(parser), V(requires), or V(model) where there was none.
  returned: success
  type: list
  elements: str
  sample: [model]
"""

import time
from functools import cached_property

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _modelfile
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_create as create
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name, registry_name

# What is said of a created model field by field, and by a Modelfile at once.
SHOWN = ("license_sha256", "messages", "adapters", "renderer", "parser", "requires")
FIELDS = ["system", "template", "license", "messages", "adapters", "renderer", "parser", "requires"]


class Manager:
    """One run: what is there, what is wanted, and the way between."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.client = api.Client(self.params["api_url"], self.params["timeout"])
        self.name = local_name(self.params["name"])
        store.manifest_path("", self.name)
        self.keep_alive = api.keep_alive(self.params["keep_alive"])
        self.pin = api.full_digest(self.params["digest"]) if self.params["digest"] else None
        self.parameters = _modelfile.parameters(self.params["parameters"])
        self.source, self.origin, self.gguf = self.params["source"], self.params["from"], self.params["gguf"]
        self.adapter, self.content = None, None
        if self.source == "modelfile":
            self._read_modelfile()
        elif self.params["adapters"]:
            self.adapter = self.params["adapters"][0]
        if self.source == "model":
            store.manifest_path("", self.origin)
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

    def _read_modelfile(self) -> None:
        """Let the Modelfile say the source and, with :attr:`fields`, all that lies over it."""
        try:
            self.content = _modelfile.content(_modelfile.parse(self.params["modelfile"]))
        except _modelfile.ModelfileError as error:
            raise ValueError(f"modelfile: {error}") from error
        for note in self.content.notes:
            self.module.warn("{}: {}".format(self.params["name"], note))
        if self.content.drafts:
            raise ValueError("modelfile: DRAFT is not supported; its memory would be in no plan")
        self.source, self.origin = "model", self.content.origin
        if create.is_path(self.origin):
            self.source, self.gguf = "gguf", self.origin
        for word, path in [("FROM", self.gguf), *(("ADAPTER", path) for path in self.content.adapters)]:
            if path and not path.startswith("/"):
                raise ValueError(f"modelfile: {word} is {path}; the absolute path on the managed host is needed")
        if self.content.adapters:
            self.adapter = {"path": self.content.adapters[0], "sha256": None}

    @cached_property
    def fields(self) -> create.Fields:
        """What lies over the weights of a created model."""
        adapter = self._digest(self.adapter["path"], self.adapter["sha256"]) if self.adapter else None
        if self.content:
            return create.of_modelfile(self.content, adapter)
        parameters, given = dict(self.parameters), self.params
        if given["context_length"]:
            parameters["num_ctx"] = given["context_length"]
        messages = given["messages"]
        return create.Fields(
            parameters=parameters,
            system=given["system"],
            template=given["template"],
            license=tuple(given["license"] or ()),
            messages=None if messages is None else tuple(_modelfile.Message(**item) for item in messages),
            adapter=adapter,
            renderer=given["renderer"],
            parser=given["parser"],
            requires=given["requires"] and _modelfile.version(given["requires"]),
        )

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
            **{name: value for name, value in model.result().items() if name in SHOWN and value},
            "context_length_in_memory": in_memory["context_length"] if in_memory else None,
        }

    def _intended(self, model, in_memory, before) -> dict:
        state = self._state(model, in_memory)
        if not self.module.check_mode or not self.result["changed"] or self.params["state"] in ("absent", "unloaded"):
            return state
        state["state"] = self.params["state"]
        if self.result["differences"]:
            base = self._base()
            if self.source == "registry":
                state["weights_digest"] = self.pin
            else:
                wanted = self.wanted(base).result()
                for name in SHOWN:
                    state.pop(name, None)
                state.update((name, value) for name, value in wanted.items() if name in SHOWN and value)
                state.update((name, wanted.get(name)) for name in ("weights_digest", "parameters", "system"))
        state.setdefault("context_length_in_memory", None)
        if self.params["state"] == "loaded":
            state["context_length_in_memory"] = self._context(before)
        return state

    def _base(self):
        if self.source != "model":
            return None
        base = self.client.model(self.origin)
        if base is None and not self.module.check_mode:
            raise api.OllamaError(f"the model {self.origin} to create {self.name} from is not installed")
        return base

    def wanted(self, base) -> api.Wanted:
        """What a created model shall be."""
        if self.source == "model":
            return self.fields.wanted(base.weights_digest if base else None, base)
        return self.fields.wanted(self.pin or self.file_digest)

    @cached_property
    def file_digest(self) -> str:
        """The sha256 of the GGUF file, as given or as read."""
        return self._digest(self.gguf, self.params["sha256"])

    def _digest(self, path: str, sha256: str) -> str:
        if sha256:
            return api.full_digest(sha256)
        try:
            return api.file_digest(path)
        except OSError as error:
            raise api.OllamaError(
                f"cannot read {path}, and without sha256 nothing says whether {self.name} has what is in it: "
                f"{error.strerror}"
            ) from error

    def present(self, before):
        if self.source == "registry":
            parameters = self.parameters
            lacking = before is None or (self.pin is not None and before.weights_digest != self.pin)
            if not lacking:
                found = self._lacking(before, parameters)
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
            return self._with_parameters(after, parameters) if self._lacking(after, parameters) else after
        return self._created(before)

    @staticmethod
    def _lacking(model, parameters: dict) -> list:
        """The parameters that are not as wanted."""
        return [
            name for name, value in sorted(parameters.items()) if not api.same_value(model.parameters.get(name), value)
        ]

    def _created(self, before):
        """The model as it is created from a file or from another model."""
        base = self._base()
        wanted = self.wanted(base)
        found = api.differences(before, wanted) if before else ["model"]
        if not found:
            return before
        self.result.update(changed=True, differences=found)
        if self.module.check_mode:
            return before
        self._need_directory(self.fields.emptied(base))
        body = {"stream": True, **self.fields.request(base)}
        if self.source == "model":
            body["from"] = local_name(self.origin)
        else:
            self._send(self.file_digest, self.gguf)
            body["files"] = {"model.gguf": self.file_digest}
        if self.adapter:
            self._send(self.fields.adapter, self.adapter["path"])
        self.client.create(self.name, body)
        after = self._there()
        if self.source == "gguf" and after.weights_digest != wanted.weights_digest:
            after = self._with_own_weights(after, wanted.weights_digest)
        emptied = self.fields.emptied(after)
        if emptied:
            self._need_directory(emptied)
            try:
                store.drop_layers(self.params["models_dir"], self.name, emptied)
            except (store.StoreError, OSError) as error:
                raise api.OllamaError(f"cannot take {', '.join(emptied)} away: {error}") from error
            after = self._there()
        left = api.differences(after, wanted)
        if left:
            raise api.OllamaError(
                "the server created {}, and it still differs from what is wanted in: {}".format(
                    self.name, ", ".join(left)
                )
            )
        return after

    def _need_directory(self, emptied) -> None:
        if emptied and not self.params["models_dir"]:
            words = ", ".join(media_type.rsplit(".", 1)[-1] for media_type in emptied)
            raise api.OllamaError(
                f"{words} shall be empty, and the server's API leaves what {self.origin or self.gguf} has; give "
                "models_dir, so that it is taken out of the model's manifest"
            )

    def _with_parameters(self, model, parameters: dict):
        """The pulled model with these parameters, its others kept: the same weights under the same name."""
        # The server itself adds those that the model has; as /api/show prints them, a list of one is no list any more.
        body = {"stream": True, "from": self.name, "parameters": parameters}
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

    def _send(self, digest: str, path: str) -> None:
        if self.client.has_blob(digest):
            return
        try:
            self.result["uploaded_bytes"] += self.client.upload_blob(digest, path)
        except OSError as error:
            raise api.OllamaError(
                f"the server has not the file of {digest}, and {path} cannot be read: {error.strerror}"
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
            "source": {"type": "str", "choices": ["registry", "gguf", "model", "modelfile"], "default": "registry"},
            "gguf": {"type": "path"},
            "sha256": {"type": "str"},
            "digest": {"type": "str"},
            "models_dir": {"type": "path"},
            "from": {"type": "str"},
            "modelfile": {"type": "str"},
            "license": {"type": "list", "elements": "str"},
            "messages": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "role": {"type": "str", "required": True, "choices": ["system", "user", "assistant"]},
                    "content": {"type": "str", "required": True},
                },
            },
            "adapters": {
                "type": "list",
                "elements": "dict",
                "options": {"path": {"type": "path", "required": True}, "sha256": {"type": "str"}},
            },
            "renderer": {"type": "str"},
            "parser": {"type": "str"},
            "requires": {"type": "str"},
            "parameters": {"type": "dict", "default": {}},
            "system": {"type": "str"},
            "template": {"type": "str"},
            "context_length": {"type": "int"},
            "keep_alive": {"type": "str", "default": "-1"},
            "registry": {"type": "str", "default": ""},
            "insecure": {"type": "bool", "default": False},
        },
        required_if=[
            ("source", "gguf", ["gguf"]),
            ("source", "model", ["from"]),
            ("source", "modelfile", ["modelfile"]),
        ],
        mutually_exclusive=[("modelfile", name) for name in [*FIELDS, "from", "gguf", "context_length"]],
        supports_check_mode=True,
    )
    if module.params["context_length"] is not None and module.params["context_length"] < 1:
        module.fail_json(
            msg="context_length is {}; a number of tokens above 0 is needed".format(module.params["context_length"])
        )
    given = [name for name in FIELDS if module.params[name] is not None]
    if module.params["source"] == "registry" and given:
        module.fail_json(msg="{} is of a created model; source is registry".format(", ".join(given)))
    if module.params["modelfile"] is not None and (
        module.params["source"] != "modelfile" or module.params["parameters"]
    ):
        module.fail_json(msg="modelfile needs source=modelfile, and holds the parameters itself")
    if len(module.params["adapters"] or ()) > 1:
        module.fail_json(msg="adapters has {}; Ollama takes one".format(len(module.params["adapters"])))
    try:
        manager = Manager(module)
        module.exit_json(**manager.run())
    except (api.OllamaError, store.StoreError, ValueError) as error:
        module.fail_json(msg="{}: {}".format(module.params["name"], error))


if __name__ == "__main__":
    main()
