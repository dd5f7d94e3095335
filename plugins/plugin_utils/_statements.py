# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles state of themselves in their variables, evaluated for one host as their own tasks would see it."""

from __future__ import annotations

import hashlib
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.lookup import template
from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from ansible_collections.onprem.llm.plugins.plugin_utils._roles import ROLES

_WORD = re.compile(r"\w+")
# What Ansible takes for a template, the header that changes its delimiters included.
_TEMPLATE = re.compile(r"\{[{%]|#jinja2:")
# What may ask for variables that a template's own text does not name, or for files by the role that asks.
_ANY = frozenset({"lookup", "query", "q", "vars", "include", "import", "extends"})


def innermost(error: BaseException) -> str:
    """What an error says at its root, without the chain of templates that led there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__


def _words(value: t.Any) -> t.Iterator[str]:
    """Each name that a value's templates may have, and many that are none."""
    if isinstance(value, str):
        if _TEMPLATE.search(value):
            yield from _WORD.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)


class Known(t.NamedTuple):
    """What became of a variable, and all names that it may have been made of."""

    value: t.Any
    words: frozenset[str]


class View:
    """The variables as one role's tasks see them.

    Ansible evaluates a variable anew wherever another one mentions it, and roles' variables are built of each other: a
    host's outlook took some 1,700 evaluations of 430 variables. So each variable of the roles themselves is evaluated
    once, before the first template that mentions it, and its value stands in its place. One that cannot be evaluated
    stays as it is, and is an error only where it is needed. And a template is given the variables that it mentions:
    Ansible copies all that it is given, a thousand, for each.

    :arg host: what is known of the host, which grows by what holds in any view.
    :arg more: variables of this view alone.
    """

    def __init__(self, role: str, host: Statements, more: dict[str, t.Any]) -> None:
        self.role, self._host = role, host
        place = os.path.join(ROLES, role)
        alone = {**more, "role_path": place, "role_name": role, "ansible_search_path": [place]}
        self._variables = host.variables | alone
        self._alone = _ANY | alone.keys()
        self._templar = host.templar.copy_with_new_env(available_variables=self._variables)
        self._open = host.own - alone.keys()
        # The words of what is no template any more.
        self._known = dict.fromkeys(alone, frozenset[str]())

    def evaluated(self, raw: t.Any) -> t.Any:
        """:raises Exception: of any kind, where a template cannot be evaluated."""
        self._settle(raw)
        return self._templated(raw, self._reached(raw))

    def value(self, name: str) -> t.Any:
        """A variable, None where there is none.

        :raises Exception: of any kind, where it cannot be evaluated.
        """
        return self.evaluated(self._variables.get(name))

    def rendered(self, name: str) -> str:
        """The text of one of the role's templates.

        :raises Exception: of any kind, where it is not there or cannot be rendered.
        """
        path = os.path.join(ROLES, self.role, "templates", name)
        with open(path, encoding="utf-8") as stream:
            self._settle(stream.read())
        self._templar.available_variables = self._variables
        lookup = template.LookupModule(loader=self._host.loader, templar=self._templar)
        return str(lookup.run([path], self._variables)[0])

    def faults(self) -> list[str]:
        """What the role cannot work with.

        :raises Exception: of any kind, where a template cannot be evaluated.
        """
        return _preflight.sentences(self.value(f"__{self.role}_faults"))

    def undecidable(self) -> str:
        """What it means that the role's faults cannot be evaluated."""
        return str(self.value(f"__{self.role}_undecidable") or f"the role {self.role} cannot be checked").strip()

    def part(self, part: str) -> t.Any:
        """One part of the role's outlook.

        :raises Exception: of any kind, where it cannot be evaluated.
        """
        return self.evaluated(self._raw(part))

    def stated(self, part: str) -> t.Any:
        """As :meth:`part`.

        Empty where it cannot be known before a fault is mended, or before the run itself has made something.
        """
        raw = self._raw(part)
        if part == "files" and isinstance(raw, list):
            # One by one: a content that is not known yet takes nothing away from the other files.
            return [{key: self._foretold(key, item) for key, item in entry.items()} for entry in raw]
        return self._foretold(part, raw) or []

    def file(self, entry: dict[str, t.Any]) -> dict[str, t.Any]:
        """A file of the role's outlook, with the SHA-256 of its content, or None where that cannot be told yet."""
        content: bytes | None = None
        try:
            if "template" in entry:
                content = self.rendered(entry["template"]).encode()
            elif "source" in entry:
                with open(os.path.join(ROLES, self.role, "files", entry["source"]), "rb") as stream:
                    content = stream.read()
            elif entry.get("content") is not None:
                content = str(entry["content"]).encode()
        except Exception as error:
            self._host.display.vv(f"{self.role}: what {entry['path']} will hold cannot be told yet: {innermost(error)}")
        digest = hashlib.sha256(content).hexdigest() if content is not None else None
        return {"path": entry["path"], "mode": entry.get("mode"), "sha256": digest}

    def _raw(self, part: str) -> t.Any:
        return (self._variables.get(f"__{self.role}_outlook") or {}).get(part)

    def _foretold(self, part: str, raw: t.Any) -> t.Any:
        try:
            return self.evaluated(raw)
        except Exception as error:
            self._host.display.vv(f"{self.role}: {part} cannot be foretold: {innermost(error)}")
            return None

    def _settle(self, value: t.Any) -> None:
        """Evaluate the roles' variables that a value may mention, those that they mention first."""
        for name in _words(value):
            if name not in self._open:
                continue
            # Two that mention each other are left to Ansible's own error.
            self._open.discard(name)
            found = self._host.shared.get(name)
            if found is None or not found.words.isdisjoint(self._alone):
                raw = self._variables[name]
                self._settle(raw)
                reached = self._reached(raw)
                try:
                    found = Known(self._templated(raw, reached), self._made_of(reached))
                except Exception:
                    continue
                if found.words.isdisjoint(self._alone):
                    self._host.shared[name] = found
            self._variables[name], self._known[name] = found.value, found.words

    def _templated(self, raw: t.Any, words: t.Collection[str]) -> t.Any:
        variables = self._variables
        if _ANY.isdisjoint(words):
            variables = {name: variables[name] for name in words if name in variables}
        self._templar.available_variables = variables
        return self._templar.template(raw)

    def _reached(self, value: t.Any) -> set[str]:
        """The words of a value's templates, and of the variables that these mention and that are templates still."""
        reached: set[str] = set()
        new = set(_words(value))
        while new:
            reached |= new
            templates = [name for name in new if name in self._variables and name not in self._known]
            new = {word for name in templates for word in self._words(name)} - reached
        return reached

    def _words(self, name: str) -> frozenset[str]:
        if name not in self._host.mentions:
            self._host.mentions[name] = frozenset(_words(self._variables[name]))
        return self._host.mentions[name]

    def _made_of(self, words: set[str]) -> frozenset[str]:
        return frozenset(words).union(*(self._known[word] for word in words if word in self._known))


class Statements:
    """What the roles state on one host.

    :arg variables: the host's own.
    :arg roles: those whose options may be evaluated, since the host has them.
    :ivar variables: the roles' with them.
    :ivar own: the names of those that belong to roles. Others may ask a vault: they are evaluated where used.
    :ivar shared: what became of variables in one view, for others.
    :ivar mentions: the words of variables that stay templates.
    """

    def __init__(
        self, loader: t.Any, templar: t.Any, display: t.Any, variables: dict[str, t.Any], roles: t.Iterable[str]
    ) -> None:
        self.loader, self.templar, self.display = loader, templar, display
        # Some roles refer to the variables of others. Defaults yield to the inventory, a role's own variables do not.
        names = sorted(os.listdir(ROLES))
        defaults = {role: self._load(role, "defaults") for role in names}
        own = {role: self._load(role, "vars") for role in names}
        self.variables: dict[str, t.Any] = {}
        for role in names:
            self.variables |= defaults[role]
        self.variables |= variables
        for role in names:
            self.variables |= own[role]
        self.own = {name for found in own.values() for name in found} | {
            name for role in roles for name in defaults[role]
        }
        self.shared: dict[str, Known] = {}
        self.mentions: dict[str, frozenset[str]] = {}

    def view(self, role: str, **more: t.Any) -> View:
        """The variables as a role sees them, with more at hand."""
        return View(role, self, more)

    def _load(self, role: str, kind: str) -> dict[str, t.Any]:
        path = os.path.join(ROLES, role, kind, "main.yml")
        if not os.path.isfile(path):
            return {}
        return dict(self.loader.load_from_file(path, unsafe=True, trusted_as_template=True) or {})
