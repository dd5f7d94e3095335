# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "reached": {"type": "list", "elements": "str", "required": True},
        "registered": {"type": "list", "elements": "str", "required": True},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        groups, hostvars = variables.get("groups") or {}, variables.get("hostvars") or {}
        hosts, lost = arguments["hosts"], [name for name in arguments["hosts"] if name not in arguments["reached"]]
        told: dict[str, list[str]] = {}
        outlooks: dict[str, dict[str, list[str]]] = {}
        for host in hosts:
            for name in arguments["registered"]:
                found = (hostvars.get(host) or {}).get(name) or {}
                told.setdefault(host, []).extend(fault["message"] for fault in found.get("faults") or [])
                if found.get("outlook") and host not in lost:
                    outlooks[host] = found["outlook"]
        faults = _preflight.groups_faults(groups) + _preflight.address_faults(self._addresses(groups, hostvars))
        faults += _preflight.grouped(told, hosts)
        absent = [f"Not reached, and left out: {', '.join(lost)}"] if lost else []
        if faults:
            head = "{} {}; nothing was changed on any host:".format(
                len(faults), "fault in the way" if len(faults) == 1 else "faults in the way"
            )
            return {"failed": True, "msg": "\n".join([head] + ["- " + fault for fault in faults] + absent)}
        lines = _preflight.outlook_lines(outlooks, hosts) + absent
        show((line, None) for line in ["", "What site.yml would do:", *lines])
        return {"lines": lines}

    def _addresses(self, groups: t.Mapping[str, t.Any], hostvars: t.Any) -> dict[str, dict[str, t.Any]]:
        """What the inventory says of the places of its hosts, of all of them: a run may be limited to a few."""
        found: dict[str, dict[str, t.Any]] = {"ansible_host": {}, "endpoint_address": {}}
        nodes = groups.get("llm_nodes") or []
        for host in dict.fromkeys(list(nodes) + list(groups.get("gateways") or [])):
            values = hostvars.get(host) or {}
            try:
                if values.get("ansible_connection", "ssh") not in ("local", "docker", "podman"):
                    place = str(values.get("ansible_host") or host)
                    port = values.get("ansible_port")
                    found["ansible_host"][host] = f"{place} port {port}" if port else place
                if host in nodes and values.get("endpoint_address"):
                    found["endpoint_address"][host] = str(values["endpoint_address"])
            except Exception as error:
                # check_inventory tells of what cannot be evaluated.
                self._display.vv(f"{host}: its address cannot be told: {error}")
        return found
