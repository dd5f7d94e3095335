"""``python -m tests.runbooks``: the pages of docs/runbooks on a fleet of three hosts, each from its fault.

Every command of a page runs as it stands there, with its placeholders filled in; afterwards a user's request has to be
answered with the key and the authority's file of the beginning. ``--only PATTERN`` takes pages with such a name,
``--keep`` leaves the fleet up for the next call. The table is written to build/runbooks/results.json, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import docker
import yaml

from tests import plays
from tests.demo.client import complete
from tests.faults import injection
from tests.fleet import hosts
from tests.fleet.supplies import supply
from tests.runbooks import runs
from tests.runbooks.pages import CONTROLLER, Command, Page, pages

HOSTS = {"gpu": "runbooks-gpu1", "node": "runbooks-cpu1", "gateway": "runbooks-gw1", "mirror": "runbooks-gw1"}
PLACEHOLDERS = {"NODE": "node", "GATEWAY": "gateway", "MIRROR": "mirror"}
LIMIT_SECONDS = 600
# Playbooks that change nothing in any case.
LOOKS = ("verify", "diagnose", "plan")


class Failed(Exception):
    """A page did not do what it says."""


class Bench:
    """The fleet, and what an operator of it has."""

    def __init__(self, client: docker.DockerClient, described: hosts.Fleet) -> None:
        self.client, self.described = client, described
        self.inventory = described.state / "inventory"
        self.fleet = injection.Fleet(client, self.inventory, described.state, HOSTS)
        self.operator = described.state / "operator.json"
        self.client_ca = described.state / "client-ca.crt"
        self.log = described.state / "last.log"

    def prepare(self, keep: bool) -> None:
        """The fleet as site.yml leaves it.

        :raises Failed: it does not.
        """
        up = self.described.state / "up"
        if not (keep and up.exists()):
            self.described.down(self.client)
            supply(self.client, self.described.state)
            self.described.up(self.client)
        # What playbooks write beside the inventory is of this fleet alone.
        if not (keep and self.inventory.exists()):
            shutil.rmtree(self.inventory, ignore_errors=True)
            shutil.copytree(Path(__file__).with_name("inventory"), self.inventory)
            # Ansible passes over a group's file where it has a directory, and keys.yml goes into one.
            group = self.inventory / "group_vars/gateways"
            group.mkdir()
            group.with_suffix(".yml").rename(group / "main.yml")
        secrets = json.loads((self.described.state / "secrets.json").read_text(encoding="utf-8"))
        self.key = secrets["users"]["app"]["api_key"]
        given = {
            "gateway_verify_api_key": self.key,
            "gateway_verify_model": injection.CHAT,
            "backup_passphrase": secrets["pki_ca_passphrase"],
        }
        hosts.write_if_changed(self.operator, json.dumps(given))
        if not up.exists():
            self.playbook(["onprem.llm.site"], [])
            up.touch()
        if not self.client_ca.exists() or not keep:
            shutil.copy(self.described.state / "pki/ca.crt", self.client_ca)

    # --- Commands

    def values(self, run: runs.Run) -> dict[str, str]:
        """What the placeholders stand for."""
        backups = sorted((self.inventory / "backups").glob("*"), key=lambda path: path.stat().st_mtime)
        keys = self.inventory / "group_vars/gateways/keys.yml"
        known = yaml.safe_load(keys.read_text(encoding="utf-8"))["gateway_user_keys"] if keys.exists() else {}
        leaked = [row["sha256"] for row in known.get("app", []) if row.get("note") == "before"]
        found = {name: HOSTS[kind] for name, kind in PLACEHOLDERS.items()}
        found["HOST"] = HOSTS[run.host]
        if run.host in ("gpu", "node"):
            found["NODE"] = HOSTS[run.host]
        return found | {
            "PKI": str(self.described.state / "pki"),
            "MONTH": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m"),
            "USER": "app",
            "LEAK": "leak",
            "DIGEST": leaked[0][:12] if leaked else "000000000000",
            "BACKUP": str(backups[-1]) if backups else "none",
            "NEW_DIRECTORY": "/srv/llm/ollama",
            "BUNDLE": "/srv/bundle",
        }

    def playbook(self, words: list[str], fails: list[str], *more: str) -> str:
        """:raises Failed: it ended otherwise than it should."""
        ended = plays.run(
            words[0], *words[1:], *more, "-e", f"@{self.operator}", inventory=self.inventory, timeout=LIMIT_SECONDS
        )
        self.log.write_text(ended.stdout, encoding="utf-8")
        if (ended.returncode != 0) != any(words[0].endswith(f".{name}") for name in fails):
            print(ended.stdout[-6000:])
            raise Failed(f"{' '.join(words)} ended with {ended.returncode}")
        return ended.stdout

    def execute(self, command: Command, run: runs.Run, *more: str, fails: list[str], bounded: bool = True) -> str:
        """A command's output.

        :raises Failed: it ended otherwise than it should.
        """
        values = self.values(run)
        text = re.sub(r"\b(" + "|".join(values) + r")\b", lambda found: values[found[1]], command.text)
        if command.playbook:
            words = Command(command.section, command.where, False, text).words
            return self.playbook(words[1:], fails, *more)
        if command.where == CONTROLLER:
            program, _space, rest = text.partition(" ")
            if program == "ansible":
                text = f"{Path(sys.executable).with_name('ansible')} --inventory={self.inventory} {rest}"
            ended = subprocess.run(
                ["bash", "-c", text], cwd=plays.ROOT, capture_output=True, text=True, check=False,
                env=os.environ | {"ANSIBLE_CONFIG": str(plays.ROOT / "ansible.cfg")},
            )  # fmt: skip
            code, output = ended.returncode, ended.stdout + ended.stderr
        else:
            host = values[command.where]
            result = self.client.containers.get(host).exec_run(["bash", "-c", text])
            code, output = result.exit_code, result.output.decode(errors="replace")
        if code != 0 and bounded:
            raise Failed(f"{text} ended with {code}: {output[-600:]}")
        return output

    # --- Pages

    def answered(self) -> None:
        """A user's request, with what the user had from the beginning."""
        gateway = next(host for host in self.described.hosts if host.name == HOSTS["gateway"])
        for wait in range(60):
            try:
                complete(f"https://{gateway.address}", str(self.client_ca), self.key, injection.CHAT, "Hello.", 4)
                return
            except (OSError, RuntimeError):
                if wait == 59:
                    raise
                time.sleep(2)

    def emptied(self, host: str) -> None:
        hosts.remove_container(self.client, self.client.containers.get(host))
        self.described.up(self.client)

    def really(self, page: Page, run: runs.Run) -> None:
        """From the fault to the proof.

        :raises Failed: a step did not do what the page says.
        """
        host = HOSTS[run.host]
        fault = next((fault for fault in injection.load() if fault.name == run.fault), None)
        put = fault.spec["put"] if fault else run.put
        out = fault.spec["out"] if fault else run.out
        # Those of an earlier try; a backup is never written over.
        shutil.rmtree(self.inventory / "backups", ignore_errors=True)
        for text in run.prepare:
            self.execute(Command("", CONTROLLER, False, text), run, fails=[])
        before = self.fleet.shell(host, run.same) if run.same else ""
        mended = False
        try:
            if run.empty:
                self.emptied(host)
            if put:
                self.fleet.shell(host, self.fleet.filled(host, put))
            for command in page.of("First look"):
                seen = self.execute(command, run, fails=["diagnose"] if fault else [], bounded=False)
                if not re.search(run.sees, seen):
                    raise Failed(f"the first look shows {seen[-400:]!r}")
            for number, command in enumerate(page.of("Steps")):
                if not command.by_hand:
                    self.execute(command, run, fails=run.fails)
                if run.bundle and number == 0:
                    shutil.copy(self.described.state / "pki/ca-bundle.crt", self.client_ca)
                if run.bundle:
                    self.answered()
            for command in page.of("How to know that it worked"):
                self.execute(command, run, fails=[])
            mended = True
        finally:
            if out and not mended:
                self.fleet.shell(host, self.fleet.filled(host, out), check=False)
            if run.put and run.out and mended:
                self.fleet.shell(host, run.out)
        if run.same and self.fleet.shell(host, run.same) != before:
            raise Failed(f"{run.same} gives something else than before")
        self.answered()

    def in_check_mode(self, page: Page, run: runs.Run) -> None:
        """The first look, and every playbook with --check.

        :raises Failed: one ends with an error.
        """
        for command in page.commands:
            known = (plays.ROOT / "playbooks" / f"{command.playbook}.yml").is_file()
            wanted = (
                command.playbook in run.check_only if run.check_only else command.section != "First look" or run.look
            )
            if command.by_hand or (command.playbook and not known) or not wanted:
                continue
            if command.playbook:
                looks = "--check" in command.words or command.playbook in LOOKS
                self.execute(command, run, *([] if looks else ["--check"]), fails=[])
            elif command.section == "First look":
                self.execute(command, run, fails=[], bounded=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.runbooks", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of the pages' names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet up, and take one that is up")
    parser.add_argument("--missing", action="store_true", help="only those that results.json does not have as ok")
    parser.add_argument("--seconds", type=float, default=0, help="begin no page after so many seconds")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    began = time.monotonic()
    bench = Bench(docker.from_env(timeout=300), hosts.Fleet.load("runbooks"))
    results_file = bench.described.state / "results.json"
    bench.prepare(arguments.keep)
    results: dict[str, dict] = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
    described = runs.load()
    # What was checked in check mode touches nothing, so it may as well come first.
    chosen = [page for page in pages() if re.search(arguments.only, page.name)]
    if arguments.missing:
        chosen = [page for page in chosen if not results.get(page.name, {}).get("ok")]
    for page in sorted(chosen, key=lambda page: not described[page.name].real):
        if arguments.seconds and time.monotonic() - began > arguments.seconds:
            print(f"left   {page.name}: no time")
            continue
        run, started = described[page.name], time.monotonic()
        try:
            (bench.really if run.real else bench.in_check_mode)(page, run)
            said = ""
        except (Failed, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        seconds = round(time.monotonic() - started)
        results[page.name] = {
            "ok": not said,
            "kind": "real" if run.real else "check mode",
            "from": run.fault or run.put or ("an empty host" if run.empty else ""),
            "seconds": seconds,
            "said": said,
        }
        results_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(
            f"{'FAILED' if said else 'ok    '} {page.name} ({results[page.name]['kind']}, {seconds} s) {said}",
            flush=True,
        )
    if not arguments.keep:
        bench.described.down(bench.client)
    print("\n| page | kind | from | seconds |\n|---|---|---|---|")
    for name, result in sorted(results.items()):
        print(f"| {name} | {result['kind']} | {result['from']} | {result['seconds']} |")
    passed = [name for name in (page.name for page in chosen) if results.get(name, {}).get("ok")]
    print(f"\n{len(passed)} passed, {len(chosen) - len(passed)} failed")
    return int(len(passed) != len(chosen))


if __name__ == "__main__":
    sys.exit(main())
