# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of a gateway: what is wrong with them, what their keys become over time, and what a fleet serves."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gateway, _gateway_keys

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)
DEFAULTS = {
    "rights": ["system"],
    "requests_per_second": 20,
    "burst": 40,
    "concurrency": 16,
    "body_mib": 32,
    "daily_tokens": 0,
}
DIGEST = "ab" * 32


def faults(*users: dict[str, Any], authority: bool = False) -> list[str]:
    named = [{"name": "app", **user} for user in users]
    return _gateway.faults(named, ["gemma3:270m"], authority, DEFAULTS, NOW)


def key(**more: str) -> dict[str, Any]:
    return {"api_keys": [{"sha256": DIGEST, **more}]}


@pytest.mark.contract(2)
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"name": "a b", **key()}, "the name a b must be 1 to 40 letters"),
        ({}, "app has none of api_keys, password_hash and certificates"),
        ({"api_keys": [{"sha256": "sk-live-this-is-a-key"}]}, "app has an entry of api_keys whose sha256 is not 64"),
        ({"api_keys": [{"sha256": DIGEST.upper()}]}, "app has an entry of api_keys whose sha256 is not 64"),
        ({"api_keys": [{"sha256": DIGEST}, {"sha256": DIGEST}]}, "app has one key in api_keys twice."),
        (key(ends="31.12.2026"), "app has a key that ends at 31.12.2026; give a day such as 2026-12-31"),
        (key(ends="2026-02-30"), "app has a key that ends at 2026-02-30"),
        (key(ends="2026-11-21"), "app has keys that have all ended"),
        ({"password_hash": "$2y$10$abc"}, "app has a password_hash that is no SHA-512-crypt hash"),
        ({"password_hash": "plain"}, "app has a password_hash that is no SHA-512-crypt hash"),
        ({"certificates": [{"subject": "CN=x"}]}, "app has certificates, but gateway_client_ca is empty"),
        ({**key(), "models": []}, "app may use no model"),
        (
            {**key(), "models": ["qwen3:8b"]},
            "app may use the model qwen3:8b, which no node serves; there are gemma3:270m.",
        ),
        ({**key(), "models": ["../x"]}, "app may use a model by a wrong name"),
        ({**key(), "rights": ["root"]}, "app has the right root; there are raw, template, system."),
        ({**key(), "limits": {"concurrency": 0}}, "app has concurrency 0, which lets nothing through"),
        ({**key(), "limits": {"burst": "many"}}, "app has burst many; give a number (requests at once)."),
        ({**key(), "limits": {"speed": 1}}, "app has the limit speed; there are requests_per_second"),
        ({**key(), "limits": {"requests_per_second": 100}}, "app has burst 40 below requests_per_second 100"),
        ({**key(), "limits": {"body_mib": 64}}, "app has body_mib 64, more than gateway_body_max_mib, 32"),
    ],
)
def test_fault(user: dict[str, Any], said: str) -> None:
    [fault] = faults(user)
    assert fault.startswith(said)
    assert "sk-live" not in fault
    assert "$2y$" not in fault
    assert DIGEST not in fault


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ({}, "without, or with both, of sha256 and subject"),
        ({"sha256": DIGEST, "subject": "CN=x"}, "without, or with both, of sha256 and subject"),
        ({"sha256": "AB:CD"}, "whose sha256 is not 64"),
    ],
)
def test_fault_of_a_certificate(certificate: dict[str, str], said: str) -> None:
    [fault] = faults({"certificates": [certificate]}, authority=True)
    assert said in fault


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({**key()}, {"name": "App", "api_keys": [{"sha256": "cd" * 32}]}, "app is there more than once"),
        ({**key()}, {"name": "ops", **key()}, "ops has a key of api_keys that app has, too"),
        (
            {"certificates": [{"subject": "CN=x"}]},
            {"name": "ops", "certificates": [{"subject": "CN=x"}]},
            "ops has a certificate that app has, too",
        ),
    ],
)
def test_fault_of_two(first: dict[str, Any], second: dict[str, Any], said: str) -> None:
    [fault] = faults(first, second, authority=True)
    assert fault.startswith(said)


def test_nothing_wrong() -> None:
    sound = {
        **key(ends="2026-11-22"), "models": ["library/gemma3:270m"], "rights": [],
        "limits": {"requests_per_second": 0.5, "daily_tokens": 0},
    }  # fmt: skip
    assert faults(sound, {"name": "gone", "revocable": True}) == []


def test_stored_users_have_all_fields_and_no_notes() -> None:
    [user] = _gateway.stored(
        [{"name": "app", **key(ends="2026-12-31", note="jobs"), "limits": {"body_mib": 1, "burst": None}}], DEFAULTS
    )
    assert user == {
        "name": "app", "role": "user", "keys": [{"sha256": DIGEST, "ends": "2026-12-31"}], "password_hash": None,
        "certificates": [],
        "models": None, "rights": ["system"],
        "limits": {"requests_per_second": 20.0, "burst": 40, "concurrency": 16, "body_bytes": 2**20,
        "daily_tokens": None},
    }  # fmt: skip


def test_a_fleet_has_the_slots_of_all_its_nodes() -> None:
    def plan(slots: int, context: int) -> dict[str, Any]:
        model = {
            "name": "gemma3:270m",
            "slots": slots,
            "gpus": ["GPU-1"],
            "context_length": context,
            "source": {"type": "registry", "digest": "sha256:ab"},
        }
        return {"instances": [{"models": [model]}, {"models": [model]}]}

    derived = [{"name": "helper:latest", "from": "gemma3:270m"}]
    nodes = {"one": _gateway.node_models(plan(2, 8192), derived), "two": _gateway.node_models(plan(3, 8192))}
    models = {model["name"]: model for model in _gateway.served(nodes)}
    assert (models["gemma3:270m"]["slots"], models["gemma3:270m"]["options"]) == (5, {"num_ctx": 8192})
    assert (models["helper:latest"]["slots"], models["helper:latest"]["queue"]) == (2, "gemma3:270m")
    assert models["gemma3:270m"]["gpus"] == 2
    nodes["two"] = _gateway.node_models(plan(3, 4096))
    assert _gateway.served(nodes)[0]["options"] == {}


def test_a_plan_gives_each_model_its_slots_once_and_by_the_name_that_the_engine_lists() -> None:
    models = [
        {"name": name, "slots": slots, "context_length": 1024}
        for name, slots in (("a:1", 2), ("b", 1), ("a:1", 4), ("http://models.test:5000/x/c:1", 3))
    ]
    derived = [{"name": "clerk", "from": "b:latest"}, {"name": "nobody", "from": "c"}]
    rows = _gateway.node_models({"instances": [{"models": models}]}, derived)
    assert [(row["name"], row["shares"], row["slots"]) for row in rows] == [
        ("a:1", "a:1", 4), ("b:latest", "b:latest", 1), ("models.test:5000/x/c:1", "models.test:5000/x/c:1", 3),
        ("clerk:latest", "b:latest", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("plan", [{}, {"instances": [{}]}, {"instances": [{"models": [{"name": "a"}]}]}, []])
def test_what_is_no_plan_is_refused(plan: Any) -> None:
    with pytest.raises(ValueError, match="it is no plan"):
        _gateway.node_models(plan)


def test_rotation_overlaps_and_is_made_once() -> None:
    numbers = iter("12345")
    keys, made = _gateway_keys.add({}, ["app"], "first", NOW, datetime.timedelta(0), lambda: f"key{next(numbers)}")
    assert made == {"app": "key1"}
    keys, made = _gateway_keys.add(
        keys, ["app"], "second", NOW, datetime.timedelta(hours=24), lambda: f"key{next(numbers)}"
    )
    assert made == {"app": "key2"}
    assert keys["app"] == [
        {"sha256": _gateway_keys.digest("key1"), "note": "first", "ends": "2026-11-23T12:00:00Z"},
        {"sha256": _gateway_keys.digest("key2"), "note": "second"},
    ]
    assert _gateway_keys.add(keys, ["app"], "second", NOW, datetime.timedelta(0)) == (keys, {})
    assert _gateway_keys.drop(keys, ["app"], NOW) == keys
    later = NOW + datetime.timedelta(days=2)
    assert [row["note"] for row in _gateway_keys.drop(keys, ["app"], later)["app"]] == ["second"]
    assert _gateway_keys.revoke(keys, ["app"]) == {"app": []}
    assert [row["note"] for row in _gateway_keys.revoke(keys, ["app"], keys["app"][0]["sha256"][:8])["app"]] == [
        "second"
    ]
    assert _gateway_keys.parse(_gateway_keys.render(keys)) == keys


def test_a_day_ends_no_later_than_the_overlap() -> None:
    keys = {"app": [{"sha256": DIGEST, "ends": "2026-11-22"}, {"sha256": DIGEST, "ends": "2026-11-21"}]}
    found, _made = _gateway_keys.add(keys, ["app"], "now", NOW, datetime.timedelta(0))
    assert [row.get("ends") for row in found["app"]] == ["2026-11-22T12:00:00Z", "2026-11-21", None]


@pytest.mark.contract(2)
def test_a_digest_that_nobody_has_is_not_revoked() -> None:
    with pytest.raises(ValueError, match="cd"):
        _gateway_keys.revoke({"app": [{"sha256": DIGEST}]}, ["app"], "cd")


@pytest.mark.parametrize(
    "text", ["- a", "gateway_user_keys: {}", '{"gateway_user_keys": []}', '{"gateway_user_keys": {"app": ["x"]}}']
)
def test_a_file_of_another_s_is_not_taken(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|mapping"):
        _gateway_keys.parse(text)


def test_keys_are_long_and_differ() -> None:
    keys = {_gateway_keys.new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(one) == len("onprem-llm_") + 43 for one in keys)
