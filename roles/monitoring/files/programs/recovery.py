# SPDX-License-Identifier: GPL-3.0-or-later
"""Act on what the deep health check finds again and again: restart the engine, and take failing models out of service.

Run once after each check. After so many failures in a row the engine is restarted, with a growing pause between
restarts and a bound for a day. Where failures go on after a restart, or no restart may be made, the models that fail
are withheld: the state file names them, the service that keeps models warm tells the gateways' balancers that they do
not serve, and they come back by themselves after so many good checks in a row. Nothing else brings them back, and a
verdict that nobody renews ends.

A failure is an engine that is silent, a model that is loaded and gives no answer, or one that lost its GPUs. A model
that is not loaded is none: to load it is another service's business, which a restart would only disturb. Nothing is
done while models are loaded or somebody holds the warming service, nor for late answers of an engine that merely
computes: one whose streams move, or that has answered anybody since the failures began.

Standard output gets one JSON line where anything changed. Exit status: 0, or 2 where the check's report or the state
cannot be read. Needs Python 3.9 and nothing beside it; runs as root, since Docker's socket restarts the engine.
"""

from __future__ import annotations

import argparse
import calendar
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import Any

DAY = 86400.0
# Seconds between the first restart and the second one within a day; each pause after it is four times as long.
PAUSE, GROWTH = 900.0, 4
# Findings of the health check that a restart may mend. The second is a model's that may only have a full queue.
SILENT, LATE, MUTE, ON_CPU = "engine_silent", "no_answer_in_time", "no_answer", "not_on_gpu"
RELEVANT = (SILENT, LATE, MUTE, ON_CPU)
# A verdict ends when it was not renewed for three times the usual time between two checks, and within these bounds.
SHORTEST, LONGEST = 900.0, DAY
LOG_TAIL = 4 * 2**20  # bytes of an access log that are looked at
RESTART_TIMEOUT = 180.0


@dataclass
class State:
    """What outlives a pass; times are seconds since the epoch, None where there is none."""

    ts: float = 0.0
    report_ts: str = ""  # of the check that was taken in last
    failures: int = 0  # in a row
    good: int = 0  # checks in a row
    failing_since: float | None = None  # the first failure of this episode, which a good check ends
    restarts: list[float] = field(default_factory=list)  # of the last day
    restarts_total: int = 0
    withheld: list[str] = field(default_factory=list)
    withheld_since: float | None = None
    withheld_until: float | None = None
    held: str = ""  # why nothing was done, though something fails


@dataclass(frozen=True)
class Limits:
    """After how many failures to act, how many restarts a day (0: none), and how many good checks bring back."""

    failures: int
    restarts: int
    good: int


@dataclass(frozen=True)
class Action:
    """What one pass decides: whether to restart the engine, and what to write."""

    restart: bool = False
    said: str = ""


def failing(report: dict[str, Any]) -> dict[str, str]:
    """Findings of a report that count, by model; the engine's own under an empty name."""
    return {
        str(entry.get("model", "")): entry["finding"]
        for entry in report["findings"]
        if entry["level"] == "error" and entry["finding"] in RELEVANT
    }


def pause(restarts: int) -> float:
    """Seconds after the last restart before another one, with so many within a day."""
    return PAUSE * GROWTH ** (restarts - 1) if restarts else 0.0


def decide(state: State, report: dict[str, Any], limits: Limits, now: float, hold: str, busy: Any) -> Action:
    """Take one check into the state, and say what is to be done.

    :param hold: why nothing may be done now, or empty; the check then counts neither way.
    :param busy: asked only before something is done about late answers alone; why they are no fault, or empty.
    """
    gap = now - state.ts if state.ts else 0.0
    until = now + min(max(3 * gap, SHORTEST), LONGEST)
    state.ts, state.report_ts, state.held = now, report["ts"], ""
    state.restarts = [moment for moment in state.restarts if now - moment < DAY]
    if state.withheld and state.withheld_until is not None and state.withheld_until < now:
        release(state)
    found = failing(report)
    if hold:
        state.held = hold
        if state.withheld:
            state.withheld_until = until
        return Action()
    if not found:
        return _good(state, report, limits, until)
    state.good = 0
    state.failures += 1
    state.failing_since = now if state.failing_since is None else state.failing_since
    if state.withheld:
        state.withheld_until = until
    if state.failures < limits.failures:
        return Action()
    if set(found.values()) == {LATE}:
        state.held = busy(state.failing_since)
        if state.held:
            return Action(said=f"nothing is done: {state.held}")
    return _act(state, report, found, limits, now, until)


def _good(state: State, report: dict[str, Any], limits: Limits, until: float) -> Action:
    state.failures, state.failing_since = 0, None
    if not state.withheld:
        state.good += 1
        return Action()
    planned = {model["name"]: bool(model["answered"]) for model in report["models"]}
    # A model that the plan does not have any more is nothing to wait for.
    if not all(planned.get(name, True) for name in state.withheld):
        state.good, state.withheld_until = 0, until
        return Action()
    state.good += 1
    state.withheld_until = until
    if state.good < limits.good:
        return Action()
    said = f"{', '.join(state.withheld)} serves again: {state.good} good checks in a row"
    release(state)
    return Action(said=said)


def _act(
    state: State, report: dict[str, Any], found: dict[str, str], limits: Limits, now: float, until: float
) -> Action:
    since = state.failing_since or now
    tried = any(moment >= since for moment in state.restarts)
    wait = max(0.0, state.restarts[-1] + pause(len(state.restarts)) - now) if state.restarts else 0.0
    allowed = len(state.restarts) < limits.restarts and not wait
    said = []
    if tried or not allowed:
        names = {model["name"] for model in report["models"]} if "" in found else set(found)
        new = sorted(names - set(state.withheld))
        if new:
            state.withheld = sorted({*state.withheld, *new})
            state.withheld_since = now if state.withheld_since is None else state.withheld_since
            state.withheld_until = until
            said.append(f"{', '.join(new)} is taken out of service")
    if allowed:
        why = ", ".join(f"{name}: {finding}" if name else finding for name, finding in sorted(found.items()))
        said.append(f"the engine is restarted after {state.failures} failures in a row ({why})")
        state.failures = 0
        state.restarts.append(now)
        state.restarts_total += 1
    elif len(state.restarts) >= limits.restarts:
        state.held = f"{len(state.restarts)} restarts within a day are as many as may be"
    else:
        state.held = f"the next restart may be made in {wait:.0f} s"
    return Action(restart=allowed, said="; ".join(said))


def release(state: State) -> None:
    state.withheld, state.withheld_since, state.withheld_until = [], None, None


# --- what is asked of the host


def hold_reason(hold: str, seconds: float, warm: str) -> str:
    """Why the engine has to be left alone now; empty where it has not.

    A hold lasts so many seconds from its file's own time, as the warming service counts it.
    """
    with contextlib.suppress(OSError):
        if abs(time.time() - os.stat(hold).st_mtime) < seconds:
            return f"{hold} is there: somebody keeps models from being loaded"
    state: Any = None
    with contextlib.suppress(OSError, ValueError), open(warm, encoding="utf-8") as file:
        state = json.load(file)
    if isinstance(state, dict) and (state.get("engine") or {}).get("answers"):
        for model in state.get("models") or []:
            if model.get("state") == "warming":
                return f"{model.get('name')} is being loaded"
    return ""


def answers_since(paths: list[str], since: float, names: set[str]) -> int:
    """Answers to prompts since then, by the first access log that is there; of these models, where it names them."""
    path = next((path for path in paths if os.path.exists(path)), "")
    count = 0
    for part in (f"{path}.1", path) if path else ():
        try:
            with open(part, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                # nginx writes whole seconds.
                moment = datetime.datetime.fromisoformat(re.sub(r"Z$", "+00:00", row["time"])).timestamp()
                served = row["status"] == 200 and row["method"] == "POST" and moment >= int(since)
                count += served and row.get("model", "") in {"", *names}
    return count


def stream_counters(text: str) -> dict[str, tuple[int, int]]:
    """Bytes sent and received by a connection's own address, of ``ss -Htin``."""
    found = {}
    for head, details in re.findall(r"^(\S.*)\n((?:[ \t].*\n?)*)", text, re.MULTILINE):
        words = head.split()
        sent, received = (re.search(rf"\b{name}:(\d+)", details) for name in ("bytes_sent", "bytes_received"))
        if len(words) >= 4 and received:
            found[words[-2]] = (int(sent[1]) if sent else 0, int(received[1]))
    return found


def moving(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> int:
    """Connections on which the engine went on sending what nobody asked for meanwhile: answers that are streamed."""
    return sum(
        after[key][1] > received and after[key][0] == sent for key, (sent, received) in before.items() if key in after
    )


def streams(engine: str, window: float) -> int:
    """Streams of the engine that move within so many seconds; 0 where ss cannot tell."""
    match = re.match(r"http://\[?([^/\]]+?)\]?(?::(\d+))?/?$", engine)
    if not match:
        return 0
    command = ["ss", "-Htin", "state", "established", "dst", f"[{match[1]}]" if ":" in match[1] else match[1]]
    command += ["dport", "=", f":{match[2] or 80}"]
    looks = []
    for _look in range(2):
        if looks:
            time.sleep(window)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False)
            looks.append(stream_counters(done.stdout.decode(errors="replace")))
    return moving(*looks) if len(looks) == 2 else 0


def busy_reason(options: argparse.Namespace, names: set[str], since: float) -> str:
    """Why late answers are no fault: the engine computes for others. Empty where nothing shows it."""
    answered = answers_since(options.access_log, since, names)
    if answered:
        return f"the engine is busy; it has answered {answered} requests since the checks began to fail"
    flowing = streams(options.engine, options.stream_window)
    return f"the engine is busy; {flowing} of its answers are being streamed" if flowing else ""


def restart(container: str) -> str:
    """Restart the engine's container; what went wrong, or empty."""
    command = ["docker", "restart", "-t", "30", container]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=RESTART_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stdout.decode(errors="replace").strip()[:300]


# --- the program


def read_state(path: str) -> State:
    """The state of the passes before; a new one where there is none or it is no state."""
    try:
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        known = {key: value for key, value in stored.items() if key in State.__dataclass_fields__}
        return State(**known) if stored.get("schema") == 1 else State()
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, AttributeError) as error:
        print(f"{path}: {error}: begun anew", file=sys.stderr)
        return State()


def replace_file(path: str, text: str) -> None:
    """Write *text* to *path* so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def save(path: str, state: State) -> None:
    replace_file(path, json.dumps({"schema": 1, **asdict(state)}) + "\n")


def log_line(state: State, said: str, failed: str, seconds: float) -> str:
    """What was done, as one line of JSON; times are UTC in ISO 8601 and milliseconds."""
    moment = datetime.datetime.fromtimestamp(state.ts, datetime.timezone.utc)
    status = "withheld" if state.withheld else "failing" if state.failing_since is not None else "good"
    row = {
        "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": "recovery",
        "level": "error" if failed else "info" if status == "good" else "warning",
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "message": said,
        "failures": state.failures,
        "restarts_today": len(state.restarts),
        "withheld": state.withheld,
    }
    return json.dumps(row, ensure_ascii=False)


def age(text: str) -> float:
    """Seconds since a time that the health check wrote. Raises ValueError for anything else."""
    return time.time() - calendar.timegm(time.strptime(text[:19] + "Z", "%Y-%m-%dT%H:%M:%SZ"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Act on what the deep health check finds again and again.")
    parser.add_argument("--report", default="/run/onprem-llm-health/report.json", help="the last check's JSON line")
    parser.add_argument("--state", default="/var/lib/onprem-llm-recovery/state.json")
    parser.add_argument("--warm", default="/run/onprem-llm/warm.json", help="what the warming service says")
    parser.add_argument("--hold", default="/run/onprem-llm-warm.hold", help="while this file is young, nothing is done")
    parser.add_argument("--hold-seconds", type=float, default=7200.0, help="how long a hold lasts at most")
    parser.add_argument("--engine", required=True, help="URL of the engine")
    parser.add_argument("--container", default="onprem-llm-ollama", help="the engine's container")
    parser.add_argument("--access-log", action="append", default=[], help="nginx's log; the first that is there counts")
    # Longer than the pause of whoever polls the engine, so that a poll is not taken for a stream.
    parser.add_argument("--stream-window", type=float, default=5.0, help="seconds in which streams have to move")
    parser.add_argument("--failures", type=int, default=3, help="failures in a row after which something is done")
    parser.add_argument("--restarts", type=int, default=3, help="restarts within 24 hours at most; 0 for none")
    parser.add_argument("--good", type=int, default=3, help="good checks in a row that bring a model back")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        with open(options.report, encoding="utf-8") as file:
            report = json.load(file)
        state = read_state(options.state)
        if report["ts"] == state.report_ts:
            return 0  # the check was stopped or could not read the plan, and has left no new report
        report["findings"], report["models"] = list(report["findings"]), list(report["models"])
        hold = hold_reason(options.hold, options.hold_seconds, options.warm)
        if age(report["ts"]) > SHORTEST:
            hold = f"the last check began at {report['ts']}"
        names = set(failing(report))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    limits = Limits(options.failures, options.restarts, options.good)
    before = (state.held, state.withheld)
    action = decide(state, report, limits, time.time(), hold, lambda since: busy_reason(options, names, since))
    save(options.state, state)  # before the restart: one that is cut off counts
    failed = restart(options.container) if action.restart else ""
    said = "; ".join(part for part in (action.said or state.held, f"it failed: {failed}" if failed else "") if part)
    if action.restart or (state.held, state.withheld) != before:
        print(log_line(state, said, failed, time.monotonic() - begin), flush=True)
        print(f"{said or 'nothing holds it any more'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
