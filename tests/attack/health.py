"""The fleet before and after: whoever attacks here leaves it as it was."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from tests.attack.position import Position

# Run on a host: what must be the same afterwards. Rules and bans by their own words, files by their digests.
LOOK = """
import glob, hashlib, json, os, re, subprocess
def said(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""
files = {}
for pattern in ("/etc/nginx/**", "/etc/onprem-llm/**", "/etc/ufw/**"):
    for path in glob.glob(pattern, recursive=True):
        if os.path.isfile(path) and not path.endswith("measurements.json"):
            files[path] = hashlib.sha256(open(path, "rb").read()).hexdigest()
jails = "".join(re.findall("Jail list:(.*)", said("fail2ban-client", "status"))).replace(",", " ").split()
bans = [address for jail in jails for address in said("fail2ban-client", "get", jail, "banip").split()]
rules = "\\n".join(said(command) for command in ("iptables-save", "ip6tables-save"))
rules = re.sub(r"\\[\\d+:\\d+\\]|#.*", "", rules)
rules = "\\n".join(sorted(rules.splitlines()))
failed = [line.split()[0] for line in said("systemctl", "--failed", "--plain", "--no-legend").splitlines()]
masters = said("pgrep", "-P", "1", "-x", "nginx").split()
print(json.dumps({"files": files, "bans": sorted(bans), "rules": rules, "failed units": failed, "nginx": masters}))
"""


@dataclass(frozen=True)
class State:
    hosts: dict[str, dict]
    models: dict[str, object]
    users: dict[str, int]
    alive: bool


def look(position: Position) -> State:
    hosts = {name: json.loads(host.run(["python3", "-c", LOOK])) for name, host in position.hosts.items()}
    users = {
        user.name: position.ask("GET", "/v1/models", key=user.api_key).status for user in position.access.users.values()
    }
    return State(hosts, position.engines(), users, position.alive())


def differences(before: State, after: State) -> list[str]:
    """What is not as it was, one sentence each."""
    found = []
    for name, was in before.hosts.items():
        for what, value in was.items():
            now = after.hosts[name][what]
            if now == value:
                continue
            if what == "files":
                changed = sorted(path for path in {*value, *now} if value.get(path) != now.get(path))
                found.append(f"{name}: {', '.join(changed[:3])} changed")
            elif what == "rules":
                changed = sorted(set(now.splitlines()) ^ set(value.splitlines()))
                found.append(f"{name}: firewall rules changed: {'; '.join(changed[:3])}")
            else:
                found.append(f"{name}: {what} {now or 'none'}, before {value or 'none'}")
    models = {name: loaded(state) for name, state in after.models.items()}
    for name, state in before.models.items():
        if loaded(state) != models[name]:
            found.append(f"{name}: loaded {models[name]}, before {loaded(state)}")
    for name, status in before.users.items():
        if after.users[name] != status:
            found.append(f"{name}'s key gets {after.users[name]}, before {status}")
    if not after.alive:
        found.append("/healthz does not answer 200")
    return found


def loaded(state: object) -> list[object]:
    """Names, context lengths and placement, whichever process has them."""
    assert isinstance(state, list)
    return [model[:1] + model[2:5] for model in state[0]]


def healed(position: Position, before: State) -> list[str]:
    """Differences that are still there after ``bounds.settle`` seconds."""
    deadline = time.monotonic() + position.bounds.settle
    while (found := differences(before, look(position))) and time.monotonic() < deadline:
        time.sleep(2)
    return found
