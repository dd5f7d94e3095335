# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade decides: who is next, who holds the lock, what changes, what passes the gate, and which release comes
back. Nothing here touches a host."""

from __future__ import annotations

import json
import math
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# A share of what there was before, and bytes besides, by which a loaded model may be larger: buffers are rounded.
MEMORY_SHARE, MEMORY_BYTES = 0.05, 8 * 2**20
# Least cosine of two embeddings of one text by the same weights: another order of the same sums stays far above it.
EMBEDDING_COSINE = 0.98
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9.+_-]{1,64}")


class UpgradeError(Exception):
    """What is there cannot be worked with; the message says what and what would be right."""


# --- versions and releases -------------------------------------------------------------------------------------------


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version such as ``0.32.15``, to be compared; what follows a ``-`` counts for nothing.

    :raises UpgradeError: it has none.
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if not found:
        raise UpgradeError(f"{version!r} is no version; one such as 0.32.15 is")
    return tuple(int(part) for part in found[1].split("."))


def parse_release(text: str) -> dict[str, t.Any]:
    """A release.json.

    :raises UpgradeError: it is damaged; the message says by what.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UpgradeError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != 1:
        raise UpgradeError("it is no release of schema 1")
    engine = found.get("engine")
    image = engine.get("image") if isinstance(engine, dict) else None
    if not isinstance(engine, dict) or not isinstance(image, dict):
        raise UpgradeError("it names no engine and no image")
    for what, value, pattern in (
        ("engine.version", engine.get("version"), r"\d+\.\d+\.\d+.*"),
        ("engine.image.id", image.get("id"), r"sha256:[0-9a-f]{64}"),
    ):
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise UpgradeError(f"{what} is {str(value)[:100]!r}")
    if not isinstance(found.get("models"), dict):
        raise UpgradeError("it names no models")
    return found


def entry_name(version: str, stamp: str) -> str:
    """Name under which a release is kept.

    :param stamp: when, by UTC, as ``20261122T120501Z``.
    """
    return f"{stamp}-{version}"


def is_entry_name(name: str) -> bool:
    """Whether a kept release may be called so; nothing that leads out of the directory may."""
    return bool(_NAME.fullmatch(name))


def to_drop(names: t.Iterable[str], keep: int, needed: t.Container[str]) -> list[str]:
    """The kept releases that go, the oldest first, so that ``keep`` stay; one that is needed stays in any case."""
    ordered = sorted(names)
    return [name for name in ordered[: max(len(ordered) - keep, 0)] if name not in needed]


def same_release(one: t.Mapping[str, t.Any], other: t.Mapping[str, t.Any]) -> bool:
    """Whether two records say the same of what runs: image, models, and the files that configure them.

    release.json repeats that, and names packages besides, which move without a release and stay where one goes back.
    """

    def told(record: t.Mapping[str, t.Any]) -> list[t.Any]:
        files = {name: about for name, about in (record.get("files") or {}).items() if name != "release.json"}
        return [record.get("image_id"), record.get("models"), record.get("derived"), files]

    return told(one) == told(other)


def choose(
    entries: t.Sequence[t.Mapping[str, t.Any]], current: str, wanted: str = "", left: str = ""
) -> t.Mapping[str, t.Any]:
    """The kept release to go back to.

    :param entries: in any order, each with ``name``, ``version``, ``fault`` (empty where all of it is there).
    :param current: name of the entry that runs, empty where none is it.
    :param wanted: a name, or a version, of which the newest is meant; empty for the one before.
    :param left: the entry that an upgrade which was cut off came from; it is the one before.
    :raises UpgradeError: there is none such, or not all of it is there any more.
    """
    ordered = sorted(entries, key=lambda entry: str(entry["name"]))
    known = ", ".join(str(entry["name"]) for entry in ordered) or "none"
    if wanted:
        found = [entry for entry in ordered if wanted in (entry["name"], entry.get("version"))]
        if not found:
            raise UpgradeError(f"no release {wanted!r} is kept; kept are: {known}")
    elif left:
        found = [entry for entry in ordered if entry["name"] == left]
        if not found:
            raise UpgradeError(
                f"the release {left!r}, which the upgrade came from, is not kept any more; kept are: {known}"
            )
    else:
        before = [entry for entry in ordered if entry["name"] != current]
        found = [entry for entry in before if not current or str(entry["name"]) < current]
        if not found:
            raise UpgradeError(f"no release before the one that runs is kept; kept are: {known}")
    chosen = found[-1]
    if chosen["name"] == current and not left:
        raise UpgradeError(f"the release {current} runs already; kept are: {known}")
    if chosen.get("fault"):
        raise UpgradeError(f"the release {chosen['name']} cannot come back: {chosen['fault']}")
    return chosen


# --- the order of the nodes ------------------------------------------------------------------------------------------


def batches(hosts: t.Sequence[str], canary: str, size: int) -> list[list[str]]:
    """The nodes in the order of the run: the canary alone, then so many at a time."""
    rest = [host for host in hosts if host != canary]
    return [[canary]] + [rest[start : start + size] for start in range(0, len(rest), max(size, 1))]


def unserved(batch: t.Container[str], served: t.Mapping[str, t.Iterable[str]]) -> list[str]:
    """The models that nobody serves while the nodes of a batch are out.

    :param served: models by node, of all nodes that are in service.
    """
    out = {model for host, models in served.items() if host in batch for model in models}
    return sorted(out - {model for host, models in served.items() if host not in batch for model in models})


# --- the lock --------------------------------------------------------------------------------------------------------


def lock_held(held: t.Mapping[str, t.Any] | None, own: t.Mapping[str, t.Any], alive: bool, broken: str) -> str:
    """Why the lock cannot be had, or nothing where it can.

    :param held: what lies there, None where nothing does. An owner has ``run``, ``user``, ``controller``, ``boot``,
        ``since`` and ``playbook``.
    :param own: who asks.
    :param alive: whether the process of the holder lives on this controller; asked only where it is the same one.
    :param broken: the run whose lock the operator has declared dead.
    """
    if held is None or held.get("run") == own["run"]:
        return ""
    run = str(held.get("run") or "unknown")
    if broken and broken == run:
        return ""
    if held.get("boot") == own["boot"] and not alive:
        return ""
    told = "{} holds the lock: run {}, begun {} by {} on {}".format(
        held.get("playbook") or "Another run", run, held.get("since") or "at an unknown time",
        held.get("user") or "somebody", held.get("controller") or "an unknown controller",
    )  # fmt: skip
    if held.get("boot") == own["boot"]:
        return f"{told}. Its process {held.get('pid')} lives. Wait for its end, or end it, and run this again."
    return (
        f"{told}. Two upgrades at once would take out more nodes than either counts on. If that run is dead, give "
        f"-e upgrade_break_lock={run}: this run takes the lock over, and goes on where that one stopped."
    )


# --- the gate --------------------------------------------------------------------------------------------------------


def agreement(one: str, other: str) -> float:
    """How far two answers to one prompt agree: the share of the longer one that they begin with in common.

    With temperature 0 an answer that has parted from another stays apart, so what comes after the first difference
    says nothing.
    """
    longest = max(len(one), len(other))
    if not longest:
        return 1.0
    common = next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    return common / longest


def cosine(one: t.Sequence[float], other: t.Sequence[float]) -> float:
    """Cosine of the angle between two embeddings, 0 where they cannot be compared."""
    norm = math.sqrt(sum(value * value for value in one)) * math.sqrt(sum(value * value for value in other))
    if len(one) != len(other) or not norm:
        return 0.0
    return sum(a * b for a, b in zip(one, other)) / norm


def agreements(before: t.Sequence[t.Any], after: t.Sequence[t.Any]) -> float | None:
    """The mean over all prompts, of texts or of embeddings. None where there is nothing to compare."""
    pairs = list(zip(before, after))
    if not pairs:
        return None
    shares = [agreement(a, b) if isinstance(a, str) and isinstance(b, str) else cosine(a, b) for a, b in pairs]
    return sum(shares) / len(shares)


def judge(
    wanted: t.Sequence[t.Mapping[str, t.Any]],
    before: t.Mapping[str, t.Any] | None,
    after: t.Mapping[str, t.Any],
    speed_loss_percent: float,
    answer_agreement: float,
) -> list[str]:
    """What speaks against a node's new release, a sentence each; empty where it passes.

    :param wanted: the planned models, each with ``name``, ``use`` and ``account``.
    :param before: the same as ``after`` from before the change; None where the engine answered nothing then.
    :param after: by model ``error``, or ``answers``, ``tokens_per_second`` (None of an embedding model) and
        ``size_bytes`` (None where the engine does not list it).
    :param speed_loss_percent: the most of its tokens per second that a model may lose.
    :param answer_agreement: the least share of the recorded answers that the new ones begin with.
    """
    faults: list[str] = []
    known = before or {}
    for model in wanted:
        name = str(model["name"])
        now, then = after.get(name) or {"error": "it was not asked"}, known.get(name) or {}
        if now.get("error"):
            faults.append(f"{name} does not answer: {now['error']}")
            continue
        if now.get("size_bytes") is None:
            faults.append(f"{name} has answered and is not in memory")
        else:
            bound = max(then.get("size_bytes") or 0, int((model.get("account") or {}).get("total_bytes") or 0))
            most = int(bound * (1 + MEMORY_SHARE)) + MEMORY_BYTES
            if bound and now["size_bytes"] > most:
                faults.append(
                    f"{name} takes {human_bytes(now['size_bytes'])} of memory; "
                    f"planned, or taken before, are {human_bytes(bound)}"
                )
        old, new = then.get("tokens_per_second"), now.get("tokens_per_second")
        if old and new is not None and new < old * (1 - speed_loss_percent / 100):
            lost = 100 * (1 - new / old)
            faults.append(
                f"{name} makes {new:.1f} tokens/s, {lost:.0f} % less than the {old:.1f} before; "
                f"upgrade_speed_loss_percent allows {speed_loss_percent:g} %"
            )
        share = agreements(then.get("answers") or [], now.get("answers") or [])
        if share is not None:
            embedding = model.get("use") == "embedding"
            least = EMBEDDING_COSINE if embedding else answer_agreement
            if share < least:
                what = (
                    "has embeddings whose cosine to those before is"
                    if embedding
                    else "agrees with its answers before by"
                )
                shown = "" if embedding else f": {_shown(then['answers'], now['answers'])}"
                faults.append(f"{name} {what} {share:.2f}; at least {least:g} is needed{shown}")
    return faults


def _shown(before: t.Sequence[str], after: t.Sequence[str]) -> str:
    """The pair of answers that agree least, shortened."""
    old, new = min(zip(before, after), key=lambda pair: agreement(*pair))
    return f"it said {old[:60]!r}, and says {new[:60]!r}"


# --- what is shown before anything changes -----------------------------------------------------------------------


class Node(t.NamedTuple):
    """What is known of one node before the run.

    ``version`` and ``image`` are wanted; ``image_bytes`` is what of it is fetched, None where nobody says, and
    ``image_need`` what that takes of ``image_free`` where Docker keeps images. ``brought``, ``changes`` and ``files``
    say in words what is brought in, what the plan changes, and which files are written.
    """

    release: t.Mapping[str, t.Any] | None
    faults: t.Sequence[str]
    version: str
    image: str
    image_there: bool = False
    image_bytes: int | None = None
    image_need: int = 0
    image_free: int = 0
    image_place: str = "/var/lib/docker"
    brought: t.Sequence[str] = ()
    changes: t.Sequence[str] = ()
    files: t.Sequence[str] = ()
    below: t.Mapping[str, t.Mapping[str, t.Sequence[str]]] = {}
    moves: t.Sequence[t.Mapping[str, t.Any]] = ()
    lists_fault: str = ""
    journal: t.Mapping[str, t.Any] | None = None
    times: t.Mapping[str, t.Any] | None = None
    load_seconds: float | None = None
    serves: t.Sequence[str] = ()

    @property
    def due(self) -> bool:
        """Whether the run has something to do there."""
        return bool(self.files or self.brought or self.below or self.journal)


def node_faults(host: str, node: Node, allow_older: bool) -> list[str]:
    """Why a node cannot be upgraded, each a sentence with what would be right."""
    faults = [f"{host}: {fault}" for fault in node.faults]
    if node.release is None:
        return faults
    running = str(node.release["engine"]["version"])
    try:
        older = version_key(node.version) < version_key(running)
    except UpgradeError as error:
        return [*faults, f"{host}: ollama_version: {error}"]
    if older and not allow_older:
        faults.append(
            f"{host}: ollama_version is {node.version}, older than {running}, which runs. To go back to a release that "
            "the node has kept, run rollback.yml; to install the older one anew, give -e upgrade_allow_older=true."
        )
    if not node.image_there and node.image_need > node.image_free:
        faults.append(
            f"{host}: {node.image_place} has {human_bytes(node.image_free)} free, and an image beside the one that "
            f"runs needs {human_bytes(node.image_need)}. Make room there: docker system df shows what takes it, and "
            "images named onprem-llm/kept are those to go back to."
        )
    return faults


def node_lines(node: Node) -> list[str]:
    """What the run does to one node, for people."""
    if node.release is None or not node.due:
        return ["nothing to do"]
    lines: list[str] = []
    engine = node.release["engine"]
    if node.journal:
        lines.append(
            "an upgrade was cut off here at {} while it was {}; it is taken up again".format(
                node.journal.get("at") or "an unknown time", node.journal.get("step") or "at work"
            )
        )
    image = engine["image"]
    known = {identity(str(image.get(key))) for key in ("reference", "id", "digest") if image.get(key)}
    if str(engine["version"]) != node.version or identity(node.image) not in known:
        lines.append(f"engine   {engine['version']} -> {node.version}")
        lines.append(f"image    {identity(str(image.get('digest') or image['id']))} -> {identity(node.image)}")
        size = "of unknown size" if node.image_bytes is None else human_bytes(node.image_bytes)
        lines.append(
            "         is on the node" if node.image_there else f"         {size}, fetched while the node serves"
        )
    lines += [f"fetch    {item}" for item in node.brought]
    lines += [f"change   {change}" for change in node.changes]
    lines += [f"file     {path}" for path in node.files]
    lines += below_lines(node)
    lines.append("restart  the container onprem-llm-ollama; its models are loaded anew")
    return [*lines, out_line(node)]


# Roles whose packages come back as they were; those of the driver do not.
RESTORED = ("docker", "nvidia_container_toolkit")


def below_lines(node: Node) -> list[str]:
    """What the run does below the engine of one node, and what of it does not go back, for people."""
    told: dict[str, list[str]] = {key: [] for key in ("package", "install", "change", "restart", "note", "back")}
    told["package"] = [move_line(move) for move in node.moves]
    for role, outlook in node.below.items():
        # What apt has worked out says more than what the role asks for.
        if not (node.moves and role in RESTORED):
            told["install"] += outlook.get("install") or []
        for key in ("change", "restart"):
            told[key] += outlook.get(key) or []
        told["note"] += outlook.get("interrupt") or []
    if node.lists_fault and node.below:
        told["note"].append(f"apt's package lists are as they were before, since {node.lists_fault}")
    lost = [f"{move['name']} {move['old']}" for move in node.moves if not move.get("kept")]
    if lost:
        told["back"].append(
            f"packages stay as they are then: {', '.join(lost)} cannot be had any more, neither from apt's cache nor "
            "from its repository"
        )
    elif node.moves:
        told["back"].append("packages go back to these versions, by files that the node keeps")
    elif any((node.below.get(role) or {}).get("install") for role in RESTORED):
        told["back"].append("packages stay as they are then; only apt's go back")
    if (node.below.get("nvidia_driver") or {}).get("install"):
        told["back"].append("the driver stays as it is then")
    return [f"{key:<8} {item}" for key, items in told.items() for item in items]


def gateway_lines(found: t.Mapping[str, t.Any]) -> list[str]:
    """What the run does to one gateway, for people.

    :param found: ``moves`` and ``lists_fault`` as kept_packages_info returns them.
    """
    restart = ["nginx.service and the balancer (a new process takes over, which ends no request)"]
    below = {"gateway": {"restart": restart}}
    return below_lines(Node(None, [], "", "", below=below, moves=found["moves"], lists_fault=found["lists_fault"]))


def move_line(move: t.Mapping[str, t.Any]) -> str:
    """One package's move."""
    if not move["old"]:
        return f"{move['name']} {move['new']}, which is new"
    if not move["new"]:
        return f"{move['name']} {move['old']} goes"
    return f"{move['name']} {move['old']} -> {move['new']}"


def out_line(node: Node) -> str:
    """How long a node is out, by what was measured last."""
    seconds = (node.times or {}).get("out_seconds")
    if seconds is not None:
        return f"out for about {seconds:.0f} s, as on {(node.times or {}).get('at') or 'the last time'}"
    if node.load_seconds is not None:
        return f"out for a time that was never measured here; its models took {node.load_seconds:.0f} s to load last"
    return "out for a time that was never measured here"


def back_lines(node: Node, target: t.Mapping[str, t.Any]) -> list[str]:
    """What going back does to one node, for people."""
    running = ((node.release or {}).get("engine") or {}).get("version") or "unknown"
    return [
        f"release  {target['name']}",
        f"engine   {running} -> {target.get('version')}",
        f"image    {identity(str(target.get('image_id')))}, which is on the node; nothing is fetched",
        "restart  the container onprem-llm-ollama; its models are loaded anew",
        out_line(node),
    ]


def fleet_lines(order: t.Sequence[t.Sequence[str]], due: t.Container[str], serves: t.Mapping[str, t.Any]) -> list[str]:
    """The order of the run, and who is not served meanwhile.

    :param order: :func:`batches`.
    :param due: the nodes that have something to do.
    :param serves: models by node, of all nodes in service.
    """
    lines = []
    for number, batch in enumerate([[host for host in batch if host in due] for batch in order], start=1):
        if not batch:
            continue
        told = "the canary" if number == 1 else f"batch {number}"
        lines.append(f"{told}: {', '.join(batch)}")
        for model in unserved(batch, serves):
            lines.append(f"  nobody else serves {model}: its users get an error 503 with Retry-After meanwhile")
    return lines


def identity(reference: str) -> str:
    """What of an image's reference tells it from others: its digest, or its ID."""
    found = re.search(r"sha256:[0-9a-f]{64}", reference)
    return found[0][:19] if found else reference


def image_space(size: int) -> int:
    """Bytes that an image of so many compressed bytes may need at its coming: what is fetched, and what it unpacks to,
    with gzip's ratio for libraries of machine code, which is under three."""
    return 4 * size


# --- the lock of versions --------------------------------------------------------------------------------------------


def pins(releases: t.Mapping[str, t.Any], packages: t.Mapping[str, t.Mapping[str, str]]) -> dict[str, t.Any]:
    """What a fleet runs, as a lock of versions.

    :param releases: what each node's release.json says, None where it has none.
    :param packages: versions of packages by host, for people to compare; they are not held.
    :raises UpgradeError: the nodes do not run the same, so there is no one release to be pinned.
    """
    if not releases:
        raise UpgradeError("no node was reached, so there is nothing to pin")
    engines: dict[tuple[str, str, str], list[str]] = {}
    models: dict[str, dict[str, list[str]]] = {}
    for host, release in sorted(releases.items()):
        try:
            found = parse_release(json.dumps(release))
        except UpgradeError as error:
            raise UpgradeError(f"{host}: /etc/onprem-llm/release.json: {error}") from error
        image = found["engine"]["image"]
        engine = (found["engine"]["version"], image.get("digest") or "", image["id"])
        engines.setdefault(engine, []).append(host)
        for name, digest in found["models"].items():
            models.setdefault(name, {}).setdefault(str(digest), []).append(host)
    told = [f"{', '.join(hosts)} run engine {e[0]} of image {identity(e[1] or e[2])}" for e, hosts in engines.items()]
    if len({(version, digest or image) for version, digest, image in engines}) > 1:
        raise UpgradeError(
            f"the nodes do not run one release: {'; '.join(told)}. Bring them to one by upgrade.yml first."
        )
    for name, digests in models.items():
        if len(digests) > 1:
            differing = "; ".join(f"{', '.join(hosts)} have {digest[:19]}" for digest, hosts in digests.items())
            raise UpgradeError(f"the nodes do not have the same weights of {name}: {differing}.")
    (version, digest, image_id), _hosts = next(iter(engines.items()))
    engine_pin = {"version": version, "image_id": image_id, **({"image_digest": digest} if digest else {})}
    return {
        "engine": engine_pin,
        "models": {name: next(iter(digests)) for name, digests in sorted(models.items())},
        "packages": {host: dict(sorted(found.items())) for host, found in sorted(packages.items())},
    }


def pin_faults(lock: t.Any, version: str, digest: str, image_id: str) -> list[str]:
    """What of the inventory is not what the lock of versions says, each a sentence with what would be right.

    :param lock: the variable ``release_lock``; empty where nothing is pinned.
    :param digest: of the wanted image, empty where it comes from an archive.
    :param image_id: of the wanted image, empty where it comes from a registry.
    """
    if not lock:
        return []
    engine = lock.get("engine") if isinstance(lock, dict) else None
    if not isinstance(engine, dict) or not isinstance(lock.get("models", {}), dict):
        return ["release_lock is no lock of versions; pin.yml writes one, as group_vars/all/release.lock.yml."]
    way = "Pin anew by pin.yml once the release has proven itself, or give -e '{\"release_lock\": {}}' for this run."
    faults = []
    for name, wanted, pinned in (
        ("ollama_version", version, engine.get("version")),
        ("ollama_image_digest", digest, engine.get("image_digest")),
        ("ollama_image_id", image_id, engine.get("image_id")),
    ):
        if wanted and pinned and wanted != pinned:
            faults.append(f"{name} is {wanted}, and release_lock pins {pinned}. {way}")
    return faults
