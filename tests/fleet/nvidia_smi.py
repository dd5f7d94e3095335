#!/usr/bin/python3
"""Stand-in for nvidia-smi on a test host: prints a capture in the forms that the collection and people ask for.

The capture is /etc/simulated-gpus.csv: a header line of fields, each with its unit where nvidia-smi gives one, then a
line a GPU. A test that wants another GPU rewrites that file.
"""

import csv
import os
import sys

CAPTURE = "/etc/simulated-gpus.csv"
PROCESSES = "/etc/simulated-gpu-processes.csv"
CUDA_VERSION = "13.2"


def read_capture():
    with open(CAPTURE, encoding="utf-8", newline="") as capture:
        header, *rows = csv.reader(capture, skipinitialspace=True)
    names = [title.split(" ")[0] for title in header]
    return dict(zip(names, header)), [dict(zip(names, row)) for row in rows if row]


def query(gpus, titles, fields, options):
    aliases = {"gpu_uuid": "uuid", "gpu_name": "name", "gpu_bus_id": "pci.bus_id"}
    for field in fields:
        if field != "count" and aliases.get(field, field) not in titles:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if "noheader" not in options:
        print(", ".join(titles.get(field, field) for field in fields))
    for gpu in gpus:
        values = []
        for field in fields:
            name = aliases.get(field, field)
            value = str(len(gpus)) if field == "count" else gpu[name]
            if "nounits" in options and "[" in titles.get(name, "") and not value.startswith("["):
                value = value.split(" ")[0]
            values.append(value)
        print(", ".join(values))
    return 0


def main(arguments):
    try:
        titles, gpus = read_capture()
    except FileNotFoundError:
        print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", end=" ")
        print("Make sure that the latest NVIDIA driver is installed and running.\n")
        return 9
    driver = gpus[0]["driver_version"]
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
            for gpu in gpus:
                print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})")
            return 0
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
