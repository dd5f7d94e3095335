# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_statements: a role's variables evaluated once, and to the same values as by Ansible alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible._internal._datatag._tags import TrustedAsTemplate
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from ansible_collections.onprem.llm.plugins.lookup.template import LookupModule
from ansible_collections.onprem.llm.plugins.plugin_utils import _statements

Make = Callable[..., _statements.Statements]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Statements of a role ``disk`` and of one that is not the host's, with what asks for a variable counted."""
    monkeypatch.setattr(_statements, "ROLES", str(tmp_path))

    def statements(own: str, defaults: str = "", text: str = "", **inventory: str) -> _statements.Statements:
        for path, content in {
            "disk/vars/main.yml": own,
            "disk/defaults/main.yml": defaults,
            "disk/templates/disk.conf.j2": text,
            "other/defaults/main.yml": "other_size: 1",
        }.items():
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content or "{}")
        loader = DataLoader()
        given = {name: TrustedAsTemplate().tag(value) for name, value in inventory.items()}
        display = SimpleNamespace(vv=lambda _text: None)
        return _statements.Statements(loader, Templar(loader=loader, variables=given), display, given, ["disk"])

    return statements


@pytest.fixture
def asked(tmp_path: Path) -> SimpleNamespace:
    """A template that notes each of its evaluations."""
    notes = tmp_path / "notes"
    return SimpleNamespace(
        template="{{ lookup('pipe', 'echo x >> " + str(notes) + "; echo 7') | int }}",
        times=lambda: len(notes.read_text().split()) if notes.exists() else 0,
    )


def test_what_is_mentioned_often_is_evaluated_once(make: Make, asked: SimpleNamespace) -> None:
    own = f'__a: "{asked.template}"\n' + '__b: "{{ __a + 1 }}"\n__c: ["{{ __a + __b }}", {d: "{{ __a * __b }}"}]'
    view = make(own, text="{{ __a }} {{ __b }} {{ __c }}").view("disk")
    assert view.value("__c") == [15, {"d": 56}]
    assert view.rendered("disk.conf.j2") == "7 8 [15, {'d': 56}]"
    assert view.value("__b") == 8
    assert asked.times() == 1


def test_an_option_of_the_hosts_roles_is_evaluated_once(make: Make, asked: SimpleNamespace) -> None:
    own = "__a: '{{ disk_size }}'\n__b: '{{ disk_size + __a }}'"
    assert make(own, "disk_size: 1", disk_size=asked.template).view("disk").value("__b") == 14
    assert asked.times() == 1


@pytest.mark.parametrize("name", ["other_size", "site_secret"])
def test_what_no_template_needs_is_not_asked_for(make: Make, asked: SimpleNamespace, name: str) -> None:
    own = "__a: '{% for disk in [] %}{{ " + name + " }}{% endfor %}none'"
    view = make(own, **{name: asked.template}).view("disk")
    assert view.value("__a") == "none"
    assert asked.times() == 0


def test_what_cannot_be_evaluated_is_an_error_only_where_it_is_needed(make: Make) -> None:
    own = "__a: '{{ nowhere }}'\n__b: '{{ __a if disk_size > 1 else 3 }}'\n__c: '{{ __a }}'"
    view = make(own, "disk_size: 1").view("disk")
    assert view.value("__b") == 3
    with pytest.raises(Exception, match="nowhere"):
        view.value("__c")


def test_variables_that_mention_each_other(make: Make) -> None:
    own = "__a: '{{ __b }}'\n__b: '{{ __a }}'\n__c: '{{ __a if disk_size > 1 else 3 }}'"
    view = make(own, "disk_size: 1").view("disk")
    assert view.value("__c") == 3
    with pytest.raises(Exception, match=r"[Rr]ecurs"):
        view.value("__a")


def test_a_view_with_more_does_not_have_what_another_found(make: Make) -> None:
    statements = make("__a: \"{{ __seen | default('nothing') }}\"\n__b: '{{ __a }}'")
    assert statements.view("disk").value("__b") == "nothing"
    assert statements.view("disk", __seen="a disk").value("__b") == "a disk"


def test_what_is_given_more_outweighs_the_roles_variables(make: Make) -> None:
    assert make("__a: 1\n__b: '{{ __a }}'").view("disk", __a=2).value("__b") == 2


def test_a_result_is_no_template(make: Make) -> None:
    view = make("__a: \"{{ '{' ~ '{ 1 + 1 }' ~ '}' }}\"\n__b: '{{ __a }}'").view("disk")
    assert view.value("__b") == "{{ 1 + 1 }}"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """Each template that Ansible is given, with the names of the variables that it is given with it."""
    seen: list[tuple[str, set[str]]] = []
    template = Templar.template

    def noting(self: Templar, raw: object, *arguments: object, **named: object) -> object:
        seen.append((str(raw), set(self.available_variables)))
        return template(self, raw, *arguments, **named)

    monkeypatch.setattr(Templar, "template", noting)
    return seen


def test_what_holds_in_every_view_is_evaluated_once(make: Make, evaluated: list[tuple[str, set[str]]]) -> None:
    own = "__a: '{{ disk_size + 1 }}'\n__b: '{{ __a ~ role_name }}'\n__c: '{{ __a ~ (__seen | default(0)) }}'\n"
    own += "__d: '{{ __b }} {{ __c }}'"
    statements = make(own, "disk_size: 1")
    views = [statements.view("disk"), statements.view("other"), statements.view("disk", __seen=5)]
    assert [view.value("__d") for view in views] == ["2disk 20", "2other 20", "2disk 25"]
    # `role_name` is each role's own; what nobody has given is the same in all of those.
    times = [sum(raw == text for raw, _names in evaluated) for text in ("{{ disk_size + 1 }}", "{{ __a ~ role_name }}")]
    assert times == [1, 2]
    assert sum("default(0)" in raw for raw, _names in evaluated) == 2


def test_what_is_made_of_something_that_a_view_has_alone_stays_there(make: Make) -> None:
    own = "__a: '{{ __seen | default(1) }}'\n__b: '{{ __a }}'\n__c: '{{ __b }}'"
    statements = make(own)
    assert [statements.view("disk").value("__c"), statements.view("disk", __seen=2).value("__c")] == [1, 2]
    assert [statements.view("disk", __seen=3).value("__c"), statements.view("disk").value("__c")] == [3, 1]


def test_a_file_is_looked_for_by_the_role_that_asks(make: Make, tmp_path: Path) -> None:
    for role in ("disk", "other"):
        (tmp_path / role / "files").mkdir(parents=True)
        (tmp_path / role / "files" / "name").write_text(role)
    statements = make("__a: \"{{ lookup('file', 'name') }}\"\n__b: '{{ __a }}'")
    assert [statements.view(role).value("__b") for role in ("disk", "other", "disk")] == ["disk", "other", "disk"]


def test_a_template_is_given_what_it_mentions(make: Make, evaluated: list[tuple[str, set[str]]]) -> None:
    own, site = "__a: '{{ disk_size + site_more }}'\n__b: 1", {"site_more": "{{ site_most }}", "site_most": "{{ 5 }}"}
    view = make(own, "disk_size: 1", **site).view("disk")
    assert view.value("__a") == 6
    assert evaluated[-1] == ("{{ disk_size + site_more }}", {"disk_size", "site_more", "site_most"})


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection's lookup by its name, which a unit test's Ansible does not find."""
    get = lookup_loader.get
    monkeypatch.setattr(
        lookup_loader,
        "get",
        lambda name, *arguments, **named: (
            LookupModule(**named) if name == "onprem.llm.template" else get(name, *arguments, **named)
        ),
    )


@pytest.mark.usefixtures("template")
def test_what_a_roles_template_mentions_is_evaluated_before_it(
    make: Make, evaluated: list[tuple[str, set[str]]]
) -> None:
    """And what it is made of decides who shares it, as if its text stood where it is asked for."""
    own = "__a: '{{ disk_size + 1 }}'\n__b: '{{ __a ~ (__seen | default(0)) }}'\n"
    own += "__c: \"{{ lookup('onprem.llm.template', 'disk.conf.j2') }}\"\n__d: '{{ __c }}'"
    statements = make(
        own, "disk_size: 1", "{{ __a }} {{ __a }} {{ __b }} {{ site_more }}", site_more="{{ site_most }}", site_most="9"
    )
    views = [statements.view("disk"), statements.view("disk"), statements.view("disk", __seen=5)]
    assert [view.value("__d") for view in views] == ["2 2 20 9", "2 2 20 9", "2 2 25 9"]
    asked = [names for raw, names in evaluated if "onprem.llm.template" in raw]
    expected = {"__a", "__b", "site_more", "site_most", "ansible_search_path"}
    assert [names - {"__seen"} for names in asked] == [expected, expected]
    assert sum(raw == "{{ disk_size + 1 }}" for raw, _names in evaluated) == 1


@pytest.mark.usefixtures("template")
def test_another_roles_template_is_not_rendered(make: Make) -> None:
    statements = make("__a: \"{{ lookup('onprem.llm.template', 'disk.conf.j2') }}\"\n__b: '{{ __a }}'", text="here")
    with pytest.raises(Exception, match=r"disk\.conf\.j2"):
        statements.view("other").value("__b")
    assert statements.view("disk").value("__b") == "here"


@pytest.mark.parametrize(
    "asks",
    [
        "{{ lookup('vars', 'disk_' ~ 'size') }}",
        "{{ q('vars', 'disk_' ~ 'size')[0] }}",
        "{{ query('vars', 'disk_' ~ 'size') | first }}",
        "{{ site_asks }}",
        "{{ site_text }}",
    ],
)
def test_a_variable_that_no_template_names(make: Make, asks: str) -> None:
    """By a lookup, by way of the inventory, by one with delimiters of its own."""
    view = make(
        f'__a: "{asks}"',
        "disk_size: 4",
        site_asks="{{ lookup('vars', 'disk_' ~ 'size') }}",
        site_text="#jinja2: variable_start_string: '[[', variable_end_string: ']]'\n[[ disk_size ]]",
    ).view("disk")
    assert str(view.value("__a")) == "4"


@pytest.mark.usefixtures("template")
def test_a_template_is_that_of_the_role_that_asks(make: Make, tmp_path: Path) -> None:
    own = "__a: \"{{ lookup('onprem.llm.template', 'disk.conf.j2') }}\"\n__b: '{{ __a }}'"
    statements = make(own, "disk_size: 4", "{{ disk_size }}")
    (tmp_path / "other/templates").mkdir()
    (tmp_path / "other/templates/disk.conf.j2").write_text("{{ other_size }}")
    # As text: each asks for what the other has no need of.
    raw = TrustedAsTemplate().tag("{{ lookup('onprem.llm.template', 'disk.conf.j2') }}{{ nowhere | default('') }}")
    assert [statements.view(role).evaluated(raw) for role in ("disk", "other", "disk")] == ["4", "1", "4"]
    assert [statements.view(role).value("__b") for role in ("other", "disk")] == [1, 4]


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("name", ["'disk' ~ '.conf.j2'", "'disk.conf.j2' if disk_size else 'none'", "site_file"])
def test_a_template_by_a_name_that_is_put_together(make: Make, name: str) -> None:
    own = f'__a: "{{{{ lookup(\'onprem.llm.template\', {name}) }}}}"\n__b: "{{{{ __a }}}}"'
    view = make(own, "disk_size: 4", "{{ site_more }}", site_more="{{ 7 }}", site_file="disk.conf.j2").view("disk")
    assert view.value("__b") == 7


def test_a_file_is_all_that_some_lookups_ask_for(
    make: Make, tmp_path: Path, evaluated: list[tuple[str, set[str]]]
) -> None:
    (tmp_path / "disk" / "files").mkdir(parents=True)
    (tmp_path / "disk" / "files" / "name").write_text("8")
    view = make("__a: \"{{ lookup('file', 'name') | int + disk_size }}\"", "disk_size: 1").view("disk")
    assert view.value("__a") == 9
    assert evaluated[-1][1] == {"disk_size", "ansible_search_path"}
