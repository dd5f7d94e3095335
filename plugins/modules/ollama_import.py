#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_import
short_description: Take in models from a file that travelled by hand
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads an archive that M(onprem.llm.ollama_export) wrote, or C(tar) by hand, into a server's models directory. A
    running server sees the models at once.
  - Each file has to have the sha256 that C(SHA256SUMS) and its name say, and all are read before the first is put in
    place. Anything else than a model's files in the archive is refused.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
    details:
      - The list and the manifests are read, the models' files are not.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - The archive on the managed host.
    type: path
    required: true
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it. What is put into it belongs to its
        owner.
    type: path
    required: true
  staging_dir:
    description:
      - Where files are kept until all are read, on the file system of O(models_dir) and outside of it. Without it,
        C(staging) beside O(models_dir).
    type: path
  reserve_bytes:
    description:
      - Bytes that have to stay free.
    type: int
    default: 0
  update:
    description:
      - Whether a model of the same name with another manifest is replaced. Without it, that is an error.
    type: bool
    default: false
seealso:
  - module: onprem.llm.ollama_export
"""

EXAMPLES = r"""
- name: Take in what came on the disk
  onprem.llm.ollama_import:
    path: /media/carried/models.tar
    models_dir: /var/lib/onprem-llm/ollama/models
"""

RETURN = r"""
models:
  description: Names of the models in the archive.
  returned: success
  type: list
  elements: str
  sample: ["qwen3:8b"]
imported:
  description: Those that the server did not have like that.
  returned: success
  type: list
  elements: str
  sample: ["qwen3:8b"]
copied_bytes:
  description: Size of the files that the server did not have, in bytes; 0 in check mode.
  returned: success
  type: int
  sample: 253113196
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _digest
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_archive as archive
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._transfer import TransferError


def digests(manifests: dict) -> dict:
    return {name: _digest.of_bytes(content) for name, content in sorted(manifests.items())}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "models_dir": {"type": "path", "required": True},
            "staging_dir": {"type": "path"},
            "reserve_bytes": {"type": "int", "default": 0},
            "update": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path, models_dir = module.params["path"], module.params["models_dir"]
    copied = 0
    try:
        found = archive.look(path)
        wanted = archive.models(found)
        with store.Store(models_dir) as own:
            before = {name: content for name, content in ((name, own.manifest(name)) for name in wanted) if content}
            others = [name for name in sorted(before) if before[name] != wanted[name]]
            if others and not module.params["update"]:
                was, new = digests(before), digests(wanted)
                raise archive.ArchiveError(
                    "{}, and these are there with other manifests: {}; update: true replaces them".format(
                        path, ", ".join(f"{name} ({was[name]}, not {new[name]})" for name in others)
                    )
                )
            imported = [
                name
                for name, content in sorted(wanted.items())
                if before.get(name) != content
                or not all(own.has(blob.digest, blob.size) for blob in store.blobs(content))
            ]
            if imported and not module.check_mode:
                staging = module.params["staging_dir"] or os.path.join(os.path.dirname(models_dir), "staging")
                copied = archive.install(path, found, own, staging, module.params["reserve_bytes"])
    except (archive.ArchiveError, store.StoreError, TransferError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(imported),
        models=sorted(wanted),
        imported=imported,
        copied_bytes=copied,
        diff={"before": digests(before), "after": digests(wanted)},
    )


if __name__ == "__main__":
    main()
