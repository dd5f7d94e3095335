"""Loaded models, a llama-server each on a UNIX socket, and the scheduler that loads, keeps, reloads and evicts them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import devices
from .settings import FOREVER, Settings
from .store import Model

_PREFIX = re.compile(r"^[\d.]+ ([A-Z]) ")
_BUFFER = re.compile(r"^(\w+: +)(\S+)( +(?:model|KV|RS|compute|output) buffer size = +)([\d.]+)( MiB.*)$")
_KV_CACHE_TYPES = ("f16", "q8_0", "q4_0")
# Tokens computed at once by the context of all slots together, as Ollama 0.32 raises num_batch (llm/llama_server.go);
# an embedding model's input must fit into one batch.
_BATCH_BY_CONTEXT = ((4096, 512), (32768, 1024))
_BATCH_LARGEST = 2048
_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
# Memory-based default of the context length when nobody says one: (bytes of VRAM, tokens).
_CONTEXT_BY_VRAM = ((47 * 2**30, 262144), (23 * 2**30, 32768), (0, 4096))


class Busy(RuntimeError):
    """More requests wait than OLLAMA_MAX_QUEUE allows."""


class LoadFailed(RuntimeError):
    """llama-server ended or stalled before the model was loaded."""


class RunnerDied(RuntimeError):
    """llama-server went away in the middle of a request."""


class RunnerError(RuntimeError):
    """llama-server answered with an error of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def log(level: str, message: str, **fields: object) -> None:
    """One line on stderr in the form of Ollama's own log."""
    text = "".join(f" {key}={json.dumps(value) if ' ' in str(value) else value}" for key, value in fields.items())
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    print(
        f'time={now}.{time.time_ns() // 10**6 % 1000:03d}Z level={level} msg="{message}"{text}',
        file=sys.stderr,
        flush=True,
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Runner:
    """One llama-server process with one model."""

    def __init__(
        self, settings: Settings, model: Model, context_length: int, parallel: int, num_gpu: int | None = None
    ) -> None:
        self.settings, self.model = settings, model
        self.context_length, self.parallel = context_length, parallel
        # Layers to offload at most; None leaves it to the scheduler.
        self.num_gpu = num_gpu
        self.slots = threading.BoundedSemaphore(parallel)
        self.users = 0
        self.loading = True
        self.last_used = time.monotonic()
        self.expires = float("inf")
        self.keep_alive = settings.keep_alive
        self.size = 0
        self.layers = int(model.header.of_architecture("block_count") or 0) + 1
        self.placement = devices.Placement(0, self.layers, ())
        self._socket = Path(tempfile.gettempdir()) / f"runner-{secrets.token_hex(6)}.sock"
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        """llama-server's command line, with the options that Ollama gives it."""
        header = self.model.header
        command = [
            "llama-server",
            "--model",
            str(self.model.weights),
            "--host",
            str(self._socket),
            "--no-ui",
            "--offline",
        ]
        command += ["--ctx-size", str(self.context_length * self.parallel), "--parallel", str(self.parallel)]
        # The levels in the prefix tell what is worth printing once the model is loaded.
        command += ["--verbosity", "4", "--log-prefix", "--log-timestamps"]
        # Fitting to the memory is the scheduler's affair here and would cost half a second; weights repacked for the
        # CPU at hand would make the size depend on the machine.
        command += ["--fit", "off", "--no-repack", "--cache-ram", "0", "--no-warmup", "--context-shift", "--keep", "4"]
        total = self.context_length * self.parallel
        steps = (batch for most, batch in _BATCH_BY_CONTEXT if total <= most and not header.is_embedding)
        batch = min(next(steps, _BATCH_LARGEST), self.context_length)
        command += ["--batch-size", str(batch), "--ubatch-size", str(batch)]
        if "LLAMA_ARG_THREADS" not in os.environ:
            # Several engines share a test machine's few cores, where threads that wait for each other in every layer
            # crawl: 15 tokens a second with two threads, 4000 with one (a tiny model, 2 cores, load average 15).
            command += ["--threads", "1"]
        for adapter in self.model.adapters:
            command += ["--lora", str(adapter)]
        if header.is_embedding:
            command.append("--embeddings")
        if self.settings.flash_attention is not None:
            command += ["--flash-attn", "on" if self.settings.flash_attention else "off"]
        kind = self.settings.kv_cache_type
        if kind in _KV_CACHE_TYPES:
            command += ["--cache-type-k", kind, "--cache-type-v", kind]
        elif kind:
            log("WARN", "unknown kv cache type, using f16", type=kind)
        return command

    def start(self) -> None:
        """Load the model and read its memory from the buffer lines. LoadFailed."""
        command = self.command()
        log("INFO", "starting llama-server", cmd=" ".join(command))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read_log, daemon=True).start()
        deadline = time.monotonic() + self.settings.load_timeout
        while not self._healthy():
            if self._process.poll() is not None:
                self._ready.wait(1)
                errors = [line for line in self._lines if "error" in line.lower() or "failed" in line.lower()]
                self.say(devices.Placement(0, self.layers, ()))
                reason = f": {errors[-1]}" if errors else ""
                raise LoadFailed(f"llama-server process has terminated: exit status {self._process.returncode}{reason}")
            if time.monotonic() > deadline:
                self.stop()
                raise LoadFailed("timed out waiting for llama-server to start")
            time.sleep(0.02)
        self._ready.wait(1)
        # As Ollama counts: of lines that name the same buffer the last one, so a sliding window's second cache hides
        # the first (llm/llama_server.go, memoryParsingWriter).
        matches = [match for match in map(_BUFFER.match, self._lines) if match]
        sizes = {(match[1], match[2], match[3].split()[0]): float(match[4]) for match in matches}
        self.size = sum(int(size * devices.MIB) for size in sizes.values())
        if not self.size:
            self.stop()
            raise LoadFailed("llama-server printed no buffer size: its log has another form now")

    def say(self, placement: devices.Placement) -> None:
        """Print what llama-server printed while loading, its CPU buffers named for the devices they stand for."""
        self.placement = placement
        lines, self._lines = self._lines, []
        told = False
        for line in lines:
            match = _BUFFER.match(line)
            if match and not told:
                told = True
                print(
                    f"load_tensors: offloaded {placement.offloaded}/{placement.layers} layers to GPU", file=sys.stderr
                )
            for text in self._renamed(match) if match else (line,):
                print(text, file=sys.stderr)
        sys.stderr.flush()
        self.loading = False

    def _renamed(self, match: re.Match[str]) -> list[str]:
        """A buffer line as the devices' build prints it: one for each device with its share, the rest on the CPU."""
        megabytes, lines = float(match[4]), []
        for ordinal, taken in enumerate(self.placement.on_device):
            if taken:
                share = megabytes * taken / self.size
                lines.append(f"{match[1]}{f'CUDA{ordinal}':>{len(match[2])}}{match[3]}{share:.2f}{match[5]}")
        if self.placement.vram < self.size:
            share = megabytes * (self.size - self.placement.vram) / self.size
            lines.append(f"{match[1]}{match[2]}{match[3]}{share:.2f}{match[5]}")
        return lines

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            level = _PREFIX.match(raw)
            line = _PREFIX.sub("", raw.rstrip("\n"), count=1)
            if not self._ready.is_set():
                self._lines.append(line)
                if "listening on" in line:
                    self._ready.set()
            elif level and level[1] in "WE":
                print(line, file=sys.stderr, flush=True)
        self._ready.set()

    def _healthy(self) -> bool:
        connection = _UnixConnection(self._socket)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process as Ollama does, by force: it has nothing to save."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the process, wait for its end and tidy up after it."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        self._socket.unlink(missing_ok=True)

    # Requests

    @contextlib.contextmanager
    def _open(self, path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self._socket)
        try:
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise RunnerDied(_DIED) from error
            if response.status != 200:
                answer = json.loads(response.read() or b"{}").get("error", {})
                raise RunnerError(response.status, str(answer.get("message", f"status {response.status}")))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise RunnerDied("an error was encountered while running the model: unexpected EOF") from error
        finally:
            connection.close()

    def call(self, path: str, body: dict[str, Any]) -> Any:
        """One request with one JSON answer. RunnerError, RunnerDied."""
        with self._open(path, body) as response:
            return json.loads(response.read())

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        tokens = self.call("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]
        return [int(token) for token in tokens]

    def complete(self, body: dict[str, Any], gone: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Events of a completion, each as llama-server sends it; closes the request when ``gone`` says so.

        RunnerError, RunnerDied.
        """
        with self.slots, self._open("/completion", body | {"stream": True}) as response:
            while line := response.readline():
                field, _, text = line.decode().partition(":")
                if field == "error" or (field == "data" and text.lstrip().startswith('{"error"')):
                    answer = json.loads(text)
                    answer = answer.get("error", answer)
                    raise RunnerError(int(answer.get("code", 500)), str(answer.get("message", "")))
                if field != "data":
                    continue
                event = json.loads(text)
                yield event
                if event.get("stop"):
                    return
                if gone():
                    return
            raise RunnerDied("an error was encountered while running the model: unexpected EOF")


class Scheduler:
    """The loaded models, bounded in number and by the devices' memory; the least recently used idle one makes room."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.devices = devices.present()
        self.limit = settings.max_loaded if settings.max_loaded > 0 else 3 * max(1, len(self.devices))
        self._loaded: dict[Path, Runner] = {}
        self._changed = threading.Condition()
        self._waiting = 0
        self._stopped = False
        threading.Thread(target=self._expire, daemon=True).start()

    @property
    def default_context_length(self) -> int:
        if self.settings.context_length > 0:
            return self.settings.context_length
        total = sum(device.memory for device in self.devices)
        return next(tokens for vram, tokens in _CONTEXT_BY_VRAM if total >= vram)

    @contextlib.contextmanager
    def use(
        self, model: Model, context_length: int | None, keep_alive: float | None, num_gpu: int | None = None
    ) -> Iterator[Runner]:
        """The runner of a model, loaded anew where it must be, for the length of the block. Busy, LoadFailed."""
        runner = self._acquire(model, context_length, num_gpu)
        try:
            yield runner
        finally:
            with self._changed:
                runner.users -= 1
                runner.last_used = time.monotonic()
                if keep_alive is not None:
                    runner.keep_alive = keep_alive
                runner.expires = runner.last_used + runner.keep_alive
                if runner.users == 0 and (runner.keep_alive <= 0 or not runner.alive):
                    self._unload(runner)
                self._changed.notify_all()

    def _acquire(self, model: Model, context_length: int | None, num_gpu: int | None) -> Runner:
        header = model.header
        wanted = context_length or self.default_context_length
        trained = header.of_architecture("context_length")
        if isinstance(trained, int) and wanted > trained:
            log("WARN", "requested context size too large for model", num_ctx=wanted, n_ctx_train=trained)
            wanted = trained
        with self._changed:
            if self._waiting >= self.settings.max_queue:
                raise Busy("server busy, please try again.  maximum pending requests exceeded")
            self._waiting += 1
            try:
                runner = self._claim(model, wanted, num_gpu)
            finally:
                self._waiting -= 1
            if not runner.loading:
                return runner
        try:
            runner.start()
        except BaseException:
            with self._changed:
                self._loaded.pop(model.weights, None)
                self._changed.notify_all()
            raise
        with self._changed:
            if self._stopped:
                runner.stop()
                raise LoadFailed("server is shutting down")
            runner.say(self._place(runner))
            self._changed.notify_all()
        return runner

    def _claim(self, model: Model, context_length: int, num_gpu: int | None) -> Runner:
        """With the lock held: a loaded runner that suits, or a new one that the caller must start.

        As Ollama has it (server/sched.go, schedulerModelKey and needsReload), a request that does not say num_gpu takes
        any, and models of the same weights with other adapters take each other's place.
        """
        while True:
            runner = self._loaded.get(model.weights)
            if runner is not None and not runner.loading:
                suits = runner.context_length == context_length and num_gpu in (None, runner.num_gpu)
                suits = suits and runner.model.adapters == model.adapters
                if runner.alive and suits:
                    runner.users += 1
                    runner.expires = float("inf")
                    return runner
                if runner.users == 0 or not runner.alive:
                    self._unload(runner)
                    continue
            elif runner is None and not any(other.loading for other in self._loaded.values()):
                if len(self._loaded) < self.limit:
                    break
                if self._evict():
                    continue
            self._changed.wait()
        parallel = 1 if model.header.is_embedding else self.settings.parallel
        runner = Runner(self.settings, model, context_length, parallel, num_gpu)
        runner.users = 1
        self._loaded[model.weights] = runner
        return runner

    def _place(self, runner: Runner) -> devices.Placement:
        """With the lock held: where a runner's layers go, after making room for it where idle models hold it."""
        while True:
            taken: dict[int, int] = {}
            for other in self._loaded.values():
                if other is not runner:
                    for device, size in zip(self.devices, other.placement.on_device, strict=False):
                        taken[device.index] = taken.get(device.index, 0) + size
            on_cpu = devices.left_on_cpu(self.settings.home, runner.layers)
            if runner.num_gpu is not None:
                on_cpu = max(on_cpu or 0, runner.layers - runner.num_gpu)
            placement = devices.place(runner.size, runner.layers, self.devices, taken, on_cpu)
            full = placement.offloaded == runner.layers - (on_cpu or 0)
            if full or not self.devices or not self._evict(holding_vram=True):
                return placement

    def _evict(self, holding_vram: bool = False) -> bool:
        """With the lock held: unload the least recently used idle runner; whether there was one."""
        idle = [r for r in self._loaded.values() if r.users == 0 and not r.loading]
        if holding_vram:
            idle = [runner for runner in idle if runner.placement.vram]
        if not idle:
            return False
        self._unload(min(idle, key=lambda runner: runner.last_used))
        return True

    def _unload(self, runner: Runner) -> None:
        log("INFO", "unloading model", model=runner.model.name)
        if self._loaded.get(runner.model.weights) is runner:
            del self._loaded[runner.model.weights]
        runner.stop()

    def expire(self, model: Model) -> None:
        """Unload a model now, or as soon as nobody uses it."""
        with self._changed:
            runner = self._loaded.get(model.weights)
            if runner is not None:
                runner.expires, runner.keep_alive = 0.0, 0.0
                if runner.users == 0 and not runner.loading:
                    self._unload(runner)
            self._changed.notify_all()

    def _expire(self) -> None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                for runner in list(self._loaded.values()):
                    if runner.users == 0 and not runner.loading and runner.expires <= now:
                        self._unload(runner)
                        self._changed.notify_all()
                ends = [runner.expires for runner in self._loaded.values() if runner.users == 0]
                self._changed.wait(min(1.0, max(0.01, min(ends, default=now + 60) - now)) if ends else None)

    def loaded(self) -> list[tuple[Runner, float]]:
        """Runners with the seconds until they expire, those that end last first."""
        with self._changed:
            now = time.monotonic()
            rows = [
                (runner, min(FOREVER, (runner.expires if runner.users == 0 else now + runner.keep_alive) - now))
                for runner in self._loaded.values()
                if not runner.loading
            ]
        return sorted(rows, key=lambda row: -row[1])

    def stop(self) -> None:
        """End all runners and take no more."""
        with self._changed:
            self._stopped = True
            runners = list(self._loaded.values())
            self._loaded.clear()
            self._changed.notify_all()
        for runner in runners:
            runner.kill()
