#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_header
short_description: Read the headers of models from their registry, without downloading them
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Asks the registry for a model's manifest, and for the beginning of its weights, a few MiB that hold the whole GGUF
    header. With it, M(onprem.llm.model_select) accounts for the model exactly before anything is downloaded.
  - Keeps each header on this machine under the digest of its weights, of token lists their length alone. A kept header
    of pinned weights needs no network.
  - A registry that is not reached is told once, and the entries stay as they are, unless O(required).
  - A model that the registry does not have, or that has no GGUF weights, is an error, unless its weights are pinned or
    were read before.
  - The digest of the whole cannot be held against its beginning. The weights themselves are checked when they are
    pulled.
  - Meant to run on the controller (C(delegate_to) V(localhost)). Proxies and authorities are those of the environment
    (C(HTTPS_PROXY), C(SSL_CERT_FILE)).
extends_documentation_fragment:
  - onprem.llm.attributes
options:
  catalog:
    description:
      - Entries as in O(onprem.llm.model_select#module:catalog). An entry whose source names a digest gets the header of
        those weights, whatever its tag names by now, which is told.
    type: list
    elements: dict
    default: []
  models:
    description:
      - Names of the models whose headers are wanted. One that is not in O(catalog) gets an entry from what the registry
        has. One that has a file of its own on this machine or on a managed host is passed over; of a file at a
        web server the beginning is read.
    type: list
    elements: str
    required: true
  files:
    description:
      - What M(onprem.llm.gguf_header) read on a managed host, to be kept as well.
    type: list
    elements: dict
    default: []
  library:
    description:
      - The public library's tags as in O(onprem.llm.model_select#module:library), for the name that was probably meant.
    type: dict
  registry:
    description:
      - Host, or host and port, of the registry that is asked in place of V(registry.ollama.ai). A name with a registry
        of its own keeps it. With V(http://) before it, it is asked without TLS.
    type: str
    default: ""
  cache_dir:
    description:
      - Directory that keeps the headers. It is made where it is not there.
    type: path
    default: ~/.cache/onprem-llm/headers
  required:
    description:
      - Whether it is an error that a header cannot be read.
    type: bool
    default: false
  timeout:
    description:
      - Seconds after which a registry that has not answered for a manifest, or that is silent, counts as not reached.
    type: float
    default: 5
  time_limit:
    description:
      - Seconds for all requests together.
    type: float
    default: 120
  ca_path:
    description:
      - File with the authorities that are trusted, in place of the system's.
    type: path
  username:
    description:
      - User to log in to O(registry) as. No other registry, which a model's name may have, is told.
    type: str
  password:
    description:
      - The password.
    type: str
attributes:
  check_mode:
    support: full
    details:
      - The registry is read, and nothing is kept. RV(entries) has only headers that were kept before.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - Unless a tag names other weights than before.
seealso:
  - module: onprem.llm.model_select
"""

EXAMPLES = r"""
- name: Read the headers of two models
  onprem.llm.model_header:
    models: [qwen3:8b, bge-m3:567m]
    catalog: "{{ catalog }}"
  delegate_to: localhost
  run_once: true
  register: headers

- name: Choose by them
  onprem.llm.model_select:
    gpu_names: [RTX 4090]
    engine_version: 0.32.15
    gpu_table: "{{ gpu_table }}"
    catalog: "{{ catalog + headers.entries }}"
    workloads:
      - name: chat
        models: [qwen3:8b]
  delegate_to: localhost
"""

RETURN = r"""
entries:
  description: Entries of the catalog with C(header) and the exact C(size_bytes), to come after those of O(catalog).
  returned: success
  type: list
  elements: dict
  sample:
    - name: qwen3:8b
      source:
        type: registry
        digest: sha256:a3de86cd1c132c822487ededd47a324c50491393e6565cd14bafa40d0b8e686f
      size_bytes: 5225374496
      header: /var/cache/headers/sha256-a3de...-5225374496.gguf
headers:
  description:
    - What is known of each model, C(size_bytes) of the whole weights; C(projectors) are the layers of a vision model
      beside its weights, where the manifest was read.
  returned: success
  type: list
  elements: dict
  sample:
    - name: qwen3:8b
      digest: sha256:a3de86cd1c132c822487ededd47a324c50491393e6565cd14bafa40d0b8e686f
      size_bytes: 5225374496
      path: /var/cache/headers/sha256-a3de...-5225374496.gguf
      architecture: qwen3
      quantization: Q4_K_M
      projectors: []
told:
  description: What is otherwise than the catalog says, and which headers could not be read. Also given as warnings.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _headers, _registry, _repository


class KnownTo:
    """A client whose login is for one host, and another for all others: models may name a registry themselves."""

    def __init__(self, host: str, own: _registry.Client, others: _registry.Client) -> None:
        self._host, self._own, self._others = host, own, others

    def _of(self, name: _repository.Name) -> _registry.Client:
        return self._own if name.host == self._host else self._others

    def manifest(self, name: _repository.Name) -> bytes:
        return self._of(name).manifest(name)

    def blob(self, name: _repository.Name, *arguments) -> _registry.Blob:
        return self._of(name).blob(name, *arguments)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "catalog": {"type": "list", "elements": "dict", "default": []},
            "models": {"type": "list", "elements": "str", "required": True},
            "files": {"type": "list", "elements": "dict", "default": []},
            "library": {"type": "dict"},
            "registry": {"type": "str", "default": ""},
            "cache_dir": {"type": "path", "default": "~/.cache/onprem-llm/headers"},
            "required": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 5},
            "time_limit": {"type": "float", "default": 120},
            "ca_path": {"type": "path"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    for name in ("timeout", "time_limit"):
        if not 0 < given[name] <= 86400:
            module.fail_json(msg=f"{name} is {given[name]:g}; seconds above 0 and up to 86400 are needed")
    cache = _headers.Cache(given["cache_dir"], module.check_mode)
    login = (given["username"], given["password"] or "") if given["username"] and given["registry"] else None
    try:
        client = _registry.Client(given["timeout"], given["time_limit"], given["ca_path"])
        if login:
            own = _registry.Client(given["timeout"], given["time_limit"], given["ca_path"], login=login)
            client = KnownTo(_repository.parse_address(given["registry"])[1], own, client)
        reader = _headers.Reader(
            client, cache, given["registry"], _catalog.library(given["library"]),
            given["timeout"], given["time_limit"], given["ca_path"],
        )  # fmt: skip
        outcome = reader.read(given["catalog"], given["models"], given["required"])
        files = [dict(one, header=_headers.unpacked(one["header"])) for one in given["files"]]
        outcome.entries.extend(reader.keep(given["catalog"], files))
    except (_catalog.CatalogError, _repository.RegistryError) as error:
        module.fail_json(msg=str(error), changed=cache.changed)
    for sentence in outcome.told:
        module.warn(sentence)
    module.exit_json(changed=cache.changed, **vars(outcome))


if __name__ == "__main__":
    main()
