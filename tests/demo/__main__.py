"""``make demo``: from nothing to an answer, then what runs where, in a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import docker

from tests.demo.client import complete
from tests.fleet import access
from tests.fleet.hosts import ROOT, Fleet, FleetError
from tests.fleet.supplies import supply

MIB = 2**20
# Run on a node: its plan, what the engine has loaded, and what the loads took.
READ_NODE = """
import json, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(json.dumps({
    "plan": json.load(open("/etc/onprem-llm/plan.json")),
    "measurements": json.load(open("/etc/onprem-llm/measurements.json")),
    "loaded": json.load(opener.open("http://%s:11434/api/ps", timeout=10))["models"],
}))
"""


def main() -> int:
    client = docker.from_env(timeout=300)
    started = time.monotonic()
    try:
        fleet = Fleet.load("demo")
        supply(client, fleet.state)
        fleet.up(client)
    except (FleetError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    report = fleet.state / "executions.json"
    environment = os.environ | {
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "executions",
        "EXECUTIONS_FILE": str(report),
    }
    play = subprocess.run(
        ["ansible-playbook", "-i", "inventories/demo", "site.yml"], cwd=ROOT, env=environment, check=False
    )
    if play.returncode != 0:
        print(
            "demo: site.yml failed; mend what it names and run `make demo` again: it goes on from there",
            file=sys.stderr,
        )
        return play.returncode
    nodes = read_nodes(client)
    reached = write_access(fleet, nodes)
    show_plans(nodes)
    show_answer(reached)
    show_cost(json.loads(report.read_text(encoding="utf-8")), time.monotonic() - started)
    return 0


def inventory() -> dict[str, dict[str, dict]]:
    return access.variables(ROOT / "inventories" / "demo")


def read_nodes(client: docker.DockerClient) -> dict[str, dict]:
    nodes = {}
    for host, variables in inventory()["llm_nodes"].items():
        container = client.containers.get(host)
        address = variables.get("ollama_address", access.engine_address())
        result = container.exec_run(["python3", "-c", READ_NODE % address])
        if result.exit_code != 0:
            raise RuntimeError(f"{host}: {result.output.decode()}")
        smi = container.exec_run(["nvidia-smi", "-L"])
        gpus = [line.split(" (")[0] for line in smi.output.decode().splitlines()] if smi.exit_code == 0 else []
        nodes[host] = {"address": variables["ansible_host"], "engine_address": address, "gpus": gpus}
        nodes[host] |= json.loads(result.output)
    return nodes


def write_access(fleet: Fleet, nodes: dict[str, dict]) -> dict:
    """.demo/access.json: how other tools reach the demo fleet."""
    plan = next(iter(nodes.values()))["plan"]
    models = [model for instance in plan["instances"] for model in instance["models"]]
    return access.write(fleet, inventory(), models)


def show_plans(nodes: dict[str, dict]) -> None:
    titles = (
        "HOST",
        "GPUS",
        "MODEL",
        "QUANTIZATION",
        "CONTEXT x SLOTS",
        "PREDICTED",
        "MEASURED",
        "WITH CUDA",
        "ON GPU",
    )
    rows = [titles]
    for host, node in nodes.items():
        left = [host, " + ".join(node["gpus"]) or "none"]
        loaded = {model["name"]: model for model in node["loaded"]}
        took = {(item["model"], item["context_length"], item["slots"]): item["bytes"] for item in node["measurements"]}
        for model in (model for instance in node["plan"]["instances"] for model in instance["models"]):
            account, now = model["account"], loaded.get(model["name"])
            rows.append(
                (
                    *left,
                    model["name"],
                    model["quantization"],
                    f"{model['context_length']} x {model['slots']}",
                    mib(account["total_bytes"] - account["overhead_bytes"]),
                    mib(took.get((model["name"], model["context_length"], model["slots"]))),
                    mib(account["total_bytes"]),
                    f"{100 * now['size_vram'] / now['size']:.0f} %" if now else "not loaded",
                )
            )
            left = ["", ""]
    print_table("What runs where (buffers on the devices planned: by the plan, and by the runner's own log)", rows)


def mib(size: float | None) -> str:
    return "unknown" if size is None else f"{size / MIB:.1f} MiB"


def show_answer(reached: dict) -> None:
    user = next(name for name, user in reached["users"].items() if user["role"] == "user")
    prompt = "The three largest cities of Japan are"
    answer = complete(
        reached["gateway_url"], reached["ca_file"], reached["users"][user]["api_key"], reached["model"], prompt
    )
    print(f"\nA completion through {reached['gateway_url']} over TLS, with the key of {user}, from {reached['model']}")
    print("(a base model of 270 million parameters: its words are poor, its tokens are real)")
    print(f"  prompt: {prompt}")
    print(f"  answer: {' '.join(answer.text.split())}")
    print(
        f"  first token after {answer.first_token_seconds:.3f} s, {answer.tokens} tokens, "
        f"{answer.tokens_per_second:.1f} tokens/s"
    )


def show_cost(report: dict, seconds: float) -> None:
    rows = [("HOST", "OK", "CHANGED", "FAILED", "UNREACHABLE", "MODULE EXECUTIONS")]
    for host, recap in report["hosts"].items():
        counts = (recap[key] for key in ("ok", "changed", "failures", "unreachable", "executions"))
        rows.append((host, *(str(count) for count in counts)))
    print_table("What it took", rows)
    print(f"\nsite.yml: {report['seconds']:.0f} s; the whole demo: {seconds:.0f} s")
    print("Access for other tools: .demo/access.json    Take it down: make demo-down")


def print_table(title: str, rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
