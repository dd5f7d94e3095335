"""The simulated GPUs of the test fleet, seen through the collection's own reader and planner."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_host, _nvidia_smi, _select

from tests.fleet import gpus, nvidia_smi

ROOT = Path(__file__).resolve().parents[2]
CATALOG = yaml.safe_load((ROOT / "roles/models/files/catalog.yml").read_text(encoding="utf-8"))
WORKLOADS = [
    {
        "name": "chat",
        "use": "chat",
        "models": ["qwen3:14b", "qwen3:8b", "qwen2.5:0.5b"],
        "context_length": {"min": 4096, "max": 32768},
        "slots": {"min": 1, "max": 4},
    }
]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Plan for a host whose nvidia-smi prints a capture."""

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if "nvidia-smi" not in argv[0]:
            raise FileNotFoundError(argv[0])
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = nvidia_smi.main(list(argv[1:]))
        return status, output.getvalue(), ""

    def plan(capture: str, mig_devices: str = "") -> dict:
        path, mig_path = tmp_path / "capture.csv", tmp_path / "mig.csv"
        path.write_text(capture, encoding="utf-8")
        mig_path.write_text(mig_devices, encoding="utf-8")
        monkeypatch.setattr(nvidia_smi, "CAPTURE", str(path))
        monkeypatch.setattr(nvidia_smi, "MIG_DEVICES", str(mig_path))
        seen = _gpu_host.collect("nvidia-smi", 5, run=run, root=str(tmp_path))
        assert seen["state"] == "ready", seen["problems"]
        options = _select.Options(engine_version="0.32.15", host_name="host")
        made, _ = _select.make_plan(WORKLOADS, seen["gpus"], seen["host"], CATALOG, options)
        return made["instances"][0]["models"][0]

    return plan


def capture(name: str) -> str:
    return gpus.capture_path(name).read_text(encoding="utf-8")


def mig_devices(name: str) -> str:
    return gpus.mig_devices_path(name).read_text(encoding="utf-8")


def test_a_plan_on_a_mig_instance_names_a_device_of_the_cdi_spec(simulate) -> None:
    text, instances = capture("h200-mig"), mig_devices("h200-mig")
    [device] = simulate(text, instances)["gpus"]
    assert device.startswith("MIG-")
    assert device in [item["name"] for item in gpus.cdi_spec(text, instances)["devices"]]


def test_mig_devices_decide_the_plan(simulate) -> None:
    text, [header, *rows] = capture("h200-mig"), mig_devices("h200-mig").splitlines()
    small = [row for row in rows if "1g.18gb" in row]
    busy = [row.replace("9 MiB, 16376 MiB", "13885 MiB, 2499 MiB") for row in small]
    assert simulate(text, "\n".join([header, *small]))["name"] == "qwen3:14b"
    assert simulate(text, "\n".join([header, *busy]))["name"] == "qwen2.5:0.5b"


def test_simulated_listing_has_the_form_of_the_recorded_one(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Driver 590.48.01 on an H200: profiles padded to 12 columns, numbers to two."""
    monkeypatch.setattr(nvidia_smi, "CAPTURE", str(gpus.capture_path("h200-mig")))
    monkeypatch.setattr(nvidia_smi, "MIG_DEVICES", str(gpus.mig_devices_path("h200-mig")))
    assert nvidia_smi.main(["-L"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line[: line.index("(")] for line in shown] == [
        "GPU 0: NVIDIA H200 ",
        "  MIG 1c.3g.71gb  Device  0: ",
        "  MIG 2c.3g.71gb  Device  1: ",
        "  MIG 2g.35gb     Device  2: ",
        "  MIG 1g.18gb     Device  3: ",
        "  MIG 1g.18gb     Device  4: ",
        "GPU 1: NVIDIA H200 ",
    ]


# What the recorded cards do not tell, in nvidia-smi's own words; every other field they tell.
NOT_TOLD = {
    "l40s-2x": {
        "mig.mode.current": "[N/A]", "mig.mode.pending": "[N/A]", "retired_pages.pending": "[N/A]",
        "fabric.state": "N/A",
    },
    "rtx-4080-super-busy": {
        "mig.mode.current": "[N/A]", "mig.mode.pending": "[N/A]", "retired_pages.pending": "[N/A]",
        "fabric.state": "N/A",
        "ecc.mode.current": "[N/A]", "ecc.mode.pending": "[N/A]", "temperature.gpu.tlimit": "[N/A]",
        "ecc.errors.uncorrected.volatile.total": "[N/A]",
        **{f"remapped_rows.{part}": "[N/A]" for part in ("correctable", "uncorrectable", "pending", "failure")},
    },
    "h200-mig": {
        "retired_pages.pending": "[N/A]",
        **{f"remapped_rows.{part}": "[N/A]" for part in ("correctable", "uncorrectable", "pending", "failure")},
    },
}  # fmt: skip
UNITS = {"memory.total": "MiB", "power.draw": "W", "power.limit": "W", "power.min_limit": "W", "temperature.gpu": ""}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_the_stand_in_answers_the_one_query_as_the_recorded_cards_do(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nvidia_smi, "CAPTURE", str(gpus.capture_path(name)))
    fields = ",".join(_nvidia_smi.FIELDS)
    assert nvidia_smi.main([f"--query-gpu={fields}", "--format=csv,noheader,nounits"]) == 0
    for line in capsys.readouterr().out.splitlines():
        told = dict(zip(_nvidia_smi.FIELDS, line.split(", "), strict=True))
        assert {field: cell for field, cell in told.items() if cell.strip("[]") == "N/A"} == NOT_TOLD[name]
        assert not [cell for cell in told.values() if re.search(r"\d (MiB|W|%|MHz)$", cell)]
    assert nvidia_smi.main([f"--query-gpu={fields}", "--format=csv"]) == 0
    header, line, *_rest = capsys.readouterr().out.splitlines()
    for title, cell in zip(header.split(", "), line.split(", "), strict=True):
        field, _bracket, unit = title.partition(" [")
        assert UNITS.get(field, unit.rstrip("]")) == unit.rstrip("]")
        assert not unit or cell.endswith(f" {unit.rstrip(']')}") or cell == "[N/A]"


@pytest.mark.parametrize("name", NOT_TOLD)
def test_the_stand_ins_help_has_every_field_and_an_unknown_one_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nvidia_smi, "CAPTURE", str(gpus.capture_path(name)))
    assert nvidia_smi.main(["--help-query-gpu"]) == 0
    assert _nvidia_smi.parse_help(capsys.readouterr().out) >= {*_nvidia_smi.FIELDS, "clocks_throttle_reasons.active"}
    assert nvidia_smi.main(["--query-gpu=index,nonsense", "--format=csv"]) != 0
    assert [item["code"] for item in _nvidia_smi.parse_failure(capsys.readouterr().out)] == ["driver_too_old"]


def test_two_captures_make_two_plans(simulate) -> None:
    assert simulate(capture("l40s-2x"))["name"] == "qwen3:14b"
    assert simulate(capture("rtx-4080-super-busy"))["name"] == "qwen2.5:0.5b"


@pytest.mark.parametrize(
    ("used", "free", "model"), [(596, 15348, "qwen3:14b"), (5942, 10000, "qwen3:8b"), (13442, 2500, "qwen2.5:0.5b")]
)
def test_changing_the_memory_of_a_capture_changes_the_plan(simulate, used: int, free: int, model: str) -> None:
    busy = capture("rtx-4080-super-busy")
    changed, count = re.subn(r"\d+ MiB, \d+ MiB, Default", f"{used} MiB, {free} MiB, Default", busy)
    assert count == 1
    assert simulate(changed)["name"] == model


def test_unknown_capture_names_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match="l40s-2x"):
        gpus.capture_path("nonsense")


def test_cdi_spec_names_a_divided_gpu_by_its_instances() -> None:
    names = [item["name"] for item in gpus.cdi_spec(capture("h200-mig"), mig_devices("h200-mig"))["devices"]]
    assert names[::2] == ["0:0", "0:1", "0:2", "0:3", "0:4", "all"]
    assert all(name.startswith("MIG-") for name in names[1::2])


@pytest.mark.parametrize("name", ["l40s-2x", "rtx-4080-super-busy"])
def test_cdi_spec_names_every_gpu(name: str) -> None:
    devices = gpus.cdi_spec(capture(name))["devices"]
    count = len(capture(name).splitlines()) - 1
    names = [device["name"] for device in devices]
    assert len(names) == len(set(names)) == 2 * count + 1
    assert len(next(device for device in devices if device["name"] == "all")["containerEdits"]["env"]) == count
