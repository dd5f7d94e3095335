#!/usr/bin/python3
"""What a host is: files, packages, accounts, units, rules and containers, each as one line of JSON's one object.

``snapshot.py`` prints it, on the host. ``snapshot.py compare BEFORE AFTER [PATTERN…]``, on the controller, prints each
difference that no pattern explains, and fails if there is one. Of the standard library alone, as hosts have it.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys

PLACES = (
    "/etc",
    "/home",
    "/opt",
    "/root",
    "/srv",
    "/usr/local",
    "/usr/share/ollama",
    "/var/lib/onprem-llm",
    "/var/spool/cron",
)
# What any running system writes by itself.
RUNTIME = re.compile(r"\.ansible(/|$)|__pycache__|/etc/(mtab|resolv\.conf|ld\.so\.cache)$")

# What a login, a timer of the distribution or the first start of systemd begins and ends.
PASSING = re.compile(r"(user@|user-runtime-dir@|systemd-|apt-daily|dpkg-db-backup|e2scrub|fstrim|modprobe@|logrotate)")


def output(*command):
    if not shutil.which(command[0]):
        return ""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def files():
    found = {}
    for place in PLACES:
        for directory, directories, names in os.walk(place):
            for name in directories + names:
                path = os.path.join(directory, name)
                if RUNTIME.search(path):
                    continue
                about = os.lstat(path)
                if stat.S_ISREG(about.st_mode):
                    with open(path, "rb") as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
                elif stat.S_ISLNK(about.st_mode):
                    content = os.readlink(path)
                else:
                    content = ""
                found["file " + path] = [content, oct(about.st_mode), about.st_uid, about.st_gid]
    return found


def rules():
    found = {}
    for tool in ("iptables", "ip6tables"):
        for table in ("filter", "mangle", "raw"):
            chains = {}
            for line in output(tool + "-save", "-t", table).splitlines():
                if line.startswith(":"):
                    chain, policy = line[1:].split()[:2]
                    chains.setdefault(chain, []).append("policy " + policy)
                elif line.startswith("-A "):
                    chains.setdefault(line.split()[1], []).append(line)
            for chain, lines in chains.items():
                # Docker writes them in any order at each start; but for the RETURN at the end, each stands for itself.
                if chain.startswith("DOCKER-ISOLATION-"):
                    lines.sort()
                found[f"rules {tool} {table} {chain}"] = lines
    return found


def units():
    found = {}
    for line in output("systemctl", "list-unit-files", "--no-legend", "--plain").splitlines():
        name, state = line.split()[:2]
        # Sessions come and go.
        if state not in ("transient", "generated") and not name.endswith(".scope"):
            found["unit file " + name] = state
    # Those that are inactive are in systemd's memory for as long as it likes.
    for line in output("systemctl", "list-units", "--no-legend", "--plain", "--type=service,timer").splitlines():
        name, load, active = line.split()[:3]
        started = (
            output("systemctl", "show", "--value", "--property=MainPID", name).strip()
            if name == "ollama.service"
            else ""
        )
        if load == "loaded" and not PASSING.match(name):
            found["unit " + name] = active + (" with a process" if started not in ("", "0") else "")
    return found


def containers():
    form = "{{.Name}} {{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.RestartCount}}"
    names = output("docker", "ps", "--all", "--quiet").split()
    found = {}
    for line in output("docker", "inspect", "--format", form, *names).splitlines() if names else []:
        found["container " + line.split()[0]] = line.split()[1:]
    for line in output(
        "docker", "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"
    ).splitlines():
        found["image " + line] = ""
    for line in output("docker", "network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines():
        found["network " + line] = ""
    return found


def snapshot():
    found = {**files(), **rules(), **units(), **containers()}
    form = "${Package} ${Version} ${db:Status-Abbrev}\n"
    found.update(
        {"package " + line.split()[0]: line.split()[1:] for line in output("dpkg-query", "-W", "-f", form).splitlines()}
    )
    found.update({"account " + line.split(":")[0]: line for line in output("getent", "passwd").splitlines()})
    found.update({"group " + line.split(":")[0]: line for line in output("getent", "group").splitlines()})
    found["rules of ufw"] = (
        output("ufw", "show", "added").splitlines() + output("ufw", "status", "verbose").splitlines()
    )
    return found


def compare(before, after, patterns):
    with open(before, encoding="utf-8") as one, open(after, encoding="utf-8") as other:
        was, now = json.load(one), json.load(other)
    differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    left = [key for key in differing if not any(re.fullmatch(pattern, key) for pattern in patterns)]
    for key in left:
        print(f"{key}\n  was: {was.get(key, 'not there')}\n  is:  {now.get(key, 'not there')}")
    unused = [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in differing)]
    for pattern in unused:
        print(f"nothing differs that {pattern} explains: take it out of the list")
    return int(bool(left or unused))


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        sys.exit(compare(sys.argv[2], sys.argv[3], sys.argv[4:]))
    print(json.dumps(snapshot()))
