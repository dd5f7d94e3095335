#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_header
short_description: Read the headers of model files on a managed host
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads metadata and tensor table of GGUF files, never their weights, so that M(onprem.llm.model_select) can account
    for them on the controller.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  catalog:
    description:
      - Entries as in O(onprem.llm.model_select#module:catalog). Those whose source has a C(node_path) are read.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Read what lies on the host
  onprem.llm.gguf_header:
    catalog: "{{ models_catalog }}"
  register: files
"""

RETURN = r"""
files:
  description: What was read, as O(onprem.llm.model_header#module:files) takes it.
  returned: success
  type: list
  elements: dict
  sample:
    - name: house:1
      digest: sha256:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
      size_bytes: 253113024
      header: eNr7...
faults:
  description: What is wrong with files, in sentences.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _gguf, _headers


def main() -> None:
    module = AnsibleModule(
        argument_spec={"catalog": {"type": "list", "elements": "dict", "required": True}}, supports_check_mode=True
    )
    files, faults = [], []
    for data in module.params["catalog"]:
        source = data.get("source")
        if not isinstance(source, dict) or not source.get("node_path"):
            continue
        try:
            entry = _catalog.entry(data)
            header, beginning = _headers.of_file(entry.node_path)
            files.append(
                {
                    "name": entry.name,
                    "digest": entry.digest,
                    "size_bytes": os.path.getsize(entry.node_path),
                    "header": _headers.packed(_headers.shortened(header, beginning)),
                }
            )
        except _catalog.CatalogError as error:
            faults.append(str(error))
        except OSError as error:
            path = source["node_path"]
            faults.append(f"{entry.name} has the node_path {path}, which cannot be read on the host: {error.strerror}")
        except _gguf.GgufError as error:
            faults.append(f"{entry.name} has the node_path {source['node_path']}, which is no model file: {error}")
    module.exit_json(changed=False, files=files, faults=faults)


if __name__ == "__main__":
    main()
