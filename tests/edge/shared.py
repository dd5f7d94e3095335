"""Two gateways with one address: keepalived as docs/balancer.md has it, an nginx that dies, a host that dies."""

from __future__ import annotations

import json
import re
import subprocess
import threading

import yaml

from tests.demo.client import complete
from tests.edge.site import CLIENT, GATEWAYS, INVENTORY, Site
from tests.fleet.hosts import ROOT

PAGE = ROOT / "docs" / "balancer.md"
SHARED = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))["all"]["vars"]["edge_shared_address"]
# The page's own addresses: those of the gateway, its peer, and both.
OWN, PEER, BOTH = "192.0.2.31", "192.0.2.32", "192.0.2.50"
# Run on the neighbour: seconds from the start until the address answers again after it did not, by TCP connections that
# wait for a second at most. Prints what the longest silence was once it has heard `answers` in a row after one.
WATCH = """
import json, socket, ssl, sys, time
address, most = sys.argv[1], float(sys.argv[2])
context = ssl._create_unverified_context()
began = last = time.monotonic()
longest, after = 0.0, 0
print("watching", flush=True)
while time.monotonic() - began < most and after < 20:
    try:
        with socket.create_connection((address, 443), 0.5) as plain:
            plain.settimeout(0.5)
            with context.wrap_socket(plain) as one:
                one.sendall(("GET /healthz HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n" % address).encode())
                good = b" 200 " in one.recv(100)
    except OSError:
        good = False
    now = time.monotonic()
    if good:
        longest = max(longest, now - last)
        after = after + 1 if longest > 0.4 else 0
        last = now
    time.sleep(0.05)
print(json.dumps({"silent": round(longest, 1), "answers": after}))
"""


def configuration(site: Site, host: str) -> str:
    """The page's, with this gateway's addresses."""
    text = re.search(r"```keepalived\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text
    (peer,) = (site.address[name] for name in GATEWAYS if name != host)
    return text[1].replace(OWN, site.address[host]).replace(PEER, peer).replace(BOTH, SHARED)


def holders(site: Site) -> list[str]:
    return [host for host in GATEWAYS if f" {SHARED}/" in site.inside(host, "ip -4 address show eth0")]


def moved(site: Site, what: str, act: str, kill: bool = False) -> None:
    """The address goes to the other gateway once something happened to its holder, and users are served again."""
    (holder,) = holders(site)
    watch = subprocess.Popen(
        ["docker", "exec", CLIENT, "python3", "-c", WATCH, SHARED, "40"], stdout=subprocess.PIPE, text=True
    )
    assert watch.stdout
    watch.stdout.readline()
    if kill:
        site.client.containers.get(holder).kill()
    else:
        site.inside(holder, act)
    told, _none = watch.communicate(timeout=90)
    found = json.loads(told)
    site.check(f"{what}: the address was silent for", f"{found['silent']} s", found["answers"] >= 20)
    now = holders(site)
    site.check(f"{what}: it is on the other gateway", f"{holder} → {', '.join(now)}", now == [other(holder)])
    site.check(f"{what}: a user is answered there", answer := asked(site), bool(answer))


def other(host: str) -> str:
    return next(name for name in GATEWAYS if name != host)


def asked(site: Site, address: str = SHARED) -> str:
    """A user's completion through an address, with the fleet's authority."""
    user = json.loads((site.fleet.state / "secrets.json").read_text(encoding="utf-8"))["users"]["app"]
    ca = str(site.fleet.state / "pki" / "ca.crt")
    answer = complete(f"https://{address}", ca, user["api_key"], "gemma3:270m", "One, two,", 8)
    return f"{answer.tokens} tokens from {address}"


def back(site: Site, host: str) -> None:
    """The gateway is there again, and the address stays where it is."""
    healthy = site.within(60, lambda: "active" in site.inside(host, "systemctl is-active nginx").split())
    entered = site.within(60, lambda: "BACKUP" in site.inside(host, "journalctl -q -b -n 3 -u keepalived -o cat"))
    site.check(f"{host} is back, and does not take the address", f"{healthy} s, {entered} s",
               None not in (healthy, entered) and holders(site) == [other(host)])  # fmt: skip


def shared_address(site: Site) -> None:
    """keepalived by the page, and what dies."""
    prepare = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install"
    threads = [threading.Thread(target=site.inside, args=(host, f"{prepare} keepalived curl")) for host in GATEWAYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in GATEWAYS:
        site.inside(host, f"ufw allow proto vrrp from {site.address[other(host)]}")
        site.run(host, "tee", "/etc/keepalived/keepalived.conf", given=configuration(site, host))
        site.inside(host, "systemctl restart keepalived")
    settled = site.within(30, lambda: len(holders(site)) == 1 and site.reaches(SHARED, 443))
    site.check("one gateway has the address", f"{holders(site)} after {settled} s", settled is not None)
    site.check("a user is answered there", answer := asked(site), bool(answer))
    (first,) = holders(site)
    moved(site, "nginx stops", "systemctl stop nginx")
    # By DNS, a name has both addresses, and clients go on to the next.
    name = "llm.demo.internal"
    names = f"{name}:443:{site.address[first]},{site.address[other(first)]}"
    ca = site.fleet.state / "pki" / "ca.crt"
    command = ["curl", "-sS", "--cacert", ca, "--resolve", names, f"https://{name}/healthz", "-o", "/dev/null"]
    done = subprocess.run([*command, "-w", "%{http_code} %{remote_ip}"], capture_output=True, text=True, check=False)
    site.check("by a name with both addresses, the first of which is dead, curl is answered",
               done.stdout or done.stderr, done.stdout == f"200 {site.address[other(first)]}")  # fmt: skip
    site.inside(first, "systemctl start nginx")
    back(site, first)
    moved(site, "the host dies", "", kill=True)
    dead = other(first)
    site.client.containers.get(dead).start()
    back(site, dead)
    site.unchanged("site.yml")
    output = site.play("--limit", "gateways", "playbooks/verify.yml")
    site.check("verify.yml passes on both", "FAILED" not in output, "FAILED" not in output)
