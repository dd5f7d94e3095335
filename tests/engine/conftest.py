"""Containers of the stand-in for its tests, as the fleet runs it: unprivileged, read-only, without capabilities."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from tests.engine import image, models

CACHE = Path(__file__).parents[2] / "build" / "cache"
UID = os.getuid() or 12345
LABEL = "onprem-llm-test.engine.test"


class Engine:
    """One running container and its API."""

    def __init__(self, client: docker.DockerClient, tag: str, home: Path, environment: dict[str, str]) -> None:
        home.mkdir(exist_ok=True)
        if os.getuid() == 0:
            for path in (home, *home.rglob("*")):
                os.chown(path, UID, UID)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.home = home
        # On loopback in the machine's own network: where the recorded servers listened, so that Host is checked too.
        settings = {"OLLAMA_HOST": f"127.0.0.1:{self.port}", "HOME": "/data", "OLLAMA_MODELS": "/data/models"}
        self.container: Container = client.containers.run(
            tag,
            detach=True,
            network_mode="host",
            environment=settings | environment,
            user=f"{UID}:{UID}",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "size=64m"},
            volumes={str(home): {"bind": "/data", "mode": "rw"}},
            extra_hosts={"registry.ollama.ai": "127.0.0.1"},
            labels={LABEL: "1"},
        )
        deadline = time.monotonic() + 30
        while self.command("ls")[0] != 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the engine does not answer:\n{self.log()}")
            time.sleep(0.1)

    def open(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """The response of one request, unread. ``body``: bytes or a file as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content: Any = body
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "read"):
            content = json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        return connection.getresponse()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of one request (None where the body is empty)."""
        with self.open(method, path, body) as response:
            content = response.read()
            return response.status, json.loads(content) if content else None

    def post(self, path: str, **body: Any) -> Any:
        """JSON of a request that must succeed, not streamed."""
        status, answer = self.call("POST", path, {"stream": False, **body})
        assert status == 200, answer
        return answer

    def upload(self, file: Path) -> str:
        """The digest of a file that the engine now has."""
        digest = f"sha256:{models.sha256(file)}"
        # It does not read what it has, and hangs up on who sends it all the same.
        if self.call("HEAD", f"/api/blobs/{digest}")[0] != 200:
            with file.open("rb") as content:
                assert self.call("POST", f"/api/blobs/{digest}", content)[0] == 201
        return digest

    def weights(self, name: str) -> Path:
        """The blob of a model's weights, on this side of the volume."""
        modelfile = self.post("/api/show", model=name)["modelfile"]
        blob = next(line for line in modelfile.splitlines() if line.startswith("FROM ")).rsplit("/", 1)[1]
        return self.home / "models" / "blobs" / blob

    def add(self, name: str, file: Path, **fields: Any) -> None:
        """Upload a GGUF and create a model of it."""
        digest = self.upload(file)
        assert self.post("/api/create", model=name, files={"model.gguf": digest}, **fields) == {"status": "success"}

    def loaded(self) -> dict[str, dict[str, Any]]:
        """/api/ps by name."""
        return {model["name"]: model for model in self.call("GET", "/api/ps")[1]["models"]}

    def log(self) -> str:
        return str(self.container.logs(), errors="replace")

    def command(self, *arguments: str) -> tuple[int, str]:
        status, output = self.container.exec_run(["ollama", *arguments])
        return status, output.decode()

    def runners(self, kill: bool = False) -> set[int]:
        """Process IDs of llama-server inside the container; ``kill`` ends them on the spot."""
        script = (
            "import os\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    if open(f'/proc/{pid}/comm').read() == 'llama-server\\n':\n"
            f"        print(pid); {kill} and os.kill(int(pid), 9)"
        )
        output = self.container.exec_run(["python3", "-c", script]).output.decode()
        return {int(pid) for pid in output.split()}


@pytest.fixture(scope="session")
def client() -> docker.DockerClient:
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        container.remove(force=True, v=True)
    return client


@pytest.fixture(scope="session")
def tag(client: docker.DockerClient) -> str:
    return image.build(client)


@pytest.fixture(scope="module")
def start(
    client: docker.DockerClient, tag: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Engine]]:
    """Start an engine with an environment; all of a module's are removed at its end."""
    engines: list[Engine] = []

    def begin(home: Path | None = None, **environment: str) -> Engine:
        engines.append(Engine(client, tag, home or tmp_path_factory.mktemp("home"), environment))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.container.remove(force=True, v=True)


@pytest.fixture(scope="session")
def generative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_generative(tmp_path_factory.mktemp("gguf") / "generative.gguf")


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_embedding(tmp_path_factory.mktemp("gguf") / "embedding.gguf")
