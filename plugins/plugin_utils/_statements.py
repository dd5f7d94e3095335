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
# What may ask for variables that a template's own text does not name.
_ANY = frozenset({"lookup", "query", "q", "vars", "include", "import", "extends"})
# What a role alone knows, and looks for its files by.
_OF_ROLE = frozenset({"role_path", "role_name", "ansible_search_path"})
# Lookups that ask for no more than a file's place, and the role's templates, whose text tells what they ask for.
_FILE_LOOKUP = re.compile(r"\b(?:lookup|query|q)\('(?:ansible\.builtin\.)?(?:file|fileglob)'")
_TEMPLATE_LOOKUP = re.compile(r"\blookup\('onprem\.llm\.template', '([\w.-]+)'(?=[,)])")
_TEXT_OF = "the text of "


def innermost(error: BaseException) -> str:
    """What an error says at its root, without the chain of templates that led there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__


def _words(value: t.Any) -> t.Iterator[str]:
    """Each name that a value's templates may have, and many that are none; a role's templates after ``_TEXT_OF``."""
    if isinstance(value, str):
        if _TEMPLATE.search(value):
            text = _FILE_LOOKUP.sub("(ansible_search_path", value)
            for name in _TEMPLATE_LOOKUP.findall(text):
                yield _TEXT_OF + name
            yield from _WORD.findall(_TEMPLATE_LOOKUP.sub("(ansible_search_path", text))
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
        # What is made of these is no other view's.
        self._alone = _ANY | more.keys()
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
        self._settle(self._text(name))
        self._templar.available_variables = self._variables
        lookup = template.LookupModule(loader=self._host.loader, templar=self._templar)
        return str(lookup.run([self._place(name)], self._variables)[0])

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
            if name.startswith(_TEXT_OF):
                self._settle(self._text(name.removeprefix(_TEXT_OF)))
            elif name in self._open:
                # Two that mention each other are left to Ansible's own error.
                self._open.discard(name)
                found = self._shared(name) or self._found(name)
                if found:
                    self._variables[name], self._known[name] = found.value, found.words

    def _found(self, name: str) -> Known | None:
        raw = self._variables[name]
        self._settle(raw)
        reached = self._reached(raw)
        try:
            found = Known(self._templated(raw, reached), self._made_of(reached))
        except Exception:
            return None
        if found.words.isdisjoint(self._alone):
            self._host.shared[name if found.words.isdisjoint(_OF_ROLE) else (self.role, name)] = found
        return found

    def _shared(self, name: str) -> Known | None:
        """What another view found, unless it is made of what this one alone has."""
        found = self._host.shared.get(name) or self._host.shared.get((self.role, name))
        return found if found and found.words.isdisjoint(self._alone) else None

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
            new = {word for name in new for word in self._words(name)} - reached
        return reached

    def _words(self, name: str) -> frozenset[str]:
        if name.startswith(_TEXT_OF):
            return self._host.words((self.role, name), self._text(name.removeprefix(_TEXT_OF)))
        if name in self._variables and name not in self._known:
            return self._host.words(name, self._variables[name])
        return frozenset()

    def _made_of(self, words: set[str]) -> frozenset[str]:
        return frozenset(words).union(*(self._known[word] for word in words if word in self._known))

    def _place(self, name: str) -> str:
        return os.path.join(ROLES, self.role, "templates", name)

    def _text(self, name: str) -> str:
        """One of the role's templates; nothing where it has none of that name, which is the lookup's error to tell."""
        try:
            with open(self._place(name), encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""


class Statements:
    """What the roles state on one host.

    :arg variables: the host's own.
    :arg roles: those whose options may be evaluated, since the host has them.
    :ivar variables: the roles' with them.
    :ivar own: the names of those that belong to roles. Others may ask a vault: they are evaluated where used.
    :ivar shared: what became of variables in one view, for others: by name, or role and name.
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
        self.shared: dict[str | tuple[str, str], Known] = {}
        self._words: dict[str | tuple[str, str], frozenset[str]] = {}

    def view(self, role: str, **more: t.Any) -> View:
        """The variables as a role sees them, with more at hand."""
        return View(role, self, more)

    def words(self, key: str | tuple[str, str], value: t.Any) -> frozenset[str]:
        """Those of a value that stays a template, read once."""
        if key not in self._words:
            self._words[key] = frozenset(_words(value))
        return self._words[key]

    def _load(self, role: str, kind: str) -> dict[str, t.Any]:
        path = os.path.join(ROLES, role, kind, "main.yml")
        if not os.path.isfile(path):
            return {}
        return dict(self.loader.load_from_file(path, unsafe=True, trusted_as_template=True) or {})
