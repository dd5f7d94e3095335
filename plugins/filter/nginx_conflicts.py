# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: nginx_conflicts
short_description: Say what a new nginx server would break on a host
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Compares the sites that a host's nginx has, and the sockets that listen there, with a server to be added. Sites can
    share an address and a port by name; what cannot be shared is said.
positional: address, port, names
options:
  _input:
    description:
      - Directives of the configuration in order, one a line, V(FILE <path>), V(server {), V(listen …;) and
        V(server_name …;), and a line V(LISTENS <address>:<port> <program>) for each socket. Files of this collection
        are left out.
    type: list
    elements: str
    required: true
  address:
    description: Address on which the new server is to listen; V(0.0.0.0) and V([::]) are every one.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    required: true
  names:
    description: Names that it answers for.
    type: list
    elements: str
    required: true
  tls:
    description: Whether it speaks TLS.
    type: bool
    default: true
  file:
    description: The file that it comes in.
    type: str
    default: /etc/nginx/conf.d/onprem-llm-gateway.conf
  leaving:
    description: A file that will be gone by then.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Say what is in the way
  ansible.builtin.debug:
    msg: "{{ directives.stdout_lines | onprem.llm.nginx_conflicts('0.0.0.0', 443, ['llm.example.com']) }}"
"""

RETURN = r"""
_value:
  description: One clause for each conflict, with the way out. Empty where there is none.
  type: list
  elements: str
  sample: [apache2 listens on port 443; choose another port, or have it leave this one]
"""

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _nginx

OWN = "onprem-llm-"


def nginx_conflicts(
    lines: list[str],
    address: str,
    port: int | str,
    names: list[str],
    tls: bool = True,
    file: str = "/etc/nginx/conf.d/onprem-llm-gateway.conf",
    leaving: str = "",
) -> list[str]:
    sockets = [_nginx.parse_socket(line[8:]) for line in lines if line.startswith("LISTENS ")]
    theirs = [
        server
        for server in _nginx.servers(line for line in lines if not line.startswith("LISTENS "))
        if OWN not in server.file and server.file != leaving
    ]
    wanted = _nginx.Listener(f"[{address}]" if ":" in address and "[" not in address else address, int(port), tls)
    return _nginx.conflicts(theirs, [socket for socket in sockets if socket], wanted, names, file)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nginx_conflicts": nginx_conflicts}
