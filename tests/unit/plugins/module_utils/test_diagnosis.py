"""The ladder: what is asked, what a broken rung leaves open, and what stands on top of the report."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_report as report

SOUND = {rung.name: (lambda name=rung.name: ladder.ok(name, "as it should be")) for rung in ladder.RUNGS}


def climb(
    functions: str = "gpu_node node endpoint gateway balancer mirror mirrored", **checks
) -> dict[str, ladder.Finding]:
    found = ladder.Climb(frozenset(functions.split())).ask({**SOUND, **checks})
    return {item.rung: item for item in found}


def sick(rung: str, about: tuple[str, ...] = ()) -> ladder.Finding:
    return ladder.broken(rung, "it is not", "nothing works", "mend it", about)


def test_every_cause_stands_before_its_effects() -> None:
    for number, rung in enumerate(ladder.RUNGS):
        for cause in rung.needs + rung.follows:
            assert ladder.NAMES.index(cause) < number, f"{rung.name} comes before {cause}"
        assert rung.function in ("", *ladder.FUNCTIONS)


def test_a_sound_host_has_no_cause() -> None:
    found = climb()
    assert list(found) == list(ladder.NAMES)
    assert ladder.faults(found.values()) == []


def test_what_cannot_be_asked_without_a_broken_rung_is_open_and_not_asked() -> None:
    asked = []
    found = climb(docker=lambda: sick("docker"), engine=lambda: asked.append("engine") or ladder.ok("engine", ""))
    assert asked == []
    for name in ("container", "engine", "warm", "offload", "memory", "answers", "speed"):
        assert (found[name].verdict, found[name].because) == (ladder.UNKNOWN, ("docker",))
    assert [item.rung for item in ladder.faults(found.values())] == ["docker"]


def test_what_follows_a_broken_rung_is_open_only_where_it_is_broken_itself() -> None:
    found = climb(disk=lambda: sick("disk"), docker=lambda: sick("docker"))
    assert found["docker"].verdict == ladder.UNKNOWN
    assert found["docker"].because == ("disk",)
    # By way of Docker.
    assert found["engine"].because == ("disk",)
    assert found["endpoint"].verdict == ladder.OK
    assert [item.rung for item in ladder.faults(found.values())] == ["disk"]


def test_a_full_disk_hides_no_certificate_that_has_ended() -> None:
    found = climb(disk=lambda: sick("disk"), certificate=lambda: sick("certificate"))
    assert [item.rung for item in ladder.faults(found.values())] == ["disk", "certificate"]


def test_a_wrong_clock_leaves_open_whether_a_certificate_has_ended() -> None:
    found = climb(clock=lambda: sick("clock"), certificate=lambda: sick("certificate"))
    assert found["certificate"].because == ("clock",)


def test_a_check_that_fails_is_told_and_hides_nothing() -> None:
    def fails() -> ladder.Finding:
        raise OSError("no such thing")

    found = climb(firewall=fails)
    assert found["firewall"].verdict == ladder.UNKNOWN
    assert "no such thing" in found["firewall"].seen
    assert [item.rung for item in ladder.faults(found.values())] == ["firewall"]
    assert found["logs"].verdict == ladder.OK


@pytest.mark.parametrize(
    ("functions", "absent", "there"),
    [
        ("node", {"hardware", "cdi", "gateway", "endpoint", "registry"}, {"engine", "disk", "certificate"}),
        ("gateway", {"docker", "engine", "balancer"}, {"gateway", "firewall"}),
        ("", {"docker", "gateway"}, {"clock", "disk", "logs"}),
    ],
)
def test_a_host_is_asked_for_what_it_does(functions: str, absent: set[str], there: set[str]) -> None:
    found = climb(functions)
    assert not absent & set(found)
    assert there <= set(found)


def test_a_nodes_fault_is_not_its_gateways() -> None:
    node = climb("node", container=lambda: sick("container"))
    gateway = climb("gateway balancer", balancer=lambda: sick("balancer", ("node1",)), gateway=lambda: sick("gateway"))
    hosts = ladder.across({"gw1": list(gateway.values()), "node1": list(node.values())})
    found = {item.rung: item for item in hosts["gw1"]}
    assert (found["balancer"].verdict, found["balancer"].because) == (ladder.UNKNOWN, ("node1: container",))
    assert found["gateway"].because == ("node1: container",)
    assert [(host, item.rung) for host, item in report.causes(hosts)] == [("node1", "container")]


def test_a_fault_between_two_sound_hosts_stays_one() -> None:
    node = climb("node mirrored", mirror=lambda: sick("mirror", ("gw1",)))
    hosts = ladder.across({"gw1": list(climb("gateway mirror").values()), "node1": list(node.values())})
    assert [(host, item.rung) for host, item in report.causes(hosts)] == [("node1", "mirror")]


def test_findings_come_back_from_data_as_they_were() -> None:
    found = list(climb(docker=lambda: sick("docker")).values())
    assert ladder.from_data(ladder.as_data(found)) == found


def test_the_report_has_the_first_cause_on_top_with_what_mends_it() -> None:
    hosts = {
        "node2": list(climb("node", firewall=lambda: sick("firewall")).values()),
        "node1": list(climb("node", docker=lambda: sick("docker")).values()),
    }
    lines = [text for _verdict, text in report.table(hosts)]
    assert lines[0].startswith("First cause: node1: docker: NOT so: Docker answers")
    assert "  mend   mend it" in lines[:5]
    assert any(line.startswith("Also: node2: firewall") for line in lines)
    assert any("unknown    engine" in line and "open until mended: docker" in line for line in lines)
    page = report.markdown(hosts)
    assert page.index("**node1: docker**") < page.index("**node2: firewall**")
    data = report.data(hosts, ["node3"])
    assert data["causes"] == [{"host": "node1", "rung": "docker"}, {"host": "node2", "rung": "firewall"}]
    assert not data["healthy"]


def test_a_host_that_does_not_answer_is_no_healthy_one() -> None:
    sound = {"node1": list(climb("node").values())}
    assert report.data(sound)["healthy"]
    assert not report.data(sound, ["node2"])["healthy"]
    assert "node2 does not answer" in report.table(sound, ["node2"])[0][1]
    assert "**node2** does not answer" in report.markdown(sound, ["node2"])
