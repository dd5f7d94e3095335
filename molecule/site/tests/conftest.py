"""What the tests of this scenario stand on: the box, its neighbour, and what the fleet was given."""

from __future__ import annotations

import json

import pytest
import testinfra

from tests.fleet.hosts import Fleet

FLEET = Fleet.load("molecule-site")
BOX, CLIENT = FLEET.hosts


@pytest.fixture(scope="session")
def box() -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{BOX.name}")


@pytest.fixture(scope="session")
def client() -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{CLIENT.name}")


@pytest.fixture(scope="session")
def proxy() -> dict[str, str]:
    """The site's proxy: its URL, and the password in it."""
    url = (FLEET.state / "proxy_url").read_text(encoding="utf-8")
    return {"url": url, "password": url.split(":")[2].partition("@")[0]}


@pytest.fixture(scope="session")
def secrets() -> dict:
    return json.loads((FLEET.state / "secrets.json").read_text(encoding="utf-8"))
