# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins, token services, certificates, proxies and redirects: who is told which secret."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _registry, _repository
from ansible_collections.onprem.llm.plugins.module_utils._registry import Client, Layer, Repository, Unauthorized
from certificates import Authority
from registry_fake import State, digest

DATA = b"weights" * 1000
LOGIN = ("me", "secret")


@pytest.fixture
def registry() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as (state, url):
        state.put("big:1b", DATA)
        yield state, url


def repository(url: str) -> Repository:
    return _repository.parse_name("big:1b", url).repository


def read(client: Client, url: str) -> bytes:
    with client.answer(repository(url), digest(DATA), 0, len(DATA)) as response:
        return bytes(response.read())


@pytest.mark.parametrize("challenge", ["basic", "bearer"])
def test_a_login_is_told_when_it_is_asked_for(registry: tuple[State, str], challenge: str) -> None:
    state, url = registry
    state.login, state.challenge = LOGIN, challenge
    client = Client(login=LOGIN)
    assert read(client, url) == DATA
    assert state.authorizations[0] == ""
    if challenge == "bearer":
        assert state.paths[1] == "/token?service=models&scope=repository%3Alibrary%2Fbig%3Apull"
        assert state.authorizations[1:] == [state.basic(), "Bearer first"]
    count = len(state.requests)
    assert read(client, url) == DATA
    assert len(state.requests) == count + 1, "what was good is told at once"
    state.token = "second"
    assert read(client, url) == DATA, "and asked for anew when it has run out"


def test_a_public_registry_with_tokens_needs_no_login(registry: tuple[State, str]) -> None:
    state, url = registry
    state.challenge, state.login, state.anonymous = "bearer", LOGIN, True
    assert read(Client(), url) == DATA
    assert json.loads(Client().manifest(repository(url), "1b"))["layers"]


@pytest.mark.parametrize(
    ("challenge", "login", "realm", "said"),
    [
        ("basic", None, "", "asks for a login, and none is given"),
        ("basic", ("me", "wrong"), "", "the user 'me' may not read there"),
        ("bearer", None, "", "its token service 127.0.0.1 refused this client without a login"),
        ("bearer", ("me", "wrong"), "", "its token service 127.0.0.1 refused the user 'me'"),
        ("bearer", LOGIN, "http://elsewhere.example/token", "sends the login to .* another host that is not on https"),
        ("bearer", LOGIN, "ftp://elsewhere.example/token", "no token service that can be asked"),
        ("bearer", LOGIN, "https://other@elsewhere.example/token", "no token service that can be asked"),
        ("bearer", LOGIN, "/token", "no token service that can be asked"),
        ("Negotiate", LOGIN, "", "in a way other than Basic and Bearer: negotiate"),
    ],
)
def test_a_login_that_lacks_or_would_be_lost(
    registry: tuple[State, str], challenge: str, login: tuple[str, str] | None, realm: str, said: str
) -> None:
    state, url = registry
    state.login, state.challenge, state.realm = LOGIN, challenge, realm
    with pytest.raises(Unauthorized, match=said) as caught:
        read(Client(login=login), url)
    assert "secret" not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_a_token_service_that_gives_none(registry: tuple[State, str]) -> None:
    state, url = registry
    state.login, state.challenge, state.fault = LOGIN, "bearer", "no token"
    with pytest.raises(Unauthorized, match="gave no token"):
        read(Client(login=LOGIN), url)


def test_a_login_follows_no_redirect(registry: tuple[State, str]) -> None:
    state, url = registry
    state.login, state.fault = LOGIN, "redirect"
    with registry_fake.serve() as (other, elsewhere):
        other.put("big:1b", DATA)
        state.elsewhere = elsewhere
        assert read(Client(login=LOGIN), url) == DATA
        assert other.authorizations == [""]
        # Nor is a login asked for by whoever a redirect leads to.
        other.blobs.clear()
        other.login = LOGIN
        state.elsewhere = f"{elsewhere}/x"
        with pytest.raises(Unauthorized, match=r"leads to 127.0.0.1:[0-9]+, which answered 401"):
            read(Client(login=LOGIN), url)
        assert set(other.authorizations) == {""}


def test_retry_after_is_handed_on(registry: tuple[State, str]) -> None:
    state, url = registry
    for code, told, expected in (("429", "7", 7.0), ("503", "Wed, 21 Oct 2015 07:28:00 GMT", None), ("503", "", None)):
        state.fault, state.retry_after = code, told
        with pytest.raises(_registry.Unreachable, match=f"answered {code}") as caught:
            read(Client(), url)
        assert caught.value.retry_after == expected


def test_a_manifest_by_its_digest(registry: tuple[State, str]) -> None:
    state, url = registry
    tagged = Client().manifest(repository(url), "1b", _registry.ANY_MANIFEST)
    path = f"/v2/library/big/manifests/{digest(tagged)}"
    state.manifests[path] = tagged
    assert Client().manifest(repository(url), digest(tagged)) == tagged
    state.manifests[path] = tagged + b" "
    with pytest.raises(_repository.RegistryError, match=f"answers {digest(tagged)} with the manifest sha256:"):
        Client().manifest(repository(url), digest(tagged))


def test_a_proxy_of_the_environment(registry: tuple[State, str], monkeypatch: pytest.MonkeyPatch) -> None:
    state, url = registry
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(_registry.Refused):
        Client().manifest(_repository.parse_name("big:1b", "http://models.example"))
    assert state.paths == ["http://models.example/v2/library/big/manifests/1b"]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_an_authority_and_a_certificate_of_our_own(tmp_path: Path, stack: ExitStack) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "another")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.ca)
    context.load_cert_chain(*ours.issue("mirror"))
    context.verify_mode = ssl.CERT_REQUIRED
    state, url = stack.enter_context(registry_fake.serve(context))
    state.put("big:1b", DATA)
    certificate, key = ours.issue("node")
    assert read(Client(ca_path=ours.ca, client_cert=certificate, client_key=key), url) == DATA
    for client in (Client(client_cert=certificate, client_key=key), Client(ca_path=theirs.ca)):
        with pytest.raises(_registry.Untrusted, match=r"was not reached: .*certificate verify failed"):
            read(client, url)
    with pytest.raises(_registry.Unreachable, match="was not reached"):
        read(Client(ca_path=ours.ca), url)
    with pytest.raises(_registry.Untrusted, match=r"the certificates in /no/where\.crt cannot be used"):
        read(Client(ca_path="/no/where.crt"), url)


def test_a_certificate_is_not_shown_where_a_redirect_leads(tmp_path: Path, stack: ExitStack) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(*authority.issue("mirror"))
    state, url = stack.enter_context(registry_fake.serve(context))
    strict = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    strict.load_cert_chain(*authority.issue("other"))
    strict.verify_mode = ssl.CERT_REQUIRED
    other, elsewhere = stack.enter_context(registry_fake.serve(strict))
    for one in (state, other):
        one.put("big:1b", DATA)
    certificate, key = authority.issue("node")
    client = Client(ca_path=authority.ca, client_cert=certificate, client_key=key)
    assert read(client, elsewhere) == DATA
    state.fault, state.elsewhere = "redirect", elsewhere
    with pytest.raises(_registry.Unreachable, match=r"leads to 127.0.0.1:[0-9]+, which was not reached"):
        read(client, url)


def test_nothing_leads_away_from_https(tmp_path: Path, stack: ExitStack) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("mirror"))
    state, url = stack.enter_context(registry_fake.serve(context))
    plain, elsewhere = stack.enter_context(registry_fake.serve())
    state.put("big:1b", DATA)
    state.fault, state.elsewhere = "redirect", elsewhere
    with pytest.raises(_repository.RegistryError, match="leads away from https"):
        read(Client(ca_path=authority.ca), url)
    state.fault, state.login, state.challenge, state.realm = "", LOGIN, "bearer", f"{elsewhere}/token"
    for login in (LOGIN, None):
        with pytest.raises(Unauthorized, match="which is not on https"):
            read(Client(ca_path=authority.ca, login=login), url)
    assert plain.requests == []
    state.realm = ""
    assert read(Client(ca_path=authority.ca, login=LOGIN), url) == DATA


# --- names and manifests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("qwen3:8b", "library/qwen3"),
        ("someone/model:q4", "registry.ollama.ai/someone/model"),
        ("hf.co/Org/Model-GGUF:Q4_K_M", "hf.co/org/model-gguf-0819b6e7"),
        ("a.example:81/b/c", "a-example-81/b/c-a1d969e1"),
        ("a.example/b/c__.d", "a.example/b/c-d-cf88b034"),
    ],
)
def test_places_on_a_mirror(name: str, path: str) -> None:
    found = _repository.mirrored(_repository.parse_name(name), "https://mirror.example:8444")
    assert (found.scheme, found.host) == ("https", "mirror.example:8444")
    assert found.path == path


def test_names_that_would_meet_are_kept_apart() -> None:
    places = {
        str(_repository.mirrored(_repository.parse_name(name), "mirror"))
        for name in (
            "hf.co/Org/model",
            "hf.co/org/Model",
            "hf.co/org/model",
            "hf.co/o-rg/model",
            "model",
            f"{'a' * 80}",
        )
    }
    assert len(places) == 6
    long = _repository.mirrored(_repository.parse_name(f"{'h' * 300}.example/b/c"), "mirror")
    assert len(long.path) == 255
    for address in ("ftp://mirror", "https://user@mirror", "https://mirror/path", ""):
        with pytest.raises(_repository.RegistryError, match="is no registry's address"):
            _repository.mirrored(_repository.parse_name("qwen3"), address)


def item(letter: str, size: int = 5, kind: str = "x") -> dict[str, object]:
    return {"digest": "sha256:" + letter * 64, "size": size, "mediaType": kind}


def test_all_that_a_manifest_names() -> None:
    told = json.dumps({"config": item("a", 2, "config"), "layers": [item("b"), item("c", 7)]}).encode()
    found = _registry.layers(told)
    assert found == (Layer("sha256:" + "a" * 64, 2), Layer("sha256:" + "b" * 64, 5), Layer("sha256:" + "c" * 64, 7))
    assert [layer.media_type for layer in found] == ["config", "x", "x"]
    assert _registry.children(told) == ()
    index = json.dumps({"manifests": [item("d")]}).encode()
    assert _registry.children(index) == (Layer("sha256:" + "d" * 64, 5),)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"config": item("a"), "layers": []}, "names no layers"),
        ({"layers": [item("a")]}, "names no configuration"),
        ({"manifests": [item("a")]}, "no list of layers"),
        ({"config": {"digest": "x"}, "layers": [item("a")]}, "no sha256 digest"),
        ([], "no JSON object"),
    ],
)
def test_a_manifest_without_layers_is_refused(told: object, said: str) -> None:
    with pytest.raises(_repository.RegistryError, match=said):
        _registry.layers(json.dumps(told).encode())
    with pytest.raises(_repository.RegistryError):
        _registry.children(json.dumps({"manifests": {}}).encode())
