# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what the system role has to know of this host, in one go and without changing anything.

Standard input has one JSON object:

now              the controller's clock, seconds since the epoch
files            paths whose digest and mode are wanted
certificates     PEM texts that the host's bundle of trusted authorities should hold
proxy            URL of a proxy to try, its credentials included; empty for none
no_proxy         names, addresses, networks and domains that are reached without it
mirror           URL of a package archive or flat repository, whose lists apt should have; empty for none
targets          URLs to try the proxy with; without one, the first release file of apt's own sources that needs it

Standard output gets one JSON object; no credential is in it. Needs Python 3.9 and nothing beside it.
"""

from __future__ import annotations

import glob
import hashlib
import ipaddress
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
AUTHORITIES = "/usr/local/share/ca-certificates/onprem-llm-*.crt"
APT_SOURCES = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/apt/sources.list.d/ubuntu.sources",
)
OTHER_APT_SOURCES = ("/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list")
OUR_APT_SOURCES = "/etc/apt/sources.list.d/onprem-llm-"
# What update-ca-certificates makes of them. One that leads nowhere is left of a removal that was cut off.
LINKS = "/etc/ssl/certs/onprem-llm-*.pem"
KEPT_SOURCES = "/etc/onprem-llm/apt-sources"
TIME_RECORD = "/etc/onprem-llm/time-service-installed"
TIME_UNITS = ("systemd-timesyncd", "chrony", "chronyd", "ntpsec", "ntpd", "ntp", "openntpd")
PROBE_SECONDS = 10
# The main file comes before every drop-in, whatever their names.
JOURNAL = (
    "/etc/systemd/journald.conf",
    *(f"{place}/systemd/journald.conf.d/*.conf" for place in ("/etc", "/run", "/usr/lib")),
)
OUR_JOURNAL = "/etc/systemd/journald.conf.d/00-onprem-llm.conf"
FORWARD_RECORD = "/etc/onprem-llm/log-forwarder-installed"
# Packages that forward logs over TLS, by a file that each has.
FORWARDER = {"rsyslog": "/usr/sbin/rsyslogd", "rsyslog-gnutls": "/usr/lib/*/rsyslog/lmnsd_gtls.so"}


def lists(mirror: str) -> list[str]:
    """The package lists that apt has of a mirror, or of a flat repository.

    Their names are the URL without its scheme (URItoFileName in apt's strutl.cc): an underscore of its own is quoted,
    because it stands for a slash.
    """
    place = re.sub("^[a-z]+:(//)?", "", mirror).rstrip("/")
    name = glob.escape(place.replace("_", "%5f").replace("/", "_"))
    found = [f"/var/lib/apt/lists/{name}_{kind}Release" for kind in ("dists_*In", "._")]
    return [path for pattern in found for path in glob.glob(pattern)] if mirror else []


def said(*command: str) -> str:
    """What a program writes, or nothing if it is not there; its exit status does not matter."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def file_state(path: str) -> dict[str, str] | None:
    """Digest and mode of a file, None where there is none."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        return {"sha256": digest, "mode": format(os.stat(path).st_mode & 0o7777, "04o")}
    except OSError:
        return None


def recorded(path: str) -> str:
    """The text of a file of ours, without the line's end; nothing where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def journal_settings(paths: list[str]) -> list[str]:
    """Names of the settings that files of journald's configuration have."""
    found = set()
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found.update(re.findall(r"(?m)^[ \t]*(\w+)[ \t]*=[ \t]*\S", file.read()))
        except OSError:
            continue
    return sorted(found)


def body(pem: str) -> str:
    """The Base64 text of a PEM certificate, without its line breaks."""
    found = re.search(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem, re.DOTALL)
    return re.sub(r"\s", "", found.group(1)) if found else ""


def untrusted(certificates: list[str], bundle: str) -> int:
    """How many of the certificates are not in a bundle."""
    try:
        with open(bundle, encoding="utf-8", errors="replace") as file:
            text = re.sub(r"\s", "", file.read())
    except OSError:
        text = ""
    return sum(1 for pem in certificates if not body(pem) or body(pem) not in text)


def time_state(show: str, active: list[str]) -> dict[str, Any]:
    """From ``timedatectl show`` and the active services: who keeps the clock, and whether it is kept."""
    values = dict(line.split("=", 1) for line in show.splitlines() if "=" in line)
    return {
        "services": active,
        "synchronized": values["NTPSynchronized"] == "yes" if "NTPSynchronized" in values else None,
    }


def active_units(units: tuple[str, ...]) -> list[str]:
    states = said("systemctl", "is-active", *(f"{unit}.service" for unit in units)).split()
    return [unit for unit, state in zip(units, states) if state == "active"]


def direct(host: str, no_proxy: list[str]) -> bool:
    """Whether a host is reached without the proxy, as Go's programs judge it: domains, addresses and networks."""
    host = host.strip("[]").lower()
    for entry in (entry.strip().lower() for entry in no_proxy):
        if entry == "*" or host == entry.strip("[]").lstrip("."):
            return True
        if host.endswith("." + entry.lstrip(".")):
            return True
        try:
            if "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def apt_index(listing: str, no_proxy: list[str]) -> list[str]:
    """From ``apt-get --print-uris update``: the release file of the first of apt's sources behind the proxy."""
    for url in re.findall(r"^'(https?://[^']+)' ", listing, re.MULTILINE):
        host = urllib.parse.urlsplit(url).hostname
        if host and not direct(host, no_proxy):
            return [url]
    return []


def try_proxy(proxy: str, url: str) -> dict[str, Any]:
    """Ask for a URL by way of the proxy: the proxy's refusal as ``status``, or why there was no answer as ``error``.

    What the other side answers is no fault of the proxy, and neither is its certificate, which is not looked at.
    """
    # The library would go by the host's own idea of what needs no proxy.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": proxy, "https": proxy}), urllib.request.HTTPSHandler(context=context)
    )
    answer: dict[str, Any] = {"url": url, "status": None, "error": ""}
    try:
        with opener.open(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 407) or error.code >= 500:
            answer["status"] = error.code
    except (OSError, ValueError) as error:
        text = str(getattr(error, "reason", error))
        refused = re.search(r"Tunnel connection failed: (\d{3})", text)
        if refused:
            answer["status"] = int(refused.group(1))
        else:
            # Credentials stand in no message of the standard library, and must not come into one.
            user = urllib.parse.urlsplit(proxy).netloc.rpartition("@")[0]
            answer["error"] = text.replace(user, "***") if user else text
    return answer


def foreign_apt_proxies(dump: str, ours: str) -> list[str]:
    """The proxies that apt's configuration names, credentials cut off; ours is left out."""
    found = re.findall(r'^Acquire::https?::Proxy(?:::[^ ]+)? "([^"]+)";$', dump, re.MULTILINE)
    shown = {re.sub(r"//[^@/]*@", "//", url).rstrip("/") for url in found if url != "DIRECT"}
    return sorted(shown - {re.sub(r"//[^@/]*@", "//", ours).rstrip("/")})


def state(wanted: dict[str, Any]) -> dict[str, Any]:
    proxy, no_proxy = wanted["proxy"], wanted["no_proxy"]
    # Before anything that takes its time.
    offset = time.time() - wanted["now"]
    tried = []
    if proxy:
        # It asks nobody, and writes nothing.
        listing = said("apt-get", "--print-uris", "update")
        tried = wanted["targets"][:1] or apt_index(listing, no_proxy)
    return {
        "clock_offset_seconds": round(offset, 1),
        "time": time_state(
            said("timedatectl", "show", "--property=NTP", "--property=NTPSynchronized"), active_units(TIME_UNITS)
        ),
        "files": {path: file_state(path) for path in wanted["files"]},
        "authorities": sorted(
            [*glob.glob(AUTHORITIES), *(link for link in glob.glob(LINKS) if not os.path.exists(link))]
        ),
        "journal": journal_settings([path for place in JOURNAL for path in glob.glob(place) if path != OUR_JOURNAL]),
        "forwarder_lacks": [package for package, path in FORWARDER.items() if not glob.glob(path)],
        "forward_record": recorded(FORWARD_RECORD),
        "swappiness": recorded("/proc/sys/vm/swappiness"),
        "untrusted": untrusted(wanted["certificates"], BUNDLE),
        "mirror_lists": bool(lists(wanted["mirror"])),
        "keeps_authorities": bool(shutil.which("update-ca-certificates")),
        "kept_sources": sorted(glob.glob(f"{KEPT_SOURCES}/*")),
        "time_record": recorded(TIME_RECORD),
        "apt_sources": [path for path in APT_SOURCES if os.path.isfile(path)],
        "apt_other_sources": sorted(
            path
            for pattern in OTHER_APT_SOURCES
            for path in glob.glob(pattern)
            if path not in APT_SOURCES and not path.startswith(OUR_APT_SOURCES)
        ),
        "apt_proxies": foreign_apt_proxies(said("apt-config", "dump"), proxy),
        "proxy": [try_proxy(proxy, url) for url in tried],
    }


if __name__ == "__main__":
    print(json.dumps(state(json.load(sys.stdin))))
