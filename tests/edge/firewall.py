"""The firewall's trials: a change that shuts SSH, and a run that is killed in the middle."""

from __future__ import annotations

from tests.edge.site import GATEWAYS, Site

HOST = GATEWAYS[1]
SSH, WRONG = 22, 2222
# The least that the role takes; it adds five for each rule that changes.
SECONDS = 15
MOST = SECONDS + 5 * 6 + 20
CONFIRM = "Confirm the change over a new SSH connection"
# Units that a boot runs, and that stay as they ended.
BOOTED = ("unit ldconfig.service", "unit ufw.service")
# A rule of others, which the role neither knows nor touches.
DROP = f"-A ufw-before-input -p tcp --dport {SSH} -j DROP"
ROLE = ("--limit", HOST, "--tags", "firewall", "site.yml")


def refused(site: Site, what: str) -> None:
    """A run with the wrong port for SSH, which must leave the host as it is."""
    before = site.state(HOST)
    output = " ".join(site.play(*ROLE, fails=True, firewall_ssh_port=WRONG, firewall_trial_seconds=SECONDS).split())
    told = f"to port {SSH} of the host; firewall_ssh_port is {WRONG}" in output
    site.check(f"{what}: the run fails, and names both ports", told, told)
    site.same(f"{what}: the host is as it was", HOST, before)
    site.check(f"{what}: SSH is open", SSH, site.reaches(site.address[HOST], SSH))


def killed(site: Site, what: str, reboot: bool = False, **variables: object) -> None:
    """A run that is killed once the new rules are in force, with SSH shut."""
    before = site.state(HOST)
    site.play(*ROLE, killed_at=CONFIRM, firewall_trial_seconds=SECONDS, **variables)
    site.check(f"{what}: SSH is shut", SSH, not site.reaches(site.address[HOST], SSH))
    if reboot:
        site.client.containers.get(HOST).restart()
        shut = site.within(30, lambda: "active" in site.inside(HOST, "ufw status | grep -w active"))
        site.check(f"{what}: shut again after the boot", f"UFW active after {shut} s",
                   shut is not None and not site.reaches(site.address[HOST], SSH))  # fmt: skip
    seconds = site.within(MOST, lambda: site.reaches(site.address[HOST], SSH), every=0.5)
    site.check(f"{what}: SSH is open again after", f"{seconds} s", seconds is not None)
    # The former rules are back, and then the clock takes itself away.
    site.within(10, lambda: not site.inside(HOST, "systemctl list-unit-files | grep firewall-trial"))
    site.same(f"{what}: the host is as it was", HOST, before, BOOTED if reboot else ())


def bare(site: Site) -> None:
    """A host whose UFW is off, as its package comes."""
    # The package is none of the trial's matters, nor are the empty chains that UFW leaves once it was on.
    site.inside(HOST, "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq --yes install ufw")
    site.inside(HOST, "mkdir -p /etc/onprem-llm && ufw --force enable && ufw --force disable")
    refused(site, "UFW off, wrong port")
    site.inside(HOST, f"sed -i 's/^COMMIT$/{DROP}\\nCOMMIT/' /etc/ufw/before.rules")
    killed(site, "UFW off, others drop SSH, killed")
    killed(site, "UFW off, others drop SSH, killed, rebooted", reboot=True)
    site.inside(HOST, f"sed -i '/^{DROP}$/d' /etc/ufw/before.rules")


def in_force(site: Site) -> None:
    """The same where the role's rules are in force already."""
    site.play(*ROLE)
    status = site.inside(HOST, "ufw status")
    site.check("the role's own run is confirmed", status.splitlines()[:1], "Status: active" in status)
    site.unchanged(*ROLE)
    refused(site, "UFW on, wrong port")
    killed(site, "UFW on, wrong port, killed", firewall_ssh_port=WRONG)
    site.unchanged(*ROLE)
