# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _upgrade
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show


def node_of(found: t.Mapping[str, t.Any]) -> _upgrade.Node:
    """A node by what kept_release_info and the preflight said of it, which ``look.yml`` puts together."""
    look = found["look"]
    faults = [text for text in (look["release_fault"], look["journal_fault"]) if text]
    bytes_, need = look["image_bytes"], 0
    if found["archive"]:
        # Docker unpacks its layers beside the copy of the archive, which holds them unpacked.
        bytes_ = os.path.getsize(found["archive"]) if os.path.isfile(found["archive"]) else None
        need = 2 * (bytes_ or 0)
    elif bytes_ is not None:
        need = _upgrade.image_space(bytes_)
    elif not look["image_there"] and found["registry_must"] and look["registry_faults"]:
        faults.append(
            "the image cannot be had: {}. Does the digest exist, and is the mirror up and filled "
            "(site.yml --limit model_mirrors fills it)?".format("; ".join(look["registry_faults"]))
        )
    packages = found.get("packages_look") or {}
    faults += found.get("below_faults") or []
    if packages.get("fault"):
        faults.append(packages_fault(packages))
    measured = [entry["times"] for entry in look["kept"] if entry.get("times")]
    return _upgrade.Node(
        release=look["release"], faults=faults, version=str(found["version"]), image=str(found["image"]),
        image_there=look["image_there"], image_bytes=bytes_, image_need=need, image_free=look["free_bytes"],
        image_place=look["docker_root"], brought=found["brought"], changes=found["changes"], files=found["files"],
        below=found.get("below_outlooks") or {}, moves=packages.get("moves") or [],
        lists_fault=str(packages.get("lists_fault") or ""),
        journal=look["journal"], times=max(measured, key=lambda times: str(times.get("at") or ""), default=None),
        load_seconds=look["load_seconds"], serves=found["serves"],
    )  # fmt: skip


def packages_fault(found: t.Mapping[str, t.Any]) -> str:
    """Why packages cannot move, by what kept_packages_info said."""
    return (
        f"apt cannot do what is wanted of its packages: {found['fault']}. Mend that, or leave a distribution's "
        "packages as they are with -e upgrade_distribution_packages=false."
    )


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "reached": {"type": "list", "elements": "str", "required": True},
        "canary": {"type": "str", "required": True},
        "serial": {"type": "int", "default": 1},
        "allow_older": {"type": "bool", "default": False},
        "accept_gap": {"type": "bool", "default": False},
        "back": {"type": "bool", "default": False},
        "release": {"type": "str", "default": ""},
        "found": {"type": "str", "default": "__upgrade_found"},
        "gateways": {"type": "list", "elements": "str", "default": []},
        "gateway_found": {"type": "str", "default": "__upgrade_gateway_moves"},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        hostvars = variables.get("hostvars") or {}
        reached = [host for host in arguments["hosts"] if host in arguments["reached"]]
        found = {host: (hostvars.get(host) or {}).get(arguments["found"]) or {} for host in reached}
        nodes = {host: node_of(known) for host, known in found.items() if known}
        gateways = {host: (hostvars.get(host) or {}).get(arguments["gateway_found"]) for host in arguments["gateways"]}
        gateways = {host: known for host, known in gateways.items() if known}
        faults = self._order_faults(arguments, nodes)
        faults += [f"{host}: {packages_fault(known)}" for host, known in gateways.items() if known.get("fault")]
        targets: dict[str, t.Any] = {}
        for host, node in nodes.items():
            if not arguments["back"]:
                faults += _upgrade.node_faults(host, node, arguments["allow_older"])
                continue
            look = found[host]["look"]
            left = str((look["journal"] or {}).get("left") or "")
            here = next((entry for entry in look["kept"] if entry["name"] == look["current"]), {})
            if arguments["release"] in (here.get("name"), here.get("version")) and not look["journal"]:
                continue
            try:
                targets[host] = _upgrade.choose(look["kept"], look["current"], arguments["release"], left)
            except _upgrade.UpgradeError as error:
                faults.append(f"{host}: {error}")
        if faults:
            counted = f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}"
            head = f"{counted} in the way; nothing was changed on any node:"
            return {"failed": True, "msg": "\n".join([head] + [f"- {fault}" for fault in faults])}
        due = list(targets) if arguments["back"] else [host for host, node in nodes.items() if node.due]
        due_gateways = [host for host, known in gateways.items() if known["moves"]]
        lines = self._lines(arguments, nodes, targets, due, {host: gateways[host] for host in due_gateways})
        show((line, None) for line in ["", *lines])
        named = {host: target["name"] for host, target in targets.items()}
        return {"lines": lines, "due": due, "due_gateways": due_gateways, "targets": named}

    def _order_faults(self, arguments: t.Mapping[str, t.Any], nodes: t.Mapping[str, _upgrade.Node]) -> list[str]:
        canary, faults = arguments["canary"], []
        if canary not in arguments["hosts"]:
            faults.append(f"upgrade_canary is {canary}; it must be one of {', '.join(arguments['hosts'])}")
        elif canary not in nodes and nodes:
            faults.append(
                f"the canary {canary} is not reached, and no other node goes first unasked; "
                "name one with -e upgrade_canary=NODE"
            )
        if arguments["serial"] < 1:
            faults.append(f"upgrade_serial is {arguments['serial']}; a number of nodes, 1 or more, is needed")
        serves = {host: node.serves for host, node in nodes.items()}
        for batch in [] if arguments["accept_gap"] else _upgrade.batches(list(nodes), canary, arguments["serial"]):
            for model in _upgrade.unserved(batch, serves):
                owners = [host for host in batch if model in serves.get(host, ())]
                if len(owners) > 1:
                    faults.append(
                        f"upgrade_serial is {arguments['serial']}, so that {', '.join(owners)} would be out at once, "
                        f"and nobody else serves {model}. Give a smaller one, or -e upgrade_accept_gap=true"
                    )
        return faults

    def _lines(
        self,
        arguments: t.Mapping[str, t.Any],
        nodes: t.Mapping[str, _upgrade.Node],
        targets: t.Mapping[str, t.Any],
        due: t.Sequence[str],
        gateways: t.Mapping[str, t.Any],
    ) -> list[str]:
        if not due and not gateways:
            return ["Nothing to do: every node runs what is wanted. Nothing was changed."]
        lines = ["What going back does:" if arguments["back"] else "What the upgrade does:"]
        for host, node in nodes.items():
            if not arguments["back"]:
                told = _upgrade.node_lines(node)
            else:
                told = _upgrade.back_lines(node, targets[host]) if host in targets else ["nothing to do"]
            lines += [f"{host}:", *(f"  {line}" for line in told)]
        for host, found in gateways.items():
            lines += [f"{host}, as a gateway:", *(f"  {line}" for line in _upgrade.gateway_lines(found))]
        lost = [host for host in arguments["hosts"] if host not in nodes]
        if lost:
            lines.append(f"not reached, and left as they are: {', '.join(lost)}")
        order = _upgrade.batches(list(nodes), arguments["canary"], arguments["serial"])
        lines.append("In this order, each after the one before it has passed:")
        serves = {host: node.serves for host, node in nodes.items()}
        lines += [f"  {line}" for line in _upgrade.fleet_lines(order, due, serves)]
        return [*lines, *([f"  gateways, one at a time: {', '.join(gateways)}"] if gateways else [])]
