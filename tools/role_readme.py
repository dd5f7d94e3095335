#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write each role's README.md from its meta/argument_specs.yml, meta/main.yml and tasks, so that each fact stands once.

    tools/role_readme.py [--check] [ROLE…]

Without a name it takes every role. --check writes nothing, names the roles whose README.md is out of date, and then
exits with 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"
COLLECTION = "onprem.llm"

# What each room of a role is for; docs/architecture.md has the rule.
ENTRY_POINTS = {
    "main": "brings the host to what the variables say",
    "preflight": "checks variables and host before the first change, and changes nothing",
    "verify": "proves the running system",
    "remove": "takes away what the role put there, and nothing else",
}


def markdown(text: str) -> str:
    """Ansible's semantic markup as Markdown: O(name), V(value), C(code) and their like become code."""
    text = re.sub(r"\b(?:O|V|C|E|P|RV)\(((?:\\.|[^\\)])*)\)", lambda m: f"`{m[1].replace(chr(92), '')}`", text)
    text = re.sub(r"\bM\(([^)]*)\)", r"`\1`", text)
    text = re.sub(r"\bL\(([^,)]*),\s*([^)]*)\)", r"[\1](\2)", text)
    text = re.sub(r"\bU\(([^)]*)\)", r"<\1>", text)
    text = re.sub(r"\bI\(([^)]*)\)", r"*\1*", text)
    return re.sub(r"\bB\(([^)]*)\)", r"**\1**", text)


def paragraphs(description: str | list[str]) -> list[str]:
    return [markdown(part.strip()) for part in ([description] if isinstance(description, str) else description)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(option: dict[str, Any]) -> str:
    kind = option.get("type", "str")
    return f"{kind} of {option['elements']}" if "elements" in option else str(kind)


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    value = option["default"]
    shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{shown}`"


def _rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        described = " ".join(paragraphs(option.get("description", "")))
        if "choices" in option:
            described += (
                " One of " + ", ".join(f"`{json.dumps(choice).strip(chr(34))}`" for choice in option["choices"]) + "."
            )
        cells = (f"`{prefix}{name}`", _type(option), _default(option), described)
        yield "| " + " | ".join(map(_cell, cells)) + " |"
        inner = f"{prefix}{name}[]." if option.get("type") == "list" else f"{prefix}{name}."
        yield from _rows(option.get("options", {}), inner)


def _tags(role: Path) -> list[str]:
    tasks = yaml.safe_load((role / "tasks/main.yml").read_text(encoding="utf-8")) or []
    found: dict[str, None] = {}
    for task in tasks:
        tags = task.get("tags", [])
        found.update(dict.fromkeys(tags.split(",") if isinstance(tags, str) else tags))
    return list(found)


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as the repository's YAML does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _example(name: str, spec: dict[str, Any]) -> str:
    if "examples" in spec:
        return str(spec["examples"]).strip()
    given = {
        variable: option.get("example", f"<{_type(option)}>")
        for variable, option in spec.get("options", {}).items()
        if option.get("required") or "example" in option
    }
    role = {"role": f"{COLLECTION}.{name}", **({"vars": given} if given else {})}
    play = [{"name": spec["short_description"], "hosts": "all", "become": True, "roles": [role]}]
    return str(yaml.dump(play, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)).strip()


def readme(role: Path) -> str:
    """The text of README.md; raises KeyError or OSError for a role that lacks what it is made from."""
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    meta = yaml.safe_load((role / "meta/main.yml").read_text(encoding="utf-8"))["galaxy_info"]
    options = spec.get("options", {})
    parts = [
        f"<!-- Made by tools/role_readme.py from meta/argument_specs.yml. -->\n# {COLLECTION}.{role.name}",
        markdown(spec["short_description"].rstrip(".")) + ".",
        *paragraphs(spec.get("description", [])),
        "## Variables",
    ]
    if options:
        parts.append("\n".join(["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *_rows(options)]))
    else:
        parts.append("None.")
    parts += ["## Example", f"```yaml\n{_example(role.name, spec)}\n```", "## Entry points"]
    names = [name for name in ENTRY_POINTS if (role / f"tasks/{name}.yml").is_file()]
    parts.append("\n".join(f"- `{name}`: {ENTRY_POINTS[name]}." for name in names))
    tags = _tags(role)
    if tags:
        parts.append("Tags: " + ", ".join(f"`{tag}`" for tag in tags) + ".")
    platforms = "; ".join(f"{entry['name']} {', '.join(map(str, entry['versions']))}" for entry in meta["platforms"])
    parts += [
        "## Runs on",
        f"{platforms}; ansible-core {meta['min_ansible_version']} or newer on the controller.",
        "## License",
        str(meta["license"]),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write each role's README.md from its argument specification.")
    parser.add_argument("--check", action="store_true", help="only say which are out of date")
    parser.add_argument("roles", nargs="*", metavar="ROLE", help="names of roles; all of them without one")
    options = parser.parse_args(arguments)
    stale = []
    for role in [ROLES / name for name in options.roles] or sorted(
        path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml")
    ):
        target, text = role / "README.md", readme(role)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            stale.append(role.name)
            if not options.check:
                target.write_text(text, encoding="utf-8")
    if stale:
        print(("Out of date: " if options.check else "Written: ") + ", ".join(stale))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
