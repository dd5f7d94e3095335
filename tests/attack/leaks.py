"""Run on a host, by the standard library alone: where secrets lie that are given by standard input.

Prints a JSON list of findings: kind, secret's name, place. Root's own view is taken; a file counts as readable by all
if its mode and those of the directories above say so.
"""

import json
import os
import re
import stat
import subprocess
import sys

LARGEST = 16 * 2**20
# Models and images: no secret gets in there, and they would take minutes.
SKIPPED = re.compile(
    r"^/(proc|sys|dev|usr|boot|lib|lib64|bin|sbin|var/lib/docker|var/lib/onprem-llm/[^/]*/models|var/cache/apt|var/lib/apt)(/|$)"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
LOGS = re.compile(r"^/var/log/|\.log(\.\d+)?(\.gz)?$|_history$")


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except OSError:
        return b""


def named(content, secrets):
    return [name for name, secret in secrets.items() if secret and secret.encode() in content]


def of_processes(root, secrets):
    own = str(os.getpid())
    for pid in filter(str.isdigit, os.listdir(root + "/proc")):
        if pid == own:
            continue
        for kind, file in (("process list", "cmdline"), ("environment", "environ")):
            content = read(f"{root}/proc/{pid}/{file}")
            for name in named(content, secrets):
                program = read(f"{root}/proc/{pid}/comm").decode(errors="replace").strip()
                yield kind, name, f"process {pid} ({program})"


def open_above(root, path):
    """Whether everybody may pass the directories above a file."""
    path = os.path.dirname(path)
    while len(path) >= len(root) and path not in ("", "/"):
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def of_files(root, secrets):
    for directory, names, files in os.walk(root or "/"):
        inside = directory[len(root) :] or "/"
        names[:] = [name for name in names if not SKIPPED.match(os.path.join(inside, name))]
        for file in files:
            path = os.path.join(directory, file)
            try:
                facts = os.lstat(path)
            except OSError:
                continue
            if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
                continue
            content, shown = read(path), os.path.join(inside, file)
            everybody = facts.st_mode & stat.S_IROTH and open_above(root, path)
            for name in named(content, secrets):
                yield "log" if LOGS.search(shown) else "file for all" if everybody else "file", name, shown
            if PRIVATE_KEY.search(content) and (everybody or facts.st_mode & stat.S_IWGRP):
                yield "private key", "a private key", f"{shown} with mode {stat.S_IMODE(facts.st_mode):04o}"
            if "onprem-llm" in shown and everybody and re.search(r"\.(keys|htpasswd)$", shown):
                yield "hashes for all", "hashes of credentials", shown


def of_command(kind, place, command, secrets):
    try:
        output = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for name in named(output, secrets):
        yield kind, name, place


def search(root, secrets):
    """All findings. ``root``: "" for the host itself."""
    found = list(of_processes(root, secrets)) + list(of_files(root, secrets))
    if not root:
        found += of_command("log", "the journal", ["journalctl", "-q", "-o", "cat"], secrets)
        names = subprocess.run(
            ["sh", "-c", "docker ps -qa 2>/dev/null"], stdout=subprocess.PIPE, check=False
        ).stdout.split()
        for name in names:
            container = name.decode()
            found += of_command("environment", "container " + container, ["docker", "inspect", container], secrets)
            found += of_command("log", "container " + container, ["docker", "logs", container], secrets)
    return found


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(search(given.get("root", ""), given["secrets"])))
