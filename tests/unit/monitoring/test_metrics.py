"""The program that tells the node exporter of a host, run as systemd runs it, beside an engine and a gateway."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.packages import unpacked

SCRIPT = Path(__file__).resolve().parents[3] / "roles/monitoring/files/programs/metrics.py"
PROGRAM = runpy.run_path(str(SCRIPT), run_name="metrics")
FAMILIES = {family.name: family for family in PROGRAM["FAMILIES"]}
PLAN = {
    "schema": 1,
    "instances": [
        {
            "name": "ollama",
            "models": [
                {
                    "name": "chat:q4", "use": "chat", "slots": 4, "gpus": ["GPU-1", "GPU-2"],
                    "account": {"weights_bytes": 600, "total_bytes": 900},
                },
                {"name": "embedder", "use": "embedding", "slots": 1, "gpus": [], "account": {"total_bytes": 50}},
            ],
        }
    ],
}  # fmt: skip
SMI = """#!/bin/sh
case "$1" in
*index,uuid*) printf '%s' "0, GPU-1, NVIDIA L40S, 41, 100, 44000, 46068, 310.50, 350.00
1, GPU-2, NVIDIA L40S, 90, [N/A], 1, 46068, [N/A], nan
";;
*clocks_event_reasons*) echo 'Field "clocks_event_reasons.x" is not a valid field to query.' >&2; exit 2;;
*clocks_throttle_reasons*) printf 'GPU-1, Not Active, Not Active, Not Active\\nGPU-2, Active, Not Active, [N/A]\\n';;
*ecc.errors*) printf 'GPU-1, 0\\nGPU-2, [N/A]\\n';;
*remapped-rows*) printf 'GPU-1, No, No\\nGPU-2, Yes, Yes\\n';;
esac
"""
JOURNAL = """#!/bin/sh
echo '1763790000.250000 gpu1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=0, GPU has fallen off the bus.'
echo '1763790001.000000 gpu1 kernel: NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=runner, Ch 00000008'
echo '1763790002.000000 gpu1 kernel: NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=runner, Ch 00000008'
"""
RULES = """#!/bin/sh
echo '-A INPUT -j ufw-before-logging-input'
echo '-A DOCKER-USER -m comment --comment "onprem.llm first" -j ONPREM-LLM'
echo '-A ONPREM-LLM -m comment --comment "onprem.llm x" -j DROP'
"""


class Host:
    """A host below a directory, with programs of its own before those of the system."""

    def __init__(self, directory: Path, answers: dict[str, Any]) -> None:
        self.root, self.answers = directory, answers
        self.programs, self.state = directory / "programs", directory / "state"
        for place in (self.programs, self.state, directory / "etc/ufw", directory / "etc/cdi", directory / "models"):
            place.mkdir(parents=True)
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(host.answers.get(self.path, {})).encode()
                self.send_response(200 if self.path in host.answers else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def program(self, name: str, text: str) -> None:
        file = self.programs / name
        file.write_text(text)
        file.chmod(0o755)

    def write(self, name: str, content: object) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def run(self, *arguments: object) -> dict[str, float]:
        """Samples of one pass, by name with labels; the program's complaints are kept."""
        self.file = self.root / "textfile.prom"
        options = ["--metrics", self.file, "--interval", 0, "--root", self.root, "--state", self.state, *arguments]
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(SCRIPT), *map(str, options)], capture_output=True, text=True, timeout=60,
            env={"PATH": f"{self.programs}:{os.environ['PATH']}"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        found = re.findall(r"^onprem_llm_(\S+(?:\{.*\})?) (\S+)$", self.file.read_text(), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def node(self) -> list[object]:
        files = {name: self.root / f"{name}.json" for name in ("plan", "release", "warm", "recovery", "gpu-proof")}
        options: list[object] = ["--engine", self.url, "--models", self.root / "models", "--hold", self.root / "hold"]
        for name, file in files.items():
            options += [f"--{name}", file]
        return options

    def gateway(self) -> list[object]:
        return [
            "--gateway-log", self.root / "access.log", "--gateway-rules", self.root / "rules.json",
            "--gateway-status", f"{self.url}/status", "--balancer", self.root / "metrics.sock",
            "--drained", self.root / "drained",
        ]  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(
        tmp_path,
        {
            "/api/version": {"version": "0.32.15"},
            "/api/tags": {"models": [{"name": "chat:q4", "size": 700}, {"name": "old:1b", "size": 100}]},
            "/api/ps": {
                "models": [
                    {
                        "name": "chat:q4", "size": 1000, "size_vram": 250, "context_length": 8192,
                        "expires_at": "2318-11-22T10:00:00.5+01:00",
                    }
                ]
            },
            "/status": {"requests": 3, "models": {"chat:q4": {"slots": 2, "running": 2, "waiting": 1}}},
        },
    )  # fmt: skip
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def node(host: Host) -> Host:
    host.write("plan.json", PLAN)
    host.write("release.json", {"engine": {"version": "0.32.15"}, "collection": {"version": "0.3.0"}, "packages": {}})
    warm = {"name": "chat:q4", "state": "answered", "loaded": True, "failures": 0, "seconds": 1.5}
    cold = {"name": "embedder", "state": "failed", "loaded": False, "failures": 3, "seconds": None}
    host.write(
        "warm.json",
        {"ready": False, "engine": {"since": "2026-11-22T00:00:00Z"}, "models": [warm, cold]},
    )
    host.program("nvidia-smi", SMI)
    host.program("journalctl", JOURNAL)
    host.program("iptables-save", RULES)
    host.program("systemctl", "#!/bin/sh\necho active\n")
    host.program("modinfo", "#!/bin/sh\necho 595.80\n")
    host.write(
        "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.48.01  Release\n"
    )
    host.write("etc/ufw/after.rules", "# BEGIN ANSIBLE MANAGED BLOCK onprem.llm firewall\n")
    host.write("etc/ufw/ufw.conf", "ENABLED=yes\n")
    host.write("etc/cdi/nvidia.yaml", "kind: nvidia.com/gpu\n")
    return host


def line(user: str = "ann", status: int = 200, when: str = "2026-11-22T10:00:00+00:00", **more: Any) -> str:
    row = {
        "time": when, "user": user, "model": "chat:q4", "status": status, "prompt_tokens": "10",
        "completion_tokens": "20", "request_time": 4.0, "upstream_header_time": "0.200", "upstream_time": "2.000",
    }  # fmt: skip
    return json.dumps({**row, **more}) + "\n"


@pytest.fixture
def gateway(host: Host) -> Host:
    model = {"name": "chat:q4", "slots": 4, "gpus": 2}
    host.write("rules.json", {"users": [1, 2], "models": [model], "nodes": {"gpu1": [], "gpu2": []}, "queue": {}})
    host.write("drained/gpu2", "")
    return host


def test_a_node(node: Host) -> None:
    told = node.run(*node.node())
    assert node.said == ""
    for name, value in {
        "engine_reachable": 1, "engine_matches_release": 1, "models_planned": 2, "models_installed": 2,
        "models_loaded": 1, "models_installed_bytes": 800, 'planned_model_installed{model="chat:q4"}': 1,
        'planned_model_installed{model="embedder:latest"}': 0, 'loaded_model_gpu_ratio{model="chat:q4"}': 0.25,
        'planned_model_on_gpu{model="chat:q4"}': 0, 'loaded_model_planned{model="chat:q4"}': 1,
        'loaded_model_expiry_timestamp_seconds{model="chat:q4"}': 11009898000.5, "node_ready": 0,
        'planned_model_ready{model="chat:q4"}': 1, 'planned_model_ready{model="embedder:latest"}': 0,
        'planned_model_failures{model="embedder:latest"}': 3, 'planned_model_slots{model="chat:q4"}': 4,
        "gpus_planned": 2, "gpus_visible": 2, 'gpu_info{gpu="GPU-2",index="1",name="NVIDIA L40S"}': 1,
        'gpu_utilization_ratio{gpu="GPU-1"}': 1, 'gpu_memory_used_bytes{gpu="GPU-1"}': 44000 * 2**20,
        'gpu_clocks_slowed{gpu="GPU-2",reason="hw_thermal_slowdown"}': 1, 'gpu_row_remap_failed{gpu="GPU-2"}': 1,
        'gpu_ecc_errors_total{gpu="GPU-1"}': 0, 'xid_errors_total{code="79"}': 1, 'xid_errors_total{code="31"}': 2,
        'xid_errors_total{code="48"}': 0, 'xid_last_timestamp_seconds{code="79"}': 1763790000.25, "cdi_specs": 1,
        "docker_active": 1,
        "driver_matches": 0, "firewall_active": 1, "firewall_container_rules": 1, "warming_held": 0,
        "engine_since_timestamp_seconds": 1795305600,
        'release_info{engine="0.32.15",collection="0.3.0",driver=""}': 1,
    }.items():  # fmt: skip
        assert told[name] == value, name


def test_two_gpus_of_one_name_stay_two(node: Host) -> None:
    told = node.run(*node.node())
    named = [name for name in told if name.startswith("gpu_info{")]
    assert named == [f'gpu_info{{gpu="GPU-{n}",index="{n - 1}",name="NVIDIA L40S"}}' for n in (1, 2)]
    assert {f'gpu_temperature_celsius{{gpu="GPU-{n}"}}' for n in (1, 2)} <= told.keys()


def test_json_lines_of_gpus_are_an_option(node: Host) -> None:
    log = node.root / "gpu_metrics.log"
    node.run(*node.node())
    assert not log.exists()
    node.run(*node.node(), "--gpu-log", log)
    log.rename(node.root / "gpu_metrics.log.1")
    node.run(*node.node(), "--gpu-log", log)
    rows = [json.loads(row) for row in log.read_text().splitlines()]
    assert len(rows) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", rows[0].pop("ts"))
    assert rows[0] == {
        "event": "gpu_metrics", "gpu_index": 0, "gpu_uuid": "GPU-1", "gpu_name": "NVIDIA L40S", "utilization_pct": 100,
        "vram_used_mb": 44000, "vram_total_mb": 46068, "temperature_c": 41, "power_w": 310.5,
    }  # fmt: skip
    assert (rows[1]["utilization_pct"], rows[1]["power_w"]) == (None, None), "[N/A] is no number, and no broken line"


def test_when_a_model_was_pulled(node: Host) -> None:
    node.answers["/api/tags"]["models"][0]["modified_at"] = "2026-11-22T10:00:00.5+01:00"
    node.answers["/api/tags"]["models"][1]["modified_at"] = "2026-11-22T10:00:00Z"
    told = {name: value for name, value in node.run(*node.node()).items() if name.startswith("installed_model_t")}
    assert told == {'installed_model_timestamp_seconds{model="chat:q4"}': 1795338000.5}


@pytest.mark.parametrize(
    ("status", "cause", "success"),
    [("healthy", "", 1), ("degraded", "", 1), ("unhealthy", "nvml_lost", 0), ("idle", "", None)],
)
def test_the_proof_on_the_gpu(node: Host, status: str, cause: str, success: int | None) -> None:
    node.write("gpu-proof.json", {"schema": 1, "ts": "2026-11-22T08:00:00.250Z", "status": status, "cause": cause})
    told = node.run(*node.node())
    assert told.get("gpu_proof_success") == success
    assert told.get("gpu_proof_timestamp_seconds") == (None if success is None else 1795334400.25)
    assert ('gpu_proof_cause_info{cause="nvml_lost"}' in told) == bool(cause)


def recovery_state(**more: Any) -> dict[str, Any]:
    now = time.time()
    state = {
        "schema": 1, "ts": now, "failures": 0, "good": 3, "failing_since": None, "restarts": [], "restarts_total": 0,
        "withheld": [], "withheld_since": None, "withheld_until": None, "held": "",
    }  # fmt: skip
    return {**state, **more}


def test_what_the_recovery_did(node: Host) -> None:
    now = time.time()
    node.write(
        "recovery.json",
        recovery_state(
            failures=2, failing_since=now - 900, restarts=[now - 90000, now - 600], restarts_total=7, held="busy",
            withheld=["chat:q4"], withheld_since=now - 300, withheld_until=now + 900,
        ),
    )  # fmt: skip
    told = node.run(*node.node())
    for name, value in {
        "recovery_failures": 2, "recovery_restarts_total": 7, "recovery_restarts_today": 1, "recovery_held": 1,
        "recovery_withheld_models": 1, "recovery_last_restart_timestamp_seconds": now - 600,
        'recovery_model_withheld_since_timestamp_seconds{model="chat:q4"}': now - 300,
    }.items():  # fmt: skip
        assert told[name] == pytest.approx(value), name
    # A verdict that nobody renewed has ended.
    node.write("recovery.json", recovery_state(withheld=["chat:q4"], withheld_since=now, withheld_until=now - 1))
    told = node.run(*node.node())
    assert told["recovery_withheld_models"] == 0
    assert 'recovery_model_withheld_since_timestamp_seconds{model="chat:q4"}' not in told
    assert "recovery_last_restart_timestamp_seconds" not in told


@pytest.mark.parametrize("name", ["recovery", "gpu-proof"])
def test_a_state_that_is_none_fails_its_collector_alone(node: Host, name: str) -> None:
    node.write(f"{name}.json", "[]")
    told = node.run(*node.node())
    failed = {key for key, value in told.items() if key.startswith("collector_success") and not value}
    assert failed == {f'collector_success{{collector="{name.replace("-", "_")}"}}'}


def test_what_is_not_known_is_left_out(node: Host) -> None:
    """[N/A], nan and fields that a GPU lacks are no zeros."""
    told = node.run(*node.node())
    for name in (
        'gpu_utilization_ratio{gpu="GPU-2"}', 'gpu_power_watts{gpu="GPU-2"}', 'gpu_power_limit_watts{gpu="GPU-2"}',
        'gpu_ecc_errors_total{gpu="GPU-2"}', 'gpu_clocks_slowed{gpu="GPU-2",reason="hw_power_brake_slowdown"}',
    ):  # fmt: skip
        assert name not in told


@pytest.mark.parametrize("broken", ["ENABLED=no\n", "-A INPUT -j ACCEPT"])
def test_a_firewall_that_is_off(node: Host, broken: str) -> None:
    if broken.startswith("ENABLED"):
        node.write("etc/ufw/ufw.conf", broken)
    else:
        node.program("iptables-save", f"#!/bin/sh\necho '{broken}'\n")
    told = node.run(*node.node())
    assert told["firewall_active"] == 0
    assert told["firewall_container_rules"] == int(broken.startswith("ENABLED"))


def test_no_other_firewall_is_judged(node: Host) -> None:
    node.write("etc/ufw/after.rules", "# the distribution's\n")
    assert "firewall_active" not in node.run(*node.node())


def test_a_dead_engine_and_a_broken_program(node: Host) -> None:
    """Each collector fails alone, and says why once."""
    node.answers.clear()
    node.program("nvidia-smi", "#!/bin/sh\necho 'Unable to determine the device handle: GPU is lost' >&2\nexit 15\n")
    (node.root / "warm.json").unlink()
    told = node.run(*node.node())
    assert (told["engine_reachable"], told["gpus_visible"]) == (0, 0)
    assert told["models_planned"] == 2
    failed = {name for name, value in told.items() if name.startswith("collector_success") and not value}
    assert failed == {f'collector_success{{collector="{name}"}}' for name in ("engine", "warmth", "gpus")}
    assert "GPU is lost" in node.said
    assert told['xid_errors_total{code="79"}'] == 1


def test_docker_is_stopped(node: Host) -> None:
    node.program("systemctl", "#!/bin/sh\n[ \"$*\" = 'is-active docker.service' ] && echo inactive\nexit 3\n")
    assert node.run(*node.node())["docker_active"] == 0
    assert node.said == ""


def test_a_host_without_gpus_tells_nothing_of_them(host: Host) -> None:
    host.write("plan.json", PLAN)
    told = host.run(*host.node())
    assert not [name for name in told if name.startswith(("gpu_", "gpus_visible", "xid", "cdi", "driver"))]


def test_certificates(host: Host) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=x", "-days", "10", "-keyout", "/dev/null", "-out", host.root / "gateway.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    host.write("broken.crt", "no certificate")
    told = host.run("--certificates", host.root / "*.crt", "--certificates", host.root / "none.crt")
    left = told['certificate_not_after_timestamp_seconds{name="gateway"}'] - time.time()
    assert 9.9 < left / 86400 < 10.1
    assert told['collector_success{collector="certificates"}'] == 0
    assert "broken.crt" in host.said


def test_requests(gateway: Host) -> None:
    retried = line(status=502, upstream_time="0.001, 1.000", upstream_header_time="-", prompt_tokens="")
    stranger = line(user="", model="", status=401, upstream_time="", prompt_tokens="", completion_tokens="")
    gateway.write("access.log", line() + line(user="bob") + retried + stranger + "no json\n" + line()[:-5])
    told = gateway.run(*gateway.gateway())
    assert told['gateway_requests_total{user="ann",model="chat:q4",status="200"}'] == 1
    assert told['gateway_requests_total{user="ann",model="chat:q4",status="502"}'] == 1
    assert told['gateway_requests_total{user="none",model="none",status="401"}'] == 1
    assert told['gateway_completion_tokens_total{user="ann",model="chat:q4"}'] == 40
    assert told['gateway_prompt_tokens_total{user="ann",model="chat:q4"}'] == 10
    assert told['gateway_engine_seconds_total{user="ann",model="chat:q4"}'] == pytest.approx(3.001)
    assert told['gateway_gpu_seconds_total{user="bob",model="chat:q4"}'] == pytest.approx(2.0 * 2 / 4)
    assert told['gateway_first_token_seconds_bucket{model="chat:q4",le="1.0"}'] == 0
    assert told['gateway_first_token_seconds_bucket{model="chat:q4",le="2.5"}'] == 2
    assert told['gateway_request_duration_seconds_sum{model="chat:q4"}'] == 8
    assert told['gateway_request_duration_seconds_count{model="chat:q4"}'] == 2
    # The last line is not whole yet.
    assert (told["gateway_log_lines_total"], told["gateway_log_bad_lines_total"]) == (5, 1)
    assert (told['gateway_waiting_requests{model="chat:q4"}'], told['gateway_slots{model="chat:q4"}']) == (1, 2)
    assert (told['gateway_node_drained{node="gpu1"}'], told['gateway_node_drained{node="gpu2"}']) == (0, 1)


def test_counters_survive_restarts_and_rotations(gateway: Host) -> None:
    """Each line counts once: those that nginx still writes into the renamed file, too."""
    name = 'gateway_requests_total{user="ann",model="chat:q4",status="200"}'
    log = gateway.write("access.log", line())
    assert gateway.run(*gateway.gateway())[name] == 1
    with log.open("a") as file:
        file.write(line())
    log.rename(log.with_name("access.log.1"))
    gateway.write("access.log", "")
    assert gateway.run(*gateway.gateway())[name] == 2
    with log.with_name("access.log.1").open("a") as file:
        file.write(line())
    gateway.write("access.log", line())
    watch = [sys.executable, "-I", "-B", SCRIPT, "--metrics", gateway.root / "textfile.prom", "--interval", "0.1"]
    watch += ["--state", gateway.state, *gateway.gateway()]
    running = subprocess.Popen(list(map(str, watch)))
    deadline = time.monotonic() + 20
    while f"onprem_llm_{name} 4" not in (gateway.root / "textfile.prom").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.terminate()
    assert running.wait(10) == 0
    assert gateway.run(*gateway.gateway())[name] == 4
    log.write_text("")
    gateway.run(*gateway.gateway())
    log.write_text(line())
    told = gateway.run(*gateway.gateway())
    assert told[name] == 5
    assert told["gateway_log_lost_total"] == 0


def test_a_log_that_is_gone_is_told(gateway: Host) -> None:
    log = gateway.write("access.log", line())
    gateway.run(*gateway.gateway())
    (gateway.root / "keep-inode").hardlink_to(log)
    log.unlink()
    gateway.write("access.log", line())
    told = gateway.run(*gateway.gateway())
    assert told["gateway_log_lost_total"] == 1
    assert told['gateway_requests_total{user="ann",model="chat:q4",status="200"}'] == 2


def test_a_broken_memory_is_kept_and_begun_anew(gateway: Host) -> None:
    (gateway.state / "gateway.json").write_text("{")
    gateway.write("access.log", line())
    assert gateway.run(*gateway.gateway())["gateway_log_lines_total"] == 1
    assert (gateway.state / "gateway.json.broken").read_text() == "{"


def test_names_are_bounded(gateway: Host) -> None:
    users = [line(user=f"u{number}") for number in range(PROGRAM["MAX_USERS"] + 30)]
    models = [line(model=f"m{number}") for number in range(PROGRAM["MAX_MODELS"] + 30)]
    gateway.write("access.log", "".join(users + models))
    told = gateway.run(*gateway.gateway())
    assert told['gateway_requests_total{user="other",model="chat:q4",status="200"}'] == 30
    assert len([name for name in told if name.startswith("gateway_requests_total")]) <= PROGRAM["MAX_USERS"] + 1 + 51
    assert told['gateway_requests_total{user="other",model="other",status="200"}'] == 31


def test_usage_by_month(gateway: Host) -> None:
    """By UTC, whatever zone the log's times are in; who did not say who he is has no usage."""
    gateway.write(
        "access.log",
        line(when="2026-12-01T00:30:00+01:00") + line(when="2026-12-01T00:30:00Z", status=429) + line(user=""),
    )
    gateway.run(*gateway.gateway())
    months = json.loads((gateway.state / "gateway.json").read_text())["months"]
    assert {month: list(users) for month, users in months.items()} == {"2026-11": ["ann"], "2026-12": ["ann"]}
    assert months["2026-11"]["ann"]["chat:q4"] == {
        "requests": 1, "failed": 0, "prompt_tokens": 10, "completion_tokens": 20, "engine_seconds": 2, "gpu_seconds": 1,
    }  # fmt: skip
    assert months["2026-12"]["ann"]["chat:q4"]["failed"] == 1
    assert stat.S_IMODE((gateway.state / "gateway.json").stat().st_mode) == 0o640


def test_a_balancer(gateway: Host) -> None:
    gateway.write("rules.json", {"queue": None})
    answer = b"""HTTP/1.0 200 OK\r\n\r\n# TYPE haproxy_backend_current_queue gauge
haproxy_backend_current_queue{proxy="any"} 9
haproxy_backend_current_queue{proxy="model:hub::team::chat:q4"} 3
haproxy_server_current_sessions{proxy="model:hub::team::chat:q4",server="gpu1"} 2
haproxy_server_current_sessions{proxy="model:hub::team::chat:q4",server="gpu2"} 1
haproxy_server_limit_sessions{proxy="model:hub::team::chat:q4",server="gpu1"} 4
haproxy_server_status{proxy="model:hub::team::chat:q4",server="gpu1",state="UP"} 1
haproxy_server_status{proxy="model:hub::team::chat:q4",server="gpu1",state="DOWN"} 0
haproxy_server_status{proxy="model:hub::team::chat:q4",server="gpu2",state="UP"} 0
"""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(gateway.root / "metrics.sock"))
        listening.listen()

        def serve() -> None:
            connection, _address = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        told = gateway.run(*gateway.gateway())
    expected: Mapping[str, float] = {
        'gateway_waiting_requests{model="hub/team/chat:q4"}': 3,
        'gateway_running_requests{model="hub/team/chat:q4"}': 3,
        'gateway_slots{model="hub/team/chat:q4"}': 4, 'gateway_node_up{node="gpu1",model="hub/team/chat:q4"}': 1,
        'gateway_node_up{node="gpu2",model="hub/team/chat:q4"}': 0,
    }  # fmt: skip
    kinds = ("gateway_waiting", "gateway_running", "gateway_slots", "gateway_node_up")
    assert {name: value for name, value in told.items() if name.startswith(kinds)} == expected


def test_everything_that_the_table_has_is_told_and_promtool_agrees(node: Host, gateway: Host) -> None:
    assert node is gateway
    node.write("access.log", line())
    node.answers["/api/tags"]["models"][0]["modified_at"] = "2026-11-22T10:00:00Z"
    node.write("gpu-proof.json", {"ts": "2026-11-22T08:00:00Z", "status": "unhealthy", "cause": "nvml_lost"})
    now = time.time()
    withheld = {"withheld": ["chat:q4"], "withheld_since": now, "withheld_until": now + 900}
    node.write("recovery.json", recovery_state(restarts=[now], **withheld))
    told = node.run(*node.node(), *node.gateway())
    names = {re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0]) for name in told}
    assert set(FAMILIES) - names == {"certificate_not_after_timestamp_seconds", "gateway_node_up"}
    promtool = unpacked("prometheus") / "usr/bin/promtool"
    done = subprocess.run(
        [promtool, "check", "metrics"], stdin=node.file.open(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(node.file.stat().st_mode) == 0o644
