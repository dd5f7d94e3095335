"""Requests whose end two servers in a row could see at different places.

Each carries a second request. The judgement: one refusal, or one answer, and never an answer to the second.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.attack.groups.judge import one_answer, one_refusal, refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

Raw = Callable[[Position], bytes]


def head(position: Position, *lines: str, method: str = "POST", target: str = "/v1/embeddings") -> bytes:
    """Start line, Host, credential, and then the lines as they are."""
    start = [
        f"{method} {target} HTTP/1.1",
        f"Host: {position.host}",
        f"Authorization: Bearer {position.user.api_key}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*start, *lines]).encode("latin-1") + b"\r\n\r\n"


def second(position: Position) -> bytes:
    """What is smuggled: answered, it shows as one more answer."""
    return position.bytes("GET", "/healthz", key=None)


def content(position: Position) -> bytes:
    return json.dumps({"model": position.access.model, "input": ""}).encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


END = b"0\r\n\r\n"


def cl_te(p: Position) -> bytes:
    body = END + second(p)
    return head(p, f"Content-Length: {len(body)}", "Transfer-Encoding: chunked") + body


def te_cl(p: Position) -> bytes:
    hidden = second(p)
    return head(p, "Content-Length: 4", "Transfer-Encoding: chunked") + chunk(hidden) + END


def transfer_encoding(*lines: str) -> Raw:
    """A spelling of Transfer-Encoding that one server may take for chunked and another not."""

    def build(p: Position) -> bytes:
        body = END + second(p)
        return head(p, f"Content-Length: {len(body)}", *lines) + body

    return build


def lone_transfer_encoding(value: str) -> Raw:
    return lambda p: head(p, f"Transfer-Encoding: {value}") + chunk(content(p)) + END + second(p)


def lengths(*values: str) -> Raw:
    def build(p: Position) -> bytes:
        body = content(p)
        return head(p, *(f"Content-Length: {value % {'n': len(body)}}" for value in values)) + body + second(p)

    return build


def lines(*extra: str, method: str = "POST") -> Raw:
    def build(p: Position) -> bytes:
        body = content(p)
        return head(p, f"Content-Length: {len(body)}", *extra, method=method) + body

    return build


def chunks(data: Callable[[Position], bytes]) -> Raw:
    return lambda p: head(p, "Transfer-Encoding: chunked") + data(p) + second(p)


def bare_line_feeds(p: Position) -> bytes:
    hidden = second(p)
    return head(p, f"Content-Length: {len(hidden)}").replace(b"\r\n", b"\n") + hidden


def bare_return(p: Position) -> bytes:
    body = content(p)
    return head(p, f"Content-Length: {len(body)}", "X-A: b\rTransfer-Encoding: chunked") + body


def feed_in_header(p: Position) -> bytes:
    body = END + second(p)
    return head(p, f"Content-Length: {len(body)}", "X-A: b\nTransfer-Encoding: chunked") + body


def body_on_get(p: Position) -> bytes:
    hidden = second(p)
    return head(p, f"Content-Length: {len(hidden)}", method="GET", target="/v1/models") + hidden


def http10_chunked(p: Position) -> bytes:
    data = head(p, "Transfer-Encoding: chunked", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    return data + chunk(content(p)) + END + second(p)


def version(text: bytes) -> Raw:
    return lambda p: p.bytes("GET", "/v1/models").replace(b"HTTP/1.1", text, 1)


# Refused: no server of today may take them for something.
REFUSED: list[tuple[str, str, Raw]] = [
    ("CL.TE", "Content-Length and Transfer-Encoding, the second request behind the last chunk", cl_te),
    ("TE.CL", "Transfer-Encoding and a Content-Length of 4, the second request in a chunk", te_cl),
    ("two lengths", "Content-Length twice, with different values", lengths("%(n)d", "0")),
    ("one length twice", "Content-Length twice, with one value", lengths("%(n)d", "%(n)d")),
    ("list of lengths", "Content-Length: n, n", lengths("%(n)d, %(n)d")),
    ("negative length", "Content-Length: -1", lengths("-1")),
    ("length with a plus", "Content-Length: +n", lengths("+%(n)d")),
    ("hexadecimal length", "Content-Length: 0xn", lengths("0x%(n)x")),
    ("length beyond 64 bits", "Content-Length of 10^30", lengths("1" + "0" * 30)),
    ("length that wraps round", "Content-Length of 2^64 + n", lengths("18446744073709551616")),
    ("empty length", "Content-Length without a value", lengths("")),
    ("space before the colon", "Transfer-Encoding : chunked", transfer_encoding("Transfer-Encoding : chunked")),
    (
        "tab before the value",
        "Transfer-Encoding:<tab>chunked, with a length",
        transfer_encoding("Transfer-Encoding:\tchunked"),
    ),
    ("unknown coding", "Transfer-Encoding: xchunked", transfer_encoding("Transfer-Encoding: xchunked")),
    ("chunked and identity", "Transfer-Encoding: chunked, identity", lone_transfer_encoding("chunked, identity")),
    (
        "chunked twice",
        "two Transfer-Encoding headers",
        transfer_encoding("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    ),
    ("gzip and chunked", "Transfer-Encoding: gzip, chunked", lone_transfer_encoding("gzip, chunked")),
    (
        "folded header",
        "Transfer-Encoding on a folded line (obs-fold)",
        transfer_encoding("X-A: b", " Transfer-Encoding: chunked"),
    ),
    (
        "folded value",
        "a value that goes on on a folded line (obs-fold)",
        transfer_encoding("Transfer-Encoding:", " chunked"),
    ),
    ("header without a colon", "a line that is no header", lines("this is no header")),
    ("header without a name", "a line that starts with a colon", lines(": chunked")),
    ("NUL in a header", "a NUL in a value", lines("X-A: a\0b")),
    ("NUL in a name", "a NUL in a name", lines("X\0A: b")),
    ("carriage return in a value", "a bare CR, and Transfer-Encoding behind it", bare_return),
    ("line feed in a value", "a bare LF, and Transfer-Encoding behind it", feed_in_header),
    ("chunked in HTTP/1.0", "Transfer-Encoding in a version that has none", http10_chunked),
    ("negative chunk", "a chunk of size -1", chunks(lambda p: b"-1\r\nabc\r\n" + END)),
    ("chunk beyond 64 bits", "a chunk size of 17 digits", chunks(lambda p: b"F" * 17 + b"\r\nabc\r\n" + END)),
    ("chunk with a prefix", "a chunk size of 0x5", chunks(lambda p: b"0x5\r\nabcde\r\n" + END)),
    ("chunk longer than said", "more bytes than the size says", chunks(lambda p: b"3\r\nabcdef\r\n" + END)),
    ("chunk size missing", "a chunk without a size", chunks(lambda p: b"\r\nabc\r\n" + END)),
    ("unknown version", "HTTP/9.9", version(b"HTTP/9.9")),
    ("HTTP/2 in a first line", "HTTP/2.0 as text", version(b"HTTP/2.0")),
    ("version in lower case", "http/1.1", version(b"http/1.1")),
    ("first line with two spaces more", "words after the version", version(b"HTTP/1.1 HTTP/1.1")),
]

# One answer at most: they have a meaning, which must be one alone.
SINGLE: list[tuple[str, str, Raw]] = [
    ("bare line feeds", "lines that end in LF alone", bare_line_feeds),
    ("body on GET", "a GET whose body is a request", body_on_get),
    (
        "extension of a chunk",
        "a newline inside a chunk extension",
        lambda p: head(p, "Transfer-Encoding: chunked") + chunk(second(p), b";a=b\nX") + END,
    ),
    (
        "endless chunk extension",
        "a chunk extension of 100 kB",
        lambda p: head(p, "Transfer-Encoding: chunked") + chunk(second(p), b";" + b"a" * 100_000) + END,
    ),
]


def with_judge(raw: Raw, judge: Callable[..., Verdict]) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        return judge(position.paced(raw(position), answers=2, patience=min(position.bounds.patience, 5)))

    return act


def http09(position: Position) -> Verdict:
    found = position.send(b"GET /v1/models\r\n\r\n", patience=5)
    text = found.rest + b"".join(answer.body for answer in found.answers)
    served = b'"data"' in text or b'"models"' in text or found.first.status == 200
    return Verdict(not served, str(found) if not served else "served without a credential")


def pipelined(position: Position) -> Verdict:
    """A valid credential must not last for the next request of the connection."""
    known = position.bytes("GET", "/v1/models")
    stranger = position.bytes("GET", "/v1/models", key=None)
    found = position.paced(known + stranger + known, answers=3)
    statuses = [answer.status for answer in found.answers]
    # A limit on strangers may answer in place of the 401; who asks is judged anew in any case.
    return Verdict(statuses[:1] == [200] and 200 not in statuses[1:2], ", ".join(map(str, statuses)) or str(found))


def trailers(position: Position) -> Verdict:
    """A credential behind the body is none."""
    data = position.bytes(
        "POST", "/v1/embeddings", ("Transfer-Encoding", "chunked"), ("Trailer", "Authorization"), key=None
    )
    late = f"0\r\nAuthorization: Bearer {position.user.api_key}\r\n\r\n".encode()
    found = position.paced(data + chunk(content(position)) + late, patience=5)
    return refused(found.first, (400, 401, 411))


def hop_by_hop(position: Position) -> Verdict:
    """Connection names headers that a proxy drops; what the gateway sets for the engine must not be among them, nor
    what it knows the user by."""
    names = "Authorization, Content-Length, Host, X-OnPrem-Model, X-OnPrem-User, X-Request-ID"
    answer = position.ask("GET", "/v1/models", ("Connection", names), key=None)
    return refused(answer, (400, 401))


def expectation(position: Position) -> Verdict:
    """Who waits for 100 Continue without a credential gets none: the body need not be sent at all."""
    data = position.bytes("POST", "/v1/embeddings", ("Expect", "100-continue"), ("Content-Length", "1000"), key=None)
    return refused(position.paced(data, patience=5).first, (400, 401, 417))


def header_bomb(position: Position) -> Verdict:
    many = [(f"X-Header-{number}", "a" * 100) for number in range(2000)]
    return refused(position.ask("GET", "/v1/models", *many), (400, 431))


def large_header(position: Position) -> Verdict:
    return refused(position.ask("GET", "/v1/models", ("X-Large", "a" * 200_000)), (400, 431))


ATTACKS = [
    *(Attack("smuggling", name, tries, "one refusal", with_judge(raw, one_refusal)) for name, tries, raw in REFUSED),
    *(Attack("smuggling", name, tries, "one answer", with_judge(raw, one_answer)) for name, tries, raw in SINGLE),
    Attack("smuggling", "HTTP/0.9", "a first line without a version", "nothing served", http09),
    Attack("smuggling", "pipelined strangers", "with a key, without, and with one again", "200, then 401", pipelined),
    Attack("smuggling", "credential in a trailer", "Authorization behind the body", "400 or 401", trailers),
    Attack(
        "smuggling", "hop-by-hop headers", "Connection names what the gateway itself needs", "400 or 401", hop_by_hop
    ),
    Attack(
        "smuggling",
        "expectation of a stranger",
        "Expect: 100-continue without a key",
        "a refusal before the body",
        expectation,
    ),
    Attack("smuggling", "2000 headers", "200 kB in small headers", "400 or 431", header_bomb),
    Attack("smuggling", "one large header", "a header of 200 kB", "400 or 431", large_header),
]
