# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rungs of a node: Docker, the engine's container, the models' files, and what the engine makes of them.

Nothing is loaded and nothing unloaded: a model that is not in memory is told of, and not asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gpu_proof, _model_name
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as files
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import (
    Finding,
    Unreadable,
    broken,
    not_asked,
    ok,
    remark,
)
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_gpu import KIND, REGENERATE, planned_gpus
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import NO_COMMAND, TIMED_OUT, Host
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

PLAN = "/etc/onprem-llm/plan.json"
RELEASE = "/etc/onprem-llm/release.json"
WARM = "/run/onprem-llm/warm.json"
MODELS = "ansible-playbook playbooks/models.yml --limit {host}"
RECREATE = "docker compose --project-directory /opt/onprem-llm/ollama up --detach --force-recreate"
# Seconds for a few tokens of a loaded model, however long its queue.
ANSWER_SECONDS = 60
TOKENS = 16
# Decoding below this is slower than anybody reads, and what an engine on the CPU does to a model made for a GPU.
LEAST_TOKENS_PER_SECOND = 1.0
# A GPU reaches half of what its memory's bandwidth allows, a CPU in its place some per cent of it. Of small models
# other things than bandwidth decide, so they are held to the least alone.
LEAST_SHARE_OF_BOUND, BOUND_FROM_BYTES = 0.1, 2**30
Plan = t.Mapping[str, t.Any]


def plan_of(host: Host) -> Plan | None:
    """The plan in force; None where there is none.

    :raises Unreadable: it is no plan of schema 1.
    """
    plan = host.json(PLAN)
    if plan is not None and (not isinstance(plan, dict) or plan.get("schema") != 1):
        raise Unreadable(f"{PLAN} is no plan of schema 1")
    return t.cast("Plan | None", plan)


def planned(plan: Plan | None) -> list[dict[str, t.Any]]:
    return [model for instance in (plan or {}).get("instances") or [] for model in instance["models"]]


def full_name(name: str) -> str:
    """The name as /api/ps gives it."""
    return name if ":" in name.rpartition("/")[2] else name + ":latest"


def docker(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    unit = host.unit("docker.service")
    if unit.get("LoadState") == "loaded" and unit.get("ActiveState") != "active":
        # Its socket would start it, and a diagnosis changes nothing.
        return broken(
            "docker",
            f"docker.service is {unit.get('ActiveState')}" + (f" ({unit['Result']})" if unit.get("Result") else ""),
            "The engine runs in Docker.",
            "systemctl start docker; journalctl -u docker -b | tail -n 50; dockerd --validate",
        )
    answer = host.run("docker", "info", "--format", "{{json .}}")
    if answer.status == NO_COMMAND:
        return broken("docker", "there is no docker command", "The engine runs in Docker.", wanted.mend())
    try:
        told = json.loads(answer.out) if answer.status == 0 else {}
    except ValueError:
        told = {}
    if not told or told.get("ServerErrors"):
        reason = "; ".join(told.get("ServerErrors") or []) or answer.line
        hangs = "it hangs: " if answer.status == TIMED_OUT else ""
        return broken(
            "docker",
            hangs + reason,
            "The engine runs in Docker.",
            "systemctl status docker; journalctl -u docker -b | tail -n 50; systemctl restart docker",
        )
    if planned_gpus(plan) and "CDISpecDirs" in told and not told["CDISpecDirs"]:
        return broken(
            "docker",
            "it does not look for CDI specifications (features.cdi is off in /etc/docker/daemon.json)",
            'A container with GPUs does not start: could not select device driver "cdi".',
            wanted.mend() + " (role docker)",
        )
    return ok("docker", f"{told.get('ServerVersion')}, {told.get('ContainersRunning')} containers run")


def inspected(host: Host, wanted: Wanted) -> dict[str, t.Any] | None:
    """The engine's container as Docker describes it; None where there is none."""
    answer = host.run("docker", "container", "inspect", wanted.engine_container)
    try:
        found = json.loads(answer.out)
    except ValueError:
        found = []
    return t.cast("dict[str, t.Any]", found[0]) if found else None


def container(host: Host, wanted: Wanted) -> Finding:
    found = inspected(host, wanted)
    if found is None:
        return broken(
            "container",
            f"there is no container {wanted.engine_container}",
            "It was removed, or never made.",
            RECREATE + "; or " + wanted.mend(),
        )
    state = found["State"]
    status = state["Status"]
    if status != "running":
        reasons = [f"it is {status}"]
        if state.get("ExitCode"):
            reasons.append(f"exit status {state['ExitCode']}")
        if state.get("OOMKilled"):
            reasons.append("killed for want of memory")
        if state.get("Error"):
            reasons.append(state["Error"])
        start = "docker unpause" if status == "paused" else "docker start"
        return broken(
            "container",
            ", ".join(reasons),
            "No model is served by this node.",
            f"docker logs --tail 50 {wanted.engine_container}; {start} {wanted.engine_container}; or " + wanted.mend(),
        )
    health = (state.get("Health") or {}).get("Status", "without a check")
    restarts = f", {found['RestartCount']} restarts" if found.get("RestartCount") else ""
    return ok("container", f"since {state['StartedAt'][:19]}Z, {health}{restarts}")


def container_log(host: Host, wanted: Wanted) -> str:
    answer = host.run("docker", "logs", wanted.engine_container)
    return answer.out + answer.err


def container_gpu(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    gpus = planned_gpus(plan)
    if not gpus:
        return not_asked("container_gpu", "the plan gives the engine no GPU")
    found = inspected(host, wanted) or {}
    requests = (found.get("HostConfig") or {}).get("DeviceRequests") or []
    given = [str(name) for request in requests for name in request.get("DeviceIDs") or []]
    lacking = [gpu for gpu in gpus if f"{KIND}={gpu}" not in given and f"{KIND}=all" not in given]
    if lacking:
        return broken(
            "container_gpu",
            f"it was made with {', '.join(given) or 'no GPU'}, and the plan has {', '.join(lacking)}",
            "The engine computes on the CPU, or on other GPUs than planned.",
            wanted.mend() + "; or " + RECREATE,
        )
    inside = host.run("docker", "exec", wanted.engine_container, "nvidia-smi", "-L")
    shown = inside.status not in (126, 127, TIMED_OUT)
    if shown and (inside.status != 0 or not all(gpu in inside.out for gpu in gpus)):
        return broken(
            "container_gpu",
            f"nvidia-smi in the container: {inside.line}",
            "It lost its GPUs: a systemctl daemon-reload does that to devices that were given by the legacy runtime.",
            f"docker restart {wanted.engine_container}; then CDI in place of the runtime: " + wanted.mend(),
        )
    log = container_log(host, wanted)
    start = log.rfind("Listening on ")
    compute = re.findall(r'msg="inference compute" id="?([^" ]+)', log[start:]) if start >= 0 else []
    if compute and not any(identity.startswith(("GPU-", "MIG-")) for identity in compute):
        return broken(
            "container_gpu",
            f"the engine found no GPU at its start (inference compute: {', '.join(compute)})",
            "It computes on the CPU. The driver is older than the engine's libraries need, or the container's devices "
            "cannot be opened.",
            f"docker logs {wanted.engine_container} | grep -iE 'cuda|inference compute'; {REGENERATE}; {RECREATE}",
        )
    by = "by nvidia-smi in the container" if shown else "by the engine's log" if compute else "by its devices alone"
    return ok("container_gpu", f"{len(gpus)} GPUs, {by}")


# --- Models as files


def _names(host: Host, plan: Plan | None) -> list[str]:
    release = host.json(RELEASE) or {}
    return [model["name"] for model in planned(plan)] + sorted(release.get("derived") or {})


def models(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    if plan is None:
        try:
            plan_of(host)
            reason = f"there is no plan in {PLAN}"
        except Unreadable as error:
            reason = str(error)
        return broken(
            "models",
            reason,
            "Nothing says which models this node is to serve; it was never set up, or not to its end.",
            wanted.mend(),
        )
    place = host.path(wanted.data_dir + "/models")
    wrong, blobs = [], {}
    released = (host.json(RELEASE) or {}).get("models") or {}
    with files.Store(place) as store:
        for name in dict.fromkeys(_names(host, plan)):
            try:
                manifest = store.manifest(name)
                if manifest is None:
                    wrong.append(f"{name} is not there")
                    continue
                named = files.blobs(manifest)
            except files.StoreError as error:
                wrong.append(f"{name}: {error}")
                continue
            for blob in named:
                size = store.size(blob.digest)
                if size is None:
                    wrong.append(f"{name}: {files.blob_name(blob.digest)[:19]}… is not there")
                elif size != blob.size:
                    wrong.append(f"{name}: {files.blob_name(blob.digest)[:19]}… has {size} bytes of {blob.size}")
                else:
                    blobs[blob.digest] = (blob.size, name)
            weights = [blob.digest for blob in named if blob.media_type == files.WEIGHTS_TYPE]
            if released.get(name) and weights and released[name] not in weights:
                wrong.append(f"{name} has other weights than those set up: {weights[0][:19]}…")
    mend = wanted.mend(MODELS)
    means = "The engine cannot load the model, or answers with nonsense."
    if wrong:
        return broken("models", "; ".join(wrong), means, mend)
    shut = _unreadable(host, wanted, place, blobs, _names(host, plan))
    if shut:
        return broken(
            "models",
            "; ".join(shut[:4]),
            "The engine's user may not read them, so it cannot list or load the models.",
            f"chown -R --reference={wanted.data_dir} {wanted.data_dir}/models; chmod -R u+rwX {wanted.data_dir}/models",
        )
    damaged, read = _hashed(place, blobs, wanted.hash_seconds)
    if damaged:
        text = "; ".join(
            f"{blobs[digest][1]}: {digest[:19]}… has other content than its name says" for digest in damaged
        )
        return broken("models", text, means + " The disk or the transfer damaged it.", mend)
    total = sum(size for size, _name in blobs.values())
    return ok("models", f"{len(blobs)} files, {human_bytes(total)}, {human_bytes(read)} of them read and whole")


def _user(host: Host, wanted: Wanted) -> tuple[int, int]:
    """Numbers of the engine's user and group: the owner of its data."""
    about = os.stat(host.path(wanted.data_dir))
    return about.st_uid, about.st_gid


def _unreadable(host: Host, wanted: Wanted, place: str, blobs: t.Iterable[str], names: t.Iterable[str]) -> list[str]:
    user, group = _user(host, wanted)
    paths = [place, os.path.join(place, "blobs"), os.path.join(place, "manifests")]
    paths += [files.blob_path(place, digest) for digest in blobs]
    for name in names:
        path = place + "/manifests"
        for part in _model_name.parts(name):
            path = os.path.join(path, part)
            paths.append(path)
    found = []
    for path in dict.fromkeys(paths):
        about = os.stat(path, follow_symlinks=False)
        needed = 5 if stat.S_ISDIR(about.st_mode) else 4
        shift = 6 if about.st_uid == user else 3 if about.st_gid == group else 0
        if user != 0 and (about.st_mode >> shift) & needed != needed:
            mode = stat.S_IMODE(about.st_mode)
            found.append(f"{os.path.relpath(path, place)} is {about.st_uid}:{about.st_gid} {mode:04o}")
    return found


def _hashed(place: str, blobs: t.Mapping[str, tuple[int, str]], seconds: float) -> tuple[list[str], int]:
    """Digests of blobs that are not what their names say, and how many bytes were read within the time.

    The smaller come first: most of them are whole before the time is up.
    """
    end = time.monotonic() + seconds
    damaged: list[str] = []
    read = 0
    with files.Store(place) as store:
        for digest in sorted(blobs, key=lambda item: blobs[item][0]):
            hasher = hashlib.sha256()
            with store.opened(digest) as stream:
                while time.monotonic() < end:
                    chunk = stream.read(2**20)
                    if not chunk:
                        break
                    hasher.update(chunk)
                else:
                    return damaged, read
            read += blobs[digest][0]
            if hasher.hexdigest() != digest[-64:]:
                damaged.append(digest)
    return damaged, read


# --- What the engine says


def _asked(host: Host, wanted: Wanted, path: str, timeout: float = 10) -> dict[str, t.Any]:
    """The engine's answer to a GET.

    :raises Unreadable: it gives none.
    """
    answer = host.once(("engine", path), lambda: host.ask(wanted.engine_url + path, timeout=timeout))
    if answer.status != 200:
        raise Unreadable(f"{path}: " + (f"HTTP {answer.status}: " if answer.status else "") + answer.line)
    try:
        return t.cast("dict[str, t.Any]", json.loads(answer.out))
    except ValueError as error:
        raise Unreadable(f"{path}: no JSON: {error}") from error


def loaded(host: Host, wanted: Wanted) -> dict[str, dict[str, t.Any]]:
    """The models in memory by name, as /api/ps tells."""
    return {str(item["name"]): item for item in _asked(host, wanted, "/api/ps").get("models") or []}


def engine(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    try:
        version = str(_asked(host, wanted, "/api/version").get("version"))
    except Unreadable as error:
        return broken(
            "engine",
            f"{wanted.engine_url}{error}",
            "It starts, hangs or died; its container runs all the same, and Docker restarts none for being unhealthy.",
            f"docker logs --tail 50 {wanted.engine_container}; docker restart {wanted.engine_container}",
        )
    planned_version = ((plan or {}).get("engine") or {}).get("version")
    if planned_version and version != planned_version:
        return remark("engine", f"version {version}, planned {planned_version}", "Another image runs.", wanted.mend())
    return ok("engine", f"version {version}")


def warm(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    there = loaded(host, wanted)
    asleep = [full_name(model["name"]) for model in planned(plan) if full_name(model["name"]) not in there]
    state = host.unit("onprem-llm-warm.service").get("ActiveState", "unknown")
    told = host.json(WARM) if state in ("active", "activating") else None
    states = (told or {}).get("models") or []
    reasons = [f"{item['name']}: {item['reason']}" for item in states if item.get("reason")]
    if state not in ("active", "activating"):
        return broken(
            "warm",
            f"onprem-llm-warm.service is {state}" + (f"; not loaded: {', '.join(asleep)}" if asleep else ""),
            "After a restart of the engine nobody loads the models again, and gateways take this node for cold.",
            "systemctl restart onprem-llm-warm.service; journalctl -u onprem-llm-warm -b | tail",
        )
    if (told or {}).get("held_until"):
        held = f"held until {(told or {})['held_until']}"
        return remark("warm", held, "Somebody unloads models on purpose.", "rm /run/onprem-llm-warm.hold ends that")
    coming = {item["name"] for item in states if item.get("state") in ("waiting", "warming") and not item["failures"]}
    if asleep and coming >= set(asleep):
        text = f"being loaded: {', '.join(asleep)}"
        return remark("warm", text, "Wait, and ask again.", "systemctl status onprem-llm-warm.service")
    if asleep:
        return broken(
            "warm",
            f"not loaded: {', '.join(asleep)}" + (f" ({'; '.join(reasons)})" if reasons else ""),
            "They were unloaded, evicted by another model, or cannot be loaded.",
            wanted.mend(MODELS) + f"; docker logs --tail 50 {wanted.engine_container}",
        )
    if not planned(plan):
        return not_asked("warm", "nothing is planned")
    return ok("warm", f"{len(planned(plan))} models, watched")


def _proof(host: Host, plan: Plan | None, wanted: Wanted) -> list[dict[str, t.Any]]:
    def find() -> list[dict[str, t.Any]]:
        installed = []
        with files.Store(host.path(wanted.data_dir + "/models")) as store:
            for model in planned(plan):
                manifest = store.manifest(model["name"])
                named = files.blobs(manifest) if manifest else ()
                digests = [blob.digest for blob in named if blob.media_type == files.WEIGHTS_TYPE]
                installed.append({"name": full_name(model["name"]), "weights_digest": (digests or [""])[0]})
        running = [
            {"name": name, "size_bytes": item.get("size"), "size_vram_bytes": item.get("size_vram")}
            for name, item in loaded(host, wanted).items()
        ]
        return _gpu_proof.judge(planned(plan), container_log(host, wanted), installed, running)

    return t.cast("list[dict[str, t.Any]]", host.once("proof", find))


def _whole(item: t.Mapping[str, t.Any]) -> bool:
    return bool(item["layers"]) and item["layers_on_gpu"] == item["layers"]


def offload(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    if not planned_gpus(plan):
        return not_asked("offload", "the plan gives the engine no GPU")
    found = [item for item in _proof(host, plan, wanted) if item["planned"] == "gpu"]
    wrong = [item["problem"] for item in found if item["problem"] and not _whole(item)]
    if wrong and not wanted.gpu_proof:
        return remark("offload", "; ".join(wrong), "Only reported (ollama_gpu_proof).")
    if wrong:
        there = loaded(host, wanted)
        for model in planned(plan):
            now = (there.get(full_name(model["name"])) or {}).get("context_length")
            if now and now != model["context_length"]:
                wrong.append(f"{model['name']}: context of {now} tokens, {model['context_length']} planned")
        return broken(
            "offload",
            "; ".join(wrong),
            "What is not on the GPU is computed by the CPU, many times slower. The engine does not say so by itself.",
            "nvidia-smi (who else has memory there); " + wanted.mend(MODELS) + " loads anew and proves it",
        )
    return ok("offload", "; ".join(f"{item['model']}: {item['found']}" for item in found) or "nothing is on a GPU")


def memory(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    there = loaded(host, wanted)
    wrong, seen = [], []
    for model in planned(plan):
        name = full_name(model["name"])
        now = there.get(name)
        if now is None:
            continue
        context, size = now.get("context_length"), now.get("size") or 0
        budget = (model.get("account") or {}).get("budget_bytes")
        if context and context != model["context_length"]:
            wrong.append(f"{name} was loaded with a context of {context} tokens, {model['context_length']} planned")
        elif budget and size > budget:
            wrong.append(f"{name} takes {human_bytes(size)}, more than its budget of {human_bytes(budget)}")
        seen.append(f"{name} {human_bytes(size)}")
    wrong += [
        item["problem"]
        for item in _proof(host, plan, wanted)
        if item["problem"] and item["planned"] == "gpu" and _whole(item)
    ]
    variables = set(((inspected(host, wanted) or {}).get("Config") or {}).get("Env") or [])
    for instance in (plan or {}).get("instances") or []:
        for key, value in (instance.get("environment") or {}).items():
            if variables and f"{key}={value}" not in variables:
                wrong.append(f"the engine runs without {key}={value}")
    if wrong:
        return broken(
            "memory",
            "; ".join(wrong),
            "Somebody asked for another context, or changed the engine's settings; what else is planned may not fit, "
            "and spills to the CPU.",
            wanted.mend(MODELS) + "; clients must not send num_ctx past the gateway",
        )
    known = {full_name(model["name"]) for model in planned(plan)}
    others = sorted(set(there) - known)
    if others:
        return remark(
            "memory",
            f"loaded and not planned: {', '.join(others)}",
            "They take memory that the plan gives to others.",
            f"docker exec {wanted.engine_container} ollama stop {others[0]}",
        )
    return ok("memory", "; ".join(seen) or "nothing is loaded")


def _answers(host: Host, plan: Plan | None, wanted: Wanted) -> dict[str, t.Any]:
    """By model what a few tokens came to: the answer's JSON, or a sentence of what went wrong."""

    def find() -> dict[str, t.Any]:
        found: dict[str, t.Any] = {}
        for model in planned(plan):
            name = full_name(model["name"])
            # One that is not in memory is the rung before's to tell of: asked, it would be loaded.
            if name not in loaded(host, wanted):
                continue
            body: dict[str, t.Any] = {"model": name, "keep_alive": -1}
            if model.get("use") == "embedding":
                path, more = "/api/embed", t.cast("dict[str, t.Any]", {"input": "1"})
            else:
                # How a model is loaded does not depend on this option.
                path = "/api/generate"
                options = {"num_predict": TOKENS}
                context = loaded(host, wanted)[name].get("context_length")
                if context and context != model["context_length"]:
                    # Left out, it would have the model loaded anew as planned.
                    options["num_ctx"] = context
                more = {"prompt": "1 2 3 4 5", "stream": False, "options": options}
            answer = host.ask(wanted.engine_url + path, body={**body, **more}, timeout=ANSWER_SECONDS)
            try:
                told = json.loads(answer.out)
            except ValueError:
                told = {}
            if answer.status != 200 or told.get("error"):
                status = f"HTTP {answer.status}: " if answer.status else ""
                found[name] = status + str(told.get("error") or answer.line)
            elif model.get("use") == "embedding" and not (told.get("embeddings") or [[]])[0]:
                found[name] = "an empty embedding"
            else:
                found[name] = told
        return found

    return t.cast("dict[str, t.Any]", host.once("answers", find))


def answers(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    found = _answers(host, plan, wanted)
    wrong = [f"{name}: {told}" for name, told in found.items() if isinstance(told, str)]
    if wrong:
        return broken(
            "answers",
            "; ".join(wrong),
            "Users get errors, or wait in vain.",
            f"docker logs --tail 50 {wanted.engine_container}; docker restart {wanted.engine_container}; "
            + wanted.mend(MODELS),
        )
    if not found:
        return not_asked("answers", "no planned model is in memory")
    return ok("answers", ", ".join(found))


def speed(host: Host, plan: Plan | None, wanted: Wanted) -> Finding:
    slow, seen = [], []
    found = _answers(host, plan, wanted)
    for model in planned(plan):
        told = found.get(full_name(model["name"]))
        if not isinstance(told, dict) or (told.get("eval_count") or 0) < 4 or not told.get("eval_duration"):
            continue
        rate = told["eval_count"] * 1e9 / told["eval_duration"]
        known = model.get("speed") or {}
        bound = known.get("tokens_per_second_bound")
        least = LEAST_TOKENS_PER_SECOND
        if bound and wanted.compare_speed and (known.get("active_bytes") or 0) >= BOUND_FROM_BYTES:
            least = max(least, LEAST_SHARE_OF_BOUND * bound)
        text = f"{model['name']}: {rate:.1f} tokens/s"
        if rate < least:
            slow.append(text + f", at least {least:.1f} expected")
        seen.append(text)
    if slow:
        return broken(
            "speed",
            "; ".join(slow),
            "The GPU is lowered in its clocks or used by others, the CPU is busy, or part of the model is on the CPU.",
            "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE; top; docker stats --no-stream",
        )
    return (
        ok("speed", "; ".join(seen))
        if seen
        else not_asked("speed", "no planned model that generates text is in memory")
    )
