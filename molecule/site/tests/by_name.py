"""Requests to an address under a name, as users and neighbours of the box send them: two sites share its port 443."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import NamedTuple

NAME = "llm.demo.internal"


def tls(address: str, name: str, ca_file: str | None = None, port: int = 443) -> tuple[ssl.SSLSocket, str]:
    """A connection under a name, and the certificate that is shown; it is checked where a CA is given."""
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = context.wrap_socket(socket.create_connection((address, port), timeout=30), server_hostname=name)
    return connection, ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))


class Answer(NamedTuple):
    status: int
    content: str
    request_id: str | None


def ask(
    connection: ssl.SSLSocket, method: str, path: str, name: str, body: dict | None = None, **headers: str
) -> Answer:
    client = http.client.HTTPConnection(f"[{name}]" if ":" in name else name)
    client.sock = connection
    client.request(method, path, json.dumps(body) if body else None, headers)
    response = client.getresponse()
    content = response.read().decode()
    client.close()
    return Answer(response.status, content, response.headers["X-Request-ID"])
