"""Frames of HTTP/2 by hand (RFC 9113); headers without compression (RFC 7541, literals that are never indexed)."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
# Of the static table, the indexes that are a status.
STATUSES = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
STATUS_NAME = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    encoded, value = bytearray([most]), value - most
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)


def block(headers: list[tuple[str, str]]) -> bytes:
    """A header block, every name and value as it stands."""
    encoded = b""
    for pair in headers:
        encoded += b"\x10" + b"".join(integer(len(part), 7) + part for part in (t.encode("latin-1") for t in pair))
    return encoded


def status_of(headers: bytes) -> int:
    """The status, which comes first in a block; 0 where the block is not as nginx and HAProxy write it."""
    while headers and headers[0] & 0xE0 == 0x20:
        headers = headers[1:]
    if not headers:
        return 0
    if headers[0] & 0x80:
        return STATUSES.get(headers[0] & 0x7F, 0)
    name = headers[0] & (0x3F if headers[0] & 0x40 else 0x0F)
    text = headers[2 : 2 + (headers[1] & 0x7F)]
    if name != STATUS_NAME or len(headers) < 3:
        return 0
    return int(huffman_digits(text) if headers[1] & 0x80 else text)


def huffman_digits(data: bytes) -> str:
    """Digits of the Huffman code: 0, 1 and 2 have five bits, the others six."""
    codes = {"00000": "0", "00001": "1", "00010": "2"} | {format(0x19 + n - 3, "06b"): str(n) for n in range(3, 10)}
    bits, text = "".join(format(byte, "08b") for byte in data), ""
    while bits:
        length = next((length for length in (5, 6) if bits[:length] in codes), 0)
        if not length:
            break
        text, bits = text + codes[bits[:length]], bits[length:]
    return text or "0"


@dataclass
class Seen:
    """By stream: statuses and reset codes. ``goaway``: the code with which the connection was ended."""

    statuses: dict[int, int] = field(default_factory=dict)
    resets: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    goaway: int | None = None
    ended: bool = False

    def __str__(self) -> str:
        parts = [f"{status}" for status in self.statuses.values()][:3]
        parts += [f"reset {code}" for code in self.resets.values()][:3]
        parts += [f"goaway {self.goaway}"] if self.goaway is not None else []
        parts += ["closed"] if self.ended and not parts else []
        return ", ".join(parts) or "no answer"


def talk(connection: socket.socket, data: bytes, streams: int = 1, patience: float = 5) -> Seen:
    """Send the preface, settings and ``data``, and read as ``read`` does."""
    with contextlib.suppress(OSError):
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + data)
    return read(connection, streams, patience)


def read(connection: socket.socket, streams: int = 1, patience: float = 5) -> Seen:
    """Read until ``streams`` have ended, the connection does, or ``patience`` seconds have passed."""
    seen, received, done = Seen(), b"", set()
    deadline = time.monotonic() + patience
    while len(done) < streams and not seen.ended and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            break
        except OSError:
            piece = b""
        seen.ended = not piece
        received += piece
        while len(received) >= 9 and len(received) >= 9 + (length := int.from_bytes(received[:3], "big")):
            kind, flags, stream = struct.unpack(">BBI", received[3:9])
            payload, received = received[9 : 9 + length], received[9 + length :]
            stream &= 0x7FFFFFFF
            if kind == HEADERS and stream not in seen.statuses:
                seen.statuses[stream] = status_of(payload)
            elif kind == DATA:
                seen.bodies[stream] = seen.bodies.get(stream, b"") + payload
            elif kind == RST_STREAM:
                seen.resets[stream] = int.from_bytes(payload, "big")
                done.add(stream)
            elif kind == GOAWAY:
                seen.goaway = int.from_bytes(payload[4:8], "big")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                done.add(stream)
    return seen
