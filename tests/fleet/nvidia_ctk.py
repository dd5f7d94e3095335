#!/usr/bin/python3
"""Stand-in for nvidia-ctk 1.20 on a test host: version, config, and CDI specs of what the host's nvidia-smi says.

The spec has the real one's form (YAML, devices by index, by UUID and ``all``; MIG devices as GPU:DEVICE), with edits
that need no GPU: each device is an environment variable that the engine stand-in reads as its GPUs, and the driver's
library is an empty file of its version.
"""

import csv
import glob
import os
import re
import subprocess
import sys

VERSION = "@VERSION@"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
KIND = "nvidia.com/gpu"


def smi(*arguments):
    done = subprocess.run(["nvidia-smi", *arguments], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def found_devices():
    """Pairs of names and what the device is, in the order of nvidia-smi."""
    rows = csv.reader(
        smi("--query-gpu=index,uuid,name,memory.total,mig.mode.current", "--format=csv,noheader,nounits").splitlines(),
        skipinitialspace=True,
    )
    listed = smi("-L")
    for index, uuid, name, memory, mig in rows:
        if mig != "Enabled":
            yield (index, uuid), f"{uuid}|{name}|{memory}"
            continue
        part = listed.split(f"(UUID: {uuid})", 1)[1].split("\nGPU ", 1)[0]
        for device, mig_uuid in re.findall(r"Device +(\d+): \(UUID: (MIG-[^)]+)\)", part):
            yield (f"{index}:{device}", mig_uuid), f"{mig_uuid}|{name} MIG|{memory}"


def generate(arguments):
    output = os.environ.get("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", "")
    for argument in arguments:
        if argument.startswith("--output="):
            output = argument.split("=", 1)[1]
    devices = list(found_devices())
    driver = smi("--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0].strip()
    library = f"{LIBRARIES}/libcuda.so.{driver}"
    if not os.path.exists(library):
        open(library, "w").close()
    lines = ["---", "cdiVersion: 0.5.0", "kind: " + KIND, "devices:"]
    variables = [f"SIMULATED_GPU_{number}={what}" for number, (_names, what) in enumerate(devices)]
    for (names, _what), variable in zip(devices, variables):
        for name in names:
            lines += [
                f'    - name: "{name}"',
                "      containerEdits:",
                "        env:",
                "            - " + variable,
            ]
    lines += ["    - name: all", "      containerEdits:", "        env:"]
    lines += ["            - " + variable for variable in variables]
    lines += ["containerEdits:", "    env:", "        - NVIDIA_VISIBLE_DEVICES=void", "    mounts:"]
    lines += ["        - hostPath: " + library, "          containerPath: " + library, "          options:"]
    lines += ["            - ro", "            - rbind"]
    text = "\n".join(lines) + "\n"
    if not output:
        print(text, end="")
        return 0
    os.makedirs(os.path.dirname(output), exist_ok=True)
    with open(output + ".new", "w") as file:
        file.write(text)
    os.replace(output + ".new", output)
    print("INFO: Generated CDI spec with version 0.5.0", file=sys.stderr)
    return 0


def listing():
    names = []
    for path in glob.glob("/etc/cdi/*.yaml") + glob.glob("/var/run/cdi/*.yaml"):
        with open(path) as file:
            text = file.read()
        if "kind: " + KIND in text:
            names += re.findall(r'(?m)^    - name: "?([^"\n]+)"?$', text)
        else:
            print(f"WARN: {path}: failed to load CDI Spec", file=sys.stderr)
    print(f"INFO: Found {len(set(names))} CDI devices", file=sys.stderr)
    for name in sorted(set(names)):
        print(f"{KIND}={name}")
    return 0


def main(arguments):
    words = [argument for argument in arguments if not argument.startswith("-")]
    if "--version" in arguments:
        print(f"NVIDIA Container Toolkit CLI version {VERSION}\ncommit: 0000000")
        return 0
    if words[:1] == ["config"]:
        path = next(argument.split("=", 1)[1] for argument in arguments if argument.startswith("--config-file="))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            with open(path, "w") as file:
                file.write('[nvidia-container-runtime]\nmode = "auto"\n')
        return 0
    if words[:2] == ["cdi", "generate"]:
        return generate(arguments)
    if words[:2] == ["cdi", "list"]:
        return listing()
    print("No help topic for '{}'".format(" ".join(words)), file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
