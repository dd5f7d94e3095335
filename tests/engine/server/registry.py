"""Ollama's side of the registry protocol (OCI distribution, API version 2): pull and push, as streams of progress."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

from .settings import VERSION
from .store import MANIFEST_TYPE, DigestMismatch, Layer, ModelNotFound, Name, Store, manifest_bytes

Progress = Iterator[dict[str, Any]]
_CHUNK = 2**20
_TICK = 0.06
_TIMEOUT = 30.0
_MANIFEST_LIMIT = 4 * 2**20


class RegistryError(RuntimeError):
    """A request to the registry failed; the text is what Ollama says."""


class NotInRegistry(RegistryError):
    """The registry does not have it."""


def _reason(url: str, error: Exception) -> str:
    """A connection's failure in the words of Go's net package."""
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        plain = error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")
        return "http: server gave HTTP response to HTTPS client" if plain else f"tls: {error.reason}"
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {parts.hostname}: no such host"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {address}: connect: connection refused"
    if isinstance(error, TimeoutError):
        return f"dial tcp {address}: i/o timeout"
    return str(error) or "EOF"


def _authorities() -> ssl.SSLContext:
    """Whom to trust: as Go has it, every file in the directories of SSL_CERT_DIR, whatever its name."""
    context = ssl.create_default_context()
    # Python 3.13 and newer want extensions of an authority that Go does without.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for directory in filter(None, os.environ.get("SSL_CERT_DIR", "").split(":")):
        for file in sorted(Path(directory).glob("*")):
            with contextlib.suppress(OSError):  # SSLError, too: a file that holds no certificate
                context.load_verify_locations(file)
    return context


def _connection(parts: SplitResult, target: str) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection as Go's ProxyFromEnvironment would make it, what to ask it for, and what a proxy wants to know."""
    secure = parts.scheme == "https"

    def connect(host: str, port: int | None) -> http.client.HTTPConnection:
        if secure:
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=_authorities())
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)

    proxy = urlsplit(getproxies_environment().get(parts.scheme, ""))
    if not proxy.hostname or proxy_bypass_environment(parts.netloc):
        return connect(parts.hostname or "", parts.port), target, {}
    known = {}
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        known["Proxy-Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    connection = connect(proxy.hostname, proxy.port or 80)
    if not secure:
        return connection, f"http://{parts.netloc}{target}", known
    connection.set_tunnel(parts.hostname or "", parts.port or 443, known)
    return connection, target, {}


class Client:
    """Requests to one model's repository; ``insecure`` speaks plain HTTP, as Ollama's flag does."""

    def __init__(self, name: Name, insecure: bool) -> None:
        self.base = f"{'http' if insecure else 'https'}://{name.host}/v2/{name.repository}/"

    def request(
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """One request; the response's connection is its own and closes with it. RegistryError."""
        url = urljoin(self.base, url)
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection, target, known = _connection(parts, target)
        try:
            connection.request(
                method,
                target,
                body,
                {"User-Agent": f"ollama/{VERSION}", "Connection": "close", **known, **(headers or {})},
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise RegistryError(f'{method.capitalize()} "{url}": {_reason(url, error)}') from error
        if response.status == 401:
            realm = re.search(r'Bearer .*realm="([^"]*)"', response.getheader("WWW-Authenticate", ""))
            realm_host = urlsplit(realm[1]).netloc if realm else ""
            if realm_host != parts.netloc:
                raise RegistryError(f'realm host "{realm_host}" does not match original host "{parts.netloc}"')
            raise RegistryError("unauthorized: authentication required")
        if response.status == 404:
            raise NotInRegistry("file does not exist")
        if response.status >= 400:
            raise RegistryError(f"{response.status}: {response.read(4096).decode(errors='replace').strip()}")
        return response

    def location(self, digest: str) -> str:
        """Where a blob truly lies. Ollama's downloader insists on a Location header, redirect or not."""
        with self.request("GET", f"blobs/{digest}", headers={"Range": "bytes=0-0"}) as response:
            where = response.getheader("Location")
        if where is None:
            raise RegistryError("http: no Location header in response")
        return urljoin(urljoin(self.base, f"blobs/{digest}"), where)


def pull(store: Store, name: Name, insecure: bool) -> Progress:
    """Fetch a model: manifest, the layers that are missing, and last the manifest's own bytes. RegistryError."""
    client = Client(name, insecure)
    yield {"status": "pulling manifest"}
    try:
        with client.request("GET", f"manifests/{name.tag}", headers={"Accept": MANIFEST_TYPE}) as response:
            content = response.read(_MANIFEST_LIMIT)
        config, layers = store.parse_manifest(content)
    except (RegistryError, ValueError) as error:
        raise RegistryError(f"pull model manifest: {error}") from error
    for layer in (*layers, config):
        if store.blob(layer.digest).exists():
            yield _progress("pulling", layer, layer.size)
        else:
            yield from _download(store, client, layer)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    store.write_manifest(name, content)
    yield {"status": "success"}


def _progress(verb: str, layer: Layer, completed: int) -> dict[str, Any]:
    status = f"{verb} {layer.digest[7:19]}"
    return {"status": status, "digest": layer.digest, "total": layer.size, "completed": completed}


def _download(store: Store, client: Client, layer: Layer) -> Progress:
    target = store.blob(layer.digest)
    partial = target.with_name(target.name + "-partial")
    partial.touch()
    location = client.location(layer.digest)
    state, completed, told = hashlib.sha256(), 0, 0.0
    with client.request("GET", location) as response, open(partial, "wb") as file:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise RegistryError(f"max retries exceeded: {_reason(location, error)}") from error
            if not chunk:
                break
            file.write(chunk)
            state.update(chunk)
            completed += len(chunk)
            if time.monotonic() - told > _TICK:
                told = time.monotonic()
                yield _progress("pulling", layer, completed)
    found = f"sha256:{state.hexdigest()}"
    if found != layer.digest:
        partial.unlink()
        raise DigestMismatch(f"digest mismatch, file must be downloaded again: want {layer.digest}, got {found}")
    partial.replace(target)
    yield _progress("pulling", layer, completed)


def push(store: Store, name: Name, insecure: bool) -> Progress:
    """Send a model: the blobs that the registry lacks, then the manifest. RegistryError."""
    client = Client(name, insecure)
    yield {"status": "retrieving manifest"}
    try:
        config, layers = store.parse_manifest(store.manifest(name))
    except ModelNotFound as error:
        raise RegistryError("couldn't retrieve manifest") from error
    for layer in (*layers, config):
        try:
            client.request("HEAD", f"blobs/{layer.digest}").close()
        except NotInRegistry:
            with store.open_blob(layer.digest) as file:
                yield from _upload(client, layer, file)
        else:
            yield _progress("pushing", layer, layer.size)
    yield {"status": "pushing manifest"}
    # Encoded anew, without the final line feed of the file: the digest differs from the local one, as with Ollama.
    content = manifest_bytes(config, layers)
    client.request("PUT", f"manifests/{name.tag}", content, {"Content-Type": MANIFEST_TYPE}).close()
    yield {"status": "success"}


def _upload(client: Client, layer: Layer, file: IO[bytes]) -> Progress:
    with client.request("POST", "blobs/uploads/", b"", {"Content-Length": "0"}) as response:
        where = response.getheader("Location") or ""
    completed, told = 0, time.monotonic()
    while chunk := file.read(16 * _CHUNK):
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{completed}-{completed + len(chunk) - 1}",
        }
        with client.request("PATCH", where, chunk, headers) as response:
            where = response.getheader("Location") or where
        completed += len(chunk)
        if time.monotonic() - told > _TICK:
            told = time.monotonic()
            yield _progress("pushing", layer, completed)
    separator = "&" if "?" in where else "?"
    with client.request("PUT", f"{where}{separator}digest={layer.digest}", b"", {"Content-Length": "0"}):
        yield _progress("pushing", layer, layer.size)
