# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What balancer.py makes of HAProxy's answers, and what the role refuses; without a HAProxy."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _balancing
from haproxy import FILTERS, program, rendered
from role_templates import evaluated, role_variables

ROLES = Path(__file__).resolve().parents[3] / "roles"


balancer = program()

CONFIGURATION = """
frontend gateway
    bind unix@/run/x
backend any
    server n1 192.0.2.1:8443 maxconn 32
    server n2 fd00::2:8443 maxconn 32
backend model:a:1
    server n1 192.0.2.1:8443 maxconn 4
"""
# Of HAProxy 2.6.12: `show servers state`, with n1 drained by order and n2 down.
HEADER = "1\n# " + " ".join(balancer.COLUMNS) + "\n"
DUMP = (
    HEADER
    + "3 any 1 n1 192.0.2.1 2 8 1 1 30 15 3 4 6 0 0 0 - 8443 - 1 0 - - 0\n"
    + "3 any 2 n2 fd00::2 0 0 1 1 30 8 2 0 6 0 0 0 - 8443 - 1 0 - - 0\n"
)


def states(text: str) -> dict[str, tuple[str, str, str]]:
    rows = balancer.state_rows(text)
    return {
        f"{row['be_name']}/{row['srv_name']}": (row["srv_op_state"], row["srv_admin_state"], row["srv_check_health"])
        for row in rows
    }


def test_a_server_that_nobody_knows_is_down_and_the_others_keep_their_health() -> None:
    assert states(balancer.next_state(CONFIGURATION, "", set())) == {
        "any/n1": ("0", "0", "0"), "any/n2": ("0", "0", "0"), "model:a:1/n1": ("0", "0", "0"),
    }  # fmt: skip
    assert states(balancer.next_state(CONFIGURATION, DUMP, {"n1"})) == {
        "any/n1": ("2", "8", "4"), "any/n2": ("0", "0", "0"), "model:a:1/n1": ("0", "8", "0"),
    }  # fmt: skip


def test_the_directory_decides_who_is_drained_not_the_process() -> None:
    assert states(balancer.next_state(CONFIGURATION, DUMP, set()))["any/n1"] == ("2", "0", "4")
    assert balancer.commands(DUMP, {"n1"}) == []
    assert balancer.commands(DUMP, set()) == ["set server any/n1 state ready"]
    assert balancer.commands(DUMP, {"n1", "n2"}) == ["set server any/n2 state drain"]


def test_a_node_at_another_address_is_another_node() -> None:
    moved = CONFIGURATION.replace("192.0.2.1", "192.0.2.9")
    assert states(balancer.next_state(moved, DUMP, set()))["any/n1"] == ("0", "0", "0")


@pytest.mark.parametrize("text", ["", "Unknown command.\n", "2\n# be_id\n", "1\n"])
def test_what_is_no_table_has_no_servers(text: str) -> None:
    assert balancer.state_rows(text) == []
    assert balancer.commands(text, {"n1"}) == []


def test_replaced_processes_count_as_well() -> None:
    listing = (
        "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"
        "11              master          2               0d00h00m10s     2.6.12\n# workers\n"
        "14              worker          0               0d00h00m01s     2.6.12\n# old workers\n"
        "12              worker          1               0d00h00m10s     2.6.12\n# programs\n\n"
    )
    assert balancer.processes(listing) == [14, 12]


def test_streams_of_a_node() -> None:
    listing = (
        "0x55d0: proto=unix_stream src=unix:1 fe=gateway be=model:a:1 srv=n1 ts=00 epoch=0 age=12s calls=2\n"
        "0x55d1: proto=unix_stream src=unix:1 fe=gateway be=gateway srv=<none> ts=00 epoch=0 age=1s calls=1\n"
        "0x55d2: proto=unix_stream src=unix:1 fe=gateway be=model:a:1 srv=n10 ts=00 epoch=0 age=1s calls=1\n"
    )
    assert balancer.sessions(listing, "n1") == [{"id": "0x55d0", "backend": "model:a:1", "age": "12s"}]


def test_the_check_reads_what_the_warmer_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("warm", ROLES / "models/files/warm.py")
    assert spec
    assert spec.loader
    warm = importlib.util.module_from_spec(spec)
    sys.modules["warm"] = warm
    spec.loader.exec_module(warm)
    source = (ROLES / "models/files/warm.py").read_text(encoding="utf-8")
    # The order of the two fields, and a line each.
    assert '"name": model.name,\n                    "state": self._shown(model),' in source
    text = json.dumps({"models": [{"name": "a:1", "state": warm.ANSWERED, "loaded": True}]}, indent=1)
    assert re.search(_balancing.warm_pattern("a:1").strip("'"), text)
    assert "json.dumps(self._document(), indent=1" in source


UPSTREAMS = [{"name": "n1", "address": "192.0.2.1", "port": 8443}, {"name": "n2", "address": "192.0.2.2", "port": 8443}]
PLAN = {"instances": [{"models": [{"name": "a:1", "slots": 4, "context_length": 8192}]}]}


def variables(**given: Any) -> dict[str, Any]:
    return {
        **role_variables("gateway"), **role_variables("balancer"), "gateway_upstreams": UPSTREAMS,
        "inventory_hostname": "gw1", "groups": {"gateways": ["gw1"]}, "__host_state": {"packages": {}},
        "hostvars": {"n1": {"models_selection": {"plan": PLAN}}}, **given,
    }  # fmt: skip


def value(name: str, **given: Any) -> Any:
    known = variables(**given)
    return evaluated(known[name], known, FILTERS)


def kept(**slots: int) -> dict[str, Any]:
    """What gather.yml of the gateway reads of what it knew last: slots of the model a:1, by node."""
    nodes = {node: [{"name": "a:1", "shares": "a:1", "slots": number}] for node, number in slots.items()}
    return {"stdout_lines": [f"nodes {json.dumps(nodes)}"]}


def slots(**given: Any) -> list[dict[str, int]]:
    """Slots by model, of each node."""
    nodes = value("__balancer_nodes", **given)
    return [{row["name"]: row["slots"] for row in node["models"]} for node in nodes]


def test_this_runs_plan_counts_before_what_was_kept_and_that_before_older_facts() -> None:
    recorded = {"ansible_facts": {"ansible_local": {"onprem_llm": {"plan": PLAN}}}}
    hosts = {"n1": {"models_selection": {"plan": PLAN}}, "n2": recorded}
    assert slots(__gateway_state=kept(n1=1, n2=2), hostvars=hosts) == [{"a:1": 4}, {"a:1": 2}]
    assert slots(hostvars=hosts) == [{"a:1": 4}, {"a:1": 4}]
    assert value("__balancer_unknown") == ["n2"]


def test_gateway_and_balancer_know_the_same() -> None:
    known = {"__gateway_state": kept(n2=2), "hostvars": {"n1": {"models_selection": {"plan": PLAN}}}}
    nodes = value("__gateway_node_models", **known)
    assert [node["models"] for node in value("__balancer_nodes", **known)] == [nodes["n1"], nodes["n2"]]
    # And what it knows now is what it reads the next time.
    again = {"stdout_lines": ["nodes " + json.dumps(nodes)]}
    assert value("__gateway_node_models", __gateway_state=again, hostvars={}) == nodes


def test_a_plan_that_failed_leaves_the_last_one() -> None:
    found = slots(__gateway_state=kept(n1=1), hostvars={"n1": {"models_selection": {"failed": True}}})
    assert found == [{"a:1": 1}, {}]


@pytest.mark.parametrize("form", [{"from": "a:1"}, {"modelfile": "FROM a:1\nSYSTEM You are a clerk."}])
def test_derived_models_share_the_slots_of_theirs(form: dict[str, str]) -> None:
    hosts = {"n1": {"models_selection": {"plan": PLAN}, "models_derived": [{"name": "clerk", **form}]}}
    [model] = value("__balancer_models", hostvars=hosts)
    assert (model["names"], model["slots"]) == (["a:1", "clerk:latest", "clerk"], 4)
    again = {"stdout_lines": ["nodes " + json.dumps(value("__gateway_node_models", hostvars=hosts))]}
    [model] = value("__balancer_models", __gateway_state=again, hostvars={})
    assert model["names"] == ["a:1", "clerk:latest", "clerk"]


def test_what_is_right_is_no_fault() -> None:
    assert not value("__balancer_faults")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hostvars": {}}, "no plan is known of any of n1, n2; run site.yml once without --limit"),
        ({"gateway_upstreams": UPSTREAMS[:1] * 2}, "n1 is there more than once"),
        ({"gateway_upstreams": [{**UPSTREAMS[0], "name": "n 1"}]}, "the name n 1 must be 1 to 64"),
        ({"balancer_queue_per_slot": 0}, "balancer_queue_per_slot: 0 must be at least 1"),
        ({"balancer_active_gateways": 2}, "balancer_active_gateways: 2 are more than there are in the group gateways"),
        ({"balancer_reload_grace_seconds": 60}, "balancer_reload_grace_seconds: 60 is less than balancer_read_timeout"),
        (
            {"__balancer_look": {"stdout_lines": ["installed haproxy=2.4.22-0ubuntu0.22.04.2"]}},
            "gw1 has HAProxy 2.4.22-0ubuntu0.22.04.2; 2.6 or later is needed",
        ),
    ],
)
def test_what_is_wrong_is_a_fault_by_name_and_value(given: dict[str, Any], said: str) -> None:
    found = value("__balancer_faults", **given)
    found = found.splitlines() if isinstance(found, str) else found
    assert said in " ".join(found)


def test_no_affinity_buffers_no_body() -> None:
    text = rendered("haproxy.cfg.j2", gateway_upstreams=UPSTREAMS, hostvars=variables()["hostvars"])
    assert "wait-for-body" not in text
    assert "balance leastconn" in text
    assert not re.search(r"bind (?!unix@)", text)
