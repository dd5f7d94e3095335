# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import typing as t

from ansible.errors import AnsibleError
from ansible_collections.onprem.llm.plugins.module_utils import _bundle, _catalog, _nvidia_driver, _repository
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._roles import ROLES
from ansible_collections.onprem.llm.plugins.plugin_utils._statements import Statements, innermost

# Debian's names of architectures, by the kernel's.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The roles that say where a release's packages come from, and the templates that say it to apt.
SYSTEM_SOURCES, DOCKER_SOURCES = ("system", "mirror.sources.j2"), ("docker", "docker.sources.j2")
DRIVER, TOOLKIT = "nvidia_driver", "nvidia_container_toolkit"
TOOLKIT_SOURCES = (TOOLKIT, "toolkit.sources.j2")


class Host:
    """What one host wants, by its roles' own statements."""

    def __init__(self, name: str, variables: dict[str, t.Any], action: ControllerAction) -> None:
        self.name, self.variables, self._action = name, variables, action
        self._statements = Statements(action._loader, action._templar, action._display, variables, ())

    def value(self, role: str, name: str) -> t.Any:
        """A role's variable.

        :raises AnsibleError: it cannot be evaluated.
        """
        try:
            return self._statements.view(role).value(name)
        except Exception as error:
            raise AnsibleError(f"{self.name}: {name} cannot be evaluated: {innermost(error)}") from error

    def packages(self) -> dict[str, str]:
        """The packages of every role, each with the start of its version or nothing.

        :raises AnsibleError: they cannot be evaluated.
        """
        found: dict[str, str] = {}
        for role in sorted(os.listdir(ROLES)):
            view = self._statements.view(role)
            try:
                stated = (view.value(f"__{role}_packages"), view.part("packages"))
            except Exception as error:
                raise AnsibleError(f"{self.name}: the packages of {role} cannot be told: {innermost(error)}") from error
            for names in stated:
                pairs = names.items() if isinstance(names, dict) else [(name, "") for name in names or []]
                found.update({name: version for name, version in pairs if version or name not in found})
        return found

    def source(self, role: str, template: str, **more: t.Any) -> str:
        """What a role's template of package sources says.

        :raises AnsibleError: it cannot be rendered.
        """
        try:
            return self._statements.view(role, **more).rendered(template)
        except Exception as error:
            raise AnsibleError(f"{self.name}: {template} cannot be rendered: {innermost(error)}") from error

    def toolkit(self) -> dict[str, str]:
        """The packages of the container toolkit that are to be installed, each with the start of its version."""
        state = self.value(TOOLKIT, "__nvidia_container_toolkit_state")
        return {name: start for name, start in state["packages"].items() if name in state["outstanding"]}

    def driver(self) -> dict[str, str]:
        """The packages of the driver that are to be installed, by what was seen of the host's GPUs."""
        if "nvidia_driver_gpu_info" not in self.variables:
            return {}
        found = self.value(DRIVER, "__nvidia_driver_decision")
        wish = self.value(DRIVER, "__nvidia_driver_wish")
        if not found["steps"]["packages"]:
            return {}
        nvidia = _nvidia_driver.source_kind(wish["source"]) == _nvidia_driver.NVIDIA
        start = (wish["version"] or wish["branch"] + ".") if nvidia else ""
        # Headers of a kernel that came with the host's image may be there already.
        there = (self.variables["nvidia_driver_gpu_info"].get("installation") or {}).get("packages") or {}
        headers = [name for name in found["packages"]["headers"] if name not in there]
        return dict.fromkeys(headers, "") | dict.fromkeys(found["packages"]["driver"], start)

    def drivers(self) -> list[dict[str, t.Any]]:
        """What a driver may need on a host whose GPUs nobody has seen, beside the release's archive."""
        wish, system = self.value(DRIVER, "__nvidia_driver_wish"), self.value(DRIVER, "__nvidia_driver_system")
        url = _nvidia_driver.repository_url(wish["source"], system, wish["architecture"])
        more: dict[str, t.Any] = {}
        if url:
            key = self.value(DRIVER, "__nvidia_driver_key")
            name, fingerprint = _nvidia_driver.key_of_repository(wish, system, bool(key))
            repository = {"name": "nvidia", "url": url, "key": key, "key_url": url + name, "fingerprint": fingerprint}
            # NVIDIA's packages need each other in exactly one version, and the repository has newer ones beside it. apt
            # takes no version for all packages at once.
            start = wish["version"] or wish["branch"] + "."
            preferences = f"Package: *nvidia* *cuda* libnv* libxnvctrl*\nPin: version {start}*\nPin-Priority: 1001\n"
            more = {"repositories": [repository], "preferences": preferences}
        sets = _nvidia_driver.bundled(wish, system) if system else []
        return [{"packages": packages, **more} for packages in sets]

    def entries(self) -> dict[str, dict[str, t.Any]]:
        """The catalog by canonical name."""
        catalog = self.value("models", "__models_catalog") or []
        return {_catalog.canonical_name(entry["name"]): entry for entry in catalog}

    def planned(self) -> list[dict[str, t.Any]]:
        """The models of the host's plan, where there is one."""
        return models_of(self.variables.get("models_selection") or {})

    def named(self) -> list[dict[str, t.Any]]:
        """The models that its workloads name, each with its source by the catalog.

        :raises AnsibleError: a workload names none, so what it takes is known by a plan alone.
        """
        found = []
        for workload in self.value("models", "models_workloads") or []:
            names = workload.get("models") or []
            if not names:
                raise AnsibleError(
                    f"{self.name}: the workload {workload.get('name')} names no models, so which it takes depends on "
                    "the host: plan at the site (playbooks/plan.yml -e plan_json=plans.json) and "
                    "give bundle_plans: plans.json"
                )
            entries = self.entries()
            for name in names:
                full = _catalog.canonical_name(name)
                entry = entries.get(full) or {}
                found.append({"name": full, "source": entry.get("source") or {"type": "registry"}})
        return found


def models_of(selection: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """The models of a selection's plan."""
    plan = selection.get("plan") or {}
    return [model for instance in plan.get("instances") or [] for model in instance.get("models") or []]


def gather(found: list[dict[str, t.Any]], want: dict[str, t.Any], host: str) -> None:
    """Note that a host wants something, beside the others that want the same."""
    for known in found:
        if {key: value for key, value in known.items() if key != "hosts"} == want:
            if host not in known["hosts"]:
                known["hosts"].append(host)
            return
    found.append({**want, "hosts": [host]})


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "releases": {"type": "list", "elements": "str", "default": []},
        "architecture": {"type": "str", "default": "amd64", "choices": sorted(ARCHITECTURES.values())},
        "mirrors": {"type": "dict", "default": {}},
        "plans": {"type": "path"},
        "more_packages": {"type": "list", "elements": "str", "default": []},
        "more_models": {"type": "list", "elements": "dict", "default": []},
        "more_images": {"type": "list", "elements": "dict", "default": []},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        unknown = [name for name in arguments["releases"] if name not in _bundle.RELEASES]
        if unknown:
            raise AnsibleError(f"releases has {unknown[0]}; known are {', '.join(_bundle.RELEASES)}")
        self._arguments = arguments
        self._plans = self._read_plans(arguments["plans"])
        wants: dict[str, list[dict[str, t.Any]]] = {"models": [], "images": [], "files": [], "packages": []}
        for name in arguments["hosts"]:
            known = self._variables_of(name, variables)
            groups = variables.get("groups") or {}
            nodes, with_gpus = groups.get("llm_nodes") or [], name in (groups.get("gpu_nodes") or [])
            if arguments["releases"]:
                for release in arguments["releases"]:
                    host = Host(name, known | self._facts(release), self)
                    self._packages(host, with_gpus, wants["packages"])
                if name in nodes:
                    self._runs(host, wants)
            else:
                host = Host(name, known, self)
                try:
                    if (known.get("ansible_facts") or {}).get("distribution_release"):
                        self._packages(host, with_gpus, wants["packages"])
                    if name in nodes:
                        self._runs(host, wants)
                except AnsibleError as error:
                    # check_inventory and check_host tell of it, beside the faults of all others.
                    self._display.vv(f"{name}: what it wants cannot be told: {error}")
        for model in arguments["more_models"]:
            full = str(_repository.parse_name(str(model["name"])))
            gather(wants["models"], {"name": full, "digest": model.get("digest") or ""}, "the bundle")
        for image in arguments["more_images"]:
            gather(wants["images"], {"reference": image["reference"], "digest": image["digest"]}, "the bundle")
        return {"wants": wants}

    def _variables_of(self, host: str, variables: dict[str, t.Any]) -> dict[str, t.Any]:
        hostvars = variables.get("hostvars") or {}
        # Templates as they are, for the roles' own defaults to yield to.
        raw = getattr(hostvars, "raw_get", hostvars.get)(host)
        return {**(raw or {}), "hostvars": hostvars, "inventory_hostname": host}

    def _facts(self, release: str) -> dict[str, t.Any]:
        """What a host of a release would say of itself."""
        distribution, version = _bundle.RELEASES[release]
        kernel = {debian: name for name, debian in ARCHITECTURES.items()}[self._arguments["architecture"]]
        facts = {
            "distribution": distribution,
            "distribution_release": release,
            "distribution_version": version,
            "distribution_major_version": version.split(".")[0],
            "os_family": "Debian",
            "architecture": kernel,
            "default_ipv4": {},
            "ansible_local": {},
        }
        return {"ansible_facts": facts}

    def _packages(self, host: Host, with_gpus: bool, found: list[dict[str, t.Any]]) -> None:
        facts = host.variables["ansible_facts"]
        place: dict[str, t.Any] = {
            "release": facts["distribution_release"],
            "architecture": ARCHITECTURES.get(str(facts.get("architecture")), str(facts.get("architecture"))),
        }
        packages = host.packages() | dict.fromkeys(self._arguments["more_packages"], "")
        if not self._arguments["releases"]:
            more = host.driver() | host.toolkit() if with_gpus else {}
            gather(found, {**place, "packages": packages | more}, host.name)
            return
        archive = self._archive(host)
        want: dict[str, t.Any] = {**place, "packages": packages, "sources": {"archive.sources": archive}}
        if host.value("docker", "docker_source") == "upstream":
            role, template = DOCKER_SOURCES
            want["sources"]["docker.sources"] = host.source(role, template)
        gather(found, want, host.name)
        # By themselves, since those for one kind of GPU exclude those for another.
        toolkit = host.toolkit() if with_gpus else {}
        for driver in host.drivers() if with_gpus else []:
            gather(found, {**place, "sources": {"archive.sources": archive}, **driver}, host.name)
        if toolkit:
            role, template = TOOLKIT_SOURCES
            sources = {"archive.sources": archive, "toolkit.sources": host.source(role, template)}
            gather(found, {**place, "packages": toolkit, "sources": sources}, host.name)

    def _archive(self, host: Host) -> str:
        """How apt is told of the archive of a host's release.

        :raises AnsibleError: nobody said where that is.
        """
        facts = host.variables["ansible_facts"]
        mirror = self._arguments["mirrors"].get(facts["distribution"])
        if not mirror:
            raise AnsibleError(
                f"mirrors has no archive of {facts['distribution']}, the distribution of "
                f"{facts['distribution_release']}"
            )
        role, template = SYSTEM_SOURCES
        return host.source(role, template, system_apt_mirror_url=mirror)

    def _runs(self, host: Host, wants: dict[str, list[dict[str, t.Any]]]) -> None:
        """What a node runs."""
        self._image(host, wants["images"])
        self._models(host, wants)

    def _image(self, host: Host, found: list[dict[str, t.Any]]) -> None:
        if host.value("ollama", "ollama_image_archive"):
            return
        image, version = host.value("ollama", "ollama_image"), host.value("ollama", "ollama_version")
        digest = str(host.value("ollama", "__ollama_image_digest") or "").strip()
        if digest:
            gather(found, {"reference": f"{image}:{version}", "digest": digest}, host.name)

    def _models(self, host: Host, wants: dict[str, list[dict[str, t.Any]]]) -> None:
        if not self._arguments["releases"]:
            models = host.planned()
        elif self._plans:
            models = models_of(self._plans.get(host.name) or {})
        else:
            models = host.named()
        registry = str(host.value("models", "models_registry") or "")
        for model in models:
            source = model.get("source") or {}
            if source.get("type") == "registry":
                full = str(_repository.parse_name(model["name"], registry))
                gather(wants["models"], {"name": full, "digest": source.get("digest") or ""}, host.name)
            elif source.get("type") == "gguf" and not source.get("node_path"):
                # A mirror that is filled by a bundle has the files that lie on the controller from there, too.
                want = {"name": model["name"], "sha256": str(source["sha256"]).replace("sha256:", "")}
                place = {key: source[key] for key in ("url", "path") if source.get(key)}
                if "path" in place and self._arguments["releases"]:
                    place.update(self._on_controller(host, model["name"], place["path"]))
                gather(wants["files"], {**want, **place}, host.name)

    def _on_controller(self, host: Host, model: str, path: str) -> dict[str, t.Any]:
        """Path and size in bytes of a file of the controller.

        :raises AnsibleError: it cannot be read.
        """
        whole = self._loader.path_dwim(path)
        try:
            with open(whole, "rb") as stream:
                return {"path": whole, "size": os.fstat(stream.fileno()).st_size}
        except OSError as error:
            raise AnsibleError(
                f"{host.name}: source.path of the model {model} is {path}, a path on the controller: {error.strerror}"
            ) from error

    def _read_plans(self, path: str | None) -> dict[str, t.Any]:
        if not path:
            return {}
        try:
            with open(path, encoding="utf-8") as stream:
                found = json.load(stream)
        except (OSError, ValueError) as error:
            raise AnsibleError(f"plans is {path}, which cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise AnsibleError(f"plans is {path}; it must be what playbooks/plan.yml writes with plan_json")
        return found
