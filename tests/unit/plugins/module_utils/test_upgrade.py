# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_upgrade: order, lock, gate, history, and what is shown before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _upgrade

ID = "sha256:" + "a" * 64
RELEASE: dict[str, Any] = {
    "schema": 1,
    "engine": {"version": "0.32.15", "image": {"id": ID, "reference": f"ollama/ollama:0.32.15@{ID}"}},
    "models": {"gemma3:270m": "sha256:" + "b" * 64},
}


def node(**given: Any) -> _upgrade.Node:
    known: dict[str, Any] = {
        "release": RELEASE, "faults": [], "version": "0.32.16", "image": "sha256:" + "c" * 64,
        "image_bytes": 2**30, "files": ["/opt/compose.yml"],
    }  # fmt: skip
    return _upgrade.Node(**{**known, **given})


@pytest.mark.parametrize(("older", "newer"), [("0.9.9", "0.10.0"), ("0.32.15", "0.32.16"), ("0.32.15-rc1", "1.0.0")])
def test_versions_are_compared_by_number(older: str, newer: str) -> None:
    assert _upgrade.version_key(older) < _upgrade.version_key(newer)


def test_what_is_no_version_is_told() -> None:
    with pytest.raises(_upgrade.UpgradeError, match="'latest' is no version"):
        _upgrade.version_key("latest")


def test_a_whole_release_is_read() -> None:
    assert _upgrade.parse_release(json.dumps(RELEASE)) == RELEASE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no JSON"),
        ('{"schema": 1, "engine": {"version": "0.3', "no JSON"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1, "engine": {}}', "no image"),
        (json.dumps({**RELEASE, "engine": {"version": None, "image": {"id": ID}}}), "engine.version is 'None'"),
        (json.dumps({**RELEASE, "engine": {"version": "0.32.15", "image": {"id": "x"}}}), "engine.image.id is 'x'"),
        (json.dumps({**RELEASE, "models": None}), "no models"),
    ],
)
def test_a_damaged_release_is_told_by_what_is_damaged(text: str, told: str) -> None:
    with pytest.raises(_upgrade.UpgradeError, match=told):
        _upgrade.parse_release(text)


@pytest.mark.parametrize("name", ["../../etc", "20261122T120501Z-..%2f/x", "", "latest"])
def test_no_name_of_a_release_leads_elsewhere(name: str) -> None:
    assert not _upgrade.is_entry_name(name)
    assert _upgrade.is_entry_name(_upgrade.entry_name("0.32.15", "20261122T120501Z"))


def test_the_oldest_go_and_what_is_needed_stays() -> None:
    names = ["3", "1", "2", "4"]
    assert _upgrade.to_drop(names, 2, ()) == ["1", "2"]
    assert _upgrade.to_drop(names, 2, ("1",)) == ["2"]
    assert _upgrade.to_drop(names, 9, ()) == []


ENTRIES = [
    {"name": "1-a", "version": "0.32.14", "fault": ""},
    {"name": "3-c", "version": "0.32.16", "fault": ""},
    {"name": "2-b", "version": "0.32.15", "fault": ""},
]


@pytest.mark.parametrize(
    ("current", "wanted", "left", "name"),
    [
        ("3-c", "", "", "2-b"),
        ("2-b", "", "", "1-a"),
        ("", "", "", "3-c"),
        ("3-c", "1-a", "", "1-a"),
        ("1-a", "0.32.16", "", "3-c"),
        ("2-b", "", "2-b", "2-b"),
    ],
)
def test_one_release_back_or_a_named_one(current: str, wanted: str, left: str, name: str) -> None:
    assert _upgrade.choose(ENTRIES, current, wanted, left)["name"] == name


@pytest.mark.parametrize(
    ("current", "wanted", "told"),
    [
        ("1-a", "", "no release before the one that runs is kept; kept are: 1-a, 2-b, 3-c"),
        ("1-a", "9", "no release '9' is kept"),
        ("2-b", "2-b", "runs already"),
    ],
)
def test_what_cannot_come_back_is_told(current: str, wanted: str, told: str) -> None:
    with pytest.raises(_upgrade.UpgradeError, match=told):
        _upgrade.choose(ENTRIES, current, wanted)
    with pytest.raises(_upgrade.UpgradeError, match="its image is gone"):
        _upgrade.choose([{"name": "1-a", "fault": "its image is gone"}], "2-b")


def test_the_canary_is_alone_and_first() -> None:
    assert _upgrade.batches(["a", "b", "c", "d"], "c", 2) == [["c"], ["a", "b"], ["d"]]
    assert _upgrade.batches(["a"], "a", 5) == [["a"]]


def test_what_nobody_serves_while_a_batch_is_out() -> None:
    served = {"a": ["chat", "code"], "b": ["chat"], "c": ["code", "embed"]}
    assert _upgrade.unserved(["a"], served) == []
    assert _upgrade.unserved(["c"], served) == ["embed"]
    assert _upgrade.unserved(["a", "b"], served) == ["chat"]


OWN = {"run": "r2", "boot": "b1", "pid": 7}


@pytest.mark.parametrize(
    ("held", "alive", "broken", "told"),
    [
        pytest.param(None, False, "", "", id="free"),
        pytest.param({"run": "r2", "boot": "b9"}, True, "", "", id="our own"),
        pytest.param({"run": "r1", "boot": "b1"}, False, "", "", id="its process is dead"),
        pytest.param({"run": "r1", "boot": "b1", "pid": 5}, True, "", "Its process 5 lives", id="its process lives"),
        pytest.param({"run": "r1", "boot": "b2"}, False, "", "upgrade_break_lock=r1", id="another controller"),
        pytest.param({"run": "r1", "boot": "b2"}, False, "r1", "", id="declared dead"),
        pytest.param({"run": "r1", "boot": "b2"}, False, "r0", "upgrade_break_lock=r1", id="another declared dead"),
        pytest.param({}, True, "", "upgrade_break_lock=unknown", id="unreadable"),
    ],
)
def test_the_lock(held: dict[str, Any] | None, alive: bool, broken: str, told: str) -> None:
    found = _upgrade.lock_held(held, OWN, alive, broken)
    assert (told in found) if told else not found


CHAT = {"name": "chat", "use": "chat", "account": {"total_bytes": 2**30}}
EMBED = {"name": "embed", "use": "embedding", "account": {"total_bytes": 2**20}}
GOOD: dict[str, Any] = {
    "chat": {"answers": ["Tokyo, Osaka", "four"], "tokens_per_second": 50.0, "size_bytes": 2**30},
    "embed": {"answers": [[1.0, 0.0]], "tokens_per_second": None, "size_bytes": 2**20},
}


def judged(**chat: Any) -> list[str]:
    after = {**GOOD, "chat": {**GOOD["chat"], **chat}}
    return _upgrade.judge([CHAT, EMBED], GOOD, after, 20, 0.3)


def test_what_is_as_before_passes() -> None:
    assert judged() == []
    assert judged(tokens_per_second=41.0, answers=["Tokyo, Kyoto", "four"]) == []
    assert _upgrade.judge([CHAT, EMBED], None, GOOD, 20, 0.3) == []


@pytest.mark.parametrize(
    ("chat", "told"),
    [
        ({"error": "500"}, "chat does not answer: 500"),
        ({"size_bytes": None}, "is not in memory"),
        ({"size_bytes": 2**30 + 2**27}, "takes 1.1 GiB of memory"),
        ({"tokens_per_second": 39.0}, "22 % less than the 50.0 before"),
        ({"answers": ["zzz", "q"]}, "by 0.00; at least 0.3 is needed: it said 'Tokyo, Osaka'"),
        ({"answers": ["", ""]}, "agrees with its answers"),
    ],
)  # fmt: skip
def test_what_is_worse_is_told(chat: dict[str, Any], told: str) -> None:
    (fault,) = judged(**chat)
    assert told in fault


def test_embeddings_are_held_by_their_angle() -> None:
    after = {**GOOD, "embed": {**GOOD["embed"], "answers": [[0.0, 1.0]]}}
    (fault,) = _upgrade.judge([CHAT, EMBED], GOOD, after, 20, 0.3)
    assert "cosine to those before is 0.00" in fault
    after["embed"]["answers"] = [[2.0, 0.001]]
    assert _upgrade.judge([CHAT, EMBED], GOOD, after, 20, 0.3) == []


def test_a_model_that_was_not_asked_fails() -> None:
    assert "embed does not answer: it was not asked" in _upgrade.judge(
        [CHAT, EMBED], GOOD, {"chat": GOOD["chat"]}, 20, 0.3
    )


@pytest.mark.parametrize(
    ("one", "other", "share"), [("", "", 1), ("a", "", 0), ("abcd", "abxy", 0.5), ("ab", "abcd", 0.5)]
)
def test_agreement_ends_at_the_first_difference(one: str, other: str, share: float) -> None:
    assert _upgrade.agreement(one, other) == share == _upgrade.agreement(other, one)


def test_an_older_version_needs_consent() -> None:
    (fault,) = _upgrade.node_faults("n1", node(version="0.32.14"), False)
    assert "older than 0.32.15" in fault
    assert "rollback.yml" in fault
    assert _upgrade.node_faults("n1", node(version="0.32.14"), True) == []
    assert _upgrade.node_faults("n1", node(), False) == []


def test_what_is_wrong_with_a_node_is_told_with_its_name() -> None:
    assert _upgrade.node_faults("n1", node(release=None, faults=["it is damaged"]), False) == ["n1: it is damaged"]
    (fault,) = _upgrade.node_faults("n1", node(version="latest"), False)
    assert "'latest' is no version" in fault


def test_no_room_for_a_second_image_is_a_fault() -> None:
    (fault,) = _upgrade.node_faults("n1", node(image_need=2**32, image_free=2**31), False)
    assert "/var/lib/docker has 2.0 GiB free, and an image beside the one that runs needs 4.0 GiB" in fault
    assert _upgrade.node_faults("n1", node(image_need=2**32, image_free=2**31, image_there=True), False) == []


def test_what_is_shown_of_a_node() -> None:
    lines = _upgrade.node_lines(node(brought=["model big:1, 2.0 GiB"], changes=["plan: 4 slots"], load_seconds=12.4))
    assert lines == [
        "engine   0.32.15 -> 0.32.16",
        "image    sha256:aaaaaaaaaaaa -> sha256:cccccccccccc",
        "         1.0 GiB, fetched while the node serves",
        "fetch    model big:1, 2.0 GiB",
        "change   plan: 4 slots",
        "file     /opt/compose.yml",
        "restart  the container onprem-llm-ollama; its models are loaded anew",
        "out for a time that was never measured here; its models took 12 s to load last",
    ]
    assert _upgrade.node_lines(node(files=[])) == ["nothing to do"]
    times = {"out_seconds": 41.6, "at": "2026-11-22T12:00:00Z"}
    measured = _upgrade.node_lines(node(image_there=True, times=times))
    assert "         is on the node" in measured
    assert measured[-1] == "out for about 42 s, as on 2026-11-22T12:00:00Z"
    same = _upgrade.node_lines(node(version="0.32.15", image=ID))
    assert same[0] == "file     /opt/compose.yml"


def test_what_going_back_does() -> None:
    target = {"name": "1-a", "version": "0.32.14", "image_id": ID}
    assert _upgrade.back_lines(node(), target)[:2] == ["release  1-a", "engine   0.32.15 -> 0.32.14"]


def test_the_order_and_who_is_not_served() -> None:
    order = [["a"], ["b", "c"]]
    serves = {"a": ["chat"], "b": ["chat"], "c": ["chat", "code"]}
    assert _upgrade.fleet_lines(order, {"a", "b", "c"}, serves) == [
        "the canary: a",
        "batch 2: b, c",
        "  nobody else serves code: its users get an error 503 with Retry-After meanwhile",
    ]
    assert _upgrade.fleet_lines(order, {"b"}, serves) == ["batch 2: b"]


def test_a_run_that_was_cut_off_is_taken_up_again() -> None:
    cut = node(files=[], journal={"step": "changing", "at": "2026-11-22T12:00:00Z"})
    assert cut.due
    assert "cut off here at 2026-11-22T12:00:00Z while it was changing" in _upgrade.node_lines(cut)[0]


def test_what_a_fleet_runs_is_pinned() -> None:
    digest = "sha256:" + "d" * 64
    pulled = {**RELEASE, "engine": {"version": "0.32.15", "image": {"id": ID, "digest": digest}}}
    pins = _upgrade.pins({"a": pulled, "b": pulled}, {"g": {"nginx": "1.26", "haproxy": "3.0"}})
    assert pins == {
        "engine": {"version": "0.32.15", "image_id": ID, "image_digest": digest},
        "models": RELEASE["models"],
        "packages": {"g": {"haproxy": "3.0", "nginx": "1.26"}},
    }
    assert _upgrade.pin_faults(pins, "0.32.15", digest, "") == []
    assert "image_digest" not in _upgrade.pins({"a": RELEASE}, {})["engine"]


def test_a_fleet_of_two_releases_is_not_pinned() -> None:
    newer = {**RELEASE, "engine": {"version": "0.32.16", "image": {"id": ID}}}
    with pytest.raises(_upgrade.UpgradeError, match=r"a run engine 0\.32\.15 .*; b run engine 0\.32\.16"):
        _upgrade.pins({"a": RELEASE, "b": newer}, {})
    other = {**RELEASE, "models": {"gemma3:270m": "sha256:" + "e" * 64}}
    with pytest.raises(_upgrade.UpgradeError, match="not have the same weights of gemma3:270m"):
        _upgrade.pins({"a": RELEASE, "b": other}, {})
    with pytest.raises(_upgrade.UpgradeError, match=r"a: /etc/onprem-llm/release\.json: it is no release"):
        _upgrade.pins({"a": None}, {})
    with pytest.raises(_upgrade.UpgradeError, match="no node was reached"):
        _upgrade.pins({}, {})


def test_what_differs_from_the_lock_is_told() -> None:
    lock = {"engine": {"version": "0.32.15", "image_id": ID}, "models": {}}
    (fault,) = _upgrade.pin_faults(lock, "0.32.16", "", ID)
    assert "ollama_version is 0.32.16, and release_lock pins 0.32.15. Pin anew by pin.yml" in fault
    assert _upgrade.pin_faults({}, "0.32.16", "", "") == []
    assert "is no lock of versions" in _upgrade.pin_faults("0.32.15", "0.32.15", "", "")[0]
    assert "is no lock of versions" in _upgrade.pin_faults({"engine": "0.32.15"}, "0.32.15", "", "")[0]


MOVED = {"name": "docker.io", "old": "26.1.5", "new": "28.5.2", "kept": True}
BELOW = {
    "docker": {
        "install": ["docker.io 28.5.2* (in place of 26.1.5)"],
        "change": ["/etc/docker/daemon.json (features)"],
        "restart": ["docker.service (restart)"],
        "interrupt": ["Docker is upgraded"],
    }
}


def test_what_changes_below_the_engine_makes_a_node_due_and_is_shown() -> None:
    changed = node(files=[], below=BELOW, moves=[MOVED])
    assert changed.due
    assert _upgrade.below_lines(changed) == [
        "package  docker.io 26.1.5 -> 28.5.2",
        "change   /etc/docker/daemon.json (features)",
        "restart  docker.service (restart)",
        "note     Docker is upgraded",
        "back     packages go back to these versions, by files that the node keeps",
    ]
    assert "package  docker.io 26.1.5 -> 28.5.2" in _upgrade.node_lines(changed)
    assert not node(files=[]).due


def test_packages_that_come_and_go_are_shown_so() -> None:
    assert _upgrade.move_line({"name": "tini", "old": "0.19.0", "new": ""}) == "tini 0.19.0 goes"
    assert _upgrade.move_line({"name": "tini-static", "old": "", "new": "0.19.1"}) == "tini-static 0.19.1, which is new"


def test_what_does_not_go_back_is_said_before() -> None:
    lost = node(below=BELOW, moves=[{**MOVED, "kept": False}])
    assert _upgrade.below_lines(lost)[-1].startswith(
        "back     packages stay as they are then: docker.io 26.1.5 cannot be had any more"
    )
    rpm = node(below={"nvidia_container_toolkit": {"install": ["nvidia-container-toolkit 1.20.0*"]}})
    assert _upgrade.below_lines(rpm) == [
        "install  nvidia-container-toolkit 1.20.0*",
        "back     packages stay as they are then; only apt's go back",
    ]
    driver = node(below={"nvidia_driver": {"install": ["nvidia-driver 580"], "restart": ["the host"]}})
    assert _upgrade.below_lines(driver) == [
        "install  nvidia-driver 580",
        "restart  the host",
        "back     the driver stays as it is then",
    ]


def test_a_gateways_packages_are_shown() -> None:
    moved = {"name": "nginx", "old": "1.26.3-3+deb13u7", "new": "1.26.3-3+deb13u11", "kept": False}
    *shown, back = _upgrade.gateway_lines({"moves": [moved], "lists_fault": ""})
    assert shown == [
        "package  nginx 1.26.3-3+deb13u7 -> 1.26.3-3+deb13u11",
        "restart  nginx.service and the balancer (a new process takes over, which ends no request)",
    ]
    assert back.startswith("back     packages stay as they are then: nginx 1.26.3-3+deb13u7 cannot be had any more")


def test_lists_that_are_old_are_told_where_packages_move() -> None:
    told = _upgrade.below_lines(node(below=BELOW, moves=[MOVED], lists_fault="W: Failed to fetch x"))
    assert "note     apt's package lists are as they were before, since W: Failed to fetch x" in told
    assert _upgrade.below_lines(node(lists_fault="W: Failed to fetch x")) == []
