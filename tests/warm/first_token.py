"""Seconds from a user's first request after a restart, of engine or host, to its first token; with the warmer and not.

Everything is run on the node itself, so that neither the test machine's network nor the gateway is in the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

UNIT = "onprem-llm-warm.service"
CONTAINER = "onprem-llm-ollama"
PATIENCE = 120.0
# Prints the seconds to the first token of an answer.
ASK = """
import json, sys, time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
body = {"model": sys.argv[2], "prompt": "One, two,", "stream": True, "options": {"num_predict": 4}}
began = time.monotonic()
request = urllib.request.Request(sys.argv[1] + "/api/generate", json.dumps(body).encode())
with opener.open(request, timeout=600) as answer:
    for line in answer:
        if json.loads(line).get("response"):
            print(time.monotonic() - began)
            break
"""
# Waits until the engine lists its models, as its health check does.
UP = """
import sys, time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(1200):
    try:
        opener.open(sys.argv[1] + "/api/tags", timeout=2).read()
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("the engine does not come back")
"""

Run = Callable[..., str]
"""Runs a command on the node and gives its output: a pattern with %s and its values, as testinfra's check_output."""


@dataclass(frozen=True)
class Figures:
    """Seconds. ``ready``: from the restart until every planned model had answered.

    :ivar of: what was restarted, ``engine`` or ``host``.
    """

    of: str
    model: str
    cold_first_token: float
    warm_first_token: float
    ready: float

    def __str__(self) -> str:
        return (
            f"first token of the first request after a restart of the {self.of}, {self.model}: "
            f"{self.cold_first_token:.2f} s without the warmer, {self.warm_first_token:.2f} s with it, which was ready "
            f"{self.ready:.1f} s after the restart"
        )


def state(run: Run) -> dict:
    """The warmer's state file; without it, one that is not ready."""
    text = run("cat /run/onprem-llm/warm.json 2>/dev/null || true")
    return json.loads(text) if text else {"ready": False, "models": [], "engine": {"answers": False, "since": ""}}


def await_ready(run: Run, ready: bool = True, seconds: float = PATIENCE) -> dict:
    deadline = time.monotonic() + seconds
    while (found := state(run))["ready"] is not ready:
        if time.monotonic() > deadline:
            raise TimeoutError(f"ready is not {ready} after {seconds:.0f} s: {found}")
        time.sleep(0.1)
    return found


def _restart(run: Run, reboot: Callable[[], object] | None) -> None:
    if reboot is None:
        run("docker restart %s", CONTAINER)
        return
    # A host's own boot takes it away; that of a container may not.
    run("rm -f /run/onprem-llm/warm.json")
    reboot()


def measure(run: Run, engine: str, model: str, reboot: Callable[[], object] | None = None) -> Figures:
    """The warmer is stopped for a while, and runs again afterwards.

    :param engine: its URL on the node.
    :param reboot: restarts the host, in place of the engine.
    """
    run("systemctl stop %s", UNIT)
    if reboot:
        run("systemctl disable %s", UNIT)
    try:
        _restart(run, reboot)
        run("python3 -c %s %s", UP, engine)
        cold = float(run("python3 -c %s %s %s", ASK, engine, model))
    finally:
        if reboot:
            run("systemctl enable %s", UNIT)
        run("systemctl start %s", UNIT)
    await_ready(run)
    _restart(run, reboot)
    began = time.monotonic()
    # The engine's end was noticed while it was restarted, so what is ready now is the new one.
    await_ready(run)
    ready = time.monotonic() - began
    return Figures(
        "host" if reboot else "engine", model, cold, float(run("python3 -c %s %s %s", ASK, engine, model)), ready
    )
