"""The gateway's fail2ban as a service: who is banned, from what, and until when."""

from __future__ import annotations

import json

from tests.edge.site import CLIENT, GATEWAYS, Site

HOST = GATEWAYS[0]
RETRIES, BAN_SECONDS = 5, 20
SETTINGS = {
    "gateway_fail2ban": True,
    "gateway_fail2ban_maxretry": RETRIES,
    "gateway_fail2ban_findtime_seconds": 60,
    "gateway_fail2ban_bantime_seconds": BAN_SECONDS,
}
OTHER = "10.78.9.101"
# Run on the neighbour: one connection with a right key, then wrong keys on others until one is refused, then the first
# connection again. Its input: gateway, key, most attempts.
FAIL = """
import http.client, json, ssl, sys, time
gateway, key, most = json.loads(sys.stdin.readline())
context = ssl._create_unverified_context()
def connection():
    return http.client.HTTPSConnection(gateway, 443, timeout=5, context=context)
def ask(one, key):
    one.request("GET", "/v1/models", headers={"Authorization": "Bearer " + key})
    answer = one.getresponse()
    answer.read()
    return answer.status
kept = connection()
found = {"first": ask(kept, key), "failures": [], "refused": False}
began = time.monotonic()
while len(found["failures"]) < most:
    try:
        found["failures"].append(ask(connection(), "wrong"))
    except OSError as error:
        found["refused"] = type(error).__name__
        break
    time.sleep(0.4)
found["seconds"] = round(time.monotonic() - began, 1)
found["kept"] = ask(kept, key)
print(json.dumps(found))
"""
ASK = """
import http.client, json, ssl, sys
gateway, key, source = json.loads(sys.stdin.readline())
context = ssl._create_unverified_context()
one = http.client.HTTPSConnection(gateway, 443, timeout=5, context=context, source_address=(source, 0))
try:
    one.request("GET", "/v1/models", headers={"Authorization": "Bearer " + key})
    print(one.getresponse().status)
except OSError as error:
    print(type(error).__name__)
"""


def banned(site: Site) -> None:
    """One address fails until it is banned; others go on, and the ban ends by itself."""
    key = json.loads((site.fleet.state / "secrets.json").read_text(encoding="utf-8"))["users"]["app"]["api_key"]
    gateway, own = site.address[HOST], site.address[CLIENT]

    def ask(source: str) -> str:
        return site.run(CLIENT, "python3", "-c", ASK, given=json.dumps([gateway, key, source])).stdout.strip()

    site.inside(CLIENT, f"ip address replace {OTHER}/24 dev eth0")
    site.check("the jail runs", jails := site.inside(HOST, "fail2ban-client status"), "onprem-llm-gateway" in jails)
    before = site.inside(HOST, "ufw show added")
    site.check("both addresses are served", served := [ask(own), ask(OTHER)], served == ["200", "200"])
    done = site.run(CLIENT, "python3", "-c", FAIL, given=json.dumps([gateway, key, 60]))
    found = json.loads(done.stdout or "{}")
    site.check("after the failures the address is refused", found or done.stderr,
               found.get("refused") == "ConnectionRefusedError" and len(found["failures"]) >= RETRIES)  # fmt: skip
    site.check("a connection that it has stays", found.get("kept"), found.get("kept") == 200)
    bans = site.inside(HOST, "fail2ban-client get onprem-llm-gateway banip")
    site.check("it alone is banned", bans, bans.split() == [own])
    site.check("another address goes on", status := ask(OTHER), status == "200")
    site.check("SSH stays open to the one that is banned", 22, site.reaches(gateway, 22))
    seconds = site.within(BAN_SECONDS + 20, lambda: ask(own) == "200", every=0.5)
    site.check("the ban ends by itself after", f"{seconds} s more", seconds is not None)
    after = site.inside(HOST, "ufw show added")
    site.check("and leaves UFW as it was", "the same rules" if after == before else after, after == before)
