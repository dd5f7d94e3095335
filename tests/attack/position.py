"""The attacker's position: the fleet as access.json tells it, a way to send bytes, and witnesses inside its hosts."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack

from tests.attack import wire
from tests.attack.access import Access, Machine, User
from tests.attack.model import NotTried, Starved
from tests.attack.wire import Answer, Exchange

LOG = "/var/log/nginx/onprem-llm-gateway.log"
# Run on a node: what the engine has loaded, and which processes serve it. A reload changes one of them at least. How
# long a model stays is told as kept for good or not: the time itself moves with each request.
ENGINE_STATE = """
import json, os, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
models = json.load(opener.open(sys.argv[1] + "/api/ps", timeout=10))["models"]
runners = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        line = open("/proc/%s/cmdline" % pid, "rb").read().split(b"\\0")
        began = open("/proc/%s/stat" % pid).read().rpartition(")")[2].split()[19]
    except OSError:
        continue
    if line[0].endswith(b"llama-server") or line[1:2] == [b"runner"]:
        runners.append(pid + "@" + began)
print(json.dumps([sorted([m["name"], m["digest"], m["size"], m.get("size_vram"), m.get("context_length"),
    "for good" if str(m.get("expires_at")) > "2100" else "for a while"] for m in models), sorted(runners)]))
"""


class Host(Protocol):
    """A host's inside."""

    def run(self, command: list[str], given: str = "") -> str:
        """Output of a command run there as root. RuntimeError if it fails."""


@dataclass(frozen=True)
class Container:
    """A host in a local container. Secrets go in by standard input: a command line can be read by others."""

    name: str

    def run(self, command: list[str], given: str = "") -> str:
        return run_here(["docker", "exec", "-i", self.name, *command], given)


def run_here(command: list[str], given: str) -> str:
    done = subprocess.run(command, input=given.encode(), capture_output=True, check=False, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"{command[:5]}: {done.stderr.decode(errors='replace')[-500:]}")
    # What is not UTF-8 stays to be seen.
    return done.stdout.decode(errors="surrogateescape")


class Said(TypedDict, total=False):
    """What a request says, where it is not what the user would say to the gateway: a key or host that is None is left
    out."""

    body: bytes | dict | None
    key: str | None
    host: str | None


@dataclass(frozen=True)
class Bounds:
    """How much an attack may take. Seconds, and numbers of connections and requests."""

    patience: float = 10
    # After an answer, for another that must not come.
    quiet: float = 0.4
    # nginx writes its log once a second.
    logged: float = 1.2
    # Header and body must be complete, or cut off, by then.
    slow: float = 40
    connections: int = 40
    requests: int = 200
    settle: float = 30
    # After a flood, until the limits of its address have forgotten it.
    forgotten: float = 3


@dataclass
class Position:
    """``hosts``: insides of the fleet's hosts by name. ``neighbour``: the inside of the host that attacks come from."""

    access: Access
    hosts: dict[str, Host]
    neighbour: Host
    bounds: Bounds = field(default_factory=Bounds)
    log_file: str = LOG
    # Where a host keeps what a request said, if it keeps it.
    log_places: tuple[str, ...] = ("/var/log", "/var/lib/nginx", "/var/cache/nginx", "/tmp", "/var/tmp")
    # Before each path that is looked at inside a host; for attacks on loopback.
    root: str = ""
    findings: dict[str, list[list[str]]] = field(default_factory=dict)

    # Who asks

    @property
    def user(self) -> User:
        """One of the role user with the fewest restrictions."""
        users = [user for user in self.access.users.values() if user.role == "user"]
        return min(users, key=lambda user: user.models is not None)

    @property
    def bystander(self) -> User:
        """Another one, who must not notice what happens to the first."""
        others = [user for user in self.access.users.values() if user.name != self.user.name]
        if not others:
            raise NotTried("access.json has one user only")
        return max(others, key=lambda user: user.models is None)

    @property
    def admin(self) -> User:
        admins = [user for user in self.access.users.values() if user.role == "admin"]
        if not admins:
            raise NotTried("access.json has no admin")
        return admins[0]

    @property
    def restricted(self) -> User:
        """One who may use one model, and not ``forbidden``."""
        found = [user for user in self.access.users.values() if user.models]
        if not found:
            raise NotTried("access.json has no user with a list of models")
        return found[0]

    @property
    def forbidden(self) -> str:
        """A model that runs and that ``restricted`` may not use."""
        allowed = self.restricted.models or ()
        found = [model for model in (self.access.model, *self.access.models) if model not in allowed]
        if not found:
            raise NotTried(f"access.json knows no model that {self.restricted.name} may not use")
        return found[0]

    def dead_key(self, state: str) -> str:
        if state not in self.access.dead_keys:
            raise NotTried(f"access.json has no dead_keys.{state}")
        return self.access.dead_keys[state]

    # What is sent

    def context(self, alpn: str = "http/1.1") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.access.ca_file)
        context.set_alpn_protocols([alpn])
        return context

    def connect(self, alpn: str = "http/1.1") -> ssl.SSLSocket:
        address, context = self.access.gateway, self.context(alpn)
        connection = wire.connect(address, context, address[0], self.bounds.patience)
        assert isinstance(connection, ssl.SSLSocket)
        return connection

    @property
    def host(self) -> str:
        """What a well-behaved client puts into Host."""
        address, port = self.access.gateway
        written = f"[{address}]" if ":" in address else address
        return written if port == 443 else f"{written}:{port}"

    def bytes(self, method: str, target: str, *extra: tuple[str, str], **said: Unpack[Said]) -> bytes:
        """A request, whole; ``extra`` headers come last."""
        body, key, host = said.get("body"), said.get("key", ""), said.get("host", "")
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = [("Host", host or self.host)] if host is not None else []
        if key is not None:
            headers.append(("Authorization", f"Bearer {key or self.user.api_key}"))
        if data is not None:
            headers.append(("Content-Type", "application/json"))
            if not any(name.lower() in ("content-length", "transfer-encoding") for name, _value in extra):
                headers.append(("Content-Length", str(len(data))))
        return wire.request(method, target, [*headers, *extra], data or b"")

    def send(self, data: bytes, answers: int = 1, patience: float | None = None) -> Exchange:
        """On a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return wire.exchange(connection, data, answers, patience or self.bounds.patience, self.bounds.quiet)

    def ask(
        self, method: str, target: str, *extra: tuple[str, str], patient: bool = True, **said: Unpack[Said]
    ) -> Answer:
        """One answer. A 429 is waited out, as it says nothing about what was asked, unless ``patient`` is false."""
        data = self.bytes(method, target, *extra, **said)
        return self.paced(data).first if patient else self.send(data).first

    def paced(self, data: bytes, answers: int = 1, patience: float | None = None) -> Exchange:
        """As ``send``, but what an earlier attack's limits refuse is asked again."""
        for _attempt in range(8):
            found = self.send(data, answers, patience)
            if found.first.status != 429:
                break
            time.sleep(min(float(found.first.header("retry-after") or 1), 2))
        return found

    def chat(self, model: str = "", **more: object) -> dict:
        """The body of a chat of one token."""
        question = [{"role": "user", "content": "One, two,"}]
        return {"model": model or self.access.model, "messages": question, "max_tokens": 1, "stream": False, **more}

    def generate(self, **more: object) -> dict:
        """As ``chat``, for the engine's own API."""
        return {
            "model": self.access.model,
            "prompt": "One, two,",
            "stream": False,
            "options": {"num_predict": 1},
            **more,
        }

    def alive(self) -> bool:
        try:
            return self.send(self.bytes("GET", "/healthz", key=None)).first.status == 200
        except OSError:
            return False

    def served(self, user: User | None = None) -> float:
        """Seconds that another user's question takes.

        :raises Starved: it is not answered, or refused.
        """
        began = time.monotonic()
        try:
            answer = self.ask("GET", "/v1/models", key=(user or self.bystander).api_key, patient=False)
        except OSError as error:
            raise Starved(f"a bystander gets no connection ({error})") from None
        if answer.status != 200:
            raise Starved(f"a bystander is not served ({answer.status or 'no answer'})")
        return time.monotonic() - began

    # What is seen inside

    def engines(self) -> dict[str, object]:
        """By node: models loaded, how, and by which processes."""
        return {name: self.engine(machine) for name, machine in self.nodes()}

    def nodes(self) -> Iterator[tuple[str, Machine]]:
        return ((name, machine) for name, machine in self.access.machines.items() if machine.engine)

    def engine(self, machine: Machine) -> object:
        assert machine.engine
        address, port = machine.engine
        return json.loads(self.hosts[machine.name].run(["python3", "-c", ENGINE_STATE, f"http://{address}:{port}"]))

    def settled(self, before: dict[str, object]) -> bool:
        """Whether the engines have the models of ``before`` again, within ``bounds.settle`` seconds: the warmer loads
        what an attack unloaded. By other processes, it may be."""

        def models(state: dict[str, object]) -> list:
            return [found[0] for found in state.values() if isinstance(found, list)]

        deadline = time.monotonic() + self.bounds.settle
        while models(self.engines()) != models(before):
            if time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    @property
    def gateway(self) -> Host:
        return self.hosts[self.access.gateway_machine.name]

    def log_size(self) -> int:
        """Bytes of the access log, with all that was asked before in it."""
        time.sleep(self.bounds.logged)
        return int(self.gateway.run(["stat", "-c", "%s", self.log_file]))

    def log_since(self, size: int) -> list[str]:
        """Lines of the access log after its first ``size`` bytes."""
        time.sleep(self.bounds.logged)
        return re.split(r"\n", self.gateway.run(["tail", "-c", f"+{size + 1}", self.log_file]).rstrip("\n"))
