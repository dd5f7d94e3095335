# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import json
import os
import tarfile
import time
import typing as t

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_report as report
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "registered": {"type": "str", "required": True},
        "directory": {"type": "path", "default": ""},
        "bundle": {"type": "bool", "default": False},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        if arguments["bundle"] and not arguments["directory"]:
            raise AnsibleActionFail("bundle is true and directory is empty; give a directory on the controller")
        hostvars = variables.get("hostvars") or {}
        found: dict[str, list[ladder.Finding]] = {}
        lost: list[str] = []
        collected: dict[str, t.Mapping[str, str]] = {}
        for host in arguments["hosts"]:
            told = (hostvars.get(host) or {}).get(arguments["registered"]) or {}
            if "findings" in told:
                found[host] = ladder.from_data(told["findings"])
                collected[host] = told.get("collected") or {}
            else:
                lost.append(host)
        hosts = ladder.across(found)
        lines = report.table(hosts, lost)
        colours = {ladder.BROKEN: C.COLOR_ERROR, ladder.REMARK: C.COLOR_WARN, ladder.UNKNOWN: C.COLOR_SKIP}
        show((text, colours.get(verdict)) for verdict, text in lines)
        result: dict[str, t.Any] = {
            "report": report.data(hosts, lost),
            "markdown": report.markdown(hosts, lost),
            "lines": [text for _verdict, text in lines],
        }
        texts = {
            "diagnosis.json": json.dumps(result["report"], indent=1) + "\n",
            "diagnosis.md": result["markdown"],
        }
        result["files"] = self._written(arguments["directory"], texts, collected if arguments["bundle"] else None)
        return result

    def _written(
        self, directory: str, texts: t.Mapping[str, str], collected: t.Mapping[str, t.Mapping[str, str]] | None
    ) -> list[str]:
        """Paths of what was written on the controller, for its user alone."""
        if not directory:
            return []
        contents = {name: text.encode() for name, text in texts.items()}
        if collected is not None:
            everything = dict(texts)
            everything.update(
                {f"{host}/{name}": text for host, told in collected.items() for name, text in told.items()}
            )
            contents[f"bundle-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"] = packed(everything)
        paths = []
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            for name, content in contents.items():
                path = os.path.join(directory, name)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(content)
                paths.append(path)
        except OSError as error:
            raise AnsibleActionFail(f"directory is {directory}, and cannot be written: {error}") from error
        return paths


def packed(texts: t.Mapping[str, str]) -> bytes:
    """A compressed tar archive of texts, below one directory."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in sorted(texts.items()):
            content = text.encode()
            entry = tarfile.TarInfo("onprem-llm-bundle/" + name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()
