"""The mirror as the role deploys it, below a directory: its site in nginx with mutual TLS, docker-registry on a socket.

nginx is the distribution's package, unpacked, with the distribution's own ``nginx.conf``; what differs from a host is
where files lie.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.packages import unpacked
from tests.unit.certificates import Authority
from tests.unit.mirror_registry import MirrorRegistry
from tests.unit.role_templates import rendered

READY_SECONDS = 20
# Compiled in, and nothing that the role or the distribution's configuration sets.
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Origin:
    """How a node asks the mirror: the fields of ``ollama_model``'s option ``origins``."""

    url: str
    ca_path: str
    client_cert: str
    client_key: str
    kind: str = "mirror"


class Mirror:
    """``directory`` is made, and may not be there. ``nodes`` are the names of those who may read.

    :ivar host: the registry behind, which is filled by its socket.
    """

    def __init__(self, directory: Path, nodes: list[str]) -> None:
        self._directory = directory
        directory.mkdir()
        # nginx's workers are another user's, who may have no way into this checkout.
        self._runtime = Path(tempfile.mkdtemp(prefix="onprem-llm-mirror-"))
        self._runtime.chmod(0o711)
        self.host = MirrorRegistry(directory, self._runtime)
        self._pki = directory / "pki"
        self._pki.mkdir(mode=0o700)
        self._authority = Authority(self._pki, "ca")
        self._authority.issue("mirror", purpose=ExtendedKeyUsageOID.SERVER_AUTH)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        site = rendered(
            "model_mirror",
            "mirror.conf.j2",
            model_mirror_address="127.0.0.1",
            model_mirror_port=self._port,
            model_mirror_client_names=nodes,
            **self.host.variables,
        )
        self.origins = {name: self._origin(name) for name in nodes}
        self._program = self._unpack(site)
        self._process: subprocess.Popen[bytes] | None = None

    def _origin(self, node: str) -> Origin:
        certificate, key = self._authority.issue(node, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        return Origin(f"https://127.0.0.1:{self._port}", self._authority.ca, certificate, key)

    def _unpack(self, site: str) -> list[str | Path]:
        """Lay nginx out as on a host; the command that runs it."""
        package = unpacked("nginx", "nginx-common")
        place, logs = self._directory / "nginx", self._directory / "log"
        shutil.copytree(package / "etc" / "nginx", place)
        logs.mkdir()
        for name in ("conf.d", "modules-enabled", "sites-enabled"):
            (place / name).mkdir(exist_ok=True)
        moved = {
            "/etc/nginx/": f"{place}/",
            "/etc/onprem-llm/pki/": f"{self._pki}/",
            "/var/log/nginx/": f"{logs}/",
            "/run/nginx.pid": str(self._directory / "nginx.pid"),
        }
        temporary = "".join(f"{name}_temp_path {self._directory}/temporary-{name};\n" for name in TEMPORARY)
        for name, text in (
            ("nginx.conf", (place / "nginx.conf").read_text(encoding="utf-8")),
            ("conf.d/onprem-llm-mirror.conf", site),
            ("conf.d/places.conf", temporary),
        ):
            for old, new in moved.items():
                text = text.replace(old, new)
            (place / name).write_text(text, encoding="utf-8")
        return [package / "usr/sbin/nginx", "-e", "stderr", "-c", place / "nginx.conf", "-g", "daemon off;"]

    def __enter__(self) -> Mirror:
        self.host.start()
        try:
            self._process = subprocess.Popen(self._program)
            self._await()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await(self) -> None:
        """Until it serves its nodes. Who has no certificate is refused: else it is not the fleet's mirror."""
        end = time.monotonic() + READY_SECONDS
        node = next(iter(self.origins.values()))
        while (status := self._asked(node)) != 200:
            if time.monotonic() > end or (self._process and self._process.poll() is not None):
                raise RuntimeError(f"the mirror does not serve its nodes: {status or 'no answer'}")
            time.sleep(0.05)
        stranger = self._asked(None)
        if stranger != 403:
            raise RuntimeError(f"the mirror answers {stranger} to a client without a certificate, not 403")

    def _asked(self, node: Origin | None) -> int:
        """Status of /v2/, or 0 without an answer."""
        context = ssl.create_default_context(cafile=self._authority.ca)
        if node:
            context.load_cert_chain(node.client_cert, node.client_key)
        try:
            with (
                socket.create_connection(("127.0.0.1", self._port), 5) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(b"GET /v2/ HTTP/1.0\r\nHost: mirror\r\n\r\n")
                return int(connection.recv(64).split()[1])
        except (OSError, IndexError):
            return 0

    def __exit__(self, *_raised: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(READY_SECONDS)
        self.host.stop()
        shutil.rmtree(self._directory)
        shutil.rmtree(self._runtime)
