#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_release_info
short_description: Tell what runs on a node, what it has kept, and whether an image can be had
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads C(release.json), the kept releases with what speaks against each, the journal of an upgrade that was cut off,
    and which of the wanted images are there.
  - Of an image that is not there, the registries are asked in order for its manifest, so that a digest that does not
    exist and a mirror that is down are known before anything changes.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  release:
    description:
      - Path of C(release.json).
    type: path
    default: /etc/onprem-llm/release.json
  directory:
    description:
      - Directory of the kept releases.
    type: path
    default: /etc/onprem-llm/releases
  journal:
    description:
      - Path of the journal.
    type: path
    required: true
  files:
    description:
      - The files that belong to a release, as M(onprem.llm.kept_release) takes them.
    type: dict
    required: true
  models_dir:
    description:
      - The engine's models directory.
    type: path
    required: true
  blobs_dir:
    description:
      - Where the weights of kept releases have their further names.
    type: path
    required: true
  images:
    description:
      - References or IDs of the wanted image, any of which will do.
    type: list
    elements: str
    default: []
  registries:
    description:
      - References of the wanted image with a digest, each at a registry that can be asked for it.
    type: list
    elements: str
    default: []
  ca_path:
    description:
      - File with the authorities that vouch for the registries, in place of the system's.
    type: path
  client_cert:
    description:
      - File with the certificate that is shown to the registries.
    type: path
  client_key:
    description:
      - File with its key.
    type: path
  warm:
    description:
      - Path of C(warm.json), which says how long the models took to load.
    type: path
    default: /run/onprem-llm/warm.json
seealso:
  - module: onprem.llm.kept_release
"""

EXAMPLES = r"""
- name: See what the node has kept
  onprem.llm.kept_release_info:
    journal: /var/lib/onprem-llm/upgrade.json
    files:
      release.json: /etc/onprem-llm/release.json
      compose.yml: /opt/onprem-llm/ollama/compose.yml
    models_dir: /var/lib/onprem-llm/ollama/models
    blobs_dir: /var/lib/onprem-llm/kept
  register: node
"""

RETURN = r"""
release:
  description: What C(release.json) says. Null where it is not there or damaged.
  returned: always
  type: dict
  sample: {schema: 1}
release_fault:
  description: What is wrong with it, and the way out. Empty where nothing is.
  returned: always
  type: str
  sample: ""
current:
  description: Name of the kept release that runs, empty where what runs is not kept.
  returned: always
  type: str
  sample: 20261122T120501Z-0.32.15
kept:
  description: The kept releases, the oldest first.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    version:
      description: The engine's version.
      type: str
    image_id:
      description: ID of its image.
      type: str
    fault:
      description: Why it cannot come back, empty where it can.
      type: str
    probe:
      description: What was measured of it.
      type: dict
    times:
      description: What the change to it took.
      type: dict
journal:
  description: Where an upgrade was cut off. Null where none was.
  returned: always
  type: dict
  sample: null
journal_fault:
  description: Why the journal cannot be read, empty where it can, or is not there.
  returned: always
  type: str
  sample: ""
image_there:
  description: Whether one of O(images) is on the host.
  returned: always
  type: bool
  sample: true
image_bytes:
  description: Compressed bytes of the image by the first registry that has it. Null where none was asked or said so.
  returned: always
  type: int
  sample: 1943412736
registry_faults:
  description: Why each of O(registries) that was asked did not give the image.
  returned: always
  type: list
  elements: str
  sample: []
docker_root:
  description: Where Docker keeps images.
  returned: always
  type: str
  sample: /var/lib/docker
free_bytes:
  description: Bytes that are free there.
  returned: always
  type: int
  sample: 85899345920
load_seconds:
  description: Seconds in which all planned models were loaded and answered last. Null where that is not known.
  returned: always
  type: float
  sample: 12.4
"""

import json
import platform
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import (
    _disk,
    _kept_releases,
    _mirror_place,
    _registry,
    _repository,
    _upgrade,
)

# As an index of images names processors.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ASK_SECONDS = 10.0


def docker(module: AnsibleModule, *arguments: str) -> str:
    """What Docker says; nothing where it does not answer."""
    if not module.get_bin_path("docker"):
        return ""
    code, output, _error = module.run_command(["docker", *arguments])
    return output if code == 0 else ""


def release(path: str) -> tuple[dict[str, t.Any] | None, str]:
    """What runs, and what is wrong with the record of it."""
    try:
        with open(path, encoding="utf-8") as stream:
            return _upgrade.parse_release(stream.read()), ""
    except FileNotFoundError:
        return None, f"{path} is not there: nothing of this collection runs here yet. Run site.yml first."
    except (OSError, UnicodeDecodeError, _upgrade.UpgradeError) as error:
        return None, (
            f"{path} is damaged: {error}. Nobody knows from it what runs, so nothing could be put back. Have it "
            "written anew by site.yml with the versions that run, or copy it from the release that runs, below "
            "/etc/onprem-llm/releases."
        )


def compressed_bytes(client: _registry.Client, reference: str) -> int:
    """Bytes of an image's layers and configuration, for this host's processor, by the registry's manifests.

    :raises RegistryError: the registry does not have it, or says something that is none.
    :raises MirrorError: the reference is none.
    """
    digest = reference.partition("@")[2]
    repository = _mirror_place.parse_image(reference).repository
    data = client.manifest(repository, digest, _registry.ANY_MANIFEST)
    children = _registry.children(data)
    if children:
        wanted = ARCHITECTURES.get(platform.machine(), platform.machine())
        for entry in json.loads(data)["manifests"]:
            if (entry.get("platform") or {}).get("architecture") == wanted:
                data = client.manifest(repository, entry["digest"], _registry.ANY_MANIFEST)
                break
        else:
            raise _repository.RegistryError(f"{reference} has no image for {wanted}")
    return sum(layer.size for layer in _registry.layers(data))


def load_seconds(path: str) -> float | None:
    """How long the planned models took to load and answer, one after the other."""
    try:
        found = [model.get("seconds") for model in (_kept_releases.read_json(path) or {}).get("models") or []]
    except (_kept_releases.KeptError, AttributeError):
        return None
    return sum(found) if found and all(isinstance(value, (int, float)) for value in found) else None


def current(kept: _kept_releases.Kept, running: t.Mapping[str, t.Any]) -> str:
    """Name of the newest kept release that says what runs, empty where none does."""
    for name in reversed(kept.names()):
        try:
            if _upgrade.same_release(kept.record(name), running):
                return name
        except _kept_releases.KeptError:
            continue
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "default": "/etc/onprem-llm/release.json"},
            "directory": {"type": "path", "default": "/etc/onprem-llm/releases"},
            "journal": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "models_dir": {"type": "path", "required": True},
            "blobs_dir": {"type": "path", "required": True},
            "images": {"type": "list", "elements": "str", "default": []},
            "registries": {"type": "list", "elements": "str", "default": []},
            "ca_path": {"type": "path"},
            "client_cert": {"type": "path"},
            "client_key": {"type": "path"},
            "warm": {"type": "path", "default": "/run/onprem-llm/warm.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    kept = _kept_releases.Kept(params["directory"], params["models_dir"], params["blobs_dir"])
    found, fault = release(params["release"])
    images = docker(module, "image", "ls", "--all", "--no-trunc", "--quiet").split()
    entries = []
    for name in kept.names():
        entry: dict[str, t.Any] = {"name": name, "version": "", "image_id": "", "probe": None, "times": None}
        try:
            record = kept.record(name)
            entry.update({key: record.get(key) for key in ("version", "image_id", "probe", "times")})
        except _kept_releases.KeptError:
            pass  # kept.fault says why
        entries.append(dict(entry, fault=kept.fault(name, images)))
    journal, journal_fault = None, ""
    try:
        journal = _kept_releases.read_json(params["journal"])
    except _kept_releases.KeptError as error:
        journal_fault = f"{error}. It says where an upgrade was cut off; remove it if the node serves as it should."
    there = any(docker(module, "image", "inspect", "--format", "{{.Id}}", image) for image in params["images"])
    size, faults = None, []
    client = _registry.Client(
        ASK_SECONDS, 3 * ASK_SECONDS, params["ca_path"], params["client_cert"], params["client_key"]
    )
    for reference in [] if there else params["registries"]:
        try:
            size = compressed_bytes(client, reference)
            break
        except (_repository.RegistryError, _mirror_place.MirrorError, LookupError) as error:
            faults.append(f"{reference}: {error}")
    running: dict[str, t.Any] = {"files": _kept_releases.files_as_they_are(params["files"])}
    running["image_id"] = docker(module, "container", "inspect", "--format", "{{.Image}}", "onprem-llm-ollama").strip()
    running |= {key: (found or {}).get(key) for key in ("models", "derived")}
    root = docker(module, "info", "--format", "{{.DockerRootDir}}").strip() or "/var/lib/docker"
    module.exit_json(
        changed=False,
        release=found,
        release_fault=fault,
        current=current(kept, running),
        kept=entries,
        journal=journal,
        journal_fault=journal_fault,
        image_there=there,
        image_bytes=size,
        registry_faults=faults,
        docker_root=root,
        free_bytes=_disk.room(root).free_bytes,
        load_seconds=load_seconds(params["warm"]),
    )


if __name__ == "__main__":
    main()
