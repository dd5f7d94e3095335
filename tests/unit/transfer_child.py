# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transfer in a process of its own, to be killed: ``transfer_child.py URL DIGEST SIZE STAGING LIMITS [WAIT]``.

WAIT is for the lock, in seconds. Prints what it did as JSON.
"""

from __future__ import annotations

import json
import sys

import mounted  # noqa: F401
from ansible_collections.onprem.llm.plugins.module_utils import _registry, _repository, _transfer


def main(url: str, digest: str, size: str, path: str, limits: str, wait: str = "0") -> None:
    name = _repository.parse_name("big:1b", url)
    origin = _transfer.RegistryOrigin(_registry.Client(time_limit=None), name.repository, digest)
    with _transfer.Staging(path) as staging, staging.lock(digest, float(wait)):
        held = staging.held(digest)
        staged = _transfer.fetch(digest, int(size), [origin], staging, _transfer.Limits(**json.loads(limits)))
        print(json.dumps({"held": held, "fetched": staged.fetched_bytes, "seconds": staged.seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
