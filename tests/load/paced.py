# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An endpoint whose figures are known: the first token after FIRST seconds, then one every GAP, SLOTS at once.

``python -m tests.load.paced`` prints its address, and serves until it is ended.
"""

from __future__ import annotations

import signal
import sys

from tests.unit.streaming_server import Script, serving

FIRST, GAP, SLOTS = 0.2, 0.02, 8


def main() -> int:
    with serving(lambda _number, _body: Script(first=FIRST, gap=GAP, pieces=10**6), SLOTS) as (url, _server):
        print(url, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
