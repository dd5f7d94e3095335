# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep every planned model warm: loaded to stay, and having answered one token (an embedding model: one embedding).

``watch`` is what onprem-llm-warm.service runs. It looks at the engine every few seconds, over one connection that stays
open, so that it knows at once when the engine goes. Models that are not warm are asked for an answer, one at a time and
in the plan's load order; the request that loads a model is the one that it answers. A model that fails is tried again
after a while, and the others go on without it. What it finds stands in the state file, in the unit's status and, where
it changes, in the journal. The unit is ready once every planned model has answered.

``await`` waits until the state file says ready. Exit status: 0 when it does, 1 with the reason when it does not in
time, or cannot, because a model has failed three times.

Needs Python 3.9 and nothing beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

WAITING, WARMING, ANSWERED, FAILED = "waiting", "warming", "answered", "failed"
# Of a model that has answered, and that onprem-llm-recovery.service keeps from the gateways.
WITHHELD = "withheld"
SILENT_INTERVAL = 0.5  # seconds between two looks for an engine that is down
LOOK_TIMEOUT = 10.0  # seconds that the engine has to say what is loaded
SETTLED = 600.0  # seconds in memory after which a model's earlier failures count no more
LONGEST_DELAY = 300.0  # seconds between two attempts at most
REPIN_INTERVAL = 30.0  # seconds between two requests that pin one model again
HOPELESS = 3  # failures in a row after which `await` gives up
NOTIFY_TIMEOUT = 5.0  # seconds that systemd has to take a message
NOT_STARTED = 30.0  # seconds that `await` gives the unit to write its state
# An expiry so far off is what a keep_alive of -1 gives; Ollama itself writes some 290 years.
PINNED_YEARS = 10


class EngineError(Exception):
    """The engine answers with an error or, where ``lost``, the connection to it broke."""

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class Stop(BaseException):
    """A signal asks for the end."""


def delay(attempts: int) -> float:
    """Seconds before the next attempt after so many that did not last: 0, 5, 10, 20, … 300."""
    return min(5.0 * 2 ** min(attempts - 1, 10), LONGEST_DELAY) if attempts else 0.0


def full_name(model: str) -> str:
    """The name as /api/ps gives it: with the tag that Ollama adds, and without the scheme of the registry."""
    scheme, separator, rest = model.partition("://")
    model = rest if separator and scheme in ("http", "https") else model
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


def timestamp(moment: float) -> str:
    """Seconds since the epoch as UTC in ISO 8601."""
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).isoformat(timespec="seconds")[:-6] + "Z"


def pinned(entry: dict[str, Any]) -> bool:
    """Whether an entry of /api/ps was loaded to stay. One that does not say when it leaves passes for it."""
    year = str(entry.get("expires_at") or "")[:4]
    return not year.isdigit() or int(year) >= datetime.datetime.now().year + PINNED_YEARS


def connect(connection: http.client.HTTPConnection) -> None:
    """Connect so that an engine whose network is gone is found within half a minute, however long a load may take."""
    connection.connect()
    peer: socket.socket = connection.sock
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        peer.setsockopt(socket.IPPROTO_TCP, option, value)


class Engine:
    """The requests that are made of an Ollama server."""

    def __init__(self, url: str, load_timeout: float) -> None:
        """``load_timeout``: seconds that the engine may be silent while it loads a model and has it answer."""
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._load_timeout = load_timeout
        self._kept: http.client.HTTPConnection | None = None

    def look(self) -> dict[str, dict[str, Any]]:
        """Loaded models by name, by the connection that stays open."""
        models = self._kept_answer("/api/ps").get("models") or []
        return {str(model.get("name")): model for model in models}

    def version(self) -> str:
        return str(self._kept_answer("/api/version").get("version", ""))

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than the connection stays open, and briefly where there is none."""
        if self._kept is not None and self._kept.sock is not None:
            select.select([self._kept.sock], [], [], seconds)
        else:
            time.sleep(min(seconds, SILENT_INTERVAL))

    def answer(self, name: str, use: str) -> None:
        """Have a model answer once and stay in memory. It is loaded where it is not, as its own parameters say."""
        body: dict[str, Any] = {"model": name, "keep_alive": -1}
        if use == "embedding":
            if not (self._ask("/api/embed", {**body, "input": "1"}).get("embeddings") or [[]])[0]:
                raise EngineError("/api/embed: the answer has no embedding")
        else:
            # num_predict does not change how a model is loaded.
            request = {**body, "prompt": "1", "stream": False, "options": {"num_predict": 1}}
            if not self._ask("/api/generate", request).get("eval_count"):
                raise EngineError("/api/generate: the answer has no token")

    def unload(self, name: str) -> None:
        self._ask("/api/generate", {"model": name, "keep_alive": 0, "stream": False})

    def _kept_answer(self, path: str) -> dict[str, Any]:
        if self._kept is None:
            self._kept = http.client.HTTPConnection(*self._address, timeout=LOOK_TIMEOUT)
        try:
            return self._exchange(self._kept, "GET", path)
        except EngineError:
            self._kept.close()
            self._kept = None
            raise

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(*self._address, timeout=self._load_timeout)
        with contextlib.closing(connection):
            return self._exchange(connection, "POST", path, json.dumps(body).encode())

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, data: bytes | None = None
    ) -> dict[str, Any]:
        try:
            if connection.sock is None:
                connect(connection)
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            content = response.read()
        except socket.timeout as error:
            raise EngineError(f"{path}: no answer within {connection.timeout:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{path}: {error or type(error).__name__}", lost=True) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        # Ollama also puts errors into answers with status 200.
        if response.status != http.client.OK or not isinstance(answer, dict) or answer.get("error"):
            said = answer.get("error") if isinstance(answer, dict) else None
            raise EngineError(f"{path}: HTTP {response.status}: {said or content[:300].decode(errors='replace')}")
        return answer


@dataclass
class Model:
    """A planned model; moments are seconds of the monotonic clock, but for ``answered_at``, which is of the epoch."""

    name: str
    use: str
    state: str = WAITING
    reason: str = ""
    attempts: int = 0  # in a row that failed or did not last
    losses: int = 0  # of these, how often the engine was gone in the middle
    retry_at: float = 0.0
    listed: bool = False
    # The entries of /api/ps, name and digest, without which it counts as gone: its own or, as Ollama lists a runner
    # that two models share under one of their names, all that were there when it had answered.
    witnesses: frozenset[tuple[str, str]] = frozenset()
    answered_at: float | None = None
    settled_at: float = 0.0
    pinned_at: float = 0.0
    seconds: float | None = None

    def fail(self, reason: str, lost: bool, now: float) -> None:
        self.state, self.reason = FAILED, reason
        self.attempts += 1
        self.losses += lost
        # Whoever restarts the engine once takes no turn from the model that was being loaded; one that kills the engine
        # waits.
        self.retry_at = now + delay(self.attempts - 1 if self.losses == 1 else self.attempts)

    def leave(self, reason: str, now: float) -> None:
        """It is not in memory any more, and nobody restarted the engine."""
        self.attempts = 0 if now >= self.settled_at else self.attempts
        self.state, self.reason, self.retry_at = WAITING, reason, now + delay(self.attempts)
        self.attempts += 1

    def forget(self) -> None:
        """The engine is another one."""
        self.state, self.reason, self.listed = WAITING, "", False
        if self.losses < 2:
            self.attempts, self.retry_at = 0, 0.0


def entries(listed: dict[str, dict[str, Any]]) -> frozenset[tuple[str, str]]:
    return frozenset((name, str(entry.get("digest", ""))) for name, entry in listed.items())


def planned_models(plan: Any) -> list[Model]:
    """The models of a plan.json of schema 1 in the order in which they are to be loaded, each once.

    A plan of an earlier release has no such order and keeps its own. Raises ValueError for anything else.
    """
    try:
        if plan["schema"] != 1:
            raise ValueError(f"its schema is {plan['schema']!r}, not 1")
        listed = [model for instance in plan["instances"] for model in instance["models"]]
        listed.sort(key=lambda model: int(model.get("load_order", 0)))
        models = {name: Model(name, str(model.get("use"))) for model in listed for name in [full_name(model["name"])]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no plan: {type(error).__name__}: {error}") from error
    return list(models.values())


def held_until(path: str, seconds: float) -> float | None:
    """When the hold that a file stands for is over, seconds since the epoch; None where there is none.

    It holds for so many seconds from the file's own time, so nobody can forget it for ever, whatever that time says.
    """
    try:
        written = os.stat(path).st_mtime
    except OSError:
        return None
    return written + seconds if abs(time.time() - written) < seconds else None


def withheld_models(path: str) -> frozenset[str]:
    """Models that onprem-llm-recovery.service has taken out of service; none once its verdict has ended."""
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if float(state["withheld_until"] or 0.0) > time.time():
            return frozenset(map(str, state["withheld"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return frozenset()


def notify(*lines: str) -> None:
    """Tell systemd, as sd_notify(3) describes it; nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.settimeout(NOTIFY_TIMEOUT)
        sender.sendto("\n".join(lines).encode(), address)


def replace_file(path: str, text: str) -> None:
    """Write *text* to *path* so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class Warmer:
    """Looks, and has what is not warm answer; one step at a time."""

    def __init__(self, engine: Engine, plan: str, state: str, hold: str, hold_seconds: float, recovery: str) -> None:
        self._engine = engine
        self._recovery_path = recovery
        self._withheld: frozenset[str] = frozenset()
        self._plan_path, self._state_path = plan, state
        self._hold_path, self._hold_seconds = hold, hold_seconds
        self._plan_seen: Any = None
        self._plan_fault = "no plan was read yet"
        self._models: list[Model] = []
        self._dropped: list[str] = []
        self._engine_fault = "it was not asked yet"
        self._engine_version = ""
        self._engine_since = time.time()
        self._held_until: float | None = None
        self._ready = False
        self._ready_since = time.time()
        self._ready_told = False
        self._written = ""
        self._status = ""
        self._said = ""

    def step(self) -> bool:
        """One look and at most one request; whether there was one, so that the next step need not wait."""
        self._read_plan()
        try:
            listed = self._engine.look()
            if self._engine_fault:
                self._engine_version = self._engine.version()
        except EngineError as error:
            self._lose_engine(str(error))
            listed = {}
        else:
            if self._engine_fault:
                self._engine_fault, self._engine_since = "", time.time()
            self._judge(listed)
        # After the look: whoever holds and then unloads finds no decision of before.
        self._held_until = held_until(self._hold_path, self._hold_seconds)
        self._withheld = withheld_models(self._recovery_path)
        self._tell()
        if self._engine_fault or self._held_until is not None:
            return False
        return self._act(listed)

    def _read_plan(self) -> None:
        try:
            seen = os.stat(self._plan_path)
            signature: Any = (seen.st_mtime_ns, seen.st_ino, seen.st_size)
            if signature == self._plan_seen:
                return
            with open(self._plan_path, encoding="utf-8") as file:
                models = planned_models(json.load(file))
        except (OSError, ValueError) as error:
            self._plan_fault = f"{self._plan_path} cannot be read: {error}"
            self._plan_seen = None
            return
        before = {model.name: model for model in self._models}
        names = {model.name for model in models}
        self._dropped = [name for name in [*self._dropped, *before] if name not in names]
        self._models = [
            before[model.name] if model.name in before and before[model.name].use == model.use else model
            for model in models
        ]
        self._plan_seen, self._plan_fault = signature, ""

    def _lose_engine(self, fault: str) -> None:
        if not self._engine_fault:
            self._engine_since = time.time()
        self._engine_fault = fault
        for model in self._models:
            # Why a model failed stands until it is tried again: the engine may be gone because of it.
            reason = model.reason if model.state == FAILED else ""
            model.forget()
            model.reason = reason

    def _judge(self, listed: dict[str, dict[str, Any]]) -> None:
        """Take account of what is in memory."""
        now, there = time.monotonic(), entries(listed)
        for model in self._models:
            if model.state == ANSWERED and not model.witnesses <= there:
                model.leave("it left the engine's memory", now)
            elif model.name in listed and not model.listed:
                model.retry_at = min(model.retry_at, now)  # Somebody else loaded it.
            model.listed = model.name in listed

    def _act(self, listed: dict[str, dict[str, Any]]) -> bool:
        now = time.monotonic()
        for model in self._models:
            if model.state != ANSWERED and model.retry_at <= now:
                self._warm(model)
                return True
        for model in self._models:
            if model.listed and not pinned(listed[model.name]) and now >= model.pinned_at + REPIN_INTERVAL:
                self._warm(model, again=True)
                return True
        # What an earlier plan had gives its memory back, once, when the new plan's models serve.
        while self._ready and self._dropped:
            name = self._dropped.pop()
            if name in listed:
                print(f"{name} is not planned any more and is unloaded", flush=True)
                with contextlib.suppress(EngineError):
                    self._engine.unload(name)
                return True
        return False

    def _warm(self, model: Model, again: bool = False) -> None:
        """Have a model answer; ``again``: it is warm, and only loaded for a while."""
        if not again:
            model.state = WARMING
            self._tell()
        began = model.pinned_at = time.monotonic()
        try:
            self._engine.answer(model.name, model.use)
            listed = self._engine.look()
        except EngineError as error:
            model.fail(str(error), error.lost, time.monotonic())
            again_in = max(0.0, model.retry_at - time.monotonic())
            print(f"<4>{model.name} does not answer: {error}; tried again in {again_in:.0f} s", flush=True)
            return
        now = time.monotonic()
        own = {name: entry for name, entry in listed.items() if name == model.name}
        model.state, model.reason, model.losses = ANSWERED, "", 0
        model.witnesses, model.listed = entries(own or listed), bool(own)
        model.answered_at, model.settled_at = time.time(), now + SETTLED
        if not again:
            model.seconds = now - began
            print(f"{model.name} answered after {model.seconds:.1f} s", flush=True)

    def _summary(self) -> str:
        if self._plan_fault:
            return self._plan_fault
        if self._engine_fault:
            return f"the engine does not answer: {self._engine_fault}"
        answered = sum(model.state == ANSWERED for model in self._models)
        text = f"{answered} of {len(self._models)} planned models answer"
        for model in self._models:
            if model.state == WARMING:
                text += f"; loading {model.name}"
            elif model.reason:
                text += f"; {model.name}: {model.reason}"
            elif self._shown(model) == WITHHELD:
                text += f"; {model.name} is out of service, says {self._recovery_path}"
        if self._held_until is not None:
            text += f"; held until {timestamp(self._held_until)} by {self._hold_path}"
        return text

    def _tell(self) -> None:
        """Write what is known where it differs from what was written."""
        ready = not (self._plan_fault or self._engine_fault) and all(m.state == ANSWERED for m in self._models)
        if ready != self._ready:
            self._ready, self._ready_since = ready, time.time()
        self._status = self._summary()
        text = json.dumps(self._document(), indent=1, ensure_ascii=False) + "\n"
        if text != self._written:
            replace_file(self._state_path, text)
            self._written = text
        lines = ["WATCHDOG=1"]
        if self._status != self._said:
            lines.append(f"STATUS={self._status}")
            print(self._status, flush=True)
            self._said = self._status
        if ready and not self._ready_told:
            lines.append("READY=1")
            self._ready_told = True
        notify(*lines)

    def _shown(self, model: Model) -> str:
        return WITHHELD if model.state == ANSWERED and model.name in self._withheld else model.state

    def _document(self) -> dict[str, Any]:
        """The state file; times are UTC in ISO 8601, durations in seconds."""
        return {
            "schema": 1,
            "ready": self._ready,
            "since": timestamp(self._ready_since),
            "status": self._status,
            "held_until": None if self._held_until is None else timestamp(self._held_until),
            "engine": {
                "answers": not self._engine_fault,
                # When it began to answer, or stopped.
                "since": timestamp(self._engine_since),
                "version": self._engine_version,
            },
            "models": [
                {
                    "name": model.name,
                    "state": self._shown(model),
                    "loaded": model.listed or model.state == ANSWERED,
                    "reason": model.reason,
                    "failures": 0 if model.state == ANSWERED else model.attempts,
                    "answered_at": None if model.answered_at is None else timestamp(model.answered_at),
                    "seconds": None if model.seconds is None else round(model.seconds, 3),
                }
                for model in self._models
            ],
        }


def watch(options: argparse.Namespace) -> int:
    def stop(*_arguments: object) -> None:
        raise Stop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    engine = Engine(options.engine, options.timeout)
    warmer = Warmer(engine, options.plan, options.state, options.hold, options.hold_seconds, options.recovery)
    try:
        while True:
            if not warmer.step():
                engine.wait(options.interval)
                # A connection that ends in each wait must not make a loop without a pause.
                time.sleep(min(0.1, options.interval))
    except Stop:
        notify("STOPPING=1")
        return 0
    finally:
        with contextlib.suppress(OSError):
            os.unlink(options.state)


def wait_until_ready(options: argparse.Namespace) -> int:
    if options.end_hold:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(options.hold)
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            with open(options.state, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            said, hopeless = (
                f"there is no {options.state}: the unit onprem-llm-warm.service does not run",
                waited > NOT_STARTED,
            )
        else:
            said = state["status"]
            hopeless = any(model["failures"] >= HOPELESS for model in state["models"])
            if state["ready"]:
                print(said)
                return 0
        if hopeless or waited >= options.seconds:
            print(f"{said}. journalctl -u onprem-llm-warm.service has the rest.", file=sys.stderr)
            return 1
        time.sleep(0.2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Keep this host's planned models warm.")
    parser.add_argument("--state", default="/run/onprem-llm/warm.json", help="the file that says what is warm")
    parser.add_argument(
        "--hold", default="/run/onprem-llm-warm.hold", help="while this file is young, nothing is loaded"
    )
    commands = parser.add_subparsers(required=True)
    watching = commands.add_parser("watch", help="look, and have what is not warm answer")
    watching.set_defaults(run=watch)
    watching.add_argument("--plan", default="/etc/onprem-llm/plan.json", help="the host's plan.json")
    watching.add_argument("--engine", required=True, help="URL of the engine")
    watching.add_argument("--timeout", type=float, default=1800.0, help="seconds that a load may take")
    watching.add_argument("--interval", type=float, default=2.0, help="seconds between two looks")
    watching.add_argument("--hold-seconds", type=float, default=7200.0, help="how long a hold lasts at most")
    watching.add_argument(
        "--recovery",
        default="/var/lib/onprem-llm-recovery/state.json",
        help="state file of the service that takes failing models out of service",
    )
    waiting = commands.add_parser("await", help="wait until every planned model is warm")
    waiting.set_defaults(run=wait_until_ready)
    waiting.add_argument("--seconds", type=float, default=1800.0, help="how long to wait")
    waiting.add_argument("--end-hold", action="store_true", help="end a hold first")
    options = parser.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
