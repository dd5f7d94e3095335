"""What is wrong with a bundle is told by name or file before the first change, fast; nothing on any host is changed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.hosts import Fleet
from tests.plays import play

MIRROR = "airgap-gw1"
STATE = Fleet.load("molecule-airgap").state
UPSTREAM = json.loads((STATE / "upstream.json").read_text(encoding="utf-8"))
WEIGHTS = "oci/blobs/" + UPSTREAM["model"]["digest"].replace(":", "/")
# One that no other package of the bundle needs.
PACKAGE = "apt/trixie/ufw_*.deb"


def inside(command: str) -> str:
    done = subprocess.run(["docker", "exec", MIRROR, "sh", "-ec", command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def spoiled(path: str, how: str) -> Iterator[str]:
    """A file of the bundle on the mirror's host, spoiled by a command; its path in the bundle."""
    found = inside(f"cd /srv/bundle && ls {path}")
    kept = f"/srv/kept-{Path(found).name}"
    inside(f"cp -a /srv/bundle/{found} {kept} && cd /srv/bundle && {how.format(found)}")
    try:
        yield found
    finally:
        inside(f"mv {kept} /srv/bundle/{found}")


def refused(*arguments: str) -> str:
    result = play("site.yml", *arguments)
    assert result.returncode == 2, result.stdout
    assert "nothing was changed on any host:" in result.stdout
    assert set(re.findall(r"changed=(\d+)", result.stdout)) == {"0"}
    return result.stdout


def test_everything_wrong_with_it_is_told_at_once() -> None:
    """A changed byte, a missing file, one that is cut off, no signature; a model, an image and a package that nobody
    bundled."""
    other = {"name": "other:1b", "source": {"type": "registry", "digest": "sha256:" + "1" * 64}, "uses": ["embedding"]}
    header = UPSTREAM["model"]["header"]
    given = {
        "models_catalog": [{**other, "header": header, "size_bytes": 10**6, "uses": ["chat"]}],
        "models_workloads": [{"name": "chat", "models": ["other:1b"], "context_length": 1024, "slots": 1}],
        "ollama_image_digest": "sha256:" + "2" * 64,
        "docker_source": "upstream",
    }
    more = json.dumps(given)
    change = r"printf '\001' | dd of={} bs=1 seek=100000 conv=notrunc status=none"
    with (
        spoiled(WEIGHTS, change) as changed,
        spoiled(PACKAGE, "rm {}") as missing,
        spoiled("apt/trixie/logrotate_*.deb", "truncate --size=100 {}") as short,
        spoiled("bundle.json.sig", "rm {}"),
    ):
        said = refused(f"--extra-vars={more}")
    assert re.search(
        rf"model_mirror_bundle is /srv/bundle: {changed} has the sha256 \w+, and .* a byte of it was", said
    )
    assert "it has no signature, bundle.json.sig, and model_mirror_bundle_signers asks for one" in said
    assert re.search(rf"{re.escape(missing)} is missing", said)
    assert re.search(rf"{re.escape(short)} has 100 bytes, and bundle.json says \d+", said)
    assert "it has no model registry.ollama.ai/library/other:1b, which airgap-cpu1 wants" in said
    assert f"@sha256:{'2' * 64}, which airgap-cpu1" in said
    assert "it has no package docker-ce for trixie, which airgap-cpu1, airgap-gw1 want" in said


def test_another_bundle_than_the_pinned_one_by_another_than_the_signers() -> None:
    stranger = f"stranger {(STATE / 'ssh/id_ed25519.pub').read_text(encoding='utf-8')}"
    given = {"model_mirror_bundle_sha256": "0" * 64, "model_mirror_bundle_signers": stranger}
    said = refused(f"--extra-vars={json.dumps(given)}")
    assert f"and {'0' * 64} is wanted: it is another bundle, or was changed" in said
    assert re.search(
        r"bundle\.json\.sig was made by ED25519 key SHA256:\S+, which model_mirror_bundle_signers does", said
    )
