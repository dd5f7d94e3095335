#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_mirror
short_description: Fill the fleet's mirror with models, container images and files, and clean it
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Brings what is wanted into the registry of a mirror that the role P(onprem.llm.model_mirror#role) runs on the host,
    from registries, from addresses, from files of the host or from an OCI image layout.
  - Each blob comes once, by its digest, and goes on where an earlier run was cut off. The registry checks each a
    second time. Manifests come last and byte by byte as upstream has them.
  - What is held and pinned is not asked for upstream. A second run transfers nothing.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.transfer
  - onprem.llm.transfer.turns
  - onprem.llm.transfer.proxy
attributes:
  check_mode:
    support: full
    details:
      - Upstream is asked for the manifests of what is missing, which say what would be transferred.
  diff_mode:
    support: none
  idempotent:
    support: full
  action:
    description: Has an action plugin, which tells how far a transfer is, and calls the module again.
    support: full
options:
  data_dir:
    description: The mirror's directory, with C(registry) and C(staging) in it.
    type: path
    required: true
  socket:
    description: The socket that the mirror's registry listens on.
    type: path
    default: /run/onprem-llm-mirror/registry.sock
  models:
    description: Models by name.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the model, with its tag.
        type: str
        required: true
      digest:
        description: Digest of its weights. Without it, what the tag leads to at the first time stays.
        type: str
        default: ""
      manifest_digest:
        description: Digest of its manifest, by which O(layout) is asked in place of the name.
        type: str
        default: ""
  images:
    description: Container images by digest.
    type: list
    elements: dict
    default: []
    suboptions:
      reference:
        description: Name of the image with its tag.
        type: str
        required: true
      digest:
        description: Digest of its index, with which come the images of all platforms, or of one image's manifest.
        type: str
        required: true
  files:
    description: Files by their SHA-256. They lie in the repository C(onprem-llm/files) under the tag C(sha256-<hex>).
    type: list
    elements: dict
    default: []
    suboptions:
      sha256:
        description: The file's digest, 64 hexadecimal digits.
        type: str
        required: true
      path:
        description: Where it lies on the host. It is removed when the mirror has it.
        type: path
      url:
        description: Where it can be had.
        type: str
  layout:
    description:
      - An OCI image layout on the host that everything comes from. Nobody else is asked.
      - Models that are named without O(models[].manifest_digest) are looked up in its index, by their repository and
        tag on the mirror.
    type: path
  peers:
    description:
      - Other mirrors of the fleet, asked in order for what is missing before anybody upstream is. What O(layout) has,
        and a file with O(files[].path), is not asked for there.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: Address, such as V(https://192.0.2.42:8444).
        type: str
        required: true
      ca_path:
        description: File on the host with the authorities that vouch for it, in place of the host's own.
        type: path
      client_cert:
        description: File on the host with the certificate to show.
        type: path
      client_key:
        description: File on the host with its key.
        type: path
  peers_only:
    description: Whether nobody but O(peers) is asked, also not with O(update).
    type: bool
    default: false
  registry:
    description: The registry of models whose names have none, in place of the public one.
    type: str
    default: ""
  username:
    description: User for O(registry), where it asks for a login.
    type: str
  password:
    description: Password of O(username).
    type: str
  ca_path:
    description: A file of authorities to trust in place of the system's.
    type: path
  update:
    description: Whether upstream is asked again for models without a digest.
    type: bool
    default: false
  prune:
    description:
      - Whether everything else is removed. The registry stops while it collects its garbage.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another run that fills or cleans the mirror.
    type: int
    default: 600
seealso:
  - module: onprem.llm.ollama_model
"""

EXAMPLES = r"""
- name: Bring a model and the engine's image in, and remove all else
  onprem.llm.model_mirror:
    data_dir: /var/lib/onprem-llm/mirror
    models:
      - name: qwen2.5:0.5b
        digest: sha256:c5396e06af294bd101b30dce59131a76d2b773e76950acc870eda801d3ab0515
    images:
      - reference: ollama/ollama:0.32.15
        digest: sha256:57d60e686821ea81a7748a3ec8141308c8b8f95b27105713954abf7a6529e700
    prune: true
"""

RETURN = r"""
missing:
  description: What the mirror did not have when the module began, as far as it can know without asking anybody.
  returned: always
  type: dict
  contains:
    models:
      description: Names.
      type: list
      elements: str
    images:
      description: References.
      type: list
      elements: str
    files:
      description: SHA-256 digests, in hexadecimal.
      type: list
      elements: str
transfer:
  description: What was transferred, or would be in check mode. Bytes are those of everything that is wanted.
  returned: success
  type: dict
  contains:
    total_bytes:
      description: Bytes of all that is wanted.
      type: int
    held_bytes:
      description: Bytes of it that were there.
      type: int
    fetched_bytes:
      description: Bytes that came over the network.
      type: int
    seconds:
      description: How long it took.
      type: float
    free_bytes:
      description: Bytes free on the mirror's file system before.
      type: int
    origin:
      description: Hosts, files and directories that it comes from.
      type: str
pending:
  description: What is still to come where O(transfer_seconds) were over; else null.
  returned: success
  type: dict
  contains:
    done_bytes:
      description: Bytes that are there.
      type: int
    total_bytes:
      description: Bytes of all that is wanted.
      type: int
    phase:
      description:
        - V(announced) before the first byte, then V(transfer); V(verify) where what came is read once more, and V(push)
          while it goes into the registry, whose bytes are those of one file.
      type: str
    resume:
      description: What the next call is to be given.
      type: dict
removed:
  description: What nothing wants, with O(prune).
  returned: success
  type: dict
  contains:
    manifests:
      description: Manifests, as V(repository@digest).
      type: list
      elements: str
    bytes:
      description: Bytes freed, or that would be in check mode.
      type: int
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import (
    _mirror,
    _mirror_peers,
    _mirror_place,
    _registry,
    _repository,
    _transfer,
    _transfer_options,
    _turn,
)

SERVICE = "docker-registry.service"
CONFIG = "/etc/onprem-llm/mirror-registry.yml"
START_SECONDS = 60.0


def peer(told: t.Mapping[str, t.Any], timeout: float) -> _mirror_peers.Peer:
    files = {key: told[key] for key in ("ca_path", "client_cert", "client_key")}
    return _mirror_peers.Peer(told["url"], _registry.Client(timeout, time_limit=None, **files))


def wanted(parameters: t.Mapping[str, t.Any]) -> list[_mirror.Wanted]:
    """Everything that is wanted, each with who has it.

    :raises MirrorError: a name is none, or a digest.
    :raises RegistryError: a peer's address is none.
    """
    layout, found = parameters["layout"], []
    clients: dict[tuple[str, ...], _registry.Client] = {}

    def client(login: tuple[str, str] | None = None) -> _registry.Client:
        # One for all of a kind: it keeps its tokens.
        return clients.setdefault(
            login or (),
            _registry.Client(
                timeout=parameters["stall_timeout"], time_limit=None, ca_path=parameters["ca_path"], login=login
            ),
        )

    peers = [] if layout else [peer(told, parameters["stall_timeout"]) for told in parameters["peers"]]

    def shared(
        place: _mirror_place.Place, then: _mirror.Source | None, weights: str | None = None, moves: bool = False
    ) -> _mirror.Source | None:
        """``then``, after the peers; ``moves`` where upstream alone can tell what it is now."""
        if not peers or (moves and not parameters["peers_only"]):
            return then

        def fits(manifest: bytes) -> bool:
            return weights is None or _mirror.weights(manifest, str(place)) == weights

        return _mirror_peers.Shared(peers, place, fits, None if parameters["peers_only"] else then)

    for model in parameters["models"]:
        place = _mirror_place.model_place(model["name"])
        digest = _mirror_place.parse_digest(model["digest"], model["name"]) if model["digest"] else None
        manifest = (
            _mirror_place.parse_digest(model["manifest_digest"], model["name"]) if model["manifest_digest"] else None
        )
        source: _mirror.Source | None
        if layout:
            source = _mirror.Layout(layout, place)
        else:
            name = _repository.parse_name(model["name"], parameters["registry"])
            ours = bool(parameters["registry"]) and name.host == _repository.parse_address(parameters["registry"])[1]
            login = (parameters["username"], parameters["password"] or "") if ours and parameters["username"] else None
            source = _mirror.Upstream(client(login), name.repository)
            source = shared(place, source, digest, moves=parameters["update"] and not digest)
        found.append(_mirror.Wanted("models", model["name"], place, digest, source, manifest))
    for image in parameters["images"]:
        reference = _mirror_place.parse_image(image["reference"])
        upstream = _mirror.Upstream(client(), reference.repository)
        source = _mirror.Layout(layout, reference.place) if layout else shared(reference.place, upstream)
        digest = _mirror_place.parse_digest(image["digest"], image["reference"])
        found.append(_mirror.Wanted("images", image["reference"], reference.place, digest, source))
    for file in parameters["files"]:
        digest = _mirror_place.parse_digest(file["sha256"], "files")
        place = _mirror_place.file_place(digest)
        if layout:
            source = _mirror.Layout(layout, place)
        elif file["path"]:
            source = _mirror.LocalFile(file["path"])
        else:
            source = shared(place, _mirror.Address(file["url"], parameters["ca_path"]) if file["url"] else None)
        found.append(_mirror.Wanted("files", digest[7:], place, digest, source))
    return found


def collect(module: AnsibleModule, registry: _mirror.Registry, repositories: t.Sequence[str]) -> None:
    """Have the registry collect its garbage, stopped meanwhile."""
    stop = ["systemctl", "stop", SERVICE]
    garbage = ["runuser", "-u", "docker-registry", "--", "docker-registry", "garbage-collect", CONFIG]
    start = ["systemctl", "start", SERVICE]
    module.run_command(stop, check_rc=True)
    try:
        module.run_command(garbage, check_rc=True)
        for path in repositories:
            registry.forget(path)
    finally:
        module.run_command(start, check_rc=True)
        registry.wait(START_SECONDS)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path", "required": True},
            "socket": {"type": "path", "default": "/run/onprem-llm-mirror/registry.sock"},
            "models": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "digest": {"type": "str", "default": ""},
                    "manifest_digest": {"type": "str", "default": ""},
                },
            },
            "images": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "reference": {"type": "str", "required": True},
                    "digest": {"type": "str", "required": True},
                },
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "sha256": {"type": "str", "required": True},
                    "path": {"type": "path"},
                    "url": {"type": "str"},
                },
            },
            "layout": {"type": "path"},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "url": {"type": "str", "required": True},
                    "ca_path": {"type": "path"},
                    "client_cert": {"type": "path"},
                    "client_key": {"type": "path"},
                },
            },
            "peers_only": {"type": "bool", "default": False},
            "registry": {"type": "str", "default": ""},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "ca_path": {"type": "path"},
            "update": {"type": "bool", "default": False},
            "prune": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 600},
            **_transfer_options.TRANSFER,
            **_transfer_options.TURNS,
            **_transfer_options.PROXY,
        },
        supports_check_mode=True,
    )
    module.no_log_values.update(_transfer_options.use_proxy(module.params))
    missing: dict[str, list[str]] = {"models": [], "images": [], "files": []}
    try:
        _transfer_options.check(module.params)
        result = run(module, missing)
    except (_mirror_place.MirrorError, _repository.RegistryError, _transfer.TransferError, ValueError) as error:
        module.fail_json(msg=str(error), missing=missing)
    module.exit_json(missing=missing, **result)


def run(module: AnsibleModule, missing: dict[str, list[str]]) -> dict[str, t.Any]:
    parameters = module.params
    registry = _mirror.Registry(parameters["socket"], os.path.join(parameters["data_dir"], "registry"))
    mirror = _mirror.Mirror(registry, os.path.join(parameters["data_dir"], "staging"))
    items = wanted(parameters)
    registry.wait(START_SECONDS)
    for item in items:
        if mirror.lacks(item):
            missing[item.kind].append(item.name)
    removed: dict[str, t.Any] = {"manifests": [], "bytes": 0}
    pending: _turn.Pending | None = None
    with mirror.locked(exclusive=False, seconds=parameters["lock_timeout"]):
        resolved = [mirror.resolve(item, parameters["update"]) for item in items]
        turn = _turn.Turn(_transfer_options.limits(parameters), parameters["announce"])
        try:
            changed = mirror.fill(resolved, turn, dry=module.check_mode)
        except _turn.Pending as pause:
            changed, pending = True, pause
    if not pending and not module.check_mode:
        for item in parameters["files"]:
            if item["path"] and os.path.exists(item["path"]):
                os.unlink(item["path"])
    if parameters["prune"] and not pending:
        with mirror.locked(exclusive=True, seconds=parameters["lock_timeout"]):
            unwanted = mirror.unwanted([mirror.resolve(item, update=False) for item in items])
            if unwanted:
                changed = True
                removed = {"manifests": unwanted.names, "bytes": unwanted.bytes}
                if not module.check_mode:
                    removed["bytes"] = mirror.clean(unwanted, lambda: collect(module, registry, unwanted.repositories))
    return {
        "changed": changed,
        "transfer": turn.account.result(),
        "pending": pending.result({}) if pending else None,
        "removed": removed,
    }


if __name__ == "__main__":
    main()
