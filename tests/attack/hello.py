"""A ClientHello by hand (RFC 5246, RFC 8446), for what a modern library refuses to offer."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass

ALERT, HANDSHAKE = 21, 22
VERSIONS = {"SSL 3.0": 0x0300, "TLS 1.0": 0x0301, "TLS 1.1": 0x0302, "TLS 1.2": 0x0303}
# Numbers from IANA's TLS Cipher Suites registry.
STRONG = (0xC02F, 0xC030, 0xC02B, 0xC02C, 0xCCA8, 0xCCA9)
OLD = (0xC013, 0xC014, 0xC009, 0xC00A, 0x002F, 0x0035)
WEAK = {
    "no encryption": (0x0000, 0x0001, 0x0002, 0x003B, 0xC010, 0xC006),
    "export keys": (0x0003, 0x0006, 0x0008, 0x000B, 0x000E, 0x0011, 0x0014),
    "RC4": (0x0004, 0x0005, 0xC011, 0xC007),
    "3DES": (0x000A, 0x0016, 0xC012, 0xC008),
    "nobody authenticated": (0x0018, 0x001B, 0x0034, 0x003A, 0x006C, 0x006D, 0x00A6, 0x00A7, 0xC018, 0xC019),
    "CBC": (0xC013, 0xC014, 0xC027, 0xC028, 0xC009, 0xC00A, 0xC023, 0xC024, 0x0033, 0x0039, 0x0067, 0x006B),
    "no forward secrecy": (0x002F, 0x0035, 0x003C, 0x003D, 0x009C, 0x009D),
}


@dataclass(frozen=True)
class Reply:
    """What answered a hello: a version and a suite if one was agreed upon."""

    version: int = 0
    suite: int = 0
    compression: int = 0
    extensions: tuple[int, ...] = ()
    alert: int | None = None

    @property
    def agreed(self) -> bool:
        return self.version != 0

    def __str__(self) -> str:
        if self.agreed:
            name = next((name for name, number in VERSIONS.items() if number == self.version), hex(self.version))
            return f"agreed upon {name}, suite 0x{self.suite:04x}"
        return f"alert {self.alert}" if self.alert is not None else "closed"


def extension(number: int, data: bytes) -> bytes:
    return struct.pack(">HH", number, len(data)) + data


def client_hello(
    version: int, suites: tuple[int, ...], compressions: bytes = b"\0", name: str = "", more: bytes = b""
) -> bytes:
    """The record. ``more``: extensions besides those that elliptic curves and signatures need."""
    extensions = extension(10, b"\0\4\0\x1d\0\x17") + extension(11, b"\1\0")
    if version >= VERSIONS["TLS 1.2"]:
        extensions += extension(13, b"\0\x10\4\3\4\1\5\3\5\1\6\3\6\1\2\3\2\1")
    if name:
        entry = b"\0" + struct.pack(">H", len(name)) + name.encode()
        extensions += extension(0, struct.pack(">H", len(entry)) + entry)
    extensions += more
    listed = b"".join(struct.pack(">H", suite) for suite in suites)
    body = struct.pack(">H", version) + bytes(range(32)) + b"\0"
    body += struct.pack(">H", len(listed)) + listed + bytes([len(compressions)]) + compressions
    if version > VERSIONS["SSL 3.0"]:
        body += struct.pack(">H", len(extensions)) + extensions
    handshake = b"\1" + struct.pack(">I", len(body))[1:] + body
    return struct.pack(">BHH", HANDSHAKE, min(version, 0x0301), len(handshake)) + handshake


def offer(address: tuple[str, int], hello: bytes, patience: float = 5) -> Reply:
    """Send a hello and read the first record of the answer."""
    with contextlib.closing(socket.create_connection(address, timeout=patience)) as connection:
        connection.sendall(hello)
        received = b""
        while len(received) < 5 or len(received) < 5 + int.from_bytes(received[3:5], "big"):
            try:
                piece = connection.recv(4096)
            except OSError:
                piece = b""
            if not piece:
                break
            received += piece
    return understand(received)


def understand(received: bytes) -> Reply:
    if len(received) >= 7 and received[0] == ALERT:
        return Reply(alert=received[6])
    if len(received) < 48 or received[0] != HANDSHAKE or received[5] != 2:
        return Reply()
    body = received[9:]
    after = 35 + body[34]
    version, suite, compression = struct.unpack(">H", body[:2])[0], *struct.unpack(">HB", body[after : after + 3])
    found, rest = [], body[after + 5 : after + 5 + int.from_bytes(body[after + 3 : after + 5], "big")]
    while len(rest) >= 4:
        number, length = struct.unpack(">HH", rest[:4])
        found.append(number)
        rest = rest[4 + length :]
    return Reply(version, suite, compression, tuple(found))
