"""What the server is told by its environment, under Ollama's own names, defaults and notations."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

VERSION = os.environ.get("OLLAMA_STANDIN_VERSION", "0.32.15")
DEFAULT_PORT = 11434
# Go's time.Duration is an int64 of nanoseconds; Ollama stores "for ever" as its maximum, about 292 years.
FOREVER = (2**63 - 1) / 1e9
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``-1s``. ValueError with Go's own message."""
    body = text[1:] if text[:1] in "+-" else text
    if body != "0" and not re.fullmatch(f"(?:{_DURATION.pattern})+", body):
        missing = re.fullmatch(r"[\d.]+", body)
        raise ValueError(f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(body))
    return -seconds if text.startswith("-") else seconds


def parse_keep_alive(value: object) -> float:
    """Seconds that a model stays loaded after use: a number of seconds or a Go duration, negative is for ever."""
    if isinstance(value, str):
        seconds = parse_duration(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(f"Unsupported type: '{type(value).__name__}'")
    return FOREVER if seconds < 0 else min(seconds, FOREVER)


def _whole(name: str, default: int) -> int:
    """A whole number from the environment; what is none is worth its default, as Ollama has it."""
    try:
        return int(os.environ.get(name, "").strip() or default)
    except ValueError:
        return default


def _switch(name: str) -> bool | None:
    """A Go boolean from the environment: None where unset, true where it is set to something that is none."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    return text not in ("0", "f", "F", "false", "FALSE", "False")


def _keep_alive() -> float:
    text = os.environ.get("OLLAMA_KEEP_ALIVE", "").strip()
    try:
        return parse_keep_alive(int(text) if re.fullmatch(r"-?\d+", text) else text) if text else 300.0
    except ValueError:
        return 300.0


def host_and_port() -> tuple[str, int]:
    """Address of OLLAMA_HOST: ``host``, ``host:port``, ``:port``, with a scheme or without, IPv6 in brackets."""
    text = os.environ.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    port = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    authority = (rest if separator else text).split("/")[0]
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(\d+))?", authority)
    if not match:
        return (authority if authority.count(":") > 1 else "127.0.0.1"), port
    return match[1].strip("[]") or "127.0.0.1", int(match[2] or port)


@dataclass(frozen=True)
class Settings:
    """The server's configuration, read once at start."""

    host: str = field(default_factory=lambda: host_and_port()[0])
    port: int = field(default_factory=lambda: host_and_port()[1])
    home: Path = field(default_factory=lambda: Path(os.environ.get("HOME") or "/"))
    models: Path = field(
        default_factory=lambda: Path(
            os.environ.get("OLLAMA_MODELS") or Path(os.environ.get("HOME") or "/") / ".ollama/models"
        )
    )
    context_length: int = field(default_factory=lambda: _whole("OLLAMA_CONTEXT_LENGTH", 0))
    parallel: int = field(default_factory=lambda: max(1, _whole("OLLAMA_NUM_PARALLEL", 1)))
    max_loaded: int = field(default_factory=lambda: _whole("OLLAMA_MAX_LOADED_MODELS", 0))
    max_queue: int = field(default_factory=lambda: _whole("OLLAMA_MAX_QUEUE", 512))
    keep_alive: float = field(default_factory=_keep_alive)
    load_timeout: float = 300.0
    kv_cache_type: str = field(default_factory=lambda: os.environ.get("OLLAMA_KV_CACHE_TYPE", "").strip().lower())
    flash_attention: bool | None = field(default_factory=lambda: _switch("OLLAMA_FLASH_ATTENTION"))
    no_prune: bool = field(default_factory=lambda: bool(_switch("OLLAMA_NOPRUNE")))
    origins: tuple[str, ...] = field(
        default_factory=lambda: tuple(o for o in os.environ.get("OLLAMA_ORIGINS", "").split(",") if o)
    )
