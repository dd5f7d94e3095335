#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_release
short_description: Keep what runs on a node as a release, or put a kept one back
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - A kept release is a directory with copies of the files that configure the engine, and a record of the image, the
    models and what was measured.
  - The image gets a tag of its own, so that C(docker image prune) leaves it. The models' weights get further names on
    their file system, which take no room while the engine's store has them too.
  - Putting a release back writes its files and models. It does not start the engine anew.
  - A release that says the same as one that is kept already is that one.
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(kept) keeps what runs. V(restored) puts O(name) back.
    type: str
    choices: [kept, restored]
    default: kept
  name:
    description:
      - Name of the release, such as V(20261122T120501Z-0.32.15).
    type: str
    required: true
  directory:
    description:
      - Directory of the kept releases.
    type: path
    default: /etc/onprem-llm/releases
  files:
    description:
      - The files that belong to a release, as a mapping of the name in the release to the path on the host. One of them
        is C(release.json).
    type: dict
    required: true
  models_dir:
    description:
      - The engine's models directory.
    type: path
    required: true
  blobs_dir:
    description:
      - Where the weights have their further names. On the file system of O(models_dir).
    type: path
    required: true
  container:
    description:
      - Name of the engine's container, whose image is the release's.
    type: str
    default: onprem-llm-ollama
  keep:
    description:
      - How many releases stay. The oldest go first. O(name) and those in O(needed) stay in any case.
    type: int
    default: 5
  needed:
    description:
      - Names of releases that stay.
    type: list
    elements: str
    default: []
  probe:
    description:
      - What M(onprem.llm.engine_probe) measured of this release.
    type: dict
  times:
    description:
      - What the change to this release took, in seconds.
    type: dict
seealso:
  - module: onprem.llm.kept_release_info
"""

EXAMPLES = r"""
- name: Keep what runs
  onprem.llm.kept_release:
    name: "{{ now(utc=true, fmt='%Y%m%dT%H%M%SZ') }}-0.32.15"
    files:
      release.json: /etc/onprem-llm/release.json
      plan.json: /etc/onprem-llm/plan.json
      compose.yml: /opt/onprem-llm/ollama/compose.yml
    models_dir: /var/lib/onprem-llm/ollama/models
    blobs_dir: /var/lib/onprem-llm/kept
  register: kept

- name: Put it back
  onprem.llm.kept_release:
    state: restored
    name: "{{ kept.name }}"
    files: {}
    models_dir: /var/lib/onprem-llm/ollama/models
    blobs_dir: /var/lib/onprem-llm/kept
"""

RETURN = r"""
name:
  description: Name of the release. With V(kept), that of the one that says the same, where there is one.
  returned: success
  type: str
  sample: 20261122T120501Z-0.32.15
paths:
  description: What V(restored) wrote, paths of files and names of models.
  returned: success
  type: list
  elements: str
  sample: [/opt/onprem-llm/ollama/compose.yml]
dropped:
  description: Releases that are not kept any more.
  returned: success
  type: list
  elements: str
  sample: []
"""

import json
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store, _upgrade
from ansible_collections.onprem.llm.plugins.module_utils._kept_releases import Kept, KeptError

# Repository of the tags that keep images from being pruned.
REPOSITORY = "onprem-llm/kept"


def running_image(module: AnsibleModule, container: str) -> tuple[str, str]:
    """ID and reference of the image that a container was made of."""
    _code, output, error = module.run_command(["docker", "container", "inspect", container])
    try:
        about = json.loads(output)[0]
        return str(about["Image"]), str(about["Config"]["Image"])
    except (ValueError, LookupError, TypeError):
        module.fail_json(msg=f"Docker does not tell which image {container} runs: {error.strip() or output.strip()}")


def keep(module: AnsibleModule, kept: Kept) -> dict[str, t.Any]:
    params = module.params
    path = params["files"].get("release.json", "")
    try:
        with open(path, encoding="utf-8") as stream:
            release = _upgrade.parse_release(stream.read())
    except (OSError, _upgrade.UpgradeError) as error:
        raise KeptError(f"{path or 'files has no release.json, which'} cannot be kept: {error}") from error
    image, reference = running_image(module, params["container"])
    about = {
        "version": release["engine"]["version"],
        "image_id": image,
        "image_reference": reference,
        "models": release["models"],
        "derived": release.get("derived"),
        "probe": params["probe"],
        "times": params["times"],
    }
    if module.check_mode:
        return {"name": params["name"], "paths": [], "dropped": [], "changed": True}
    name, changed = kept.save(params["name"], params["files"], about)
    command = ["docker", "image", "tag", image, f"{REPOSITORY}:{name}"]
    module.run_command(command, check_rc=True)
    dropped = _upgrade.to_drop(kept.names(), params["keep"], {name, *params["needed"]})
    kept.drop(dropped)
    for gone in dropped:
        # An image that runs, or has other names, stays.
        module.run_command(["docker", "image", "rm", f"{REPOSITORY}:{gone}"])
    return {"name": name, "paths": [], "dropped": dropped, "changed": changed or bool(dropped)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["kept", "restored"], "default": "kept"},
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/etc/onprem-llm/releases"},
            "files": {"type": "dict", "required": True},
            "models_dir": {"type": "path", "required": True},
            "blobs_dir": {"type": "path", "required": True},
            "container": {"type": "str", "default": "onprem-llm-ollama"},
            "keep": {"type": "int", "default": 5},
            "needed": {"type": "list", "elements": "str", "default": []},
            "probe": {"type": "dict"},
            "times": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not _upgrade.is_entry_name(params["name"]):
        module.fail_json(msg=f"name is {params['name']!r}; one such as 20261122T120501Z-0.32.15 is needed")
    if params["keep"] < 2:
        module.fail_json(msg=f"keep is {params['keep']}; at least 2 are needed, what runs and what ran before")
    kept = Kept(params["directory"], params["models_dir"], params["blobs_dir"])
    try:
        if params["state"] == "kept":
            result = keep(module, kept)
        elif module.check_mode:
            result = {"name": kept.record(params["name"])["name"], "paths": [], "dropped": [], "changed": True}
        else:
            paths = kept.restore(params["name"])
            result = {"name": params["name"], "paths": paths, "dropped": [], "changed": bool(paths)}
    except (KeptError, _ollama_store.StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
