# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that a fleet derives from planned ones: the same weights under another name, with texts and settings of their
own. They share the runner of the model that they come from, so that they need no memory and no plan.

The engine has one runner for all models of the same file as long as adapters and options of loading are the same
(needsReload in server/sched.go of 0.32.15). What would make them differ is refused here.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _model_name, _modelfile
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name
from ansible_collections.onprem.llm.plugins.module_utils._text import nearest

_TEXTS = ("system", "template", "renderer", "parser", "requires")
_SINGLE = (*_TEXTS, "parameters", "license", "messages")
_KNOWN = ("name", "from", "modelfile", "modelfile_path", *_SINGLE)
_MANY = "{}: a list of {} is needed"


@dataclass
class Derived:
    """``models``: the entries that are right, each with its ``name``, its ``from`` as the workloads write it, and the
    fields that ollama_model takes. ``faults``: sentences about the others. ``notes``: what Ollama leaves out."""

    models: list[dict[str, t.Any]]
    faults: list[str]
    notes: list[str]


def derive(
    entries: t.Any, served: t.Iterable[str], catalog: t.Iterable[str], read: t.Callable[[str], bytes]
) -> Derived:
    """Check the entries of ``models_derived``.

    :param served: names of the models that workloads of the fleet have.
    :param catalog: names that a derived model may not have.
    :param read: the content of a file of the controller; OSError where it cannot be read.
    """
    result = Derived([], [], [])
    if not isinstance(entries, list):
        return Derived([], [f"models_derived is {entries!r}; a list of mappings with name and from is needed."], [])
    bases = {local_name(name): name for name in served}
    taken = {local_name(name): f"is the name of a catalog model, {name}" for name in catalog}
    taken.update((name, f"is the name of the workloads' model {shown}") for name, shown in bases.items())
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            result.faults.append(f"models_derived has {entry!r}; a mapping with a name and from is needed.")
            continue
        try:
            model = _model(entry, bases, read, result.notes)
            canonical = local_name(name)
            if canonical in taken:
                raise ValueError(f"its name {taken[canonical]}; a name of its own is needed")
        except ValueError as error:
            result.faults.append(f"models_derived: {name[:100]}: {error}.")
        else:
            taken[canonical] = "is there twice"
            result.models.append(model)
    return result


def _model(
    entry: dict[str, t.Any], bases: t.Mapping[str, str], read: t.Callable[[str], bytes], notes: list[str]
) -> dict[str, t.Any]:
    """One entry as ollama_model takes it.

    :raises ValueError: what is wrong with it.
    """
    name = entry["name"]
    for word in entry:
        if word not in _KNOWN:
            likely = nearest(str(word), _KNOWN)
            raise ValueError(f"there is no field {word}" + (f", did you mean {likely}?" if likely else ""))
    _model_name.parts(name)
    forms = [word for word in ("modelfile", "modelfile_path") if entry.get(word) is not None]
    if len(forms) == 2 or (forms and any(entry.get(word) is not None for word in _SINGLE)):
        raise ValueError("modelfile, modelfile_path and the single fields exclude one another")
    origin = entry.get("from")
    fields = _of_modelfile(entry, forms[0], read, notes) if forms else _of_fields(entry)
    written = fields.pop("from", None)
    if origin is None:
        origin = written
    if not isinstance(origin, str) or not origin:
        raise ValueError("from is needed, the name of a model that a workload has")
    if written is not None and local_name(written) != local_name(origin):
        raise ValueError(f"from is {origin}, and its Modelfile has FROM {written}")
    if local_name(origin) not in bases:
        likely = nearest(origin, bases.values())
        meant = f"did you mean {likely}?" if likely else f"these are served: {', '.join(sorted(bases.values()))}"
        raise ValueError(f"from is {origin}, which is no model of any workload; {meant}")
    loading = [word for word in fields.get("parameters") or {} if word in _modelfile.LOADING]
    if loading:
        raise ValueError(
            f"the parameter {loading[0]} decides how a model is loaded; requests to {name} would have the engine load "
            f"{origin} anew, otherwise than the plan says. Leave it out, the plan's counts"
        )
    return {"name": name, "from": bases[local_name(origin)], **fields}


def _of_modelfile(
    entry: t.Mapping[str, t.Any], form: str, read: t.Callable[[str], bytes], notes: list[str]
) -> dict[str, t.Any]:
    """What the entry's Modelfile says, with its FROM.

    :raises ValueError: it cannot be read, is no Modelfile, or has what cannot share a runner.
    """
    given = entry[form]
    if not isinstance(given, str):
        raise ValueError(f"{form} is {given!r}; a text is needed")
    if form == "modelfile_path":
        if not given.startswith(("/", "~")):
            raise ValueError(f"modelfile_path is {given}; an absolute path on the controller is needed")
        try:
            given = _modelfile.decode(read(given))
        except OSError as error:
            raise ValueError(
                f"modelfile_path is {entry[form]}, which cannot be read on the controller: {error.strerror}"
            ) from error
    try:
        content = _modelfile.content(_modelfile.parse(given))
    except _modelfile.ModelfileError as error:
        raise ValueError(f"{form}: {error}") from error
    if content.adapters:
        raise ValueError(
            "its Modelfile has an ADAPTER; a model with one is loaded by itself, and its memory is in no plan"
        )
    if content.drafts:
        raise ValueError("its Modelfile has a DRAFT, whose memory is in no plan")
    notes += [f"{entry['name']}: {note}" for note in content.notes]
    found = {
        "from": content.origin,
        "system": content.system,
        "template": content.template,
        "parameters": content.parameters or None,
        "license": list(content.license) or None,
        "messages": [message._asdict() for message in content.messages] or None,
        "renderer": content.renderer,
        "parser": content.parser,
        "requires": content.requires,
    }
    return {word: value for word, value in found.items() if value is not None}


def _of_fields(entry: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The entry's single fields with their types held.

    :raises ValueError: one is of another type.
    """
    found = {word: entry[word] for word in _SINGLE if entry.get(word) is not None}
    for word in _TEXTS:
        if not isinstance(found.get(word, ""), str):
            raise ValueError(f"{word} is {found[word]!r}; a text is needed")
    if "requires" in found:
        found["requires"] = _modelfile.version(found["requires"])
    if "parameters" in found:
        if not isinstance(found["parameters"], dict):
            raise ValueError(f"parameters is {found['parameters']!r}; a mapping such as {{temperature: 0.3}} is needed")
        found["parameters"] = _modelfile.parameters(found["parameters"])
    if "license" in found:
        texts = [found["license"]] if isinstance(found["license"], str) else found["license"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(_MANY.format("license", "texts"))
        found["license"] = texts
    for message in found.get("messages") or ():
        if (
            not isinstance(message, dict)
            or set(message) != {"role", "content"}
            or message["role"] not in _modelfile.ROLES
            or not isinstance(message["content"], str)
        ):
            raise ValueError(
                f"messages has {message!r}; a mapping of role ({', '.join(_modelfile.ROLES)}) and content is needed"
            )
    if not isinstance(found.get("messages", []), list):
        raise ValueError(_MANY.format("messages", "mappings of role and content"))
    return found
