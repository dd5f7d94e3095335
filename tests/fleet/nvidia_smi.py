#!/usr/bin/python3
"""Stand-in for nvidia-smi on a test host: prints a capture in the forms that the collection and people ask for.

The capture is /etc/simulated-gpus.csv: a header line of fields, each with its unit where nvidia-smi gives one, then a
line a GPU. A test that wants another GPU rewrites that file. Beside it, /etc/simulated-mig-devices.csv has the MIG
devices of GPUs whose MIG is enabled, a line each. Of the document (-q -x) there is what tells of MIG and memory.
"""

import csv
import os
import sys

CAPTURE = "/etc/simulated-gpus.csv"
MIG_DEVICES = "/etc/simulated-mig-devices.csv"
PROCESSES = "/etc/simulated-gpu-processes.csv"
CUDA_VERSION = "13.2"
# Version of the loaded module where a test plays the kernel (tests/driver), empty where none is loaded.
LOADED = "/run/simulated-kernel/loaded"
# The other name by which nvidia-smi takes a field, as its --help-query-gpu tells.
ALIASES = {
    "gpu_uuid": "uuid",
    "gpu_name": "name",
    "gpu_bus_id": "pci.bus_id",
    "clocks_throttle_reasons.active": "clocks_event_reasons.active",
}


def read_capture():
    with open(CAPTURE, encoding="utf-8", newline="") as capture:
        header, *rows = csv.reader(capture, skipinitialspace=True)
    names = [title.split(" ")[0] for title in header]
    return dict(zip(names, header)), [dict(zip(names, row)) for row in rows if row]


def read_loaded():
    """Version of the loaded module, None where nobody plays the kernel."""
    if not os.path.exists(LOADED):
        return None
    with open(LOADED, encoding="utf-8") as loaded:
        version = loaded.read().strip()
    if not version:
        raise FileNotFoundError("no driver is loaded")
    return version


def read_mig_devices(gpu):
    """The MIG devices of one GPU, as mappings of the file's header."""
    if gpu["mig.mode.current"] != "Enabled" or not os.path.exists(MIG_DEVICES):
        return []
    with open(MIG_DEVICES, encoding="utf-8", newline="") as devices:
        return [row for row in csv.DictReader(devices, skipinitialspace=True) if row["gpu"] == gpu["index"]]


def list_gpus(gpus):
    for gpu in gpus:
        print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})")
        for device in read_mig_devices(gpu):
            print(f"  MIG {device['profile']:<12}Device {device['index']:>2}: (UUID: {device['uuid']})")
    return 0


def memory_element(indent, values):
    print(f"{indent}<fb_memory_usage>")
    for part in ("total", "reserved", "used", "free"):
        print(f"{indent}\t<{part}>{values[f'memory.{part}']}</{part}>")
    print(f"{indent}</fb_memory_usage>")


def document(gpus, driver):
    print('<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>')
    print(f"\t<driver_version>{driver}</driver_version>\n\t<attached_gpus>{len(gpus)}</attached_gpus>")
    for gpu in gpus:
        bare = {name: value.strip("[]") for name, value in gpu.items()}
        print(f'\t<gpu id="{gpu["pci.bus_id"]}">\n\t\t<product_name>{gpu["name"]}</product_name>\n\t\t<mig_mode>')
        print(f"\t\t\t<current_mig>{bare['mig.mode.current']}</current_mig>")
        print(f"\t\t\t<pending_mig>{bare['mig.mode.pending']}</pending_mig>\n\t\t</mig_mode>\n\t\t<mig_devices>")
        devices = read_mig_devices(gpu)
        for device in devices:
            print(f"\t\t\t<mig_device>\n\t\t\t\t<index>{device['index']}</index>")
            for part in ("gpu_instance", "compute_instance"):
                print(f"\t\t\t\t<{part}_id>{device[part]}</{part}_id>")
            memory_element("\t\t\t\t", device)
            print("\t\t\t</mig_device>")
        if not devices:
            print("\t\t\tNone")
        print(f"\t\t</mig_devices>\n\t\t<uuid>{gpu['uuid']}</uuid>")
        memory_element("\t\t", gpu)
        print("\t</gpu>")
    print("</nvidia_smi_log>")
    return 0


def query(gpus, titles, fields, options):
    for field in fields:
        if field != "count" and ALIASES.get(field, field) not in titles:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if "noheader" not in options:
        print(", ".join(titles.get(field, field) for field in fields))
    for gpu in gpus:
        values = []
        for field in fields:
            name = ALIASES.get(field, field)
            value = str(len(gpus)) if field == "count" else gpu[name]
            if "nounits" in options and "[" in titles.get(name, "") and not value.startswith("["):
                value = value.split(" ")[0]
            values.append(value)
        print(", ".join(values))
    return 0


def help_query(titles):
    """The fields that the capture has, in the form of --help-query-gpu without its sentences."""
    print('List of valid properties to query for the switch "--query-gpu=":\n')
    for title in titles:
        others = [f'"{other}"' for other, field in ALIASES.items() if field == title]
        print(" or ".join([f'"{title}"', *others]) + "\n")
    return 0


def main(arguments):
    try:
        titles, gpus = read_capture()
        driver = gpus[0]["driver_version"]
        loaded = read_loaded() or driver
    except FileNotFoundError:
        print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", end=" ")
        print("Make sure that the latest NVIDIA driver is installed and running.\n")
        return 9
    if loaded != driver:
        print("Failed to initialize NVML: Driver/library version mismatch")
        print(f"NVML library version: {driver[: driver.index('.') + 3]}\n")
        return 18
    if arguments == ["-q", "-x"]:
        return document(gpus, driver)
    fields, options = None, []
    for argument in arguments:
        if argument.startswith("--query-gpu="):
            fields = [field.strip() for field in argument.split("=", 1)[1].split(",")]
        elif argument.startswith("--format="):
            options = argument.split("=", 1)[1].split(",")
        elif argument.startswith("--query-compute-apps="):
            # A line a process, in the fields that were asked for; a test that wants some writes them.
            if os.path.exists(PROCESSES):
                with open(PROCESSES, encoding="utf-8") as processes:
                    print(processes.read(), end="")
            return 0
        elif argument in ("-L", "--list-gpus"):
            return list_gpus(gpus)
        elif argument == "--help-query-gpu":
            return help_query(titles)
        elif argument == "--version":
            for part in ("NVIDIA-SMI version ", "NVML version       ", "DRIVER version     "):
                print(f"{part} : {driver}")
            print(f"CUDA Version        : {CUDA_VERSION}")
            return 0
        else:
            print("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n")
            return 1
    if fields is not None:
        if "csv" not in options:
            print('"--format=" must be specified.\n')
            return 1
        return query(gpus, titles, fields, options)
    print(f"| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {CUDA_VERSION} |")
    for gpu in gpus:
        memory = f"{gpu['memory.used']} / {gpu['memory.total']}"
        print(f"| {gpu['index']:>3}  {gpu['name']:<30} {gpu['pci.bus_id']} | {memory} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
