#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Make a bundle of all that a site without a way out needs
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Fetches images and models by digest from their registries, GGUF files by SHA-256, and packages with all that they
    depend on by apt's own lists, into one directory, and writes C(bundle.json) with the SHA-256 of each file.
  - What is there already is not fetched again, and a transfer that was interrupted goes on. Blobs and packages that
    are no longer wanted are taken away; wheels and collections that others put beside them are listed as they are.
  - apt works in a root of its own, in which nothing is installed. The host needs apt, and the keyring of each release's
    distribution.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.transfer
  - onprem.llm.transfer.turns
attributes:
  check_mode:
    support: full
    details:
      - Manifests and package lists are read, in check mode, too; they say what would be fetched. Files that lie in the
        bundle and were never read are read in one call, without a word meanwhile.
  diff_mode:
    support: none
  idempotent:
    support: full
  action:
    description: Has an action plugin, which shows what is done of how much while it runs.
    support: full
options:
  path:
    description:
      - Directory of the bundle. What is under way lies beside it, in a directory of the same name with C(.staging).
    type: path
    required: true
  wants:
    description:
      - What the bundle is to have, as M(onprem.llm.bundle_wants) returns it for releases.
    type: dict
    required: true
  version:
    description:
      - Version of the collection that the bundle is for.
    type: str
    required: true
  registries:
    description:
      - Registries that are asked in place of others, such as a mirror of the connected side.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description:
          - The registry of the name, such as V(docker.io) or V(registry.ollama.ai).
        type: str
        required: true
      url:
        description:
          - The registry that is asked, such as V(https://mirror.example.com:5000).
          - It holds everything under the same paths.
        type: str
        required: true
      ca_path:
        description:
          - A file of authorities on the managed host, in place of the system's.
        type: path
      username:
        description:
          - User of the registry.
        type: str
      password:
        description:
          - Password of the registry.
        type: str
  reserve_bytes:
    description:
      - Bytes of the file system that stay free.
    type: int
    default: 1073741824
seealso:
  - module: onprem.llm.bundle_wants
  - module: onprem.llm.bundle_info
"""

EXAMPLES = r"""
- name: Fetch what the site's hosts want
  onprem.llm.bundle:
    path: /srv/bundle
    wants: "{{ wanted.wants }}"
    version: 0.1.0
"""

RETURN = r"""
sha256:
  description:
    - SHA-256 of C(bundle.json), by which a site pins the bundle. Empty while something is pending and in check mode.
  returned: always
  type: str
  sample: 9d5a2bb4e1d6fd4c0d1c1f7c2f1e2f8a5f0b0f7f3d0a6cf3c7f3d8d1a3a0c9b1
size_bytes:
  description: Bytes of all files; in check mode, of those that images, models and packages have.
  returned: always
  type: int
  sample: 6442450944
missing:
  description: What was not there when the module was called, or would be fetched.
  returned: always
  type: list
  elements: dict
  sample:
    - {path: oci/blobs/sha256/a5fd..., size: 253115392, purpose: "model registry.ollama.ai/library/gemma3:270m"}
missing_bytes:
  description: Bytes of RV(missing), as far as they are known.
  returned: always
  type: int
  sample: 253115392
transfer:
  description:
    - What was, or would be, transferred, in bytes of the whole bundle. Empty while it is read what is there.
  returned: always
  type: dict
  contains:
    total_bytes:
      description: Bytes of images, models and packages.
      type: int
    held_bytes:
      description: Bytes that were there before.
      type: int
    fetched_bytes:
      description: Bytes that came over the network.
      type: int
    free_bytes:
      description: Bytes that the file system has free.
      type: int
    seconds:
      description: What it took.
      type: float
    origin:
      description: Where from.
      type: str
  sample: {total_bytes: 253115392, held_bytes: 0, fetched_bytes: 253115392, free_bytes: 0, seconds: 12.5, origin: x}
pending:
  description: What is not done yet, because the time of the call was over.
  returned: always
  type: dict
  contains:
    done_bytes:
      description: Bytes that are here.
      type: int
    total_bytes:
      description: Bytes of the whole.
      type: int
    phase:
      description: What is being done.
      type: str
    resume:
      description: What the next call is to be given.
      type: dict
  sample: null
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import (
    _apt,
    _bundle,
    _bundling,
    _mirror_place,
    _repository,
    _transfer,
    _transfer_options,
    _turn,
)

PLAN = "plan.json"
STAMPS = "stamps.json"


def looked_up(module: AnsibleModule, looker: _bundling.Looker, path: str) -> _bundling.Plan:
    """What the bundle takes: as the last call had it where this one goes on, else looked up."""
    if module.params["resume"]:
        try:
            with open(path, "rb") as stream:
                return _bundling.Plan.load(stream.read())
        except (OSError, ValueError, KeyError, TypeError):
            module.debug(f"{path} cannot be gone on with; looking up anew")
    plan = looker.look(module.params["wants"])
    if not module.check_mode:
        _bundle.write(path, plan.dump())
    return plan


def kept_stamps(path: str) -> dict[str, t.Any]:
    """What earlier calls know of the files' SHA-256."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make(module: AnsibleModule, staging: _transfer.Staging | None, work: str) -> dict[str, t.Any]:
    given = module.params
    directory = os.path.abspath(given["path"])
    limits = _transfer_options.limits(given)
    registries = [
        _bundling.Registry(
            entry["host"],
            entry["url"],
            entry["ca_path"],
            (entry["username"], entry["password"] or "") if entry["username"] else None,
        )
        for entry in given["registries"]
    ]

    def run(command: list[str]) -> tuple[int, str, str]:
        code, output, error = module.run_command(
            command, environ_update={"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        )
        return int(code), str(output), str(error)

    looker = _bundling.Looker(directory, work, registries, limits, run)
    plan = looked_up(module, looker, os.path.join(work, PLAN))
    turn = _turn.Turn(limits, given["announce"] or bool(given["resume"].get("announce")))
    # In check mode it stays as the last run left it.
    stamps = os.path.join(f"{directory}.staging", STAMPS)
    reader = _bundle.Reader(directory, kept_stamps(stamps), go_on=lambda: staging is None or turn.left > 0)

    def reading() -> dict[str, t.Any]:
        """What is told where the time is over while files that are here are read."""
        done, total = reader.progress(plan.by_path)
        return _turn.Pending("verify", done, total).result({"looked_up": True, "announce": turn.announce})

    try:
        missing = _bundling.missing(plan, reader)
    except _bundle.Paused:
        _bundle.write(stamps, json.dumps(reader.stamps).encode())
        return {
            "changed": False,
            "sha256": "",
            "size_bytes": 0,
            "missing": [],
            "missing_bytes": 0,
            "transfer": {},
            "pending": reading(),
        }
    size = sum(piece.size or 0 for piece in plan.pieces)
    wanted = sum(piece.size or 0 for piece in missing)
    account = _turn.Account(
        total_bytes=size,
        held_bytes=size - wanted,
        free_bytes=staging.free_bytes if staging else 0,
        origin=", ".join(sorted({looker.label(piece) for piece in missing})),
    )
    result: dict[str, t.Any] = {
        "changed": bool(missing),
        "sha256": "",
        "size_bytes": size,
        "missing": [{"path": piece.path, "size": piece.size, "purpose": piece.purpose} for piece in missing],
        "missing_bytes": wanted,
        "transfer": account.result(),
        "pending": None,
    }
    if staging is None:
        return result
    held = sum(_bundling.here(piece, staging) for piece in missing)
    if wanted - held + limits.reserve_bytes > staging.free_bytes and wanted > held:
        raise _transfer.NoSpace(wanted - held + limits.reserve_bytes, staging.free_bytes)
    turn.account, done = account, size - wanted
    try:
        if turn.announce and missing:
            result["changed"] = False
            raise _turn.Pending("announced", done + held, size)
        with turn.timed():
            for piece in missing:
                try:
                    _bundling.bring(piece, looker, staging, reader, turn, done, size)
                except _transfer.TransferError as error:
                    raise _bundle.BundleError(f"{piece.purpose} ({os.path.basename(piece.path)}): {error}") from error
                done += piece.size or 0
            bundle, sha256, changed = _bundling.seal(plan, reader, given["version"])
        result.update(sha256=sha256, size_bytes=bundle.size, changed=changed or bool(missing))
    except _turn.Pending as pending:
        # The next call goes on with what this one looked up.
        result["pending"] = pending.result({"looked_up": True})
    except _bundle.Paused:
        result["pending"] = reading()
    finally:
        result["transfer"] = account.result()
        _bundle.write(stamps, json.dumps(reader.stamps).encode())
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "wants": {"type": "dict", "required": True},
            "version": {"type": "str", "required": True},
            "registries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "url": {"type": "str", "required": True},
                    "ca_path": {"type": "path"},
                    "username": {"type": "str"},
                    "password": {"type": "str", "no_log": True},
                },
            },
            **_transfer_options.TRANSFER,
            **_transfer_options.TURNS,
            "reserve_bytes": {"type": "int", "default": 1073741824},
        },
        supports_check_mode=True,
    )
    directory = os.path.abspath(module.params["path"])
    work = f"{directory}.staging"
    try:
        _transfer_options.check(module.params)
        if module.check_mode:
            # apt needs a place for its lists even to be asked.
            module.exit_json(**make(module, None, module.tmpdir))
        os.makedirs(directory, exist_ok=True)
        with _transfer.Staging(work) as staging:
            module.exit_json(**make(module, staging, work))
    except (
        _bundle.BundleError,
        _apt.AptError,
        _mirror_place.MirrorError,
        _repository.RegistryError,
        _transfer.TransferError,
        ValueError,
    ) as error:
        module.fail_json(msg=f"{directory}: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or directory}: {error.strerror}")


if __name__ == "__main__":
    main()
