# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands for a node's Docker, engine and balancer where upgrade.yml is played on this machine.

``install VERSION`` leaves what the roles ollama and models leave. ``docker``, ``balancer`` and the programs of apt
answer as those, by these files. ``engine PORT`` serves the models of the plan in force, and nonsense in version
0.32.18.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ETC = Path("/etc/onprem-llm")
COMPOSE = Path("/opt/onprem-llm/ollama/compose.yml")
INSTALLED, OFFERED = Path("/var/lib/onprem-llm-dpkg/docker.io"), Path("/etc/apt/offered")
FIRST_DOCKER, NEXT_DOCKER = "26.1.5", "28.5.2"
DRAINED = ETC / "drained"
NODES = ("n1", "n2")
MODEL, WEIGHTS = "chat:1", "sha256:" + "e" * 64
GOOD, NONSENSE = "Tokyo, and", "zzz"


def image(version: str) -> str:
    return "sha256:" + version[-1] * 64


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def install(version: str) -> None:
    about = {"id": image(version), "reference": image(version), "digest": None}
    release = {"schema": 1, "engine": {"version": version, "image": about}, "models": {MODEL: WEIGHTS}}
    models = [{"name": MODEL, "use": "chat", "account": {"total_bytes": 4000}}]
    write(ETC / "release.json", release)
    write(ETC / "plan.json", {"schema": 1, "engine": {"version": version}, "instances": [{"models": models}]})
    write(COMPOSE, f"image: {image(version)}\n")
    write(Path("/etc/systemd/system/onprem-llm-warm.service"), "[Unit]\n")
    write(Path("/usr/local/lib/onprem-llm/warm.py"), "")
    program = f"import runpy, sys; sys.argv[1:1] = ['balancer']; runpy.run_path({__file__!r}, run_name='__main__')\n"
    write(Path("/usr/local/lib/onprem-llm/balancer.py"), program)
    if not INSTALLED.exists():
        write(INSTALLED, FIRST_DOCKER)
        write(OFFERED, FIRST_DOCKER)


def docker(*arguments: str) -> int:
    running = COMPOSE.read_text(encoding="utf-8").split()[1]
    if arguments[:2] == ("container", "inspect"):
        print(running if "--format" in arguments else json.dumps([{"Image": running, "Config": {"Image": running}}]))
    elif arguments[:2] == ("image", "ls"):
        print("\n".join(image(str(number)) for number in range(10)))
    elif arguments[:2] == ("image", "inspect"):
        return 1
    elif arguments[:1] == ("version",):
        print(INSTALLED.read_text(encoding="utf-8"))
    elif arguments[:1] == ("info",):
        print("/var/lib")
    return 0


def apt_get(*arguments: str) -> int:
    """A distribution that offers the Docker of /etc/apt/offered. dpkg's part is /var/lib/onprem-llm-dpkg/docker.io."""
    there, offered = INSTALLED.read_text(encoding="utf-8"), OFFERED.read_text(encoding="utf-8")
    if "--simulate" in arguments and there != offered:
        print(f"Inst docker.io [{there}] ({offered} Debian:testing [amd64])")
    elif "--print-uris" in arguments:
        print("'http://x/docker.io.deb' docker.io.deb 1 SHA256:0")
    elif "download" in arguments:
        write(Path(f"docker.io_{there}_amd64.deb"), "")
    elif "install" in arguments and "--download-only" not in arguments and "--simulate" not in arguments:
        write(INSTALLED, Path(arguments[-1]).name.split("_")[1])
    return 0


def dpkg_query(*_arguments: str) -> None:
    print("docker.io", INSTALLED.read_text(encoding="utf-8"), "amd64", "installed", sep="\t")


def apt_mark(order: str, *_names: str) -> None:
    if order == "showhold":
        print("docker.io")


def dpkg(*_arguments: str) -> None:
    """Nothing is half configured."""


def balancer(order: str, *_rest: str) -> None:
    drained = sorted(path.name for path in DRAINED.iterdir()) if DRAINED.is_dir() else []
    servers = [
        {"backend": "model:chat", "node": node, "status": "DRAIN" if node in drained else "UP"} for node in NODES
    ]
    print(json.dumps({"changed": True, "running": 0, "streams": [], "drained": drained, "servers": servers}))


def engine(port: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import ollama_fake

    def version() -> str:
        return str(json.loads((ETC / "plan.json").read_text(encoding="utf-8"))["engine"]["version"])

    class Engine(ollama_fake.Handler):
        def _version(self, name: str, body: Any) -> None:
            self._answer(200, {"version": version()})

        def _generate(self, name: str, body: Any) -> None:
            if self._load(name, body):
                said = NONSENSE if version() == "0.32.18" else GOOD
                self._answer(
                    200, {"model": name, "response": said, "done": True, "eval_count": 32, "eval_duration": 10**9}
                )

    ollama_fake.Handler = Engine  # type: ignore[misc]
    with ollama_fake.serve(port=int(port)) as (state, _url):
        state.put(MODEL, WEIGHTS)
        print("serving", flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:]))
