"""The recorded requests of real servers, replayed in order: every answer compared, every difference listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine import models
from tests.engine.conftest import CACHE, Engine
from tests.engine.differences import AGAINST_0_17_7, ALL
from tests.engine.registry import Registry

RECORDINGS = Path(__file__).parent / "recordings"
REGISTRY = "127.0.0.1:5055"
HEADERS = ("content-type", "content-length", "transfer-encoding", "allow")
# Bodies that the recordings only name by their length.
BODIES = {"invalid json": b'{"model":', "blob upload wrong digest": b"abc"}
# Values that differ from one run of a server to the next; of these the type alone is compared.
VOLATILE = {
    "created_at", "modified_at", "expires_at", "created", "id",
    "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    "response", "content", "text", "context", "completed", "total",
}  # fmt: skip

Facts = dict[str, Any]


def facts(value: Any, path: str = "") -> Facts:
    """A JSON value as flat facts: path → value, or path → type where the value is volatile."""
    if isinstance(value, dict):
        found: Facts = {f"{path}{{}}": sorted(value)}
        for key, item in value.items():
            found |= {f"{path}.{key}": kind(item)} if key in VOLATILE else facts(item, f"{path}.{key}")
        return found
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        # The recordings keep two tensors; the order of models is no part of the contract.
        if path.endswith(".tensors"):
            return facts(value[0], f"{path}[]")
        rows = sorted(value, key=lambda item: str(item.get("name") or item.get("id") or ""))
        found = {f"{path}[]": len(rows)}
        for index, item in enumerate(rows):
            found |= facts(item, f"{path}[{index}]")
        return found
    return {path: settled(value) if isinstance(value, str) else value}


def kind(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {kind(value[0])}" if value else "list"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def settled(text: str) -> str:
    """A text without what depends on the machine: the store's place, a registry's port, what a resolver says."""
    text = text.replace("/data/models", "/root/.ollama/models")
    text = re.sub(r"dial tcp.*", "dial tcp …", text)
    return re.sub(r"(pulling|pushing) [0-9a-f]{12}", r"\1 …", text)


def line_facts(document: Any) -> Facts:
    found = facts(document)
    # Transfers report as often as a clock says, and small layers may be done before it ticks.
    if re.match(r"(pulling|pushing) …", str(found.get(".status"))):
        found[".digest"] = "digest"
    return found


def observe(status: int, headers: dict[str, str], body: str) -> Facts:
    """Everything that is compared about an answer."""
    found: Facts = {"status": status}
    for name in HEADERS:
        value = headers.get(name)
        # A length is what the body makes it, but for HEAD, where nothing else tells of the body.
        found[f"header {name}"] = "present" if name == "content-length" and value and body else value
    content_type = headers.get("content-type") or ""
    if "ndjson" in content_type:
        lines = [line_facts(json.loads(line)) for line in body.splitlines()]
    elif content_type == "text/event-stream":
        events = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
        lines = [{"": event} if event == "[DONE]" else line_facts(json.loads(event)) for event in events]
    elif "json" in content_type and body:
        return found | {f"body{path}": value for path, value in facts(json.loads(body)).items()}
    else:
        return found | {"body": body}
    # Repeated lines of the same form are one: tokens and ticks are counted elsewhere.
    kept = [line for index, line in enumerate(lines) if index == 0 or line != lines[index - 1]]
    for index, line in enumerate(kept):
        found |= {f"line {index}{path}": value for path, value in line.items()}
    return found | {"lines": len(kept)}


def load(version: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RECORDINGS / f"{version}.json").read_text(encoding="utf-8"))["recordings"]
    return found


@pytest.fixture(scope="module")
def answers(start: Callable[..., Engine], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Facts, Any]]:
    """The stand-in's answers to the recorded requests, in the recorded order: observation and body by name."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    engine = start()
    found = {}
    for recording in load("0.32.15"):
        request = json.loads(json.dumps(recording["request"]).replace(REGISTRY, registry.address))
        body = BODIES.get(recording["name"], request["body"])
        if recording["name"] == "blob upload":
            body = models.gemma(CACHE).open("rb")
        with engine.open(request["method"], request["path"], body, request["headers"]) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            text = response.read().decode().replace(registry.address, REGISTRY)
        found[recording["name"]] = (observe(response.status, headers, text), text)
    registry.shutdown()
    return found


def expected(recording: dict[str, Any]) -> Facts:
    response = recording["response"]
    return observe(response["status"], {k.lower(): v for k, v in response["headers"].items()}, response["body"])


@pytest.mark.parametrize(
    ("version", "listed"), [("0.32.15", ALL), ("0.17.7", AGAINST_0_17_7)], ids=["0.32.15", "0.17.7"]
)
def test_every_difference_is_listed_and_every_listed_difference_exists(
    answers: dict[str, tuple[Facts, Any]], version: str, listed: dict[tuple[str, str], str]
) -> None:
    unlisted, used = [], set()
    for recording in load(version):
        name, wanted, got = recording["name"], expected(recording), answers[recording["name"]][0]
        for path in sorted(wanted.keys() | got.keys()):
            if wanted.get(path, "absent") == got.get(path, "absent"):
                continue
            entries = [entry for entry in listed if entry[0] == name and path.startswith(entry[1])]
            used |= set(entries)
            if not entries:
                unlisted.append(f"{name}: {path}: {wanted.get(path, 'absent')!r} → {got.get(path, 'absent')!r}")
    assert not unlisted, "\n".join(unlisted)
    assert not set(listed) - used, "listed, but no longer there"


def test_reported_size_is_near_the_recorded_one(answers: dict[str, tuple[Facts, Any]]) -> None:
    for recording in load("0.32.15"):
        if recording["name"] in ("ps loaded", "ps after num_ctx"):
            recorded = json.loads(recording["response"]["body"])["models"][0]["size"]
            measured = json.loads(answers[recording["name"]][1])["models"][0]["size"]
            assert abs(measured - recorded) <= 2**20
