"""What Ollama's own puller refetches when its server is killed (SIGKILL) at half of a model."""

from __future__ import annotations

import http.client
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors

from tests.engine import image
from tests.engine.conftest import Engine

ROOT = Path(__file__).resolve().parents[2]
PULL_SECONDS = 600


def given(directory: Path) -> tuple[docker.DockerClient, str] | str:
    """The engine and the ID of the image in ``OLLAMA_IMAGE_ARCHIVE``, loaded; or why there is none to be measured.

    :param directory: where the archive's copy is kept.
    """
    archive, version = os.environ.get("OLLAMA_IMAGE_ARCHIVE"), os.environ.get("OLLAMA_VERSION")
    if not archive:
        return "no real image was given: OLLAMA_IMAGE_ARCHIVE is not set"
    if not version:
        raise RuntimeError("OLLAMA_IMAGE_ARCHIVE is set: set OLLAMA_VERSION=<x.y.z> to the version of that image")
    subprocess.run([ROOT / "tests/fleet/ensure-docker.sh"], check=True)
    client = docker.from_env(timeout=300)
    path, image_id = image.import_archive(client, Path(archive), version, directory)
    try:
        found = client.images.get(image_id)
    except docker.errors.ImageNotFound:
        with path.open("rb") as stream:
            client.images.load(stream)
        found = client.images.get(image_id)
    if f"{image.PREFIX}.recipe" in (found.labels or {}):
        return "no real image was given: OLLAMA_IMAGE_ARCHIVE is the tests' own stand-in"
    return client, image_id


def killed_at_half(
    client: docker.DockerClient, image_id: str, home: Path, name: str, size: int, sent: Callable[[], int]
) -> int:
    """Bytes that upstream sends beyond the model's ``size`` until it is there.

    :param home: the engine's directory, made.
    :param name: the model's, with upstream's address.
    :param sent: what upstream has sent so far.
    """
    engine = Engine(client, image_id, home, {})
    try:
        # The answer never ends: its server is killed under it.
        pulling = threading.Thread(target=_pull, args=(engine, name), daemon=True)
        pulling.start()
        end = time.monotonic() + PULL_SECONDS
        while sent() < size / 2:
            if time.monotonic() > end or not pulling.is_alive():
                raise RuntimeError(f"Ollama's pull ended before it was killed:\n{engine.log()[-2000:]}")
            time.sleep(0.002)
        engine.container.kill("SIGKILL")
        pulling.join()
        engine.container.start()
        while engine.command("ls")[0] != 0:
            time.sleep(0.1)
        said = _pull(engine, name)
        if "success" not in said:
            raise RuntimeError(f"Ollama's second pull did not succeed: {said[-500:]}")
        return sent() - size
    finally:
        engine.container.remove(force=True, v=True)


def _pull(engine: Engine, name: str) -> str:
    try:
        with engine.open("POST", "/api/pull", {"model": name, "insecure": True}) as response:
            return response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return str(error)
