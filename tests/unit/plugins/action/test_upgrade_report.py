# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade_report: what a run would do to which node in which order, or all that is in its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Act = Callable[..., dict[str, Any]]
OLD, NEW = "20261122T120000Z-0.32.15", "20261122T130000Z-0.32.16"
ID = "sha256:" + "a" * 64
RELEASE = {"schema": 1, "engine": {"version": "0.32.15", "image": {"id": ID, "reference": ID}}, "models": {}}


def found(look: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "release": RELEASE, "release_fault": "", "journal": None, "journal_fault": "", "current": "", "kept": [],
        "image_there": False, "image_bytes": 2**30, "registry_faults": [], "docker_root": "/var/lib/docker",
        "free_bytes": 2**40, "load_seconds": 5.0,
    }  # fmt: skip
    other = {
        "version": "0.32.16", "image": "sha256:" + "c" * 64, "archive": "", "registry_must": True, "brought": [],
        "changes": [], "files": ["/opt/onprem-llm/ollama/compose.yml"], "serves": ["chat"],
    }  # fmt: skip
    return {"look": {**known, **(look or {})}, **other, **given}


def report(act: Act, nodes: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    given = {"hosts": list(nodes), "reached": list(nodes), "canary": next(iter(nodes)), **arguments}
    return act("upgrade_report", given, {"hostvars": {host: {"__upgrade_found": node} for host, node in nodes.items()}})


def test_what_would_be_done_is_shown(act: Act) -> None:
    result = report(act, {"a": found(), "b": found()})
    assert result["due"] == ["a", "b"]
    assert result["lines"][:3] == ["What the upgrade does:", "a:", "  engine   0.32.15 -> 0.32.16"]
    assert result["lines"][-2:] == ["  the canary: a", "  batch 2: b"]


def test_nothing_to_do_is_told_and_is_no_failure(act: Act) -> None:
    result = report(act, {"a": found(version="0.32.15", files=[])})
    assert result["due"] == []
    assert result["lines"] == ["Nothing to do: every node runs what is wanted. Nothing was changed."]
    assert not result.get("failed")


def test_all_faults_are_told_at_once(act: Act) -> None:
    nodes = {
        "a": found({"release": None, "release_fault": "release.json is damaged."}),
        "b": found({"image_bytes": None, "registry_faults": ["m:8444/x: the registry has no such"]}),
        "c": found(version="0.32.14"),
        "d": found({"free_bytes": 2**31}),
        "e": found({"journal_fault": "the journal cannot be read."}),
    }
    result = report(act, nodes)
    assert result["failed"]
    head, *told = result["msg"].splitlines()
    assert head == "5 faults in the way; nothing was changed on any node:"
    assert told[0] == "- a: release.json is damaged."
    assert "- b: the image cannot be had: m:8444/x: the registry has no such. Does the digest exist" in told[1]
    assert "older than 0.32.15, which runs" in told[2]
    assert "/var/lib/docker has 2.0 GiB free" in told[3]
    assert "the journal cannot be read" in told[4]


def test_a_public_registry_that_docker_may_reach_otherwise_is_no_fault(act: Act) -> None:
    look = {"image_bytes": None, "registry_faults": ["no route"]}
    assert not report(act, {"a": found(look, registry_must=False)}).get("failed")


def test_an_archive_needs_room_twice(act: Act, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"x" * 1000)
    fits = found({"image_bytes": None, "free_bytes": 2000}, archive=str(archive))
    assert not report(act, {"a": fits}).get("failed")
    tight = found({"image_bytes": None, "free_bytes": 1999}, archive=str(archive))
    assert "needs 2 KiB" in report(act, {"a": tight})["msg"]


def test_the_canary_has_to_be_there(act: Act) -> None:
    nodes = {"a": found(), "b": found()}
    assert "upgrade_canary is z; it must be one of a, b" in report(act, nodes, canary="z")["msg"]
    assert "the canary a is not reached" in report(act, nodes, reached=["b"])["msg"]


def test_a_batch_may_not_take_all_who_serve_a_model(act: Act) -> None:
    nodes = {"a": found(), "b": found(serves=["code"]), "c": found(serves=["code"])}
    result = report(act, nodes, serial=2)
    assert "b, c would be out at once, and nobody else serves code" in result["msg"]
    accepted = report(act, nodes, serial=2, accept_gap=True)
    assert "    nobody else serves code: its users get an error 503 with Retry-After meanwhile" in accepted["lines"]


def test_a_lone_node_is_told_of_its_gap(act: Act) -> None:
    lines = report(act, {"a": found()})["lines"]
    assert "    nobody else serves chat: its users get an error 503 with Retry-After meanwhile" in lines
    assert "  out for a time that was never measured here; its models took 5 s to load last" in lines
    times = {"at": "2026-11-22T12:00:00Z", "out_seconds": 61.4}
    kept = [{"name": NEW, "version": "0.32.16", "image_id": ID, "fault": "", "times": times}]
    assert "  out for about 61 s, as on 2026-11-22T12:00:00Z" in report(act, {"a": found({"kept": kept})})["lines"]


KEPT = [
    {"name": OLD, "version": "0.32.15", "image_id": ID, "fault": "", "times": None},
    {"name": NEW, "version": "0.32.16", "image_id": ID, "fault": "", "times": None},
]


def test_one_release_back(act: Act) -> None:
    result = report(act, {"a": found({"kept": KEPT, "current": NEW})}, back=True)
    assert result["targets"] == {"a": OLD}
    assert "  release  " + OLD in result["lines"]


def test_a_node_that_runs_the_named_release_is_left_alone(act: Act) -> None:
    nodes = {"a": found({"kept": KEPT, "current": NEW}), "b": found({"kept": KEPT, "current": OLD})}
    result = report(act, nodes, back=True, release="0.32.15")
    assert (result["due"], result["targets"]) == (["a"], {"a": OLD})


def test_what_cannot_come_back_is_a_fault(act: Act) -> None:
    gone = [{**KEPT[0], "fault": "its image is gone"}, KEPT[1]]
    message = report(act, {"a": found({"kept": gone, "current": NEW}), "b": found()}, back=True)["msg"]
    assert f"- a: the release {OLD} cannot come back: its image is gone" in message
    assert "- b: no release before the one that runs is kept; kept are: none" in message


def test_an_upgrade_that_was_cut_off_is_left_for_where_it_came_from(act: Act) -> None:
    look = {"kept": KEPT, "current": OLD, "journal": {"left": OLD, "step": "changing"}}
    assert report(act, {"a": found(look)}, back=True)["targets"] == {"a": OLD}


MOVED = {"name": "docker.io", "old": "26.1.5", "new": "28.5.2", "kept": True}


def test_what_is_below_the_engine_and_the_gateways_is_shown_with_the_rest(act: Act) -> None:
    moves = {"moves": [MOVED], "fault": "", "lists_fault": ""}
    below = {"docker": {"install": ["docker.io"], "restart": ["docker.service (restart)"]}}
    node = found(version="0.32.15", files=[], below_outlooks=below, packages_look=moves, below_faults=[])
    nginx = {"moves": [{**MOVED, "name": "nginx"}], "fault": "", "lists_fault": ""}
    variables = {"a": {"__upgrade_found": node}, "g": {"__upgrade_gateway_moves": nginx}}
    arguments = {"hosts": ["a"], "reached": ["a"], "canary": "a", "gateways": ["g", "h"]}
    result = act("upgrade_report", arguments, {"hostvars": variables})
    assert (result["due"], result["due_gateways"]) == (["a"], ["g"])
    lines = result["lines"]
    assert "  package  docker.io 26.1.5 -> 28.5.2" in lines
    assert lines[lines.index("g, as a gateway:") + 1] == "  package  nginx 26.1.5 -> 28.5.2"
    assert (lines[-3], lines[-1]) == ("  the canary: a", "  gateways, one at a time: g")

    # Where the nodes are as wanted, the gateways alone are a reason.
    alone = {"a": {"__upgrade_found": found(version="0.32.15", files=[])}, "g": {"__upgrade_gateway_moves": nginx}}
    result = act("upgrade_report", arguments, {"hostvars": alone})
    assert (result["due"], result["due_gateways"]) == ([], ["g"])
    assert "Nothing to do" not in result["lines"][0]


def test_what_apt_cannot_do_is_in_the_way(act: Act) -> None:
    broken = {"moves": [], "fault": "E: held broken packages", "lists_fault": ""}
    node = found(packages_look=broken, below_faults=["Docker is not supported here."])
    variables = {"a": {"__upgrade_found": node}, "g": {"__upgrade_gateway_moves": broken}}
    arguments = {"hosts": ["a"], "reached": ["a"], "canary": "a", "gateways": ["g"]}
    told = act("upgrade_report", arguments, {"hostvars": variables})["msg"]
    assert "- a: Docker is not supported here." in told
    assert "- a: apt cannot do what is wanted of its packages: E: held broken packages." in told
    assert "- g: apt cannot do what is wanted of its packages" in told
