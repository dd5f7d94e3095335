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
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv")))
        raise FileNotFoundError(f"no GPU capture {name!r}; there are: {known}")
    return path


def cdi_spec(capture: str) -> dict[str, object]:
    """The CDI spec for a capture's text: each GPU by index and by uuid, and ``all``."""
    header, *rows = csv.reader(capture.splitlines(), skipinitialspace=True)
    names = [title.split(" ")[0] for title in header]
    devices = []
    everything = []
    for row in rows:
        gpu = dict(zip(names, row, strict=True))
        memory = gpu["memory.total"].split(" ")[0]
        variable = f"SIMULATED_GPU_{gpu['index']}={gpu['uuid']}|{gpu['name']}|{memory}"
        everything.append(variable)
        devices += [{"name": name, "containerEdits": {"env": [variable]}} for name in (gpu["index"], gpu["uuid"])]
    devices.append({"name": "all", "containerEdits": {"env": everything}})
    return {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}


def files(name: str) -> dict[str, tuple[bytes, int]]:
    """Files for a host with the GPUs of a capture: path → (content, mode)."""
    capture = capture_path(name).read_text(encoding="utf-8")
    executable = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH
    return {
        "/usr/bin/nvidia-smi": ((HERE / "nvidia_smi.py").read_bytes(), executable),
        "/etc/simulated-gpus.csv": (capture.encode(), 0o644),
        "/etc/cdi/nvidia.yaml": (json.dumps(cdi_spec(capture), indent=1).encode(), 0o644),
    }
