"""What a host with simulated GPUs is given: the stand-in nvidia-smi, its capture and a CDI spec.

The CDI spec's edits are environment variables only, so that a nested Docker resolves ``nvidia.com/gpu=…`` exactly as
it would with real devices and refuses what is not there; the engine stand-in reads them as its GPUs.
"""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

HERE = Path(__file__).parent


def capture_path(name: str) -> Path:
    """Path of a capture by name; FileNotFoundError names the captures that exist."""
    path = HERE / "captures" / f"{name}.csv"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv") if "." not in p.stem))
        raise FileNotFoundError(f"no GPU capture {name!r}; there are: {known}")
    return path


def mig_devices_path(name: str) -> Path:
    """Path of the MIG devices that belong to a capture; most captures have none."""
    return HERE / "captures" / f"{name}.mig.csv"


def cdi_spec(capture: str, mig_devices: str = "") -> dict[str, object]:
    """The CDI spec for a capture's text as nvidia-ctk would write it: each GPU by index and by UUID, and ``all``.

    A GPU whose MIG is enabled is its MIG devices, each by GPU:DEVICE and by UUID (the toolkit's pkg/nvcdi, 1.20.0).
    """
    header, *rows = csv.reader(capture.splitlines(), skipinitialspace=True)
    names = [title.split(" ")[0] for title in header]
    instances = list(csv.DictReader(mig_devices.splitlines(), skipinitialspace=True))
    given: list[tuple[str, str, str, str]] = []
    for row in rows:
        gpu = dict(zip(names, row, strict=True))
        if gpu["mig.mode.current"] == "Enabled":
            given += [
                (f"{gpu['index']}:{item['index']}", item["uuid"], f"{gpu['name']} MIG {item['profile']}",
                 item["memory.total"])
                for item in instances if item["gpu"] == gpu["index"]
            ]  # fmt: skip
        else:
            given.append((gpu["index"], gpu["uuid"], gpu["name"], gpu["memory.total"]))
    devices = []
    everything = []
    for number, (index, uuid, name, memory) in enumerate(given):
        variable = f"SIMULATED_GPU_{number}={uuid}|{name}|{memory.split(' ')[0]}"
        everything.append(variable)
        devices += [{"name": name, "containerEdits": {"env": [variable]}} for name in (index, uuid)]
    devices.append({"name": "all", "containerEdits": {"env": everything}})
    return {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}


def files(name: str) -> dict[str, tuple[bytes, int]]:
    """Files for a host with the GPUs of a capture: path → (content, mode)."""
    capture = capture_path(name).read_text(encoding="utf-8")
    path = mig_devices_path(name)
    mig_devices = path.read_text(encoding="utf-8") if path.exists() else ""
    executable = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH
    found = {
        "/usr/bin/nvidia-smi": ((HERE / "nvidia_smi.py").read_bytes(), executable),
        "/etc/simulated-gpus.csv": (capture.encode(), 0o644),
        "/etc/cdi/nvidia.yaml": (json.dumps(cdi_spec(capture, mig_devices), indent=1).encode(), 0o644),
    }
    if mig_devices:
        found["/etc/simulated-mig-devices.csv"] = (mig_devices.encode(), 0o644)
    return found
