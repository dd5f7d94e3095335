"""A node whose engine or whose Docker was restarted is warm again by itself, and says when."""

from __future__ import annotations

import json
import time

import pytest
from conftest import ENGINE_ADDRESS, SCENARIO, Node

from tests.warm.first_token import CONTAINER, UNIT, await_ready, measure, state

ENGINE = f"http://{ENGINE_ADDRESS}:11434"


@pytest.fixture(autouse=True)
def one_scenario() -> None:
    if SCENARIO != "single":
        pytest.skip("one scenario shows it")


def by_order(node: Node) -> list[str]:
    return [model["name"] for model in sorted(node.models, key=lambda model: model["load_order"])]


def journal(node: Node, since: float) -> list[str]:
    """What the warmer said of single models since then, in order."""
    lines = node.host.check_output(f"journalctl -u {UNIT} -o cat --since=@{int(since)}").splitlines()
    return [line.split()[0] for line in lines if " answered after " in line]


def test_unit_is_ready_and_shut_in(node: Node) -> None:
    shown = node.host.check_output(f"systemctl show {UNIT} -p ActiveState,StatusText,NRestarts,MainPID")
    found = dict(line.split("=", 1) for line in shown.splitlines())
    assert found["ActiveState"] == "active"
    assert found["StatusText"] == f"{len(node.models)} of {len(node.models)} planned models answer"
    assert found["NRestarts"] == "0"
    status = node.host.file(f"/proc/{found['MainPID']}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert (int(fields["CapEff"], 16), fields["NoNewPrivs"], fields["Seccomp"]) == (0, "1", "2")
    needed = node.host.check_output("systemctl show docker.service -p Requires,Wants,BindsTo,Requisite,PartOf")
    assert UNIT not in needed


@pytest.mark.parametrize(
    "restart",
    [
        f"docker restart {CONTAINER}",
        # By Docker's own policy: the engine's process dies, and nobody asked for it.
        f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {CONTAINER})",
        # What a boot of the host does to the engine. A restart of Docker alone leaves it running (live-restore).
        (
            f"pid=$(docker inspect --format '{{{{.State.Pid}}}}' {CONTAINER}); "
            "systemctl stop docker.socket docker.service; kill -9 $pid; systemctl start docker.service"
        ),
    ],
    ids=["restarted", "killed", "booted"],
)
def test_is_warm_again_in_the_plans_order(node: Node, restart: str) -> None:
    before = await_ready(node.host.check_output)
    time.sleep(1.1)  # the journal's and the state's times are in seconds
    began = time.time()
    # Together, or a quick engine is back before anybody looked.
    found = node.host.check_output(
        "sh -c %s",
        "cat /run/onprem-llm/warm.json; (" + restart + ") >/dev/null & "
        "for _ in $(seq 600); do grep -q '\"ready\": false' /run/onprem-llm/warm.json && echo gone && break; "
        "sleep 0.05; done; wait",
    )
    assert found.endswith("gone"), found
    after = await_ready(node.host.check_output)
    assert after["engine"]["since"] > before["engine"]["since"]
    assert journal(node, began) == by_order(node)
    loaded = {model["name"]: model for model in node.api("/api/ps")["models"]}
    assert all(int(loaded[name]["expires_at"][:4]) > 2100 for name in by_order(node))
    chat = next(model["name"] for model in node.models if model["use"] == "chat")
    assert (
        node.api("/api/generate", {"model": chat, "prompt": "One,", "options": {"num_predict": 2}})["eval_count"] == 2
    )


def test_a_dead_warmer_is_restarted_and_the_engine_serves_meanwhile(node: Node) -> None:
    await_ready(node.host.check_output)
    node.host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    assert not state(node.host.check_output)["ready"], "its state goes with it"
    assert node.api("/api/ps")["models"]
    await_ready(node.host.check_output, seconds=30)


def test_first_token_after_a_restart(node: Node, record_property) -> None:
    chat = next(model["name"] for model in node.models if model["use"] == "chat")
    figures = measure(node.host.check_output, ENGINE, chat)
    record_property("figures", json.dumps(vars(figures)))
    print(f"{node.name}: {figures}")
    assert figures.warm_first_token < figures.cold_first_token
