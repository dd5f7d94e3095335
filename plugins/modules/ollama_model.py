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
  - Transfers a model's files into the server's models directory, and creates, loads, unloads and deletes models
    through Ollama's own API, on the host that the server runs on. The server itself pulls nothing and needs no way out.
  - A transfer asks a registry, or several in order, with its login, the proxy and the authorities of the host. It goes
    by ranges in parallel, is journalled and goes on where it was cut off, and a file is put in place when its sha256
    is right, the manifest last.
  - A model is known by the sha256 of its weights' layer (GGUF file), not by its tag, which may be re-pointed, and
    not by the digest of its manifest, which
    differs between a pulled and a created model of the same weights.
  - Errors that the server reports inside a successful answer's stream are errors.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.action
  - onprem.llm.attributes.ollama
  - onprem.llm.transfer
  - onprem.llm.transfer.turns
  - onprem.llm.transfer.proxy
attributes:
  check_mode:
    support: full
    details:
      - The registry is asked for the manifest, which says what would be transferred.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(source=gguf) and without O(sha256) the file is read at every run to learn its digest.
  action:
    details:
      - It calls the module again and again while there is something to transfer or to read, and prints a line each
        time.
  async:
    description: Supports being used with the C(async) keyword.
    support: none
    details:
      - A transfer outlives no play. What one has brought is gone on from by the next.
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
      - V(registry), O(name) is transferred from a registry. A model that is there is transferred again only if its
        weights are not O(digest), if a file of it is missing, or by O(update) and O(verify).
      - V(gguf), it is created from the file O(gguf) or O(url), which becomes a blob of the server's store first.
      - V(model), it is created from the installed model O(from).
      - V(modelfile), it is created as the Modelfile O(modelfile) says.
    type: str
    choices: [registry, gguf, model, modelfile]
    default: registry
  gguf:
    description:
      - Path of the GGUF file on the managed host, for O(source=gguf).
      - It need not be there once the server has the weights and O(sha256) is given.
      - Where anybody may read it and it is on the file system of O(models_dir) it is linked, and takes no room twice.
        Else it is copied.
    type: path
  url:
    description:
      - Address of the GGUF file in place of O(gguf), for O(source=gguf), with O(sha256). It is transferred as a
        registry's file is.
      - A file of a mirror, C(/v2/onprem-llm/files/blobs/sha256:...), is asked for with what O(origins) has for that
        one, and where it does not give it, of the mirrors after it.
    type: str
  fallback_url:
    description:
      - Address of the same file that is asked when O(url) does not give it, nor any mirror of O(origins) after it.
    type: str
  sha256:
    description:
      - The sha256 of O(gguf) or O(url), 64 hexadecimal digits.
    type: str
  digest:
    description:
      - The sha256 that the weights' layer must have, with or without V(sha256:) before it. A pin, for
        O(source=registry). Where the registry's tag has other weights, the module fails and names both digests, before
        anything is transferred.
      - For O(source=gguf), the weights that the server makes of the file where they may differ from it, see
        O(models_dir).
    type: str
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it. Needed for O(source=registry) and
        O(source=gguf). What is put into it belongs to its owner.
      - From 0.32 on, Ollama writes a file anew when a model is created from it. One that its own C(llama-quantize) did
        not write comes out with other bytes, and with another digest. The module puts the file's own bytes back, so
        that what was checked is what is served.
    type: path
  staging_dir:
    description:
      - Where transfers are kept until they are whole, on the file system of O(models_dir) and outside of it. It is made
        for the module's user alone. Without it, C(staging) beside O(models_dir).
    type: path
  origins:
    description:
      - Registries to ask in order, in place of the one of O(name) itself, for O(source=registry). The first that has
        the model gives its manifest, and it and those after it the files.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description:
          - Its address, such as V(https://mirror.example.com:8444). Without a scheme it is HTTPS.
        type: str
        required: true
      kind:
        description:
          - V(registry) has a model under the path of its name. A O(name) that has a registry's host itself is asked for
            there.
          - V(mirror) has the models of any registry, under paths of their own.
        type: str
        choices: [registry, mirror]
        default: registry
      ca_path:
        description:
          - File on the managed host with the authorities to trust, in place of the host's.
        type: path
      client_cert:
        description:
          - File on the managed host with the certificate to show.
        type: path
      client_key:
        description:
          - File on the managed host with its key.
        type: path
      username:
        description:
          - User to log in as.
        type: str
      password:
        description:
          - The password.
        type: str
  update:
    description:
      - Whether weights that the registry's tag has now are taken, whatever is installed and whatever O(digest) says.
        The registry is asked at every run.
    type: bool
    default: false
  verify:
    description:
      - Whether every file of an installed model is read and held against its name. A damaged one is transferred again,
        and the model stays in place until the new one is whole.
    type: bool
    default: false
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
      - Of models with the same weights and other adapters, or none, Ollama keeps one in memory. A request to another
        loads that in its place.
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
    models_dir: /var/lib/onprem-llm/ollama/models

- name: Have it from the site's own registry, and read every file of it
  onprem.llm.ollama_model:
    name: qwen3:8b
    models_dir: /var/lib/onprem-llm/ollama/models
    verify: true
    origins:
      - url: https://models.example.com
        username: fleet
        password: "{{ vault_models_password }}"

- name: Create a model from a file and keep it in memory
  onprem.llm.ollama_model:
    name: house-model:1
    source: gguf
    gguf: /srv/models/house-model.gguf
    sha256: "{{ house_model_sha256 }}"
    models_dir: /var/lib/onprem-llm/ollama/models
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
transfer:
  description: What was transferred, or would be in check mode. Null where nothing was to be.
  returned: success
  type: dict
  contains:
    total_bytes:
      description: Size of the files that lacked or were damaged.
      type: int
      sample: 253113024
    held_bytes:
      description: Bytes of them that an earlier transfer left.
      type: int
      sample: 0
    fetched_bytes:
      description: Bytes that came.
      type: int
      sample: 253113024
    free_bytes:
      description: Free bytes of the file system before.
      type: int
      sample: 85899345920
    seconds:
      description: Seconds that it took.
      type: float
      sample: 7.9
    origin:
      description: Host that it came from.
      type: str
      sample: registry.ollama.ai
pending:
  description: Where the work stands that is not done, null where it is. The action plugin returns null.
  returned: success
  type: dict
  contains:
    phase:
      description: V(announced), V(transfer), V(verify), or what is waited for.
      type: str
      sample: transfer
    done_bytes:
      description: Bytes that are done.
      type: int
      sample: 104857600
    total_bytes:
      description: Bytes in all, 0 where they are not known yet.
      type: int
      sample: 253113024
    resume:
      description: What the next call takes as O(resume).
      type: dict
      sample: {verified: [], damaged: {}, reading: []}
differences:
  description: What was not as wanted, names of parameters, V(weights), V(system), V(template), V(license),
    V(messages), V(adapters), V(renderer), V(parser), V(requires), V(blobs) where files were damaged or missing, or
    V(model) where there was none.
  returned: success
  type: list
  elements: str
  sample: [model]
"""

import os
import time
from functools import cached_property

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import (
    _digest,
    _model_name,
    _modelfile,
    _ollama_pull,
    _transfer_options,
    _turn,
)
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_create as create
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name

# What is said of a created model field by field, and by a Modelfile at once.
SHOWN = ("license_sha256", "messages", "adapters", "renderer", "parser", "requires")
FIELDS = ["system", "template", "license", "messages", "adapters", "renderer", "parser", "requires"]
# A server that is started anew while a model is brought in is waited for so long.
RESTART_SECONDS = 60
SOURCE_OPTIONS = {
    "url": {"type": "str"},
    "fallback_url": {"type": "str"},
    "staging_dir": {"type": "path"},
    "origins": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "url": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["registry", "mirror"], "default": "registry"},
            "ca_path": {"type": "path"},
            "client_cert": {"type": "path"},
            "client_key": {"type": "path"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
    },
    "update": {"type": "bool", "default": False},
    "verify": {"type": "bool", "default": False},
}


class Manager:
    """One run: what is there, what is wanted, and the way between."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        _model_name.parts(self.params["name"])
        self.client = api.Client(self.params["api_url"], self.params["timeout"])
        self.name = local_name(self.params["name"])
        self.keep_alive = api.keep_alive(self.params["keep_alive"])
        self.pin = _digest.parse(self.params["digest"]) if self.params["digest"] else None
        self.parameters = _modelfile.parameters(self.params["parameters"])
        self.source, self.origin, self.gguf = self.params["source"], self.params["from"], self.params["gguf"]
        self.adapter, self.content = None, None
        if self.source == "modelfile":
            self._read_modelfile()
        elif self.params["adapters"]:
            self.adapter = self.params["adapters"][0]
        if self.source == "model":
            _model_name.parts(self.origin)
        self.offered: dict = {}
        self.result = {
            "changed": False,
            "differences": [],
            "load_duration_seconds": 0.0,
            "loaded": None,
            "transfer": None,
            "pending": None,
        }

    @cached_property
    def files(self) -> _ollama_pull.Files:
        """The model in the server's directory, and how what lacks of it comes."""
        if not self.params["models_dir"]:
            raise api.OllamaError("models_dir is needed, the server's models directory on this host")
        staging = self.params["staging_dir"] or os.path.join(os.path.dirname(self.params["models_dir"]), "staging")
        turn = _turn.Turn(_transfer_options.limits(self.params), self.params["announce"])
        return _ollama_pull.Files(
            store.Store(self.params["models_dir"]), staging, self.name, turn, self.params["resume"]
        )

    def run(self) -> dict:
        try:
            return self._run()
        except _turn.Pending as pending:
            # What is served stays as it is until everything is here.
            left = pending.result(self.files.resume())
            return dict(self.result, changed=True, pending=left, model=None, transfer=self.transferred())

    def transferred(self):
        """What was transferred so far, or None."""
        account = self.__dict__["files"].turn.account if "files" in self.__dict__ else None
        return account.result() if account and account.origin else None

    def _run(self) -> dict:
        state = self.params["state"]
        if self.params["resume"]:
            self.client.wait(RESTART_SECONDS)
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
            # A model that was created anew is not the one in memory, and one in memory was read from the damaged files.
            if state == "loaded" and in_memory and "blobs" in self.result["differences"] and not self.module.check_mode:
                self.client.unload(in_memory["name"])
            if state == "loaded":
                loaded = self.load(after, None if self.result["changed"] else in_memory)
            else:
                loaded = self._in_memory(after)
        self.result.update(
            model=after.result() if after else None,
            loaded=loaded,
            transfer=self.transferred(),
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
        """The runner that serves the model. Ollama has one for all models of the same weights and adapters, listed
        under the name that was asked for first; to be unloaded, a model must be listed itself."""
        if model is None:
            return None
        running = [api.loaded(item) for item in self.client.running()]
        own = next((item for item in running if item["name"] == self.name), None)
        if own or self.params["state"] == "unloaded":
            return own
        for item in running:
            other = self.client.model(item["name"])
            if other and api.same_files(other, model):
                return item
        return None

    @staticmethod
    def _state(model, in_memory) -> dict:
        if model is None:
            return {"state": "absent"}
        return {
            "state": "loaded" if in_memory else "present",
            "manifest_digest": model.digest,
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
                state.update(self.offered)
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
            return _digest.parse(sha256)
        try:
            # Only who has a directory for the model can be called again in the middle.
            return self.files.digest(path) if self.params["models_dir"] else _digest.of_file(path)
        except OSError as error:
            raise api.OllamaError(
                f"cannot read {path}, and without sha256 nothing says whether {self.name} has what is in it: "
                f"{error.strerror}"
            ) from error

    def present(self, before):
        if self.source == "registry":
            return self._from_registry(before)
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
        faulty = self.files.faulty(True) if before and self.params["verify"] else set()
        if faulty and self.source == "model":
            raise api.OllamaError(
                "these of its files are damaged: {}. Have {} mended, which it was made of, and make this anew".format(
                    ", ".join(sorted(faulty)), self.origin
                )
            )
        if faulty:
            found.append("blobs")
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
            self._bring_file(self.file_digest, self.gguf, self.params["url"])
            body["files"] = {"model.gguf": self.file_digest}
        if self.adapter:
            self._bring_file(self.fields.adapter, self.adapter["path"])
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

    def _from_registry(self, before):
        """The model with the weights that the registry has, transferred where they lack."""
        parameters = self.parameters
        # A model that is there can be loaded from anywhere; its files are looked at where they are in reach.
        seen = before and (self.params["models_dir"] or self.params["verify"])
        faulty = self.files.faulty(self.params["verify"]) if seen else set()
        other = before is None or (self.pin is not None and before.weights_digest != self.pin)
        found = []
        if other or faulty or self.params["update"]:
            asked = _ollama_pull.sources(self.params["name"], self.params["origins"], self.params["stall_timeout"])
            offer = _ollama_pull.offer(asked, self.files.turn.limits)
            self._check_offer(offer, before)
            if before is None:
                found = ["model"]
            elif before.weights_digest != offer.weights_digest:
                found = ["weights"]
            elif faulty:
                found = ["blobs"]
        if found:
            self.result.update(changed=True, differences=found)
            if self.module.check_mode:
                self.files.foresee(offer, faulty)
                self.offered = {"weights_digest": offer.weights_digest, "manifest_digest": offer.digest}
                return before
            self.files.install(offer, faulty)
            self.client.wait(RESTART_SECONDS)
            before = self._there()
            if before.weights_digest != offer.weights_digest:
                raise api.OllamaError(
                    f"{offer.weights_digest} was put into {self.files.store.path}, and the server has the weights "
                    f"{before.weights_digest}; is it the server's models directory?"
                )
        lacking = self._lacking(before, parameters)
        if not lacking:
            return before
        self.result.update(changed=True, differences=found or lacking)
        if self.module.check_mode:
            self.offered = {"parameters": dict(before.parameters, **parameters), "manifest_digest": None}
            return before
        return self._with_parameters(before, parameters)

    def _check_offer(self, offer, before) -> None:
        """What the registry has is what is wanted, or was before anything was damaged."""
        if self.params["update"]:
            return
        wanted = self.pin or (before.weights_digest if before else None)
        if wanted and offer.weights_digest != wanted:
            raise api.OllamaError(
                "the tag was re-pointed: {} has the weights {} at {}, not {} as {}. Give the digest that is wanted, or "
                "update: true to take what the registry has".format(
                    self.name, offer.weights_digest, offer.sources[0].host, wanted,
                    "digest asks for" if self.pin else "those that are installed and damaged",
                )
            )  # fmt: skip

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

    def _bring_file(self, digest: str, path, url=None) -> None:
        """Have the file's bytes as a blob that the server sees."""
        files = self.files
        if not files.store.has(digest) or digest in files.damaged:
            try:
                files.take(digest, path, url, self.params["origins"], self.params["fallback_url"])
            except OSError as error:
                raise api.OllamaError(
                    f"the server has not the file of {digest}, and {path or url} cannot be read: {error.strerror}"
                ) from error
            self.client.wait(RESTART_SECONDS)
        if not self.client.has_blob(digest):
            raise api.OllamaError(
                f"{digest} was put into {files.store.path}, and the server does not see it; is it the server's models "
                "directory?"
            )

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
            **SOURCE_OPTIONS,
            **_transfer_options.TRANSFER,
            **_transfer_options.TURNS,
            **_transfer_options.PROXY,
        },
        required_if=[
            ("source", "gguf", ["gguf", "url"], True),
            ("source", "model", ["from"]),
            ("source", "modelfile", ["modelfile"]),
        ],
        required_by={"url": ["sha256"], "fallback_url": ["url"]},
        mutually_exclusive=[
            ("gguf", "url"),
            *(("modelfile", name) for name in [*FIELDS, "from", "gguf", "url", "context_length"]),
        ],
        supports_check_mode=True,
    )
    try:
        _transfer_options.check(module.params)
        _transfer_options.check(module.params, {"context_length": 1})
    except ValueError as error:
        module.fail_json(msg=str(error))
    given = [name for name in FIELDS if module.params[name] is not None]
    if module.params["source"] == "registry" and given:
        module.fail_json(msg="{} is of a created model; source is registry".format(", ".join(given)))
    if module.params["modelfile"] is not None and (
        module.params["source"] != "modelfile" or module.params["parameters"]
    ):
        module.fail_json(msg="modelfile needs source=modelfile, and holds the parameters itself")
    if len(module.params["adapters"] or ()) > 1:
        module.fail_json(msg="adapters has {}; Ollama takes one".format(len(module.params["adapters"])))
    module.no_log_values.update(_transfer_options.use_proxy(module.params))
    manager = None
    try:
        manager = Manager(module)
        module.exit_json(**manager.run())
    except (api.OllamaError, _ollama_pull.PullError, store.StoreError, OSError, ValueError) as error:
        module.fail_json(
            msg="{}: {}".format(module.params["name"][:200], error), transfer=manager.transferred() if manager else None
        )


if __name__ == "__main__":
    main()
