# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rungs between hosts: a node's endpoint, a gateway and its balancer, a mirror and its nodes."""

from __future__ import annotations

import json
import re
import ssl

from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import (
    Finding,
    Unreadable,
    broken,
    not_asked,
    ok,
    remark,
)
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import PKI, SITE, Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import Host, unverified

ENDPOINT = "/etc/nginx/conf.d/onprem-llm-endpoint.conf"
GATEWAY = "/etc/nginx/conf.d/onprem-llm-gateway.conf"
BALANCER = "/usr/local/lib/onprem-llm/balancer.py"
STREAM_TOKENS = 24
STREAM_SECONDS = 120
NGINX = "nginx -t; systemctl restart nginx; journalctl -u nginx -b | tail"


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _nginx(host: Host, rung: str, conf: str, wanted: Wanted) -> Finding | None:
    """What is wrong with nginx itself, or with what it is configured by; None where nothing is."""
    state = host.unit("nginx.service").get("ActiveState", "unknown")
    if state != "active":
        return broken(rung, f"nginx is {state}", "Nobody is answered.", NGINX)
    if not host.exists(conf):
        return broken(rung, f"{conf} is not there", "It was never set up, or not to its end.", wanted.mend())
    tested = host.run("nginx", "-t", "-q")
    if tested.status != 0:
        said = re.search(r"(?m)\[emerg\] (?:\d+#\d+: )?(.*)$", tested.err)
        return broken(
            rung,
            f"nginx refuses its configuration: {said[1] if said else tested.line}",
            "It still runs with the one before, and neither reloads nor starts with this one.",
            "nginx -t; " + wanted.mend(),
        )
    return None


def endpoint(host: Host, wanted: Wanted) -> Finding:
    trouble = _nginx(host, "endpoint", ENDPOINT, wanted)
    if trouble:
        return trouble
    place = re.search(r"(?m)^\s*listen\s+(?:\[([^\]]+)\]|([0-9.]+)):(\d+)\s+ssl", host.read(ENDPOINT) or "")
    if not place:
        raise Unreadable(f"{ENDPOINT} names no address")
    address, port = place[1] or place[2], int(place[3])
    answer = host.ask(f"https://{_at(address, port)}/api/version", timeout=10)
    if answer.status != 400:
        said = f"HTTP {answer.status}" if answer.status else answer.line
        if answer.status == 200:
            means, mend = "Anybody on the network uses the engine.", wanted.mend()
        else:
            means, mend = "Gateways do not reach this node.", NGINX + "; " + wanted.mend()
        return broken("endpoint", f"{_at(address, port)}, asked without a certificate: {said}", means, mend)
    return ok("endpoint", f"{_at(address, port)} admits nobody without a certificate")


def balancer(host: Host, wanted: Wanted) -> Finding:
    state = host.unit("onprem-llm-balancer.service").get("ActiveState", "unknown")
    if state != "active":
        return broken(
            "balancer",
            f"onprem-llm-balancer.service is {state}",
            "The gateway reaches no node: users get 502.",
            "systemctl restart onprem-llm-balancer.service; journalctl -u onprem-llm-balancer -b | tail",
        )
    answer = host.run("/usr/bin/python3", "-I", BALANCER, "status")
    try:
        told = json.loads(answer.out)
    except ValueError:
        return broken(
            "balancer", answer.line, "HAProxy does not answer.", "systemctl restart onprem-llm-balancer.service"
        )
    drained = set(told["drained"])
    servers = told["servers"]
    up = {item["node"] for item in servers if item["status"].startswith("UP")}
    nodes = sorted({item["node"] for item in servers})
    down = [node for node in nodes if node not in up | drained]
    partly = sorted(
        {
            item["backend"]
            for item in servers
            if not item["status"].startswith("UP") and item["node"] in up and item["node"] not in drained
        }
    )
    if down:
        checks = sorted(
            {f"{item['node']} ({item['status']}, {item['check']})" for item in servers if item["node"] in down}
        )
        return broken(
            "balancer",
            f"of {len(nodes)} nodes without an answer, or without warm models: {', '.join(checks)}",
            "The others carry the load, or nobody does.",
            "diagnose those nodes: " + SITE.replace("site.yml", "playbooks/diagnose.yml").format(host=",".join(down)),
            about=down,
        )
    if partly:
        return remark("balancer", f"not every node serves {', '.join(partly)}", "A model is cold on some.")
    text = f"{len(nodes)} nodes" + (f", drained: {', '.join(sorted(drained))}" if drained else "")
    return ok("balancer", text)


def gateway(host: Host, wanted: Wanted) -> Finding:
    trouble = _nginx(host, "gateway", GATEWAY, wanted)
    if trouble:
        return trouble
    base = f"https://{_at(wanted.gateway_address, wanted.gateway_port)}"
    headers = {"Host": wanted.gateway_name} if wanted.gateway_name else {}
    for path, wants, means in (
        ("/healthz", 200, "Nobody is answered."),
        ("/v1/models", 401, "It does not ask for credentials, or cannot judge them."),
    ):
        answer = host.ask(base + path, headers=headers, timeout=10)
        if answer.status != wants:
            said = f"HTTP {answer.status}" if answer.status else answer.line
            return broken("gateway", f"{path} without a key: {said}, not {wants}", means, NGINX + "; " + wanted.mend())
    if not wanted.gateway_key or not wanted.gateway_model:
        return ok(
            "gateway", "strangers get 401; streaming was not asked (gateway_verify_api_key, gateway_verify_model)"
        )
    body = {
        "model": wanted.gateway_model,
        "messages": [{"role": "user", "content": "Count from 1 to 20."}],
        "max_tokens": STREAM_TOKENS,
        "stream": True,
    }
    arrivals: list[float] = []
    answer = host.ask(
        base + "/v1/chat/completions",
        body=body,
        headers={**headers, "Authorization": "Bearer " + wanted.gateway_key},
        timeout=STREAM_SECONDS,
        arrivals=arrivals,
    )
    if answer.status != 200:
        text = answer.out.replace(wanted.gateway_key, "***").strip()[:300] or answer.line
        return broken(
            "gateway",
            f"a question with a key: {f'HTTP {answer.status}: ' if answer.status else ''}{text}",
            "The key is not one of gateway_users, or what is behind the gateway does not answer.",
            wanted.mend() + "; tail /var/log/nginx/onprem-llm-gateway.log",
        )
    events = answer.out.count("\ndata: ") + answer.out.startswith("data: ")
    # Two tokens may share a segment; an answer that was gathered comes in one or two, whatever its length.
    if events >= 8 and len(arrivals) < events / 3:
        return broken(
            "gateway",
            f"{events} pieces of an answer came in {len(arrivals)} reads",
            "Something gathers the answer before it passes it on: users wait for the last token to see the first.",
            "proxy_buffering off, proxy_http_version 1.1, gzip off (in what is beside onprem-llm-gateway.conf, too); "
            + wanted.mend(),
        )
    return ok("gateway", f"strangers get 401; {wanted.gateway_model} streams {events} pieces in {len(arrivals)} reads")


def registry(host: Host, wanted: Wanted) -> Finding:
    state = host.unit("docker-registry.service").get("ActiveState", "unknown")
    if state != "active":
        return broken(
            "registry",
            f"docker-registry.service is {state}",
            "Nodes get no model and no image from this mirror.",
            "systemctl restart docker-registry; journalctl -u docker-registry -b | tail",
        )
    trouble = _nginx(host, "registry", "/etc/nginx/conf.d/onprem-llm-mirror.conf", wanted)
    if trouble:
        return trouble
    conf = host.read("/etc/nginx/conf.d/onprem-llm-mirror.conf") or ""
    place = re.search(r"(?m)^\s*listen\s+(\S+:\d+)\s+ssl", conf)
    answer = host.ask(f"https://{place[1]}/v2/", timeout=10) if place else None
    if answer is None or answer.status != 403:
        said = f"HTTP {answer.status}" if answer and answer.status else answer.line if answer else "it names no address"
        return broken("registry", f"/v2/ without a certificate: {said}, not 403", "Nodes are not served.", NGINX)
    return ok("registry", f"{place[1] if place else ''} admits nodes alone")


def mirror(host: Host, wanted: Wanted) -> Finding:
    reasons: list[str] = []
    for name, place in wanted.mirrors:
        try:
            context = unverified()
            context.load_cert_chain(host.path(PKI + "/node.crt"), host.path(PKI + "/node.key"))
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(host.path(PKI + "/ca.crt"))
        except (OSError, ssl.SSLError) as error:
            raise Unreadable(f"{PKI}/node.crt: {error}") from error
        answer = host.ask(f"https://{place}/v2/", context=context, timeout=10)
        if answer.status == 200:
            first = f"; {'; '.join(reasons)}" if reasons else ""
            found = f"{name} answers{first}"
            return remark("mirror", found, "The first mirror is passed over.") if reasons else ok("mirror", found)
        reasons.append(f"{name} ({place}): " + (f"HTTP {answer.status}" if answer.status else answer.line))
    if not reasons:
        return not_asked("mirror", "there is none")
    return broken(
        "mirror",
        "; ".join(reasons),
        "Models and images that are not on this node yet cannot be brought here; what runs goes on.",
        "ansible-playbook playbooks/diagnose.yml --limit " + ",".join(name for name, _place in wanted.mirrors),
        about=[name for name, _place in wanted.mirrors],
    )
