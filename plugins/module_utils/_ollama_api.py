# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of Ollama's HTTP API, and what its answers mean. Works with 0.17 and 0.32.

Ollama reports failures of a streamed request inside an answer of status 200; here they are errors like any other. A
model is known by the sha256 of its weights' layer: tags are re-pointed, and the digest in /api/tags is that of a
manifest, which differs between a pull and a create of the same weights.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import socket
import ssl
import time
import typing as t
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ansible_collections.onprem.llm.plugins.module_utils import _digest
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name
from ansible_collections.onprem.llm.plugins.module_utils._modelfile import LOADING, PARAMETERS, Message

CONNECT_SECONDS = 10
BLOCK_BYTES = 2**20
# No line of a stream and no whole answer that this client asks for comes near this.
MAX_ANSWER_BYTES = 64 * 2**20

_DURATION = re.compile(r"^[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BLOB = re.compile(r"sha256[:-]([0-9a-f]{64})")

# The template of a model that has none (template/template.go, DefaultTemplate).
NO_TEMPLATE = "{{ .Prompt }}"


class OllamaError(Exception):
    """The server could not be reached or answered with an error. ``status`` is the HTTP status, 200 for an error inside
    a stream, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Model:
    """An installed model as the server shows it."""

    name: str
    digest: str | None
    weights_digest: str | None
    size_bytes: int | None
    quantization: str | None
    family: str | None
    trained_context_length: int | None
    capabilities: tuple[str, ...]
    parameters: dict[str, t.Any]
    system: str
    template: str
    license: str = ""
    messages: tuple[Message, ...] = ()
    adapters: tuple[str, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    modelfile: str = ""

    def result(self) -> dict[str, t.Any]:
        """The model as a module returns it; a licence may be long, and is told by its sha256."""
        shown = dict(
            vars(self),
            capabilities=list(self.capabilities),
            messages=[message._asdict() for message in self.messages],
            adapters=list(self.adapters),
            license_sha256=text_digest(self.license),
        )
        return {name: value for name, value in shown.items() if name not in ("license", "modelfile")}

    def has_template(self, text: str) -> bool:
        """Whether the model's TEMPLATE is ``text``. Where the engine leaves chats to the file's own template,
        ``template`` is that one, and the modelfile alone tells."""
        head = _after_files(self.modelfile)
        if head.startswith("TEMPLATE "):
            return head.startswith("TEMPLATE " + _as_shown(text) + "\n")
        return self.template == text


@dataclass(frozen=True)
class Wanted:
    """What a created model shall be, weights and what lies over them. None leaves it to the server; a ``template`` that
    is empty is none of the model's own. ``license`` is all texts, by newlines, as the server shows them."""

    weights_digest: str | None
    parameters: dict[str, t.Any] = field(default_factory=dict)
    system: str = ""
    template: str | None = None
    license: str | None = None
    messages: tuple[Message, ...] | None = None
    adapters: tuple[str, ...] | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None

    def result(self) -> dict[str, t.Any]:
        """What is wanted in the form of :meth:`Model.result`, without what the server decides."""
        found = dict(
            vars(self),
            messages=None if self.messages is None else [message._asdict() for message in self.messages],
            adapters=None if self.adapters is None else list(self.adapters),
            license_sha256=None if self.license is None else text_digest(self.license),
        )
        return {name: value for name, value in found.items() if value is not None and name != "license"}


# --- what answers mean -----------------------------------------------------------------------------------------------


def weights_digest(modelfile: str) -> str | None:
    """The sha256 of the weights' layer, from the first FROM line of a modelfile as /api/show writes it, or None."""
    for line in modelfile.splitlines():
        if line.startswith("FROM "):
            found = _BLOB.search(line)
            return "sha256:" + found.group(1) if found else None
    return None


def text_digest(text: str) -> str:
    """``sha256:<hex>`` of a text, empty where it is."""
    return _digest.of_bytes(text.encode()) if text else ""


def _as_shown(text: str) -> str:
    """A text in a modelfile as the server writes it (parser/parser.go, quote)."""
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def _after_files(modelfile: str) -> str:
    """A modelfile from its TEMPLATE on: after the comment, the weights, adapters and projectors."""
    rest = modelfile
    while rest.startswith(("#", "\n", "FROM ", "ADAPTER ", "DRAFT ")):
        rest = rest.partition("\n")[2]
    return rest


def _adapters(modelfile: str) -> tuple[str, ...]:
    """The digests of the adapters that a modelfile names by their blobs."""
    files = modelfile[: len(modelfile) - len(_after_files(modelfile))]
    lines = [line for line in files.split("\n") if line.startswith("ADAPTER ")]
    return tuple("sha256:" + digest for line in lines for digest in _BLOB.findall(line)[-1:])


def _handler(modelfile: str, system: str, instruction: str) -> str:
    """The RENDERER or PARSER of a modelfile, which come right after TEMPLATE and SYSTEM; empty where there is none."""
    rest = _after_files(modelfile)
    rest = rest.partition(f"\nSYSTEM {_as_shown(system)}\n")[2] if system else rest
    found = re.search(rf"^{instruction} (.*)$", rest.split("\nPARAMETER ")[0], re.MULTILINE)
    return found.group(1) if found else ""


def _value(text: str) -> t.Any:
    """A parameter's value as Go prints it: number, true, or a quoted string."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" else text


def parse_parameters(text: str) -> dict[str, t.Any]:
    """The parameters of /api/show (a name and a value a line); a name that stands several times becomes a list, as
    does a list of one. One that was taken away by a null is none."""
    lines = [line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2]
    lines = [line for line in lines if line[1].strip() != "<nil>"]
    names = [name for name, _text in lines]
    parameters: dict[str, t.Any] = {}
    for name, value in lines:
        parsed = _value(value.strip())
        if names.count(name) > 1 or PARAMETERS.get(name) == "strings":
            parameters.setdefault(name, []).append(parsed)
        else:
            parameters[name] = parsed
    return parameters


def same_value(one: t.Any, other: t.Any) -> bool:
    """Whether two parameter values mean the same: 1 and 1.0, "7" from a template and 7, a list of one and its item."""
    if isinstance(one, list) or isinstance(other, list):
        left, right = (value if isinstance(value, list) else [value] for value in (one, other))
        return len(left) == len(right) and all(same_value(*pair) for pair in zip(left, right))
    if isinstance(one, str):
        one = _value(one)
    if isinstance(other, str):
        other = _value(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if one == other:
        return True
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        # The server keeps some options as float32.
        return math.isclose(float(one), float(other), rel_tol=1e-6) if max(abs(one), abs(other)) < 1e300 else False
    return False


def differences(model: Model, wanted: Wanted) -> list[str]:
    """What of the installed model is not as wanted: names of parameters, ``weights``, and the other fields' names."""
    found = ["weights"] if wanted.weights_digest and model.weights_digest != wanted.weights_digest else []
    missing = object()
    for name in sorted(set(model.parameters) | set(wanted.parameters)):
        if not same_value(model.parameters.get(name, missing), wanted.parameters.get(name, missing)):
            found.append(name)
    if model.system != wanted.system:
        found.append("system")
    if wanted.template is not None and not model.has_template(wanted.template or NO_TEMPLATE):
        found.append("template")
    for name in ("license", "messages", "adapters", "renderer", "parser", "requires"):
        asked = getattr(wanted, name)
        if asked is not None and getattr(model, name) != asked:
            found.append(name)
    return found


def keep_alive(text: str) -> int | str:
    """A keep-alive as the API takes it: seconds as a number, or a duration such as ``10m``. Negative is for ever.

    :raises ValueError: it is neither.
    """
    if re.match(r"^[+-]?\d+$", text.strip()):
        return int(text)
    if _DURATION.match(text.strip()):
        return text.strip()
    raise ValueError(
        f"{text!r} is no keep-alive: seconds (-1 for ever, 0 for not at all) or a duration such as '10m' is needed"
    )


def seconds(duration: int | str) -> float:
    """A keep-alive in seconds; negative is for ever."""
    if isinstance(duration, int):
        return float(duration)
    total = sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(duration))
    return -total if duration.startswith("-") else total


def pinned(expires_at: str | None, now: float) -> bool:
    """Whether an expiry (RFC 3339) is so far off, ten years or more, that the model was loaded to stay."""
    found = re.match(r"^(\d{4})-", expires_at or "")
    return bool(found) and int(found.group(1)) >= time.gmtime(now).tm_year + 10  # type: ignore[union-attr]


def parse_stream(lines: t.Iterable[bytes]) -> t.Iterator[dict[str, t.Any]]:
    """The objects of a newline-delimited JSON stream.

    :raises OllamaError: a line that is no JSON object, or an object that carries an error.
    """
    for line in lines:
        if not line.strip():
            continue
        try:
            item = json.loads(line.decode("utf-8", "replace"))
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise OllamaError(f"the server's stream holds a line that is no JSON object: {line[:200]!r}", 200)
        if item.get("error"):
            raise OllamaError(str(item["error"]), 200)
        yield item


def loaded(item: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """One entry of /api/ps. On 0.32 ``size_vram_bytes`` is too small for models with a sliding window."""
    return {
        "name": item.get("name"),
        "digest": item.get("digest"),
        "size_bytes": item.get("size"),
        "size_vram_bytes": item.get("size_vram", 0),
        "context_length": item.get("context_length"),
        "expires_at": item.get("expires_at"),
    }


def same_files(one: Model, other: Model) -> bool:
    """Whether both are the same weights with the same adapters."""
    return bool(one.weights_digest) and (one.weights_digest, one.adapters) == (other.weights_digest, other.adapters)


def same_runner(one: Model, other: Model) -> bool:
    """Whether one runner serves both as they are. Ollama finds a runner by the file of its weights and loads anew only
    for other adapters or other options of loading (server/sched.go, needsReload, 0.32.15)."""
    return same_files(one, other) and all(
        same_value(one.parameters.get(name), other.parameters.get(name)) for name in LOADING
    )


def served(running: str, models: t.Mapping[str, Model], listed: t.Container[str]) -> list[str]:
    """The models that a runner serves, its own name among them.

    :param running: the name that /api/ps has for the runner, which is that of the model that was asked for first.
    :param models: installed models by name.
    :param listed: all names that /api/ps has; a model that is listed is served by its own runner.
    """
    own = models.get(running)
    others = (name for name, model in models.items() if own and name not in listed and same_runner(model, own))
    return sorted({running, *others})


# --- asking ----------------------------------------------------------------------------------------------------------


class Client:
    """Requests to one server, straight to its address: proxies of the environment are for the way out, not for this.

    :param url: such as ``http://172.30.0.2:11434``.
    :param timeout: seconds without a byte from the server; a model that is loading sends none.
    :raises ValueError: the URL is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(f"{url!r} is no address of a server; one such as 'http://127.0.0.1:11434' is needed")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._host, self._secure, self._base = parts.hostname, parts.scheme == "https", parts.path.rstrip("/")
        self._port = parts.port or (443 if self._secure else 11434)

    def _connect(self) -> http.client.HTTPConnection:
        connect = min(CONNECT_SECONDS, self.timeout)
        connection: http.client.HTTPConnection
        if self._secure:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=connect, blocksize=BLOCK_BYTES, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=connect, blocksize=BLOCK_BYTES)
        connection.connect()
        connection.sock.settimeout(self.timeout)
        return connection

    def _send(
        self, method: str, path: str, body: t.Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        try:
            connection = self._connect()
            try:
                connection.request(method, self._base + path, body=body, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses a body answers before it has read all of it; what it says is worth having.
                if body is None:
                    raise
            return connection, connection.getresponse()
        except socket.timeout:
            raise OllamaError(f"{self.url} gave no answer to {method} {path} within {self.timeout:g} seconds") from None
        except (OSError, http.client.HTTPException) as error:
            raise OllamaError(f"{self.url} cannot be reached: {error or type(error).__name__}") from error

    def request(self, method: str, path: str, body: t.Mapping[str, t.Any] | None = None) -> t.Any:
        """The JSON answer, or None where it is empty.

        :raises OllamaError: no answer, or a status of 400 and above, with the server's own words.
        """
        data = None if body is None else json.dumps(body).encode()
        connection, response = self._send(
            method, path, data, {} if body is None else {"Content-Type": "application/json"}
        )
        return self._finish(connection, response, method, path)

    def _finish(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, method: str, path: str
    ) -> t.Any:
        try:
            text = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise OllamaError(
                f"{self.url} broke off its answer to {method} {path}: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()
        if len(text) > MAX_ANSWER_BYTES:
            raise OllamaError(
                f"{self.url} answered {method} {path} with more than {MAX_ANSWER_BYTES} bytes",
                response.status,
            )
        try:
            answer = json.loads(text.decode("utf-8", "replace")) if text.strip() else None
        except ValueError:
            answer = text.decode("utf-8", "replace").strip()
        if response.status >= 400:
            words = answer.get("error") if isinstance(answer, dict) else answer
            raise OllamaError(str(words or response.reason), response.status)
        if method != "HEAD" and isinstance(answer, str):
            raise OllamaError(
                f"{self.url} answered {method} {path} with something other than JSON; is it an Ollama server?",
                response.status,
            )
        return answer

    def stream(self, path: str, body: t.Mapping[str, t.Any]) -> list[str]:
        """Post, and read the stream to its end; the distinct states that it told.

        :raises OllamaError: an error before or inside the stream, or one that ends without success.
        """
        connection, response = self._send("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if response.status >= 400:
            self._finish(connection, response, "POST", path)
        states: list[str] = []
        try:
            for item in parse_stream(iter(lambda: response.readline(MAX_ANSWER_BYTES), b"")):
                state = str(item.get("status", ""))
                if state and state not in states:
                    states.append(state)
        except socket.timeout:
            raise OllamaError(
                "{} sent nothing for {:g} seconds during {}; last was: {}".format(
                    self.url, self.timeout, path, (states or ["nothing"])[-1]
                )
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise OllamaError(f"{self.url} broke off its answer to {path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if "success" not in states:
            raise OllamaError("{} ended without success; last was: {}".format(path, (states or ["nothing"])[-1]), 200)
        return states

    def version(self) -> str:
        answer = self.request("GET", "/api/version")
        if not isinstance(answer, dict) or not isinstance(answer.get("version"), str):
            raise OllamaError(f"{self.url} does not tell its version; is it an Ollama server?")
        return t.cast(str, answer["version"])

    def wait(self, seconds: float) -> None:
        """Until the server answers: it may be started anew while a model is brought in.

        :raises OllamaError: it does not, for so many seconds.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.version()
                return
            except OllamaError as error:
                if error.status or time.monotonic() >= end:
                    raise
            time.sleep(min(0.5, max(0.0, end - time.monotonic())))

    def _models(self, path: str) -> list[dict[str, t.Any]]:
        answer = self.request("GET", path)
        models = answer.get("models") if isinstance(answer, dict) else None
        if models is None and isinstance(answer, dict) and "models" in answer:
            return []
        if not isinstance(models, list):
            raise OllamaError(f"{self.url} has no list of models at {path}; is it an Ollama server?")
        return [item for item in models if isinstance(item, dict)]

    def tags(self) -> list[dict[str, t.Any]]:
        """The installed models as /api/tags lists them."""
        return self._models("/api/tags")

    def running(self) -> list[dict[str, t.Any]]:
        """The models in memory as /api/ps lists them."""
        return self._models("/api/ps")

    def loaded(self, name: str) -> dict[str, t.Any] | None:
        return next((loaded(item) for item in self.running() if item.get("name") == local_name(name)), None)

    def model(self, name: str, tags: t.Sequence[t.Mapping[str, t.Any]] | None = None) -> Model | None:
        """The installed model of that name, or None. ``tags`` saves asking for the list again."""
        wanted = local_name(name)
        tag = next((item for item in (self.tags() if tags is None else tags) if item.get("name") == wanted), None)
        if tag is None:
            return None
        try:
            shown = self.request("POST", "/api/show", {"model": wanted})
        except OllamaError as error:
            if error.status == 404:
                return None
            raise
        details = shown.get("details") or {}
        info = shown.get("model_info") or {}
        context = info.get("{}.context_length".format(info.get("general.architecture")))
        return Model(
            name=wanted,
            digest=tag.get("digest"),
            weights_digest=weights_digest(shown.get("modelfile") or ""),
            size_bytes=tag.get("size"),
            quantization=details.get("quantization_level"),
            family=details.get("family"),
            trained_context_length=context if isinstance(context, int) else None,
            capabilities=tuple(shown.get("capabilities") or ()),
            parameters=parse_parameters(shown.get("parameters") or ""),
            system=shown.get("system") or "",
            template=shown.get("template") or "",
            license=shown.get("license") or "",
            messages=tuple(
                Message(str(message.get("role")), str(message.get("content")))
                for message in shown.get("messages") or []
            ),
            adapters=_adapters(shown.get("modelfile") or ""),
            renderer=_handler(shown.get("modelfile") or "", shown.get("system") or "", "RENDERER"),
            parser=_handler(shown.get("modelfile") or "", shown.get("system") or "", "PARSER"),
            requires=shown.get("requires") or "",
            modelfile=shown.get("modelfile") or "",
        )

    def has_blob(self, digest: str) -> bool:
        try:
            self.request("HEAD", "/api/blobs/" + digest)
        except OllamaError as error:
            if error.status == 404:
                return False
            raise
        return True

    def upload_blob(self, digest: str, path: str) -> int:
        """Send a file into the server's store; the server checks the digest. Returns the bytes sent.

        :raises OllamaError: the digest is another, or the server refuses.
        :raises OSError: the file cannot be read.
        """
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            connection, response = self._send("POST", "/api/blobs/" + digest, stream, headers)
            self._finish(connection, response, "POST", "/api/blobs/" + digest)
        return size

    def create(self, name: str, body: t.Mapping[str, t.Any]) -> None:
        self.stream("/api/create", dict(body, model=name))

    def copy(self, source: str, destination: str) -> None:
        self.request("POST", "/api/copy", {"source": source, "destination": destination})

    def delete(self, name: str) -> None:
        self.request("DELETE", "/api/delete", {"model": name})

    def load(self, model: Model, duration: int | str, context_length: int | None) -> float:
        """Bring a model into memory and keep it there; seconds that it took.

        An empty generate request loads; embedding models refuse that one and load by an empty embed request.
        """
        options = {"num_ctx": context_length} if context_length else {}
        body: dict[str, t.Any] = {"model": model.name, "keep_alive": duration}
        if options:
            body["options"] = options
        start = time.monotonic()
        if "embedding" in model.capabilities and "completion" not in model.capabilities:
            self.request("POST", "/api/embed", dict(body, input=""))
        else:
            self.request("POST", "/api/generate", dict(body, stream=False))
        return time.monotonic() - start

    def unload(self, name: str, patience: float = 30) -> None:
        """Take a model out of memory, and wait up to ``patience`` seconds until the server no longer lists it.

        :raises OllamaError: it is still there then.
        """
        self.request("POST", "/api/generate", {"model": local_name(name), "keep_alive": 0, "stream": False})
        end = time.monotonic() + patience
        while self.loaded(name):
            if time.monotonic() > end:
                raise OllamaError(f"{name} is still in memory after {patience:g} seconds")
            time.sleep(0.2)
