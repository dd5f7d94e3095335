# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies over a created model's weights: what is wanted of it, and the request that makes it so.

A server of Ollama 0.17 to 0.32 adds to the base's parameters and licences, and replaces its system message, template
and messages only by others: an empty field in the request leaves the base's (server/create.go). What is to be empty is
therefore taken out of the new model's manifest afterwards.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import _modelfile
from ansible_collections.onprem.llm.plugins.module_utils._ollama_api import NO_TEMPLATE, Model, Wanted

_LAYER = "application/vnd.ollama.image."
# The name in the request says that the file is a GGUF; the server keeps the digest alone.
_ADAPTER_FILE = "adapter.gguf"


@dataclass(frozen=True)
class Fields:
    """What is asked for. None is not asked for: the base's own, or what the server makes of a file.

    ``parameters``: None as a value takes one of the base's away. ``license``: texts that come after the base's own.
    ``adapter``: the digest of a GGUF adapter that comes after the base's own.
    """

    parameters: t.Mapping[str, t.Any] = field(default_factory=dict)
    system: str | None = None
    template: str | None = None
    license: tuple[str, ...] = ()
    messages: tuple[_modelfile.Message, ...] | None = None
    adapter: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None

    def wanted(self, weights: str | None, base: Model | None = None, derived: bool = True) -> Wanted:
        """The model that is asked for, with the weights ``sha256:<hex>``.

        :param base: the model that it is derived from, None where that is not there yet.
        :param derived: False for a model that is made of a file and has no base at all.
        """
        inherited = base.parameters if base else {}
        texts = [base.license] if base and base.license else []
        return Wanted(
            weights_digest=weights,
            parameters={name: value for name, value in {**inherited, **self.parameters}.items() if value is not None},
            system=(base.system if base else "") if self.system is None else self.system,
            template=self.template,
            license="\n".join([*texts, *self.license]),
            messages=(base.messages if base else ()) if self.messages is None else self.messages,
            adapters=(*(base.adapters if base else ()), *([self.adapter] if self.adapter else [])),
            renderer=(base.renderer if derived and base else None) if self.renderer is None else self.renderer,
            parser=(base.parser if derived and base else None) if self.parser is None else self.parser,
            requires=(base.requires if derived and base else None) if self.requires is None else self.requires,
        )

    def request(self, base: Model | None = None) -> dict[str, t.Any]:
        """The fields of a body for /api/create, beside its ``from`` or ``files``. The server itself adds what it
        inherits; a parameter that is null there is one that the engine passes over."""
        inherited = base.parameters if base else {}
        body: dict[str, t.Any] = {
            "parameters": {
                name: value for name, value in self.parameters.items() if value is not None or name in inherited
            },
            "system": self.system,
            "template": self.template,
            "license": list(self.license),
            "messages": [message._asdict() for message in self.messages or ()],
            "adapters": {_ADAPTER_FILE: self.adapter} if self.adapter else {},
            "renderer": self.renderer,
            "parser": self.parser,
            "requires": self.requires,
        }
        return {name: value for name, value in body.items() if value}

    def emptied(self, base: Model | None) -> tuple[str, ...]:
        """The media types of the layers that the base has and the model shall not have."""
        found = {
            "system": self.system == "" and bool(base and base.system),
            "messages": self.messages == () and bool(base and base.messages),
            # A base's template may be its file's own, which is no layer and stays.
            "template": self.template == "" and bool(base and not base.has_template(NO_TEMPLATE)),
        }
        return tuple(_LAYER + name for name, taken in found.items() if taken)


def of_modelfile(content: _modelfile.Content, adapter: str | None) -> Fields:
    """The fields that a Modelfile asks for. MESSAGE cannot say that there shall be none."""
    return Fields(
        parameters=content.parameters or {},
        system=content.system,
        template=content.template,
        license=content.license,
        messages=content.messages or None,
        adapter=adapter,
        renderer=content.renderer,
        parser=content.parser,
        requires=content.requires,
    )


def is_path(origin: str) -> bool:
    """Whether FROM names a file, and no model. Ollama's own client looks whether there is one; a path is told here by
    its form, so that the same text means the same on every host."""
    return origin.startswith(("/", "./", "../", "~", "\\")) or origin in (".", "..") or origin.endswith(".gguf")
