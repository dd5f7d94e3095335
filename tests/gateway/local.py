# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make gateway-local UPSTREAM=host:port PORT=n``: the role's configuration on loopback with one user, until it is
interrupted.

Prints the address, the user's key and the file of the authority, as JSON on one line. Limits are so wide that they do
not bear on a measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from tests.gateway import packages
from tests.gateway.sites import Site, variables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", help="host:port of an engine, over plain HTTP")
    parser.add_argument("port", type=int, help="port on 127.0.0.1")
    parser.add_argument("--workers", default="auto", help="nginx's worker_processes")
    arguments = parser.parse_args()
    host, _, port = arguments.upstream.rpartition(":")
    if not host or not port.isdigit() or not 0 < arguments.port < 65536:
        parser.error("give UPSTREAM=host:port and PORT=number, such as UPSTREAM=127.0.0.1:11434 PORT=8443")
    key = "onprem-llm_" + secrets.token_urlsafe(32)
    user = {
        "name": "local",
        "api_keys": [{"sha256": hashlib.sha256(key.encode()).hexdigest()}],
        "limits": {"requests_per_second": 100000, "burst": 200000, "concurrency": 10000},
    }
    wide = {"gateway_address_requests_per_second": 100000, "gateway_address_requests_burst": 200000}
    nginx = packages.unpack()
    with tempfile.TemporaryDirectory(prefix="onprem-llm-gateway-") as directory:
        site = Site(nginx, Path(directory), arguments.workers)
        authority = site.certify()
        site.render(variables([(host, int(port))], arguments.port, {"gateway_users": [user], **wide}, nginx.version))
        site.start(arguments.port)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(
            json.dumps(
                {"url": f"https://127.0.0.1:{arguments.port}", "key": key, "ca": str(authority), "nginx": nginx.version}
            ),
            flush=True,
        )
        try:
            site.wait()
        except KeyboardInterrupt:
            pass
        finally:
            site.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
