#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_info
short_description: Hold a bundle against its own list and against what hosts want
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Says what of a bundle that M(onprem.llm.bundle) made is missing, cut off or changed, by file, and what hosts want
    that it does not have, by name.
  - Every file is read once. What was read is remembered with its size and times, so the next look is a matter of
    moments. A large file is read in several calls, each going on where the last one ended, so that it is told how far
    it is.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.transfer.turns
attributes:
  action:
    description: Has an action plugin, which shows what is done of how much while it runs.
    support: full
options:
  path:
    description:
      - Directory of the bundle.
    type: path
    required: true
  sha256:
    description:
      - SHA-256 that C(bundle.json) must have. With an empty one, the bundle is only held against itself, which says
        nothing of whose it is.
    type: str
    default: ""
  signers:
    description:
      - Who may have signed the bundle, in the format ALLOWED SIGNERS of ssh-keygen(1). With an empty one, no signature
        is looked at.
    type: str
    default: ""
  wants:
    description:
      - What hosts want, as M(onprem.llm.bundle_wants) returns it.
    type: dict
    default: {}
  stamps:
    description:
      - File on the managed host that remembers what was read. By default it is gone at the next boot, as what only root
        should write and nobody needs to keep.
    type: path
    default: /run/onprem-llm-bundle.json
  reread:
    description:
      - Whether every file is read again, whatever is remembered.
    type: bool
    default: false
notes:
  - The only thing that is written is the file O(stamps), in check mode, too.
seealso:
  - module: onprem.llm.bundle
  - module: onprem.llm.bundle_wants
"""

EXAMPLES = r"""
- name: See whether the bundle is whole
  onprem.llm.bundle_info:
    path: /srv/bundle
    sha256: 9d5a2bb4e1d6fd4c0d1c1f7c2f1e2f8a5f0b0f7f3d0a6cf3c7f3d8d1a3a0c9b1
"""

RETURN = r"""
faults:
  description: What is wrong, a sentence each.
  returned: always
  type: list
  elements: dict
  contains:
    role:
      description: The role that cannot work with it.
      type: str
      sample: model_mirror
    message:
      description: What is wrong.
      type: str
      sample: >-
        model_mirror_bundle is /srv/bundle: it has no model registry.ollama.ai/library/qwen3:8b, which gpu01 wants
sha256:
  description: SHA-256 of C(bundle.json), or nothing where there is none.
  returned: always
  type: str
  sample: 9d5a2bb4e1d6fd4c0d1c1f7c2f1e2f8a5f0b0f7f3d0a6cf3c7f3d8d1a3a0c9b1
version:
  description: Version of the collection that the bundle is for.
  returned: always
  type: str
  sample: 0.1.0
size_bytes:
  description: Bytes of all files.
  returned: always
  type: int
  sample: 6442450944
read_bytes:
  description: Bytes that were read for it.
  returned: always
  type: int
  sample: 0
pending:
  description: What is not done yet, because the time of the call was over.
  returned: always
  type: dict
  contains:
    done_bytes:
      description: Bytes that were read.
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
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _bundle, _transfer, _transfer_options, _turn


def kept_stamps(path: str, directory: str) -> dict[str, t.Any]:
    """What earlier calls remember of this bundle's files."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return dict(found.get(directory) or {}) if isinstance(found, dict) else {}


def signature_fault(module: AnsibleModule, directory: str) -> str:
    """What is wrong with the signature, or nothing."""
    listed, signature = os.path.join(directory, _bundle.LIST), os.path.join(directory, _bundle.SIGNATURE)
    tool = module.get_bin_path("ssh-keygen")
    if not tool:
        return "its signature cannot be checked: there is no ssh-keygen on this host; install openssh-client"
    if not os.path.isfile(signature):
        return f"it has no signature, {_bundle.SIGNATURE}, and model_mirror_bundle_signers asks for one"

    def asked(*arguments: str) -> tuple[int, str, str]:
        # The list comes by the shell: ssh-keygen may end before it has read all of it, which run_command's own writing
        # would make a broken pipe.
        command = ["sh", "-c", 'exec "$@" <"$0"', listed, tool, "-Y", *arguments, "-s", signature]
        code, output, error = module.run_command(command, environ_update={"LC_ALL": "C"})
        return code, output.strip(), " ".join((error or output).split())

    namespace = ("-n", _bundle.SIGNATURE_NAMESPACE)
    # Whoever signed it, it must be a signature, and one of this list for this purpose.
    code, output, said = asked("check-novalidate", *namespace)
    if code:
        return (
            f"{_bundle.SIGNATURE} is no signature of {_bundle.LIST}: one of the two was changed, or is of another "
            f"bundle ({said})"
        )
    key = output.rpartition(" with ")[2]
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir) as allowed:
        allowed.write(module.params["signers"].rstrip("\n") + "\n")
        allowed.flush()
        code, output, said = asked("find-principals", "-f", allowed.name)
        if code == 0 and output:
            principal = output.splitlines()[0].strip()
            code, output, said = asked("verify", *namespace, "-f", allowed.name, "-I", principal)
            if code == 0:
                return ""
        said = said.replace(allowed.name, "model_mirror_bundle_signers")
    return f"{_bundle.SIGNATURE} was made by {key}, which model_mirror_bundle_signers does not allow ({said})"


def look(module: AnsibleModule) -> dict[str, t.Any]:
    given = module.params
    directory = os.path.abspath(given["path"])
    result: dict[str, t.Any] = {
        "changed": False,
        "faults": [],
        "sha256": "",
        "version": "",
        "size_bytes": 0,
        "read_bytes": 0,
        "pending": None,
    }

    def tell(sentences: t.Iterable[str]) -> None:
        head = f"model_mirror_bundle is {given['path']}: "
        result["faults"] += [{"role": "model_mirror", "message": head + sentence} for sentence in sentences]

    if given["signers"] and os.path.isfile(os.path.join(directory, _bundle.LIST)):
        fault = signature_fault(module, directory)
        if fault:
            tell([fault])
    try:
        bundle, result["sha256"] = _bundle.load(directory, given["sha256"])
    except _bundle.BundleError as error:
        tell([str(error)])
        return result
    result.update(version=bundle.version, size_bytes=bundle.size)
    turn = _turn.Turn(_transfer.Limits(seconds=given["transfer_seconds"]))
    stamps = {} if given["reread"] and not given["resume"] else kept_stamps(given["stamps"], directory)

    def count(number: int) -> None:
        result["read_bytes"] += number

    reader = _bundle.Reader(directory, stamps, count, lambda: turn.left > 0)
    try:
        tell(_bundle.check(reader, bundle))
        tell(_bundle.lacking(bundle, given["wants"]))
    except _bundle.Paused:
        done, total = reader.progress(file.path for file in bundle.contents)
        result["pending"] = _turn.Pending("verify", done, total).result({"reading": True})
    finally:
        if reader.stamps != stamps:
            _bundle.write(given["stamps"], json.dumps({directory: reader.stamps}).encode())
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "sha256": {"type": "str", "default": ""},
            "signers": {"type": "str", "default": ""},
            "wants": {"type": "dict", "default": {}},
            "stamps": {"type": "path", "default": "/run/onprem-llm-bundle.json"},
            "reread": {"type": "bool", "default": False},
            **_transfer_options.TURNS,
        },
        supports_check_mode=True,
    )
    try:
        _transfer_options.check(module.params)
        module.exit_json(**look(module))
    except ValueError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['path']}: {error.strerror}")


if __name__ == "__main__":
    main()
