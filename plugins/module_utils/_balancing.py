# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway's balancer has to know of each model: its nodes, their slots, and how many requests may wait.

A slot is one request that the engine computes at a time (OLLAMA_NUM_PARALLEL); a plan gives each model its own.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._catalog import canonical_name

# What may stand in the name of a model here; registry, namespace, model and tag have nothing else.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}\Z")


class BalancingError(ValueError):
    """A plan or a name that no balancer can be made of."""


def spellings(name: str) -> list[str]:
    """The names that mean one model: with the tag C(latest) and without."""
    whole = canonical_name(name)
    return [whole, whole[: -len(":latest")]] if whole.endswith(":latest") else [whole]


def share(slots: int, gateways: int, place: int) -> int:
    """How many of a node's slots one of several gateways may fill.

    The shares of all add up to the slots, and `place` (the gateway's number and the node's together) says who gets
    what does not divide. Nobody gets none: with more gateways than slots, the engine itself queues what is over.
    """
    return max(1, (slots + gateways - 1 - place % gateways) // gateways)


def backend_name(model: str) -> str:
    """HAProxy's name for a model's backend: one without a slash, as no model's name has two colons in a row."""
    return "model:" + model.replace("/", "::")


def warm_pattern(model: str) -> str:
    """What a node's warm.json says of a model that has answered since it was loaded, quoted for HAProxy.

    The file is written by warm.py, whose document has C(name) and C(state) in this order.
    """
    name = re.sub(r"([^A-Za-z0-9:/_-])", r"\\\1", canonical_name(model))
    return f"""'"name": "{name}",\\s*"state": "answered"'"""


def balanced_models(
    nodes: t.Sequence[t.Mapping[str, t.Any]], gateways: int, rank: int, queue_per_slot: int
) -> list[dict[str, t.Any]]:
    """One entry a model that any node serves, by name. One that is derived is another name of its own model: they are
    loaded as one, and share its slots.

    :param nodes: name, address, port, and models of each, as :func:`_gateway.node_models` gives them.
    :param gateways: how many gateways serve users at a time; `rank` is this one's number among them, from 0.
    :param queue_per_slot: how many requests may wait for each slot.
    Raises BalancingError for a name that no model has.
    """
    models: dict[str, dict[str, t.Any]] = {}
    for number, node in enumerate(nodes):
        for row in sorted(node["models"], key=lambda row: (row["shares"], row["name"])):
            name = row["shares"]
            if not MODEL_NAME.match(row["name"]) or "::" in row["name"]:
                raise BalancingError(f"{node['name']} has the model {row['name']!r}, which no balancer can name")
            model = models.setdefault(name, {"name": name, "others": set(), "servers": []})
            if row["name"] != name:
                model["others"].add(row["name"])
            else:
                server = {key: node[key] for key in ("name", "address", "port")}
                model["servers"].append({**server, "slots": share(int(row["slots"]), gateways, rank + number)})
    for name, model in models.items():
        names = [spelling for one in (name, *sorted(model.pop("others"))) for spelling in spellings(one)]
        slots = sum(server["slots"] for server in model["servers"])
        model.update(
            backend=backend_name(name),
            names=sorted(set(names), key=names.index),
            slots=slots,
            queue=slots * queue_per_slot,
            warm_pattern=warm_pattern(name),
        )
    return [models[name] for name in sorted(models)]
