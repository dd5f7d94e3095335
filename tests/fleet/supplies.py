"""What a fleet's inventory needs and no registry serves here: engine image, model files, credentials.

All made on the spot, in the fleet's state directory: ``supplies.json`` for the inventory (paths, digests, hashes of
credentials) and ``secrets.json`` (0600) for whoever plays a user.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
from pathlib import Path

import docker

from tests.engine import image, models
from tests.fleet.hosts import ROOT, write_if_changed

CACHE = ROOT / "build" / "cache"
# The upstream release that the stand-in imitates.
ENGINE_VERSION = "0.32.15"
# The guest is a user where the inventory says which models it may use.
GUEST = "guest"
USERS = {"app": "user", "ops": "admin", GUEST: "user"}
# The last day of a key that app had before; any day that is over does.
ENDED = "2026-01-31"


def supply(client: docker.DockerClient, state: Path) -> None:
    """Fill a state directory; what is there already stays."""
    CACHE.mkdir(parents=True, exist_ok=True)
    credentials = _credentials(state / "secrets.json")
    supplies = {
        "engine": _engine(client),
        "models": _models(),
        "users": [
            {"name": "former", "enabled": False, "api_keys": [_key(credentials["dead_keys"]["disabled"])]},
        ],
    }
    for name, user in credentials["users"].items():
        entry = {
            "name": name,
            "role": user["role"],
            "api_keys": [_key(user["api_key"])],
            "password_hash": user["password_hash"],
        }
        if name == "app":
            entry["api_keys"].append(_key(credentials["dead_keys"]["expired"]) | {"ends": ENDED, "note": "the first"})
        if name == GUEST:
            supplies["guest"] = entry
        else:
            supplies["users"].append(entry)
    write_if_changed(state / "supplies.json", json.dumps(supplies, indent=1) + "\n")


def _key(key: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(key.encode()).hexdigest()}


def _engine(client: docker.DockerClient) -> dict[str, object]:
    given = os.environ.get("OLLAMA_IMAGE_ARCHIVE")
    version = os.environ.get("OLLAMA_VERSION") or ENGINE_VERSION
    if given:
        if not os.environ.get("OLLAMA_VERSION"):
            raise RuntimeError("OLLAMA_IMAGE_ARCHIVE is set: set OLLAMA_VERSION=<x.y.z> to the version of that image")
        path, image_id = image.import_archive(client, Path(given), version, CACHE)
    else:
        path, image_id = image.archive(client, image.build(client), version, CACHE)
    # A CPU build of the real server cannot put a layer on a simulated GPU; the stand-in says that it did.
    return {
        "version": version,
        "archive": str(path),
        "image_id": image_id,
        "gpu_proof": "report" if given else "required",
    }


def _models() -> dict[str, dict[str, str]]:
    files = {"gemma": models.gemma(CACHE), "embedding": CACHE / "tiny-embedding.gguf"}
    if not files["embedding"].exists():
        fresh = models.write_embedding(CACHE / ".tiny-embedding.new")
        fresh.rename(files["embedding"])
    return {name: {"path": str(path), "sha256": _sha256(path)} for name, path in files.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _credentials(path: Path) -> dict[str, dict]:
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    credentials: dict[str, dict] = {
        "pki_ca_passphrase": secrets.token_urlsafe(32),
        "users": {},
        # Keys that must not get in: one that no user has any more, one of a disabled user, and one whose end has come.
        "dead_keys": {state: secrets.token_urlsafe(32) for state in ("revoked", "disabled", "expired")},
    }
    for name, role in USERS.items():
        password = secrets.token_urlsafe(24)
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
        ).stdout.strip()
        credentials["users"][name] = {
            "role": role,
            "api_key": secrets.token_urlsafe(32),
            "password": password,
            "password_hash": hashed,
        }
    write_if_changed(path, json.dumps(credentials, indent=1) + "\n")
    return credentials
