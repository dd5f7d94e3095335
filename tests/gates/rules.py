"""The repository's own rules as functions that return what is wrong, in words; the tests beside them apply them."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())

ROOMS = (
    "defaults/main.yml",
    "meta/main.yml",
    "meta/argument_specs.yml",
    "tasks/main.yml",
    "tasks/preflight.yml",
    "tasks/verify.yml",
    "tasks/remove.yml",
    "README.md",
)

# Variables that Ansible itself sets or reads and that are no facts of a host.
MAGIC = re.compile(
    r"ansible_(facts|host|port|user|password|connection|check_mode|diff_mode|version|verbosity|managed|forks|limit|config_file|"
    r"inventory_sources|playbook_python|python_interpreter|search_path|collection_name|index_var|job_id|"
    r"(become|ssh|docker|loop|play|run|skip|failed|role|parent_role|dependent_role)(_\w+)?)$"
)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tracked_files() -> list[Path]:
    """What git has or would take (untracked files that it does not ignore included), without what is deleted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def tool(name: str) -> ModuleType:
    """A program below tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- roles


def missing_rooms(role: Path) -> list[str]:
    return [f"{role.name}: {room} is missing" for room in ROOMS if not (role / room).is_file()]


def specification_faults(role: Path) -> list[str]:
    """argument_specs and defaults have to agree on names and values, both ways; internal names (``__``) are neither."""
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})
    defaults = {
        name: value for name, value in (load(role / "defaults/main.yml") or {}).items() if not name.startswith("__")
    }
    faults = []
    for name, option in options.items():
        if not name.startswith(f"{role.name}_"):
            faults.append(f"{name}: does not begin with the role's name")
        if not option.get("description"):
            faults.append(f"{name}: has no description")
        if option.get("required") and ("default" in option or name in defaults):
            faults.append(f"{name}: is required and has a default")
        elif "default" in option and name not in defaults:
            faults.append(f"{name}: has a default in argument_specs and none in defaults")
    for name, value in defaults.items():
        if name not in options:
            faults.append(f"{name}: is in defaults and not in argument_specs")
        elif "default" not in options[name]:
            faults.append(f"{name}: has a default in defaults and none in argument_specs")
        elif (type(value), value) != (type(options[name]["default"]), options[name]["default"]):
            faults.append(f"{name}: {value!r} in defaults is {options[name]['default']!r} in argument_specs")
    return [f"{role.name}: {fault}" for fault in faults]


def metadata_faults(role: Path) -> list[str]:
    wanted = {"author": "onprem.llm contributors", "license": "GPL-3.0-or-later", "min_ansible_version": "2.19"}
    info = load(role / "meta/main.yml")["galaxy_info"]
    faults = [f"{key} is {info.get(key)!r}, not {value!r}" for key, value in wanted.items() if info.get(key) != value]
    faults += [f"{key} is missing" for key in ("description", "platforms") if not info.get(key)]
    return [f"{role.name}: meta/main.yml: {fault}" for fault in faults]


def role_defaults(roles: Iterable[Path]) -> dict[str, Any]:
    """All roles' default values by variable name."""
    found: dict[str, Any] = {}
    for role in roles:
        found.update(load(role / "defaults/main.yml") or {})
    return found


def foreign_default_faults(path: Path, defaults: Mapping[str, Any]) -> list[str]:
    """``NAME | default(LITERAL)`` repeats another role's default, which reaches no other role: it has to be equal.

    Defaults that are templates themselves cannot be compared and are left out.
    """
    faults = []
    for name, text in re.findall(r"\b([a-z]\w*)\s*\|\s*default\(([^()]*)\)", path.read_text(encoding="utf-8")):
        value = defaults.get(name)
        if name not in defaults or "{{" in str(value):
            continue
        try:
            repeated = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
        except (ValueError, SyntaxError):
            continue
        if (type(repeated), repeated) != (type(value), value):
            faults.append(f"{path.name}: {name} | default({text}) where the role's default is {value!r}")
    return faults


# --- files of Ansible


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a YAML document with its value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key), value
            yield from _walk(value)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item)


def yaml_faults(path: Path) -> list[str]:
    """No floating version, no ignored error, no condition on secrecy but the role's own switch."""
    faults = []
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_TolerantLoader))
    except yaml.YAMLError as error:
        return [f"{path.name}: {error}"]
    for key, value in _walk(documents):
        if key == "ignore_errors":
            faults.append("ignore_errors")
        names_release = re.search(r"(^|_)(state|version|image|tag|digest)$", key)
        if names_release and isinstance(value, str) and re.search(r"(^|:)latest$", value):
            faults.append(f"{key}: {value}")
        # In an argument specification no_log is part of the role's interface.
        driven = re.match(r"\{\{ \w+_secure_logging\b", str(value)) or path.name == "argument_specs.yml"
        if key == "no_log" and not driven:
            faults.append(f"no_log: {value} (the role's secure_logging has to drive it)")
    return [f"{path.name}: {fault}" for fault in faults]


class _TolerantLoader(yaml.SafeLoader):
    """Takes tags such as !vault or !unsafe for the plain value."""


_TolerantLoader.add_multi_constructor("!", lambda loader, _suffix, node: getattr(node, "value", None))


def bare_fact_faults(path: Path) -> list[str]:
    """Facts are read as ``ansible_facts['…']``; as variables they exist only while injection is on."""
    text = re.sub(r"ansible_facts\[['\"]\w+['\"]\]", "", path.read_text(encoding="utf-8"))
    names = re.findall(r"(?<![\w./-])ansible_\w+\b(?![./]\w+[./])", text)
    return [f"{path.name}: {name}" for name in sorted(set(names)) if not MAGIC.match(name)]


# --- any file


def machine_path_faults(path: Path, machine: Iterable[str]) -> list[str]:
    """A path that exists on one machine only: those given, and anybody's home directory."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    found = [name for name in machine if name in text]
    found += re.findall(r"(?<![\w.}])/(?:home|Users)/(?!runner\b)[a-z][\w.-]*/", text)
    return [f"{path.name}: {name}" for name in found]


# --- requirements


def installed_collections() -> dict[str, str]:
    """Versions of the collections that come with the ``ansible`` package of this Python, by name."""
    spec = importlib.util.find_spec("ansible_collections")
    places = list(spec.submodule_search_locations or []) if spec else []
    return {
        f"{info['namespace']}.{info['name']}": info["version"]
        for place in places
        for manifest in Path(place).glob("*/*/MANIFEST.json")
        for info in [json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]]
    }


def requirement_faults(requirements: Any, dependencies: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """requirements.yml pins what is installed, and galaxy.yml asks for no less and no more."""
    pinned = {entry["name"]: str(entry.get("version")) for entry in requirements["collections"]}
    faults = [
        f"requirements.yml has {name} {version}, installed is {installed.get(name)}"
        for name, version in pinned.items()
        if installed.get(name) != version
    ]
    for name in sorted(pinned.keys() | dependencies.keys()):
        if dependencies.get(name) != f">={pinned.get(name)}":
            faults.append(f"{name}: {pinned.get(name)} in requirements.yml, {dependencies.get(name)} in galaxy.yml")
    return faults


# --- plugins


def _constants(path: Path) -> dict[str, Any]:
    """The string constants of a file, at its top or in a class."""
    return {
        target.id: node.value.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def module_faults(path: Path, fragments: Path = ROOT / "plugins/doc_fragments") -> list[str]:
    """A module's documentation has every part, for every option, attribute and returned value."""
    texts = _constants(path)
    parts = ("DOCUMENTATION", "EXAMPLES", "RETURN")
    faults = [f"{name} is missing" for name in parts if not texts.get(name)]
    if faults:
        return [f"{path.name}: {fault}" for fault in faults]
    documentation, examples, returned = (yaml.safe_load(texts[name]) for name in parts)
    if documentation.get("module") != path.stem:
        faults.append(f"is called {documentation.get('module')}")
    faults += [f"has no {key}" for key in ("short_description", "description", "author") if not documentation.get(key)]
    attributes = dict(documentation.get("attributes") or {})
    for fragment in documentation.get("extends_documentation_fragment") or []:
        if fragment.startswith("onprem.llm."):
            attributes = _merge(_fragment_attributes(fragments, fragment), attributes)
    for attribute in ("check_mode", "diff_mode", "idempotent"):
        if not (attributes.get(attribute) or {}).get("support"):
            faults.append(f"attribute {attribute} has no support")
    faults += [f"option {fault}" for fault in _option_faults(documentation.get("options") or {})]
    for name, value in (returned or {}).items():
        faults += [f"returned {name} has no {key}" for key in ("description", "returned", "type") if not value.get(key)]
    if not isinstance(examples, list) or not any(f"onprem.llm.{path.stem}" in task for task in examples):
        faults.append("has no example with its full name")
    return [f"{path.name}: {fault}" for fault in faults]


def _fragment_attributes(fragments: Path, name: str) -> dict[str, Any]:
    """The attributes of the part of a documentation fragment that a module names."""
    _namespace, _collection, file, *part = name.split(".")
    source = fragments / f"{file}.py"
    text = _constants(source).get(part[0].upper() if part else "DOCUMENTATION") if source.is_file() else None
    return (yaml.safe_load(text) or {}).get("attributes") or {} if text else {}


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {**(first.get(name) or {}), **(second.get(name) or {})} for name in {**first, **second}}


def _option_faults(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        for key in ("description", "type"):
            if not option.get(key):
                yield f"{prefix}{name} has no {key}"
        yield from _option_faults(option.get("suboptions") or {}, f"{prefix}{name}.")
