# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a host of the bench, under the interpreter that Ansible is told to use: modules keep what they return
(SCALE_RECORD), or return what was kept before instead of working (SCALE_REPLAY).

Everything before that is as it always is: the connection, the module's way to the host, its imports, the check of its
arguments. Each variable names a directory; one JSON file an execution, newest last.
"""

import builtins
import collections.abc
import hashlib
import json
import os
import re
import sys
import time

RECORD, REPLAY = os.environ.get("SCALE_RECORD"), os.environ.get("SCALE_REPLAY")
PATCHED = "ansible.module_utils.basic"


def _plain(value):
    """What JSON has no word for, as Ansible would tell it."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(value) if isinstance(value, collections.abc.Iterable) else str(value)


def _key(name, params):
    told = json.dumps(params, sort_keys=True, default=_plain)
    return hashlib.sha256(f"{name} {told}".encode()).hexdigest()[:24]


def _words(params):
    return set(re.split(r"\W+", json.dumps(params, default=_plain)))


def _likeness(one, other):
    """The share of words that two calls have in common: a host's own name in a command is no other command."""
    return len(one & other) / len(one | other)


def _answer(name, params):
    """What this call returned, else what the likest call of the same module did; and whether it was this one."""
    path = os.path.join(REPLAY, name.rpartition(".")[2], _key(name, params) + ".json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)["result"], True
    kept = []
    directory = os.path.dirname(path)
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        with open(os.path.join(directory, entry), encoding="utf-8") as file:
            kept.append(json.load(file))
    wanted = _words(params)
    if not kept:
        return {"changed": False}, False
    return max(kept, key=lambda row: _likeness(wanted, _words(row["params"])))["result"], False


def _patch(module):
    initialise, tell = module.AnsibleModule.__init__, module.AnsibleModule._return_formatted

    def recorded(self, result):
        directory = os.path.join(RECORD, self._name.rpartition(".")[2])
        # Some modules run as root, others as the user who logged in.
        before = os.umask(0)
        os.makedirs(directory, exist_ok=True)
        os.umask(before)
        params = json.loads(json.dumps(getattr(self, "_params_given", self.params), default=_plain))
        row = {"module": self._name, "params": params, "result": result}
        with open(os.path.join(directory, _key(self._name, params) + ".json"), "w", encoding="utf-8") as file:
            json.dump(row, file, default=_plain)
        tell(self, result)

    def keeping(self, *arguments, **named):
        initialise(self, *arguments, **named)
        self._params_given = dict(self.params)

    def replayed(self, *arguments, **named):
        initialise(self, *arguments, **named)
        params = json.loads(json.dumps(self.params, default=_plain))
        result, same = _answer(self._name, params)
        with open(os.path.join(REPLAY, "calls.log"), "a", encoding="utf-8") as file:
            file.write(f"{time.time():.3f} {'same' if same else 'like'} {self._name}\n")
        tell(self, result)
        sys.exit(1 if result.get("failed") else 0)

    if REPLAY:
        module.AnsibleModule.__init__ = replayed
    else:
        module.AnsibleModule.__init__, module.AnsibleModule._return_formatted = keeping, recorded


def _watch(ordinary):
    """An import that patches the module as soon as it is there, whoever brought it: Ansible's zip or Mitogen."""

    def importing(*arguments, **named):
        found = ordinary(*arguments, **named)
        module = sys.modules.get(PATCHED)
        if hasattr(module, "AnsibleModule") and not hasattr(module, "_scale_patched"):
            module._scale_patched = True
            _patch(module)
        return found

    return importing


if RECORD or REPLAY:
    builtins.__import__ = _watch(builtins.__import__)
