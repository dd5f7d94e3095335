# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One GET, with bounded redirects that take no secret along.

``ansible.module_utils.urls.open_url`` installs its opener for the whole process, so that of two threads one would ask
with the other's certificate. Here each asker has openers of its own.
"""

from __future__ import annotations

import http.client
import re
import ssl
import typing as t
import urllib.request
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from ansible.module_utils import urls  # type: ignore[import-untyped]

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_SECONDS = re.compile(r"[0-9]{1,9}")


class HttpError(Exception):
    """No answer that can be used; the text says whose, and why."""


class NotReached(HttpError):
    """No answer at all, or none in time; the text says why.

    :ivar host: who gave none.
    """

    def __init__(self, reason: str, host: str) -> None:
        super().__init__(reason)
        self.host = host


class Untrusted(NotReached):
    """The server's certificate is not trusted, or ours cannot be read. Asking again gives the same."""


class LedAway(HttpError):
    """Redirects that go on for ever, or off https."""


class Status(HttpError):
    """An answer that is neither 200 nor 206.

    :ivar host: who gave it, which after a redirect is another than was asked.
    :ivar challenges: the values of ``WWW-Authenticate``.
    :ivar retry_after: seconds by ``Retry-After``, or None. Dates are left aside: this host's clock may be wrong.
    """

    def __init__(self, error: HTTPError, host: str) -> None:
        super().__init__(f"{host} answered {error.code} ({error.reason})")
        self.code, self.reason, self.host = error.code, str(error.reason), host
        self.challenges: list[str] = error.headers.get_all("WWW-Authenticate") or []
        told = (error.headers.get("Retry-After") or "").strip()
        self.retry_after = float(told) if _SECONDS.fullmatch(told) else None


class _Stays(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as an error, for :meth:`Http.open` to look at."""

    def redirect_request(self, *_arguments: t.Any, **_named: t.Any) -> None:
        return None


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address: who is spoken to.

    :raises ValueError: the port is no number.
    """
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Http:
    """Proxies are those of the environment.

    :param timeout: seconds that the server may be silent.
    :param ca_path: a file of authorities in place of the system's, or None.
    :param client_cert: a file with this client's certificate, shown to the host of the first address alone.
    :param client_key: a file with its key, where it is not in the same file.
    """

    def __init__(
        self, timeout: float, ca_path: str | None = None, client_cert: str | None = None, client_key: str | None = None
    ) -> None:
        self._timeout, self._ca_path = timeout, ca_path
        self._certificate = (client_cert, client_key)
        self._openers: dict[bool, urllib.request.OpenerDirector] = {}

    def _opener(self, certified: bool, host: str) -> urllib.request.OpenerDirector:
        """:raises Untrusted: the files of authorities or of the certificate cannot be used."""
        if certified not in self._openers:
            certificate, key = self._certificate if certified else (None, None)
            try:
                context = urls.make_context(cafile=self._ca_path, client_cert=certificate, client_key=key)
            except (OSError, ValueError) as error:
                names = ", ".join(name for name in (self._ca_path, certificate, key) if name)
                raise Untrusted(f"the certificates in {names or 'the system'} cannot be used: {error}", host) from error
            # Python 3.13 and newer refuse an authority without extensions that apt, curl and Go do without, and so did
            # the sites that made theirs.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            self._openers[certified] = urllib.request.build_opener(
                urllib.request.HTTPSHandler(context=context), _Stays()
            )
        return self._openers[certified]

    def open(self, url: str, headers: t.Mapping[str, str], authorization: str = "") -> t.Any:
        """The answer, its status 200 or 206, and its body as it is.

        :param authorization: the header of that name, told to the host of ``url`` alone.
        :raises HttpError: one of the above.
        """
        try:
            first = origin(url)
        except ValueError as error:
            raise LedAway(f"{url[:200]!r} is no address: {error}") from error
        host = urlsplit(url).netloc
        for _hop in range(MAX_REDIRECTS + 1):
            same = origin(url) == first
            request = urllib.request.Request(url, headers={"User-Agent": "onprem.llm", **headers})
            if authorization and same:
                request.add_unredirected_header("Authorization", authorization)
            try:
                response = self._opener(same, urlsplit(url).netloc).open(request, timeout=self._timeout)
            except HTTPError as error:
                with error:
                    if error.code not in _REDIRECTS or not error.headers.get("Location"):
                        raise Status(error, urlsplit(url).netloc) from error
                    url = self._next(host, url, error.headers["Location"])
                continue
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = error.reason if isinstance(error, URLError) else error
                kind = Untrusted if isinstance(reason, ssl.SSLCertVerificationError) else NotReached
                raise kind(str(reason) or type(reason).__name__, urlsplit(url).netloc) from error
            encoding = response.headers.get("Content-Encoding", "identity")
            if response.status not in (200, 206) or encoding != "identity":
                response.close()
                raise LedAway(f"{host} answered {url[:200]} with status {response.status} and the encoding {encoding}")
            return response
        raise LedAway(f"{host} leads on after {MAX_REDIRECTS} redirects, at last to {url[:200]}")

    @staticmethod
    def _next(host: str, url: str, location: str) -> str:
        following = urljoin(url, location)
        try:
            scheme = origin(following)[0]
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise LedAway(f"{host} leads to {following[:200]!r}, which is no web address")
        if url.startswith("https:") and scheme != "https":
            raise LedAway(f"{host} leads away from https, to {following[:200]}")
        return following
