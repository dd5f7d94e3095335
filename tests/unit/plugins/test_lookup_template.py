"""The lookup that renders a template without a copy of all variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase
from ansible.template import Templar
from ansible_collections.onprem.llm.plugins.lookup.template import LookupModule


class Builtin(LookupBase):
    """The builtin one, as the loader gives it."""

    def run(self, *given: Any, **more: Any) -> Any:
        lookup = lookup_loader.get("template", loader=self._loader, templar=self._templar)
        return lookup.run(*given, **more)


class Uncopied(dict):  # type: ignore[type-arg]
    def __deepcopy__(self, _memo: dict[int, Any]) -> dict[str, Any]:
        raise RuntimeError("it was copied")


def rendered(kind: type[LookupBase], directory: Path, terms: list[str], **variables: Any) -> list[Any]:
    loader = DataLoader()
    known = {"ansible_search_path": [str(directory)], **variables}
    lookup = kind(loader=loader, templar=Templar(loader=loader, variables=known))
    found: list[Any] = lookup.run(terms, variables=known, template_vars={"__family": 6})
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "rules.j2").write_text(
        "{% for port in ports %}\n-A INPUT {{ port }} {{ __family }}\n{% endfor %}\n{# gone #}# {{ template_path }}\n",
        encoding="utf-8",
    )
    (tmp_path / "templates" / "whole.j2").write_text("{% include 'rules.j2' %}# end\n", encoding="utf-8")
    return tmp_path


def test_it_gives_what_the_builtin_one_gives(directory: Path) -> None:
    terms = ["rules.j2", "whole.j2"]
    ours = rendered(LookupModule, directory, terms, ports=[22, 443])
    assert ours == rendered(Builtin, directory, terms, ports=[22, 443])
    assert ours[0].startswith("-A INPUT 22 6\n-A INPUT 443 6\n")


def test_variables_are_not_copied(directory: Path) -> None:
    given = {"ports": [22], "of_a_host": Uncopied(cores=2)}
    assert rendered(LookupModule, directory, ["rules.j2"], **given)[0].startswith("-A INPUT 22")
    with pytest.raises(RuntimeError, match="it was copied"):
        rendered(Builtin, directory, ["rules.j2"], **given)


def test_a_template_that_is_not_there_is_named(directory: Path) -> None:
    with pytest.raises(AnsibleError, match=r"none\.j2"):
        rendered(LookupModule, directory, ["none.j2"])
