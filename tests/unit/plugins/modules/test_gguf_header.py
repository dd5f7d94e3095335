# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of an operator's own: read on the managed host or from a web server, and planned with on the controller."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _catalog, _headers, _registry, _repository
from gguf_files import llama

Run = Callable[..., dict[str, Any]]
WEIGHTS = llama() + bytes(2**21)
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()


def entry(**source: Any) -> dict[str, Any]:
    return {"name": "house:1", "source": {"type": "gguf", "sha256": DIGEST[7:], **source}, "uses": ["chat"]}


def shape(data: dict[str, Any]) -> Any:
    return _candidates.candidate(_catalog.entry(data)).shape


def test_a_file_of_the_host_is_planned_by_its_header(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "house.gguf"
    path.write_bytes(WEIGHTS)
    catalog = [entry(node_path=str(path)), {"name": "other:1", "source": {"type": "registry"}}]
    found = run("gguf_header", catalog=catalog)
    assert (found["changed"], found["faults"]) == (False, [])
    arguments = {"models": [], "files": found["files"], "catalog": catalog, "cache_dir": os.fspath(tmp_path / "cache")}
    kept = run("model_header", **arguments)
    assert run("model_header", **arguments)["changed"] is False
    [known] = kept["entries"]
    assert known["size_bytes"] == len(WEIGHTS)
    assert known["source"] == catalog[0]["source"]
    assert shape(known) == shape({**entry(path=str(path))}), "as if the file lay on the controller"


def test_what_is_wrong_with_files_of_the_host_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("this is no model")
    faults = [
        run("gguf_header", catalog=[entry(node_path=path)])["faults"][0]
        for path in (str(tmp_path / "text.gguf"), str(tmp_path / "gone.gguf"), "relative.gguf")
    ]
    assert f"house:1 has the node_path {tmp_path}/text.gguf, which is no model file: no GGUF file" in faults[0]
    assert "gone.gguf, which cannot be read on the host: No such file" in faults[1]
    assert "node_path is absolute" in faults[2]


@pytest.mark.parametrize("header", ["", "%%%", "eNr7", _headers.packed(b"no header at all, whatever it may be")])
def test_what_came_from_a_host_is_checked(run: Run, tmp_path: Path, header: str) -> None:
    files = [{"name": "house:1", "digest": DIGEST, "size_bytes": 9, "header": header}]
    cache = os.fspath(tmp_path / "cache")
    result = run("model_header", models=[], files=files, catalog=[entry(node_path="/x")], cache_dir=cache)
    assert result["failed"]
    assert "house:1: no GGUF file" in result["msg"]


@pytest.mark.parametrize("ranges", [True, False])
def test_the_beginning_of_a_file_at_a_web_server(tmp_path: Path, ranges: bool) -> None:
    sent: list[int] = []

    class Web(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            data = WEIGHTS[start : stop + 1] if ranges else WEIGHTS
            self.send_response(206 if ranges else 200)
            self.send_header("Content-Length", str(len(data)))
            if ranges:
                self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{len(WEIGHTS)}")
            self.end_headers()
            sent.append(len(data))
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/house.gguf"
        client = _registry.Client(5, 30)
        reader = _headers.Reader(client, _headers.Cache(str(tmp_path)))
        kept = reader._of_url(url, DIGEST)
        assert (kept.size, kept.header.architecture) == (len(WEIGHTS), "llama")
        asked = len(sent)
        assert reader._of_url(url, DIGEST).path == kept.path
        assert len(sent) == asked, "what is kept needs no network"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url_that_is_not_reached_is_told(run: Run, tmp_path: Path) -> None:
    catalog = [{**entry(url="https://127.0.0.1:1/house.gguf")}]
    arguments = {"models": ["house:1"], "catalog": catalog, "cache_dir": os.fspath(tmp_path), "timeout": 2}
    found = run("model_header", **arguments)
    assert found["entries"] == []
    assert "no header of house:1" in found["told"][0]
    assert run("model_header", required=True, **arguments)["failed"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "one of path, node_path and url"),
        ({"path": "/a", "url": "https://a/b"}, "one of path, node_path and url"),
        ({"node_path": "/a", "url": "https://a/b"}, "one of path, node_path and url"),
        ({"node_path": "../a"}, "node_path is absolute"),
        ({"url": "http://a/b"}, "must begin with https://"),
        ({"url": "https://a/b", "sha256": None}, "sha256 of the file is needed"),
        ({"node_path": "/a", "sha256": "aa"}, "64 hexadecimal digits"),
    ],
)
def test_sources_that_are_wrong(source: dict[str, Any], says: str) -> None:
    with pytest.raises(_catalog.CatalogError) as error:
        _catalog.entry(entry(**source))
    assert says in str(error.value)


@pytest.mark.parametrize("place", ["path", "node_path", "url"])
def test_the_plan_names_the_place(place: str) -> None:
    where = "https://files.test/house.gguf" if place == "url" else "/srv/house.gguf"
    assert _catalog.entry(entry(**{place: where})).source == {"type": "gguf", place: where, "sha256": DIGEST[7:]}


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("registry.test/team/house:1", "registry.test/team/house:1"),
        ("registry.test:5000/team/house", "registry.test:5000/team/house:latest"),
        ("http://registry.test:5000/team/house:1", "registry.test:5000/team/house:1"),
        ("https://registry.test/team/house:1", "registry.test/team/house:1"),
    ],
)
def test_private_names(name: str, listed: str) -> None:
    assert _catalog.entry({**entry(path="/x"), "name": name}).name == name
    assert _catalog.local_name(name) == listed
    assert _repository.parse_name(name).host == listed.split("/")[0]


@pytest.mark.parametrize("name", ["http://house:1", "http://registry.test/house:1", "ftp://registry.test/team/house:1"])
def test_names_with_a_scheme_need_all_their_parts(name: str) -> None:
    with pytest.raises(_catalog.CatalogError, match="a name such as"):
        _catalog.entry({**entry(path="/x"), "name": name})
