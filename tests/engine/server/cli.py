"""The ``ollama`` command: the server, and the few questions that health checks and people ask it."""

from __future__ import annotations

import json
import socket
import sys
import time
from calendar import timegm

from .settings import VERSION, Settings, host_and_port

_USAGE = """Usage:
  ollama [command]

Available Commands:
  serve       Start Ollama
  list        List models (also: ls)
  ps          List running models

Flags:
  -v, --version   Show version information
"""


def _get(path: str) -> bytes | None:
    """Body of a GET from the running server, None if there is none. By a bare socket: health checks must be quick."""
    host, port = host_and_port()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if b" 200 " in head.partition(b"\r\n")[0] else None


def _models(path: str) -> list[dict[str, object]]:
    answer = _get(path)
    if answer is None:
        print("Error: could not connect to ollama server, run 'ollama serve' to start it", file=sys.stderr)
        raise SystemExit(1)
    found: list[dict[str, object]] = json.loads(answer)["models"]
    return found


def _bytes(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= unit:
            value = size / unit
            return f"{value:.0f} {name}" if value >= 10 else f"{value:.1f} {name}"
    return f"{size} B"


def _span(timestamp: object) -> tuple[int, str]:
    seconds = timegm(time.strptime(str(timestamp)[:19], "%Y-%m-%dT%H:%M:%S")) - int(time.time())
    for unit, name in ((86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count = abs(seconds) // unit
        if count:
            return seconds, f"{count} {name}{'s' if count > 1 else ''}"
    return seconds, "Less than a second"


def _table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), "   ", sep="")


def _list() -> None:
    rows = [["NAME", "ID", "SIZE", "MODIFIED"]]
    for model in _models("/api/tags"):
        digest, size = str(model["digest"])[:12], int(str(model["size"]))
        rows.append([str(model["name"]), digest, _bytes(size), f"{_span(model['modified_at'])[1]} ago"])
    _table(rows)


def _ps() -> None:
    rows = [["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]]
    for model in _models("/api/ps"):
        size, vram = int(str(model["size"])), int(str(model["size_vram"]))
        on_cpu = round((size - vram) / size * 100) if size else 100
        processor = {0: "100% GPU", 100: "100% CPU"}.get(on_cpu, f"{on_cpu}%/{100 - on_cpu}% CPU/GPU")
        seconds, span = _span(model["expires_at"])
        until = "Forever" if seconds > 86400 * 365 * 100 else "Stopping..." if seconds < 0 else f"{span} from now"
        context = str(model["context_length"])
        rows.append([str(model["name"]), str(model["digest"])[:12], _bytes(size), processor, context, until])
    _table(rows)


def _version() -> None:
    answer = _get("/api/version")
    if answer is None:
        print(f"Warning: could not connect to a running Ollama instance\nWarning: client version is {VERSION}")
    else:
        print(f"ollama version is {json.loads(answer)['version']}")


def main() -> None:
    """Run the command of ``sys.argv``."""
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if command in ("serve", "start"):
        from . import serve

        serve.main(Settings())
    elif command in ("list", "ls"):
        _list()
    elif command == "ps":
        _ps()
    elif command in ("--version", "-v"):
        _version()
    elif command in ("help", "--help", "-h"):
        print(_USAGE, end="")
    else:
        print(f'Error: unknown command "{command}" for "ollama"', file=sys.stderr)
        raise SystemExit(1)
