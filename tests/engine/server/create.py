"""New models from uploaded GGUF blobs or from another model, with Modelfile fields as layers."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from . import gguf, registry
from .store import (
    CONFIG_TYPE,
    LAYER,
    Layer,
    ModelNotFound,
    Name,
    Store,
    encode,
    manifest_bytes,
    parse_name,
)
from .web import Failure


def create(store: Store, name: Name, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Progress of a create request. Failure, RegistryError, OSError."""
    if request.get("quantize"):
        raise Failure(400, "quantize is not among what this stand-in can do")
    if request.get("from"):
        layers = yield from _from_model(store, str(request["from"]))
    elif request.get("files"):
        layers = yield from _from_files(store, request["files"])
    else:
        raise Failure(400, 'neither "from" or "files" was specified')
    layers += _adapters(store, request.get("adapters") or {})
    base = next(layer for layer in layers if layer.media_type == LAYER + "model")
    header = gguf.read(store.blob(base.digest))
    contents = _contents(store, layers, request)
    # Licences come after those that are there; of the others there is one.
    kept = [layer for layer in layers if layer.media_type.removeprefix(LAYER) not in contents.keys() - {"license"}]
    for layer in kept:
        yield {"status": f"using existing layer {layer.digest}"}
    for kind, texts in contents.items():
        for text in texts:
            layer, new = store.write_layer(LAYER + kind, text)
            kept.append(layer)
            yield {"status": f"{'creating new' if new else 'using existing'} layer {layer.digest}"}
    config = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": header.parameter_size,
        "file_type": header.quantization,
        "architecture": "amd64",
        "os": "linux",
    }
    requires = request.get("requires") or _required(store, request)
    if requires:
        config["requires"] = requires
    config_layer, _ = store.write_layer(CONFIG_TYPE, encode(config) + b"\n")
    yield {"status": "writing manifest"}
    store.write_manifest(name, manifest_bytes(config_layer, kept) + b"\n")
    yield {"status": "success"}


def _required(store: Store, request: dict[str, Any]) -> str:
    """The version that the base requires, where there is one."""
    if not request.get("from"):
        return ""
    return store.model(parse_name(str(request["from"]))).requires


def _from_files(store: Store, files: dict[str, str]) -> Generator[dict[str, Any], None, list[Layer]]:
    yield {"status": "parsing GGUF"}
    layers = []
    for digest in files.values():
        try:
            path = store.blob(digest)
        except ValueError as error:
            raise Failure(400, str(error)) from error
        try:
            gguf.read(path)
        except gguf.NotGGUF as error:
            raise Failure(400, "unknown type") from error
        layers.append(_copy(store, path))
    yield {"status": "verifying conversion"}
    return layers


def _adapters(store: Store, files: dict[str, str]) -> list[Layer]:
    """The layers of adapter files, which stay as they are (Ollama's server/create.go)."""
    if len(files) > 1:
        raise Failure(400, "only one adapter is currently supported")
    layers = []
    for digest in files.values():
        try:
            path = store.blob(digest)
            header = gguf.read(path)
        except gguf.NotGGUF as error:
            raise Failure(400, "unknown type") from error
        except ValueError as error:
            raise Failure(400, str(error)) from error
        kind = "adapter" if header.metadata.get("general.type") == "adapter" else "model"
        layers.append(Layer(LAYER + kind, digest, path.stat().st_size))
    return layers


def _copy(store: Store, path: Path) -> Layer:
    """The layer of a file as Ollama 0.32 takes it in: through llama-quantize, which has its own order of metadata."""
    with tempfile.NamedTemporaryFile(dir=store.blobs, prefix="COPY") as output:
        command = ["llama-quantize", "--allow-requantize", str(path), output.name, "COPY"]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            said = (run.stdout + run.stderr).strip().splitlines()[-1:]
            raise Failure(400, f"failed to validate GGUF with llama-quantize: {' '.join(said)}")
        with open(output.name, "rb") as content:
            digest, size, _ = store.write_blob(lambda: content.read(1 << 20))
    return Layer(LAYER + "model", digest, size)


def _from_model(store: Store, text: str) -> Generator[dict[str, Any], None, list[Layer]]:
    source = parse_name(text)
    try:
        content = store.manifest(source)
    except ModelNotFound:
        for event in registry.pull(store, source, insecure=False):
            if event["status"] != "success":
                yield event
        content = store.manifest(source)
    _, layers = store.parse_manifest(content)
    return [Layer(layer.media_type, layer.digest, layer.size, str(source)) for layer in layers]


def _contents(store: Store, layers: list[Layer], request: dict[str, Any]) -> dict[str, list[bytes]]:
    """Bytes of the layers that the request asks for, by kind, in Ollama's order."""
    found: dict[str, list[bytes]] = {}
    for field in ("template", "system"):
        if request.get(field):
            found[field] = [str(request[field]).encode()]
    licenses = request.get("license")
    if licenses:
        found["license"] = [str(text).encode() for text in (licenses if isinstance(licenses, list) else [licenses])]
    if request.get("parameters"):
        present = [layer for layer in layers if layer.media_type == LAYER + "params"]
        parameters = json.loads(store.blob(present[0].digest).read_bytes()) if present else {}
        parameters |= request["parameters"]
        found["params"] = [encode(dict(sorted(parameters.items()))) + b"\n"]
    if request.get("messages"):
        found["messages"] = [encode(request["messages"]) + b"\n"]
    return found
