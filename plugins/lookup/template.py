# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: template
short_description: Text of a rendered template, without a copy of all variables
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - As P(ansible.builtin.template#lookup), which takes a deep copy of all of a host's variables for each template
    in order to add a few names to them. On a fleet that is most of what a lookup costs. This one adds the names to a
    copy of the top level alone.
  - So a template must not change a list or a dictionary of the variables in place.
options:
  _terms:
    description: Files to render, searched for as the other lookup does.
    type: list
    elements: str
    required: true
  template_vars:
    description: Further variables of the templates.
    type: dict
    default: {}
seealso:
  - plugin: ansible.builtin.template
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Show what the firewall's rules will be
  ansible.builtin.debug:
    msg: "{{ lookup('onprem.llm.template', 'docker-user.j2') }}"
"""

RETURN = r"""
_raw:
  description: The text of each template.
  type: list
  elements: str
"""

import typing as t

from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase


class Shallow(dict):  # type: ignore[type-arg]
    """Variables of which a deep copy is a copy of the top."""

    def __deepcopy__(self, _memo: dict[int, t.Any]) -> dict[str, t.Any]:
        # Templates take a dict itself, no kind of it.
        return dict(self)


class LookupModule(LookupBase):
    def run(
        self,
        terms: list[str],
        variables: t.Mapping[str, t.Any] | None = None,
        *,
        template_vars: t.Mapping[str, t.Any] | None = None,
    ) -> list[t.Any]:
        """:raises AnsibleError: a template is not there, or cannot be rendered."""
        builtin = lookup_loader.get("template", loader=self._loader, templar=self._templar)
        rendered: list[t.Any] = builtin.run(terms, Shallow(variables or {}), template_vars=dict(template_vars or {}))
        return rendered
