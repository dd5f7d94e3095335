#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_wants
short_description: Say what hosts want of a bundle, images, models, files and packages
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Evaluates what this collection's roles state of themselves (C(__ROLE_packages), C(__ROLE_outlook), the engine's
    image, the models of plan or workloads) against the variables of each host.
  - With O(releases), hosts need not be reached, and every host is taken for one of each release. M(onprem.llm.bundle)
    fetches what this gives then.
  - Without, the facts and the plans of the hosts count, and M(onprem.llm.bundle_info) holds a bundle against them.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
attributes:
  action:
    description: Has an action plugin; nothing is run on a host.
    support: full
options:
  hosts:
    description:
      - Names of hosts of the inventory.
    type: list
    elements: str
    required: true
  releases:
    description:
      - Codenames of the releases that the hosts have, such as V(trixie).
    type: list
    elements: str
    default: []
  architecture:
    description:
      - Debian's name of the hosts' architecture, used with O(releases).
    type: str
    choices: [amd64, arm64]
    default: amd64
  mirrors:
    description:
      - URL of the package archive for each distribution (V(Debian), V(Ubuntu)), used with O(releases).
    type: dict
    default: {}
  plans:
    description:
      - A file that C(playbooks/plan.yml) wrote with C(plan_json), on the controller. Used with O(releases).
      - Without it, the models are those that the workloads name, and a workload must name some.
    type: path
  more_packages:
    description:
      - Packages beside those of the roles.
    type: list
    elements: str
    default: []
  more_models:
    description:
      - Models beside those of the hosts, each with its C(name) and, if it is pinned, the C(digest) of its weights.
    type: list
    elements: dict
    default: []
  more_images:
    description:
      - Container images beside the engine's, each with its C(reference) and C(digest).
    type: list
    elements: dict
    default: []
seealso:
  - module: onprem.llm.bundle
  - module: onprem.llm.bundle_info
"""

EXAMPLES = r"""
- name: Know what the site's hosts want
  onprem.llm.bundle_wants:
    hosts: "{{ groups['llm_nodes'] + groups['gateways'] }}"
    releases: [trixie]
    mirrors: {Debian: "http://deb.debian.org/debian"}
  register: wanted
"""

RETURN = r"""
wants:
  description: What is wanted, each with the hosts that want it.
  returned: always
  type: dict
  contains:
    models:
      description: Models by full name, with the digest of their weights where it is pinned.
      type: list
      elements: dict
    images:
      description: Images by reference and digest.
      type: list
      elements: dict
    files:
      description:
        - GGUF files by SHA-256, with their URL or path on the controller; with O(releases) the size in bytes, too.
        - One that lies on its host already is not among them.
      type: list
      elements: dict
    packages:
      description:
        - Packages by release, each with the start of its version or nothing.
        - With O(releases) apt's sources, too; of drivers the C(repositories) whose key lies in them and the
          C(preferences) that keep one version together. Those that exclude each other are wanted apart.
      type: list
      elements: dict
  sample:
    models: [{name: "registry.ollama.ai/library/qwen3:8b", digest: "sha256:a3de...", hosts: [gpu01]}]
    images: [{reference: "ollama/ollama:0.32.15", digest: "sha256:8ad0...", hosts: [gpu01]}]
    files: []
    packages: [{release: trixie, architecture: amd64, packages: {nginx: ""}, hosts: [gpu01]}]
"""
