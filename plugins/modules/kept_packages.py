#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_packages
short_description: Keep the files of packages that are about to move, or install them again
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Before a change of versions, V(kept) puts the files of the packages that it will replace or remove into a directory,
    from apt's cache or their repository, with a record of holds and of what was asked for by name, and with copies of
    files that configure them. It also has apt fetch what will be installed. What was kept there before goes.
  - V(restored) installs from that directory alone what is not as it was. apt is given no repository for that. What the
    change brought and was not there before is removed. Files of configuration that a package owns stay as they are.
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
      - V(kept) keeps, V(restored) puts back.
    type: str
    choices: [kept, restored]
    default: kept
  directory:
    description:
      - Where the files are.
    type: path
    default: /var/lib/onprem-llm/packages
  packages:
    description:
      - The wanted packages, as M(onprem.llm.kept_packages_info) takes them.
    type: dict
    default: {}
  moves:
    description:
      - What M(onprem.llm.kept_packages_info) said that would move.
    type: list
    elements: dict
    default: []
  files:
    description:
      - Files that are kept and put back besides. One that was not there is removed again.
    type: list
    elements: path
    default: []
  services:
    description:
      - With V(restored), whether the packages' scripts may start and restart services. Where they may not,
        C(/usr/sbin/policy-rc.d) says so for that time, unless the host has one of its own.
    type: bool
    default: true
seealso:
  - module: onprem.llm.kept_packages_info
"""

EXAMPLES = r"""
- name: Keep what the change will replace
  onprem.llm.kept_packages:
    packages: {docker.io: ""}
    moves: "{{ docker.moves }}"
    files: [/etc/docker/daemon.json]

- name: Put it back
  onprem.llm.kept_packages:
    state: restored
"""

RETURN = r"""
lost:
  description: Packages that could not be kept, each with its version.
  returned: success
  type: list
  elements: str
  sample: []
paths:
  description: What V(restored) put back, names of packages with their versions and paths of files.
  returned: success
  type: list
  elements: str
  sample: [docker.io 26.1.5+dfsg1-9+deb13u1]
"""

import base64
import contextlib
import json
import os
import shutil
import stat
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _kept_packages

RECORD = "record.json"
POLICY = "/usr/sbin/policy-rc.d"


def marked(module: AnsibleModule, mark: str, names: t.Collection[str]) -> list[str]:
    """Those of the packages that have a mark of apt's: ``showhold`` or ``showmanual``."""
    return sorted(set(module.run_command(["apt-mark", mark], check_rc=True)[1].split()) & set(names))


def as_they_are(paths: t.Sequence[str]) -> dict[str, t.Any]:
    """Content and mode of files; null for one that is not there."""
    found: dict[str, t.Any] = {}
    for path in paths:
        try:
            with open(path, "rb") as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                found[path] = {"content": base64.b64encode(stream.read()).decode(), "mode": mode}
        except FileNotFoundError:
            found[path] = None
    return found


def keep(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    place = params["directory"]
    moves = [_kept_packages.Move(entry["name"], entry["old"], entry["new"]) for entry in params["moves"]]
    old = [move for move in moves if move.old]
    if module.check_mode:
        return {"changed": True, "lost": [], "paths": []}
    os.makedirs(os.path.dirname(place), exist_ok=True)
    # Of root alone, since Docker's configuration may hold a proxy's password; apt downloads as root, and warns of it.
    work = tempfile.mkdtemp(prefix="packages.", dir=os.path.dirname(place))
    try:
        lost, kept = [], []
        there = _kept_packages.installed(module.run_command, [move.name for move in old])
        for move in old:
            name = _kept_packages.file_name(move.name, move.old, there.get(move.name, ("", ""))[1])
            cached = _kept_packages.cached(name)
            if cached:
                shutil.copyfile(cached, os.path.join(work, name))
            else:
                module.run_command(["apt-get", "--quiet", "download", f"{move.name}={move.old}"], cwd=work)
            if os.path.isfile(os.path.join(work, name)):
                kept.append({"name": move.name, "version": move.old, "file": name})
            else:
                lost.append(f"{move.name} {move.old}")
        names = [move.name for move in old]
        record = {
            "schema": 1,
            "packages": kept,
            "came": [move.name for move in moves if not move.old],
            "held": marked(module, "showhold", names),
            "manual": marked(module, "showmanual", names),
            "files": as_they_are(params["files"]),
        }
        with open(os.path.join(work, RECORD), "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1, sort_keys=True)
        if moves:
            fetch = [*_kept_packages.INSTALL, "--download-only", "install"]
            module.run_command([*fetch, *_kept_packages.wanted(params["packages"])], check_rc=True)
        same = read(place) == record
        if not same:
            shutil.rmtree(place, ignore_errors=True)
            os.rename(work, place)
        return {"changed": not same, "lost": lost, "paths": []}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read(place: str) -> dict[str, t.Any] | None:
    """The record of what is kept, None where nothing is."""
    try:
        with open(os.path.join(place, RECORD), encoding="utf-8") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return None


def restore(module: AnsibleModule) -> dict[str, t.Any]:
    place = module.params["directory"]
    record = read(place)
    if record is None:
        module.fail_json(msg=f"no packages are kept in {place}")
    found = _kept_packages.installed(
        module.run_command, [entry["name"] for entry in record["packages"]] + record["came"]
    )
    back = [entry for entry in record["packages"] if found.get(entry["name"], ("",))[0] != entry["version"]]
    came = [name for name in record["came"] if name in found]
    now = as_they_are(list(record["files"]))
    files = [path for path, content in record["files"].items() if now[path] != content]
    told = [f"{entry['name']} {entry['version']}" for entry in back] + came + files
    result = {"changed": bool(told), "lost": [], "paths": told}
    if module.check_mode:
        return result
    for path in files:
        put(module, path, record["files"][path])
    if back or came:
        # Of a change that was cut off in the middle; what fails here is replaced below.
        module.run_command(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"])
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "lists", "partial"))
            command = [*_kept_packages.INSTALL, *_kept_packages.without_sources(root), "install"]
            command += [os.path.join(place, entry["file"]) for entry in back] + [f"{name}-" for name in came]
            with policy(module.params["services"]):
                code, output, error = module.run_command(command)
        if code != 0:
            module.fail_json(msg=f"apt does not install what was kept: {error.strip() or output[-1000:]}")
        marks(module, record, [entry["name"] for entry in back])
    return result


@contextlib.contextmanager
def policy(services: bool) -> t.Iterator[None]:
    """The time in which packages' scripts start nothing (invoke-rc.d(8), 101: action forbidden by policy)."""
    if services or os.path.exists(POLICY):
        yield
        return
    with open(POLICY, "w", encoding="utf-8") as stream:
        stream.write("#!/bin/sh\nexit 101\n")
    os.chmod(POLICY, 0o755)
    try:
        yield
    finally:
        os.unlink(POLICY)


def put(module: AnsibleModule, path: str, content: t.Mapping[str, t.Any] | None) -> None:
    """A file as it was."""
    if content is None:
        os.unlink(path)
        return
    descriptor, work = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(base64.b64decode(content["content"]))
    os.chmod(work, content["mode"])
    module.atomic_move(work, path)
    os.chmod(path, content["mode"])


def marks(module: AnsibleModule, record: t.Mapping[str, t.Any], names: t.Sequence[str]) -> None:
    """Holds, and what was asked for by name, as they were."""
    for mark, wanted in (
        ("hold", [name for name in names if name in record["held"]]),
        ("auto", [name for name in names if name not in record["manual"]]),
    ):
        if wanted:
            module.run_command(["apt-mark", mark, *wanted], check_rc=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["kept", "restored"], "default": "kept"},
            "directory": {"type": "path", "default": "/var/lib/onprem-llm/packages"},
            "packages": {"type": "dict", "default": {}},
            "moves": {"type": "list", "elements": "dict", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
            "services": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = _kept_packages.ENVIRONMENT
    module.exit_json(**(keep(module) if module.params["state"] == "kept" else restore(module)))


if __name__ == "__main__":
    main()
