#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_export
short_description: Write models of an Ollama server to a file that travels by hand
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Writes a plain tar archive of C(SHA256SUMS), the models' manifests and their files, as they lie in the server's
    models directory. M(onprem.llm.ollama_import) takes it in elsewhere; so do C(tar) and C(sha256sum --check) by hand.
  - Every file is held against its name as it is written. The same models give the same bytes.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - An archive that lists the same files and has its whole length is not written again.
options:
  names:
    description:
      - Names of the models. Without a tag it is C(latest).
    type: list
    elements: str
    required: true
  models_dir:
    description:
      - The server's models directory (E(OLLAMA_MODELS)) as the managed host sees it.
    type: path
    required: true
  path:
    description:
      - The archive on the managed host. Beside it, C(.part) is written until it is whole.
    type: path
    required: true
seealso:
  - module: onprem.llm.ollama_import
"""

EXAMPLES = r"""
- name: Have two models on the disk that travels
  onprem.llm.ollama_export:
    names: [qwen3:8b, bge-m3:567m]
    models_dir: /var/lib/onprem-llm/ollama/models
    path: /media/carried/models.tar
"""

RETURN = r"""
models:
  description: Names of the models.
  returned: success
  type: list
  elements: str
  sample: ["qwen3:8b"]
size_bytes:
  description: Size of the models' files in bytes, each counted once.
  returned: success
  type: int
  sample: 253113196
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _model_name
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_archive as archive
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "models_dir": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        names = sorted({_model_name.shown(*_model_name.parts(name)) for name in module.params["names"]})
        with store.Store(module.params["models_dir"]) as own:
            wanted = archive.content(own, names)
            before = there(path)
            changed = before is None or before.sums != wanted.sums or before.sizes != wanted.sizes
            if changed and not module.check_mode:
                free = shutil.disk_usage(os.path.dirname(path) or ".").free
                if wanted.total_bytes > free:
                    module.fail_json(msg=f"{path} takes {wanted.total_bytes} bytes, and {free} are free there")
                archive.write(own, wanted, path)
    except (archive.ArchiveError, store.StoreError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        models=names,
        size_bytes=wanted.total_bytes,
        diff={"before": {"files": dict(before.sums) if before else {}}, "after": {"files": dict(wanted.sums)}},
    )


def there(path: str):
    """What the archive of that name has, or None where there is none that is whole."""
    try:
        return archive.look(path)
    except (archive.ArchiveError, FileNotFoundError):
        return None


if __name__ == "__main__":
    main()
