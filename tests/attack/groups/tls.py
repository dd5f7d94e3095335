"""TLS that is too old, too weak, or not the gateway's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable

from tests.attack import hello, wire
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position


def offered(version: str, suites: tuple[int, ...]) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        reply = hello.offer(position.access.gateway, hello.client_hello(hello.VERSIONS[version], suites))
        return Verdict(not reply.agreed, str(reply))

    return act


def ssl2(position: Position) -> Verdict:
    """SSL 2.0 has a hello of its own form."""
    suites = b"\x01\x00\x80\x07\x00\xc0\x05\x00\x80"
    body = b"\1\0\2" + len(suites).to_bytes(2, "big") + b"\0\0\0\x10" + suites + bytes(16)
    with contextlib.closing(socket.create_connection(position.access.gateway, timeout=5)) as connection:
        connection.sendall((0x8000 | len(body)).to_bytes(2, "big") + body)
        try:
            received = connection.recv(64)
        except OSError:
            received = b""
    # A ServerHello of SSL 2.0 has message type 4 behind its two bytes of length.
    agreed = len(received) > 2 and received[0] & 0x80 and received[2] == 4
    return Verdict(not agreed, "agreed upon SSL 2.0" if agreed else "refused")


def strong(position: Position) -> Verdict:
    """Without it, that nothing weak is agreed upon proves nothing."""
    reply = hello.offer(position.access.gateway, hello.client_hello(hello.VERSIONS["TLS 1.2"], hello.STRONG))
    return Verdict(reply.agreed and reply.version == hello.VERSIONS["TLS 1.2"], str(reply))


def compression(position: Position) -> Verdict:
    data = hello.client_hello(hello.VERSIONS["TLS 1.2"], hello.STRONG, compressions=b"\1\0")
    reply = hello.offer(position.access.gateway, data)
    return Verdict(reply.compression == 0, f"{reply}, compression {reply.compression}")


def heartbeat(position: Position) -> Verdict:
    data = hello.client_hello(hello.VERSIONS["TLS 1.2"], hello.STRONG, more=hello.extension(15, b"\1"))
    reply = hello.offer(position.access.gateway, data)
    return Verdict(15 not in reply.extensions, "heartbeat offered" if 15 in reply.extensions else "no heartbeat")


def fallback(position: Position) -> Verdict:
    """RFC 7507: a client that says it fell back must not be let down to an older version."""
    data = hello.client_hello(hello.VERSIONS["TLS 1.1"], (0x5600, *hello.OLD))
    reply = hello.offer(position.access.gateway, data)
    return Verdict(not reply.agreed, str(reply))


def no_name(position: Position) -> Verdict:
    """Without SNI, and with a foreign one, it is the gateway's own certificate or none."""
    for name in (None, "evil.example"):
        context = position.context()
        context.check_hostname = False
        try:
            connection = wire.connect(position.access.gateway, context, name)
        except ssl.SSLCertVerificationError as error:
            return Verdict(False, f"another certificate: {error.verify_message}")
        except OSError:
            continue
        with contextlib.closing(connection):
            answer = wire.exchange(connection, position.bytes("GET", "/v1/models", key=None)).first
        if answer.status not in (0, 400, 401, 404, 421, 429):
            return Verdict(False, f"{answer.status} to a stranger")
    return Verdict(True, "the gateway's own certificate, or none")


def certificate(position: Position) -> Verdict:
    """It leads to the CA, names the address, and no client of another CA takes it."""
    try:
        position.connect().close()
    except ssl.SSLError as error:
        return Verdict(False, f"not verified: {error}")
    try:
        wire.connect(position.access.gateway, ssl.create_default_context(), position.access.gateway[0]).close()
    except ssl.SSLCertVerificationError:
        return Verdict(True, "verified by the CA file, by nothing else")
    return Verdict(True, "verified, by a public authority, too")


def openssl(position: Position, *options: str, given: bytes = b"") -> str:
    address, port = position.access.gateway
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    command = ["openssl", "s_client", "-connect", target, *options]
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=30
    )
    return done.stdout.decode(errors="replace")


def renegotiation(position: Position) -> Verdict:
    """CVE-2011-1473: each renegotiation costs the server many times what it costs the client."""
    output = openssl(position, "-tls1_2", given=b"R\nGET /healthz HTTP/1.0\r\n\r\n")
    renegotiated = "RENEGOTIATING" in output and not any(
        word in output
        for word in ("no renegotiation", "renegotiation not supported", "handshake failure", "write:errno")
    )
    return Verdict("CONNECTED" in output and not renegotiated, "renegotiated" if renegotiated else "refused")


def early_data(position: Position) -> Verdict:
    """A request in early data can be sent again by whoever saw it."""
    output = openssl(position, "-tls1_3", given=b"GET /healthz HTTP/1.0\r\n\r\n")
    offered_bytes = {line.split(":")[1].strip() for line in output.splitlines() if "Max Early Data" in line}
    return Verdict(
        "CONNECTED" in output and offered_bytes <= {"0"}, f"early data of {max(offered_bytes, default='0')} bytes"
    )


def garbage(position: Position) -> Verdict:
    """Bytes that are no TLS, and a record that lies about its length: closed or refused, and the gateway lives on."""
    samples = (
        b"\x16\x03\x01\xff\xff" + b"\1" * 100,
        b"\0" * 1000,
        b"\x16\x03\x01\x00\x05\1\xff\xff\xff\xff",
        b"\x80\x80\1\3\1",
    )
    for sample in samples:
        with contextlib.closing(socket.create_connection(position.access.gateway, timeout=5)) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(sample)
            try:
                connection.shutdown(socket.SHUT_WR)
                received = connection.recv(4096)
            except OSError:
                received = b""
        if received.startswith(b"HTTP/1.1 2") or (received[:1] == b"\x16" and received[5:6] == b"\2"):
            return Verdict(False, f"answered {received[:20]!r}")
    return Verdict(True, f"{len(samples)} samples closed or refused")


ATTACKS = [
    Attack("TLS", "TLS 1.2 with today's suites", "as a control", "agreed upon", strong),
    Attack("TLS", "SSL 2.0", "a hello of SSL 2.0", "refused", ssl2),
    *(
        Attack(
            "TLS", version, f"a hello of {version} at most", "refused", offered(version, (*hello.OLD, *hello.STRONG))
        )
        for version in ("SSL 3.0", "TLS 1.0", "TLS 1.1")
    ),
    *(
        Attack("TLS", f"suites: {name}", "TLS 1.2 with nothing else", "refused", offered("TLS 1.2", suites))
        for name, suites in hello.WEAK.items()
    ),
    Attack("TLS", "fallback", "TLS 1.1 with TLS_FALLBACK_SCSV", "refused", fallback),
    Attack("TLS", "compression", "a hello that offers DEFLATE (CRIME)", "not taken", compression),
    Attack("TLS", "heartbeat", "a hello that offers heartbeats", "not taken", heartbeat),
    Attack("TLS", "renegotiation", "the client asks for a new handshake", "refused", renegotiation),
    Attack("TLS", "early data", "TLS 1.3 without a round trip", "not offered", early_data),
    Attack(
        "TLS",
        "no name, foreign name",
        "without SNI, and with evil.example",
        "the gateway's own certificate, or none",
        no_name,
    ),
    Attack("TLS", "certificate", "does it lead to the CA, and name the address?", "verified", certificate),
    Attack("TLS", "no TLS at all", "bytes that are none", "closed or refused", garbage),
]
