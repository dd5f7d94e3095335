"""Stand-ins for NVIDIA's packages, and a signed repository of them as its own is laid out: flat, ``Packages`` and
``InRelease`` beside the packages.

Names and versions are those of https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/. Most depend
on others at exactly their own version. The content is not NVIDIA's: nvidia-smi is the fleet's stand-in, and the
kernel module is a file that modinfo reads. DKMS is Debian's own, and builds by copying.

``python -m tests.fleet.nvidia_packages DIRECTORY`` makes DIRECTORY/compute/cuda/repos/debian13/x86_64 and the keys.
Whoever needs more packages there gives a function that yields :class:`Package` and names it in :data:`MORE`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
# Two releases of one branch, and the next branch.
VERSIONS = ("580.82.07", "580.95.05", "595.71.05")
PLACE = "compute/cuda/repos/debian13/x86_64"


@dataclass(frozen=True)
class Package:
    """A package to be built: path → (content, mode), maintainer scripts by name, and further control fields."""

    name: str
    version: str
    architecture: str = "amd64"
    depends: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()


def tarball(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        made: set[str] = set()
        for path, (content, mode) in sorted(files.items()):
            for parent in reversed(Path(path).parents):
                name = f"./{str(parent).lstrip('/')}".rstrip("/")
                if str(parent) != "/" and name not in made and name != ".":
                    made.add(name)
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(f"./{path.lstrip('/')}")
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def build(package: Package, directory: Path) -> Path:
    """Write the package's file: an ar archive (deb(5)); dpkg-deb would need a tree on the disk for each."""
    lines = [
        f"Package: {package.name}",
        f"Version: {package.version}",
        f"Architecture: {package.architecture}",
        "Maintainer: onprem.llm contributors <nobody@example.com>",
        *([f"Depends: {package.depends}"] if package.depends else []),
        *(f"{name}: {value}" for name, value in package.fields.items()),
        "Description: stand-in for tests",
    ]
    control = {"control": (("\n".join(lines) + "\n").encode(), 0o644)}
    control |= {name: (f"#!/bin/sh\nset -e\n{text}\n".encode(), 0o755) for name, text in package.scripts.items()}
    if package.conffiles:
        control["conffiles"] = (("\n".join(package.conffiles) + "\n").encode(), 0o644)
    members = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", tarball(control)),
        ("data.tar.gz", tarball(package.files)),
    ]
    path = directory / f"{package.name}_{package.version}_{package.architecture}.deb"
    with path.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, data in members:
            stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            stream.write(data + b"\n" * (len(data) % 2))
    return path


def kernel_module(version: str, flavour: str) -> bytes:
    """An ELF object whose section .modinfo has what modinfo asks for; nothing loads it."""
    licence = "Dual MIT/GPL" if flavour == "open" else "NVIDIA"
    modinfo = f"version={version}\0license={licence}\0name=nvidia\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    header, start = 64, 64
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 2, 0, start, len(modinfo), 0, 0, 1, 0),
        (names.index(b".shstrtab"), 3, 0, 0, start + len(modinfo), len(names), 0, 0, 1, 0),
    ]
    table = start + len(modinfo) + len(names)
    table += -table % 8
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + b"\0" * 9, 1, 62, 1, 0, 0, table, 0, header, 0, 0, 64, 3, 2
    )
    body = (elf + modinfo + names).ljust(table, b"\0")
    return body + b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)


DKMS_CONF = """PACKAGE_NAME="nvidia"
PACKAGE_VERSION="{version}"
BUILT_MODULE_NAME[0]="nvidia"
DEST_MODULE_LOCATION[0]="/updates/dkms"
MAKE[0]="sh ./build.sh"
CLEAN="true"
AUTOINSTALL="yes"
"""
# What a compiler says of a kernel that a driver does not know yet.
BUILD = """echo "  CC [M]  nvidia/nv.o"
if [ -e /etc/break-nvidia-build ]; then
  echo "nvidia/nv.c:42:10: error: implicit declaration of function 'follow_pfn'" >&2
  exit 2
fi
cp nvidia.ko.built nvidia.ko
"""


def modules(version: str, name: str, flavour: str) -> Package:
    """The modules' source for DKMS, as ``nvidia-kernel-open-dkms`` and ``nvidia-kernel-dkms`` have it."""
    source = f"/usr/src/nvidia-{version}"
    at = f'-m nvidia -v {version} -k "$(uname -r)"'
    add = f'dkms add -m nvidia -v {version} || true\ndkms build {at}\ndkms install {at} --force\ndepmod "$(uname -r)"'
    return Package(
        name,
        f"{version}-1",
        depends="dkms, kmod",
        fields={"Provides": f"nvidia-kernel-{version}", "Conflicts": "nvidia-kernel", "Replaces": "nvidia-kernel"},
        files={
            f"{source}/dkms.conf": (DKMS_CONF.format(version=version).encode(), 0o644),
            f"{source}/build.sh": (BUILD.encode(), 0o755),
            f"{source}/nvidia.ko.built": (kernel_module(version, flavour), 0o644),
        },
        scripts={
            "postinst": f'if [ "$1" = configure ]; then\n{add}\nfi',
            "prerm": f"dkms remove -m nvidia -v {version} --all || true",
        },
    )


def driver(version: str) -> Iterator[Package]:
    """The driver's packages of one version."""
    packaged = f"{version}-1"
    branch = version.split(".")[0]
    capture = (HERE / "captures" / "l40s-2x.csv").read_text(encoding="utf-8").replace(" 595.80,", f" {version},")

    def plain(name: str, depends: str = "", **more: dict) -> Package:
        return Package(name, packaged, depends=depends, **more)

    yield plain("nvidia-modprobe")
    unit = (
        "[Unit]\nDescription=NVIDIA Persistence Daemon\n[Service]\nExecStart=/bin/sleep infinity\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    yield plain(
        "nvidia-persistenced",
        files={"/usr/lib/systemd/system/nvidia-persistenced.service": (unit.encode(), 0o644)},
    )
    yield plain("libnvidia-ml1", files={f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{version}": (b"", 0o644)})
    library = f"/usr/lib/x86_64-linux-gnu/libcuda.so.{version}"
    yield plain("libcuda1", f"libnvidia-ml1 (= {packaged})", files={library: (b"", 0o644)})
    # One that people install beside it, for video.
    yield plain("libnvidia-encode1", f"libcuda1 (= {packaged})")
    yield plain("firmware-nvidia-gsp")
    yield plain(
        "nvidia-driver-cuda",
        f"libcuda1 (= {packaged}), libnvidia-ml1 (= {packaged}), nvidia-modprobe (= {packaged}), "
        f"nvidia-persistenced (= {packaged}), "
        f"nvidia-kernel-open-dkms (= {packaged}) | nvidia-kernel-dkms (= {packaged})",
        files={
            "/usr/bin/nvidia-smi": ((HERE / "nvidia_smi.py").read_bytes(), 0o755),
            "/etc/simulated-gpus.csv": (capture.encode(), 0o644),
        },
    )
    for name, flavour in (("nvidia-kernel-open-dkms", "open"), ("nvidia-kernel-dkms", "proprietary")):
        module = modules(version, name, flavour)
        yield Package(
            name,
            packaged,
            depends=f"{module.depends}, firmware-nvidia-gsp (= {packaged})",
            fields={"Conflicts": "nvidia-kernel-open-dkms, nvidia-kernel-dkms", "Provides": f"nvidia-kernel-{version}"},
            files=module.files,
            scripts=module.scripts,
        )
    yield plain("nvidia-open", f"nvidia-kernel-open-dkms (= {packaged}), nvidia-driver-cuda (= {packaged})")
    yield plain("cuda-drivers", f"nvidia-kernel-dkms (= {packaged}), nvidia-driver-cuda (= {packaged})")
    service = unit.replace("Persistence Daemon", "fabric manager service")
    yield plain(
        "nvidia-fabricmanager",
        files={"/usr/lib/systemd/system/nvidia-fabricmanager.service": (service.encode(), 0o644)},
    )
    yield plain("libnvidia-nscq")
    pin = "Package: *nvidia* libcuda1 cuda-drivers* firmware-nvidia-gsp\nPin: version {}*\nPin-Priority: 1000\n"
    for name, pattern in ((branch, f"{branch}."), (version, f"{version}-")):
        yield Package(
            f"nvidia-driver-pinning-{name}",
            packaged,
            "all",
            fields={
                "Provides": "nvidia-driver-pinning",
                "Conflicts": "nvidia-driver-pinning",
                "Replaces": "nvidia-driver-pinning",
            },
            files={"/etc/apt/preferences.d/nvidia-driver-pin": (pin.format(pattern).encode(), 0o644)},
            conffiles=("/etc/apt/preferences.d/nvidia-driver-pin",),
        )


def headers() -> Iterator[Package]:
    """Headers for the kernel of the machine that the tests run on, which no Debian 13 has; enough for DKMS to begin."""
    kernel = platform.release()
    place = f"/usr/src/linux-headers-{kernel}"
    link = f"/lib/modules/{kernel}"
    yield Package(
        f"linux-headers-{kernel}",
        "999",
        "all",
        files={
            f"{place}/include/generated/utsrelease.h": (f'#define UTS_RELEASE "{kernel}"\n'.encode(), 0o644),
            f"{place}/.config": (b"CONFIG_MODULES=y\n", 0o644),
            f"{place}/Makefile": (b"all:\n", 0o644),
        },
        scripts={
            "postinst": f"mkdir -p {link}\nln -sfn {place} {link}/build\ntouch {link}/modules.order",
            "prerm": f"rm -f {link}/build {link}/modules.order",
            "postrm": f"rm -f {link}/modules.*\nrmdir --ignore-fail-on-non-empty {link} 2>/dev/null || true",
        },
    )
    yield Package("linux-headers-amd64", "999", "all", depends=f"linux-headers-{kernel}")


# Packages that other roles' tests add, as functions like those above.
MORE: list[Callable[[], Iterator[Package]]] = []


def key(directory: Path, name: str, *, born: str = "", expires: str = "never") -> tuple[Path, str]:
    """A signing key of its own: the GnuPG home and the fingerprint.

    :param born: a time of the past, as YYYYMMDDThhmmss.
    :param expires: the end that the published key has. The vendor prolonged it since, and signs on.
    """
    home = directory / name
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-permission-warning", "--passphrase", ""]
    then = ["--faked-system-time", born] if born else []
    owner = f"Stand-in ({name}) <nobody@example.com>"

    def gpg(*arguments: str) -> bytes:
        return subprocess.run([*base, *arguments], check=True, capture_output=True).stdout

    gpg(*then, "--quick-generate-key", owner, "rsa2048", "sign", expires)
    listed = gpg("--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    (directory / f"{name}.asc").write_bytes(gpg("--armor", "--export", fingerprint))
    if expires != "never":
        gpg("--quick-set-expire", fingerprint, "0")
    return home, fingerprint


def index(repository: Path) -> None:
    """The file Packages, by apt-ftparchive's fields."""
    paragraphs = []
    for path in sorted(repository.glob("*.deb")):
        data = path.read_bytes()
        fields = subprocess.run(
            ["dpkg-deb", "--field", path], check=True, capture_output=True, text=True
        ).stdout.strip()
        paragraphs.append(
            f"{fields}\nFilename: ./{path.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    (repository / "Packages").write_text("\n".join(paragraphs), encoding="utf-8")


def sign(repository: Path, home: Path) -> None:
    """The file InRelease, signed by a key."""
    data = (repository / "Packages").read_bytes()
    text = (
        "Origin: NVIDIA\nLabel: NVIDIA CUDA\nArchitecture: x86_64\nSuite: debian13\n"
        "Date: Sat, 01 Nov 2025 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
    )
    target = repository / "InRelease"
    target.unlink(missing_ok=True)
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--clearsign", "--output", str(target)]
    subprocess.run(command, input=text.encode(), check=True)


def make(directory: Path) -> None:
    """The repository, signed by one key, and a copy of it by another, whose published end is over."""
    shutil.rmtree(directory, ignore_errors=True)
    repository = directory / "srv" / PLACE
    repository.mkdir(parents=True)
    for version in VERSIONS:
        for package in driver(version):
            build(package, repository)
    for source in (headers, *MORE):
        for package in source():
            build(package, repository)
    index(repository)
    home, fingerprint = key(directory, "key")
    sign(repository, home)
    shutil.copy(directory / "key.asc", repository / f"{fingerprint[-8:]}.pub")
    (directory / "fingerprint").write_text(fingerprint, encoding="utf-8")
    expired = directory / "srv" / "expired" / PLACE
    expired.mkdir(parents=True)
    for path in repository.glob("*.deb"):
        os.link(path, expired / path.name)
    shutil.copy(repository / "Packages", expired / "Packages")
    old, _fingerprint = key(directory, "expired", born="20240101T000000", expires="30d")
    sign(expired, old)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    make(parser.parse_args().directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
