"""The GPU check of the monitoring role, run as a program with recorded answers of nvidia-smi and Docker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/monitoring/files/programs/gpu_proof.py"
GPU = "GPU-6f1d2c3a-8b40-4e57-9c21-0a4005d7e9b1"
OTHER = "GPU-6f1d2c3a-8b40-4e57-9c21-0a4015d7e9b2"
BLOB = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
CONTAINER = "0f" * 32
SPEC = f"""---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: {GPU}
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
containerEdits:
    mounts:
        - hostPath: /lib/x86_64-linux-gnu/libcuda.so.580.95.05
          containerPath: /lib/x86_64-linux-gnu/libcuda.so.580.95.05
"""
LISTING = f"GPU 0: NVIDIA L40S (UUID: {GPU})"
# NVML's own words, as nvidia-smi prints them.
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.105"
LOST = "Failed to initialize NVML: Unknown Error"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)


class Site:
    """A GPU node: its files below a directory, its programs on a path of their own, its engine on loopback."""

    def __init__(self, place: Path) -> None:
        self.place, self.root, self.programs = place, place / "root", place / "bin"
        self.programs.mkdir()
        self.plan = {
            "schema": 1,
            "instances": [{
                "name": "ollama", "gpus": [GPU],
                "models": [{
                    "name": "chat:q4", "use": "chat", "gpus": [GPU],
                    "account": {"weights_bytes": 600, "total_bytes": 900},
                }],
            }],
        }  # fmt: skip
        self.loaded = [{"name": "chat:q4", "size": 1000, "size_vram": 1000}]
        self.write("/etc/cdi/nvidia.yaml", SPEC)
        self.write(
            "/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep\n"
        )
        self.write("/proc/4711/cgroup", f"0::/system.slice/docker-{CONTAINER}.scope\n")
        self.write("/proc/4711/cmdline", f"llama-server\0--model\0/var/lib/ollama/models/blobs/sha256-{BLOB}\0")
        self.write("/proc/4712/cgroup", "0::/user.slice\n")
        self.write("/proc/4712/cmdline", f"tar\0sha256-{BLOB}\0")
        manifest = {
            "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{BLOB}", "size": 600}]
        }
        path = "/var/lib/onprem-llm/ollama/models/manifests/registry.ollama.ai/library/chat/q4"
        self.write(path, json.dumps(manifest))
        self.container: dict[str, Any] = {
            "Id": CONTAINER,
            "State": {"Running": True, "Status": "running", "StartedAt": "2026-11-22T08:00:00.0Z", "Error": ""},
            "Config": {"Env": ["OLLAMA_MODELS=/var/lib/ollama/models"]},
            "HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={GPU}"]}]},
            "Mounts": [{"Type": "bind", "Source": "/var/lib/onprem-llm/ollama", "Destination": "/var/lib/ollama"}],
        }
        self.answers = {
            "smi": (0, LISTING),
            "apps": (0, "4711, 1024"),
            "inspect": None,
            "exec nvidia-smi": (0, LISTING),
            "exec sh": (0, "2 device nodes"),
        }
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps({"models": site.loaded}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def _program(self, name: str, cases: dict[str, tuple[int, str]], log: Path) -> None:
        """A program that answers by a pattern of its arguments, and keeps what it was asked."""
        arms = "".join(
            f"  {pattern}) cat <<'END'\n{text}\nEND\nexit {code} ;;\n" for pattern, (code, text) in cases.items()
        )
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\ncase "$*" in\n{arms}  *) exit 99 ;;\nesac\n')
        path.chmod(0o755)

    def check(self, *arguments: str) -> dict[str, Any]:
        plan, state, log = self.place / "plan.json", self.place / "proof.json", self.place / "asked"
        plan.write_text(json.dumps(self.plan))
        smi, apps = self.answers["smi"], self.answers["apps"]
        if smi:
            self._program("nvidia-smi", {"-L": smi, "--query-compute-apps*": apps}, log)
        inspect = self.answers["inspect"] or (0, json.dumps([self.container]))
        cases = {
            "container\\ inspect*": inspect,
            "exec*nvidia-smi*": self.answers["exec nvidia-smi"],
            "exec*sh\\ -c*": self.answers["exec sh"],
        }
        self._program("docker", cases, log)
        command = [
            sys.executable, "-I", SCRIPT, "--plan", plan, "--engine", self.url, "--root", self.root, "--state", state,
            "--nvidia-smi", self.programs / "nvidia-smi", "--timeout", "3", *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": f"{self.programs}:/usr/bin:/bin"},
        )  # fmt: skip
        assert done.stdout.count("\n") == 1, done
        report: dict[str, Any] = json.loads(done.stdout)
        assert json.loads(state.read_text()) == report
        assert state.stat().st_mode & 0o777 == 0o644
        assert done.returncode == int(report["status"] == "unhealthy")
        assert bool(report["cause"]) is bool(done.stderr)
        self.asked = log.read_text()
        return report


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_host_that_computes_on_its_gpus(site: Site) -> None:
    report = site.check()
    assert (report["status"], report["cause"], report["level"]) == ("healthy", "", "info")
    assert [rung["ok"] for rung in report["rungs"]] == [True] * 6
    assert report["models"] == [
        {"model": "chat:q4", "pid": 4711, "on_gpu": True, "gpu_bytes": 1024 * 2**20, "vram_bytes": 1000}
    ]


def test_nothing_is_asked_to_change(site: Site) -> None:
    site.check()
    verbs = {" ".join(line.split()[:3]) for line in site.asked.splitlines()}
    assert verbs == {
        "docker container inspect", "docker exec onprem-llm-ollama", "nvidia-smi -L",
        "nvidia-smi --query-compute-apps=pid,used_gpu_memory --format=csv,noheader,nounits",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "cause", "said"),
    [
        pytest.param({"smi": (18, MISMATCH)}, "driver_mismatch", "Driver/library version mismatch", id="upgraded"),
        pytest.param({"smi": (9, NO_DRIVER)}, "driver_not_loaded", "couldn't communicate", id="module gone"),
        pytest.param({"smi": (6, "No devices were found")}, "gpu_missing", "No devices", id="no devices"),
        pytest.param({"smi": (0, LISTING.replace(GPU, OTHER))}, "gpu_missing", OTHER, id="another GPU"),
        pytest.param({"smi": None}, "driver_missing", "no such program", id="no nvidia-smi"),
        pytest.param({"exec nvidia-smi": (255, LOST)}, "nvml_lost", LOST, id="after a daemon-reload"),
        pytest.param({"exec nvidia-smi": (18, MISMATCH)}, "driver_mismatch", "mismatch", id="old libraries inside"),
        pytest.param(
            {
                "exec nvidia-smi": (127, "exec: nvidia-smi: not found"),
                "exec sh": (2, "sh: 1: cannot open /dev/nvidiactl: Operation not permitted"),
            },
            "nvml_lost",
            "Operation not permitted",
            id="the device cgroup refuses",
        ),
        pytest.param({"apps": (0, "")}, "cpu_fallback", "chat:q4 (4711)", id="no process on the GPU"),
        pytest.param({"apps": (0, "99, 1024")}, "cpu_fallback", "chat:q4 (4711)", id="somebody else's process"),
        pytest.param(
            {"inspect": (1, "[]\nCannot connect to the Docker daemon at unix:///var/run/docker.sock.")},
            "container_stopped",
            "Cannot connect to the Docker daemon",
            id="no Docker",
        ),
    ],
)
def test_the_cause_is_named(site: Site, answers: dict[str, Any], cause: str, said: str) -> None:
    site.answers.update(answers)
    report = site.check()
    assert (report["status"], report["cause"]) == ("unhealthy", cause)
    assert said in report["message"]
    broken = [rung["ok"] for rung in report["rungs"]].index(False)
    assert {rung["ok"] for rung in report["rungs"][broken + 1 :]} <= {None}


def test_a_driver_that_hangs_is_not_waited_for(site: Site) -> None:
    site.answers["smi"] = None
    program = site.programs / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    report = site.check("--timeout", "0.5")
    assert report["cause"] == "driver_hangs"
    assert report["duration_ms"] < 10_000


def test_a_spec_that_is_gone(site: Site) -> None:
    (site.root / "etc/cdi/nvidia.yaml").unlink()
    report = site.check()
    assert report["cause"] == "cdi_spec_missing"
    assert "no spec in /etc/cdi or /var/run/cdi" in report["message"]


def test_a_spec_of_other_gpus(site: Site) -> None:
    site.write("/etc/cdi/nvidia.yaml", SPEC.replace(GPU, OTHER))
    report = site.check()
    assert (report["cause"], f"does not name {GPU}" in report["message"]) == ("cdi_spec_missing", True)


def test_a_spec_of_another_driver_counts_where_it_is_the_one_in_force(site: Site) -> None:
    site.write("/etc/cdi/nvidia.yaml", SPEC.replace("580.95.05", "575.51.03"))
    report = site.check()
    assert report["cause"] == "driver_mismatch"
    assert "is for driver 575.51.03, and 580.95.05 is loaded" in report["message"]
    site.write("/var/run/cdi/nvidia.yaml", SPEC)
    assert site.check()["status"] == "healthy"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"State": {"Running": False, "Status": "exited", "Error": ""}}, "container_stopped"),
        (
            {"State": {"Running": False, "Error": "CDI device injection failed: unresolvable CDI devices x"}},
            "cdi_spec_missing",
        ),
        ({"HostConfig": {"DeviceRequests": None}}, "container_without_gpu"),
        (
            {"HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={OTHER}"]}]}},
            "container_without_gpu",
        ),
    ],
)
def test_a_container_without_its_gpus(site: Site, change: dict[str, Any], cause: str) -> None:
    site.container.update(change)
    assert site.check()["cause"] == cause


def test_the_runtime_of_old_needs_no_spec(site: Site) -> None:
    (site.root / "etc/cdi/nvidia.yaml").unlink()
    site.container["HostConfig"] = {"DeviceRequests": None}
    site.container["Config"]["Env"].append(f"NVIDIA_VISIBLE_DEVICES={GPU}")
    report = site.check()
    assert report["status"] == "healthy"
    assert report["rungs"][1]["ok"] is None


@pytest.mark.parametrize(("vram", "cause"), [(0, "cpu_fallback"), (200, "spilled"), (300, "")])
@pytest.mark.parametrize(("proof", "status"), [("required", "unhealthy"), ("report", "degraded")])
def test_a_share_that_is_too_small(site: Site, vram: int, cause: str, proof: str, status: str) -> None:
    site.loaded[0]["size_vram"] = vram
    report = site.check("--gpu-proof", proof)
    assert report["cause"] == cause
    assert report["status"] == (status if cause else "healthy")


def test_a_model_that_is_not_loaded_is_no_matter_of_this_check(site: Site) -> None:
    site.loaded.clear()
    report = site.check()
    assert report["status"] == "healthy"
    assert [rung["ok"] for rung in report["rungs"][-2:]] == [None, None]


def test_a_registry_of_plain_http_is_no_part_of_a_models_name(site: Site) -> None:
    site.plan["instances"][0]["models"][0]["name"] = "http://registry.example:5000/team/chat:q4"
    site.loaded = [{"name": "registry.example:5000/team/chat:q4", "size": 1000, "size_vram": 10}]
    assert site.check()["cause"] == "spilled"


def test_an_engine_that_is_silent_is_no_matter_of_this_check(site: Site) -> None:
    site.url = "http://127.0.0.1:9"
    report = site.check()
    assert report["status"] == "healthy"
    assert "does not say what is loaded" in report["rungs"][-1]["found"]


def test_simulated_gpus_are_asked_for_what_they_have(site: Site) -> None:
    site.answers.update({"apps": (0, ""), "exec nvidia-smi": (127, ""), "exec sh": (2, "no such file")})
    report = site.check("--simulated")
    assert (report["status"], report["simulated"]) == ("healthy", True)
    assert [rung["ok"] for rung in report["rungs"]] == [True, True, True, None, None, True]
    (site.root / "etc/cdi/nvidia.yaml").unlink()
    assert site.check("--simulated")["cause"] == "cdi_spec_missing"


def test_a_plan_on_the_cpu_is_none_of_it(site: Site) -> None:
    site.plan["instances"][0]["gpus"] = []  # type: ignore[index]
    report = site.check()
    assert (report["status"], report["rungs"]) == ("idle", [])


def test_memory_that_the_driver_does_not_tell(site: Site) -> None:
    """As with MIG."""
    site.answers["apps"] = (0, "4711, [N/A]")
    report = site.check()
    assert report["status"] == "healthy"
    assert report["models"][0]["gpu_bytes"] is None


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2}', '{"schema": 1, "instances": 3}'])
def test_a_plan_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    command = [sys.executable, "-I", SCRIPT, "--plan", plan, "--engine", "http://127.0.0.1:9"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be read as a plan" in done.stderr
