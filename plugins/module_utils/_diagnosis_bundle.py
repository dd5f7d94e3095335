# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a support bundle has of a host, and what is taken out of it.

Files are on a list; none of them is a key, a certificate's key, or what a gateway knows of users. All of it goes
through :func:`redacted`: logs and settings hold what somebody put there, passwords of proxies, headers, prompts.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import NO_COMMAND, Host

# Each is the end of its text, which in a log is what counts.
MOST_CHARACTERS = 200_000
FILES = (
    "/etc/os-release",
    "/etc/onprem-llm/plan.json",
    "/etc/onprem-llm/release.json",
    "/etc/onprem-llm/measurements.json",
    "/etc/docker/daemon.json",
    "/etc/nginx/conf.d/onprem-llm-*.conf",
    "/etc/logrotate.d/onprem-llm",
    "/etc/cdi/*",
    "/var/run/cdi/*",
    "/opt/onprem-llm/ollama/compose.yml",
    "/run/onprem-llm/warm.json",
    "/proc/driver/nvidia/version",
    "/proc/meminfo",
    "/proc/modules",
    "/var/log/ollama/health_check.log",
)
COMMANDS = (
    ("uname", "-a"),
    ("uptime",),
    ("df", "-h"),
    ("df", "-i"),
    ("free", "-m"),
    ("systemctl", "--failed", "--no-legend", "--plain"),
    ("systemctl", "list-timers", "--all", "--no-legend", "--no-pager"),
    ("timedatectl",),
    ("ss", "-Hltn"),
    ("nvidia-smi", "-q"),
    ("nvidia-smi", "-L"),
    ("dkms", "status"),
    ("docker", "version"),
    ("docker", "info"),
    ("docker", "ps", "--all", "--no-trunc"),
    ("docker", "network", "ls"),
    ("docker", "logs", "--tail", "500", "{engine}"),
    ("docker", "container", "inspect", "{engine}"),
    ("journalctl", "--dmesg", "--boot", "--no-pager", "--lines=500"),
    ("journalctl", "--unit=docker.service", "--boot", "--no-pager", "--lines=200"),
    ("journalctl", "--unit=onprem-llm-*", "--boot", "--no-pager", "--lines=500"),
    ("journalctl", "--unit=nginx.service", "--boot", "--no-pager", "--lines=100"),
    ("journalctl", "--unit=nvidia-*", "--boot", "--no-pager", "--lines=200"),
    ("ufw", "status", "verbose"),
    ("iptables-save", "-t", "filter"),
    ("ip6tables-save", "-t", "filter"),
)
GONE = "[taken out]"
_SECRET_NAMES = (
    r"[\w.-]*(?:passwor[dt]|passphrase|passwd|pwd|secret|token|api[_-]?keys?|apikey|access[_-]?key|credentials?"
    r"|private[_-]?key|authorization|cookie|sha256_of_key)"
)
# What people write and get, in the members of the engine's and OpenAI's requests.
_TEXTS = r"prompt|content|input|text|messages|system|query|response|thinking|instructions|suffix"
_QUOTED = r"\"(?:[^\"\\]|\\.)*\""
_RULES: tuple[tuple[str, str], ...] = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", GONE),
    (r"(?i)\b(bearer|basic|digest|negotiate)\s+[A-Za-z0-9._~+/=:-]{6,}", rf"\1 {GONE}"),
    (r"(?i)(x-api-key|authorization|proxy-authorization|cookie)(\\?\"?\s*[:=]\s*)[^\r\n]+", rf"\1\2{GONE}"),
    (r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\"']+@", rf"\1{GONE}@"),
    (rf"(?is)(\\?[\"'](?:{_TEXTS})\\?[\"']\s*:\s*)\[.*?\](?=\s*[,}}\r\n]|\Z)", rf"\1{GONE}"),
    (rf"(?i)(\\\"(?:{_TEXTS})\\\"\s*:\s*)\\\".*?(?<!\\)\\\"", rf"\1{GONE}"),
    (rf"(?i)([\"'](?:{_TEXTS})[\"']\s*:\s*)(?:{_QUOTED}|'[^']*')", rf"\1{GONE}"),
    (rf"(?i)\b({_TEXTS})=(?:{_QUOTED}|'[^']*'|\S+)", rf"\1={GONE}"),
    (rf"(?i)([\"']{_SECRET_NAMES}[\"']\s*:\s*)(?:{_QUOTED}|'[^']*'|[^\s,}}\]]+)", rf"\1{GONE}"),
    (rf"(?i)\b({_SECRET_NAMES})(\s*[=:]\s*)(?:{_QUOTED}|'[^']*'|[^\s\"',;]+)", rf"\1\2{GONE}"),
    (r"\$(?:6|5|2[aby]|apr1|y|argon2\w*)\$[^\s:\"']+", GONE),
    (r"\b(?:sk|hf|ghp|gho|glpat|nvapi|xox[abp])[-_][A-Za-z0-9_-]{12,}", GONE),
)
_COMPILED = tuple(
    (re.compile(pattern, re.DOTALL if number == 0 else 0), to) for number, (pattern, to) in enumerate(_RULES)
)


def redacted(text: str, secrets: t.Iterable[str] = ()) -> str:
    """A text without what looks like a credential, a user's password in an address, or somebody's words.

    :arg secrets: values that are known to be secret, taken out wherever they stand.
    """
    for secret in secrets:
        if len(secret) >= 6:
            text = text.replace(secret, GONE)
    for pattern, to in _COMPILED:
        text = pattern.sub(to, text)
    return text


def collect(host: Host, wanted: Wanted) -> dict[str, str]:
    """Texts by a name that can be a file's; what is not there is left out."""
    found: dict[str, str] = {}
    for pattern in FILES:
        for path in host.glob(pattern):
            text = host.read(path)
            if text:
                found["files/" + path.lstrip("/").replace("/", "_")] = text
    for command in COMMANDS:
        argv = [part.format(engine=wanted.engine_container) for part in command]
        if argv[0] == "docker" and host.unit("docker.service").get("ActiveState") not in ("active", None):
            # Its socket would start it.
            continue
        answer = host.run(*argv)
        if answer.status != NO_COMMAND:
            name = re.sub(r"[^A-Za-z0-9.-]+", "_", " ".join(argv)).strip("_")
            found[f"commands/{name}.txt"] = f"exit status {answer.status}\n{answer.out}{answer.err}"
    secrets = [wanted.gateway_key] if wanted.gateway_key else []
    return {name: redacted(text[-MOST_CHARACTERS:], secrets) for name, text in sorted(found.items())}
