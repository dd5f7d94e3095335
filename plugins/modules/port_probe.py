#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: port_probe
short_description: Try from this host which TCP ports of another one are open
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Tries all ports of all addresses side by side, and says which accept a connection. Delegate it to a host that looks
    in from outside.
  - An address that is no host's own on this network, such as a container's, can be tried by a route of its own through
    the host that has it. The route is added for the length of the module only, and never in place of one that is there.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
attributes:
  check_mode:
    details:
      - A route that O(routed) needs is added and taken away in check mode, too.
options:
  addresses:
    description:
      - Addresses that are tried as they are.
    type: list
    elements: str
    default: []
  routed:
    description:
      - Addresses that are tried by way of O(via). Needs root and C(ip).
    type: list
    elements: str
    default: []
  via:
    description:
      - The address through which O(routed) are reached.
    type: str
  ports:
    description:
      - TCP ports to try on each address.
    type: list
    elements: int
    required: true
  timeout:
    description:
      - Seconds after which a port that gives no answer is closed.
    type: float
    default: 2
  rules:
    description:
      - What the other host's firewall is to let in. An open port that one of them opens to this host is expected.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description:
          - Number of the port, or a range such as V(8000:8010).
        type: str
        required: true
      from:
        description:
          - An address, a network, or V(any).
        type: str
        required: true
seealso:
  - module: ansible.builtin.wait_for
"""

EXAMPLES = r"""
- name: See which ports a stranger finds open
  onprem.llm.port_probe:
    addresses: [192.0.2.11]
    routed: [172.30.250.2]
    via: 192.0.2.11
    ports: [22, 443, 11434]
    rules:
      - {port: "22", from: any}
  delegate_to: stranger.example.com
  become: true
"""

RETURN = r"""
open:
  description: What accepts a connection, as address and port.
  returned: success
  type: list
  elements: str
  sample: ["192.0.2.11:22"]
unexpected:
  description: Those of RV(open) that no rule explains.
  returned: success
  type: list
  elements: str
  sample: []
promised:
  description: Those of O(ports) that a rule opens to this host. Where there is none, that nothing is open proves
    nothing.
  returned: success
  type: list
  elements: int
  sample: [22]
tried:
  description: Number of connections that were tried.
  returned: success
  type: int
  sample: 3
not_tried:
  description: Those of O(routed) that O(via) cannot be the way to, as this host has the address itself or another
    route to it.
  returned: success
  type: list
  elements: str
  sample: []
source:
  description: The address of this host that the first of O(addresses) sees. Null where there is no way to it.
  returned: success
  type: str
  sample: 192.0.2.100
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _port_probe as probe


def add_route(module: AnsibleModule, address: str, via: str) -> bool:
    """Whether a route to one address was added; it is not where there is one to it already."""
    code, _out, _err = module.run_command(["ip", "route", "add", address, "via", via])
    return code == 0


def goes_through(module: AnsibleModule, address: str, via: str) -> bool:
    """Whether packets to an address go through ``via``. They do not where the address is this host's own, or another
    route to it is there."""
    _rc, way, _err = module.run_command(["ip", "-oneline", "route", "get", address])
    return f" via {via} " in way + " "


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "str", "default": []},
            "routed": {"type": "list", "elements": "str", "default": []},
            "via": {"type": "str"},
            "ports": {"type": "list", "elements": "int", "required": True},
            "timeout": {"type": "float", "default": 2},
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"port": {"type": "str", "required": True}, "from": {"type": "str", "required": True}},
            },
        },
        supports_check_mode=True,
    )
    addresses, routed, via = (module.params[name] for name in ("addresses", "routed", "via"))
    if routed and not via:
        module.fail_json(msg=f"routed is given without via; the address that leads to {routed[0]} is needed")
    added = []
    try:
        added = [address for address in routed if add_route(module, address, via)]
        not_tried = [address for address in routed if not goes_through(module, address, via)]
        reached = [address for address in addresses + routed if address not in not_tried]
        targets = [(address, port) for address in reached for port in module.params["ports"]]
        source = probe.source_address((addresses or [via])[0]) if addresses or via else None
        found = probe.open_ports(targets, module.params["timeout"])
        rules = module.params["rules"]
        promised = [port for port in module.params["ports"] if probe.explained(port, source, rules)]
        unexpected = [target for target in found if target[1] not in promised]
    except ValueError as error:
        module.fail_json(msg=str(error))
    finally:
        for address in added:
            module.run_command(["ip", "route", "del", address, "via", via])

    def names(pairs):
        return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address, port in pairs]

    module.exit_json(
        changed=False,
        open=names(found),
        unexpected=names(unexpected),
        promised=promised,
        tried=len(targets),
        not_tried=not_tried,
        source=source,
    )


if __name__ == "__main__":
    main()
