"""A support bundle has nothing that opens anything, and nobody's words."""

from __future__ import annotations

import json

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_bundle as bundle
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import Host

MARK = "zQ9-marked-Secret_7x"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQ" + MARK + "\nabc\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {MARK}",
        f"authorization: basic {MARK}==",
        f'{{"Authorization": "Bearer {MARK}"}}',
        f"X-Api-Key: {MARK}",
        f"HTTPS_PROXY=http://user:{MARK}@proxy.example.com:3128",
        f'"https-proxy": "http://{MARK}@proxy.example.com"',
        f"password={MARK}",
        f'password: "{MARK} and more"',
        f"OLLAMA_API_KEY={MARK}",
        f'{{"api_keys": "{MARK}"}}',
        f"'client_secret': '{MARK}'",
        f"--token {MARK}".replace(" ", "="),
        KEY,
        KEY[:-20],
        "app:$6$rounds=5000$salt$" + MARK,
        f'{{"prompt": "tell {MARK} all"}}',
        f'{{"model": "a", "messages": [{{"role": "user", "content": "tell {MARK}"}}], "stream": true}}',
        f'time=x level=DEBUG msg=completion prompt="tell \\"{MARK}\\" all"',
        f'msg="request {{\\"prompt\\":\\"{MARK}\\"}}"',
        f'"input": ["one", "{MARK}"]',
        f"hf_{MARK.replace('-', '')}abcdef",
    ],
)
def test_what_is_secret_is_taken_out(text: str) -> None:
    out = bundle.redacted(f"before\n{text}\nafter")
    assert MARK not in out
    assert MARK.replace("-", "") not in out
    assert out.startswith("before\n")


def test_a_value_that_is_known_is_taken_out_wherever_it_stands() -> None:
    assert MARK not in bundle.redacted(f"/v1/models?{MARK}", [MARK])


@pytest.mark.parametrize(
    "text",
    [
        "offloaded 19/19 layers to GPU",
        '"tokens_per_second_bound": 12.5, "context_length": 4096',
        "load_tensors: CUDA0 model buffer size = 235.16 MiB",
        "-A ONPREM-LLM -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "server 10.0.0.1:8443 check",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert bundle.redacted(text) == text


def test_files_with_keys_and_users_are_not_collected(tmp_path) -> None:
    for path, text in {
        "etc/onprem-llm/plan.json": json.dumps({"schema": 1}),
        "etc/onprem-llm/pki/node.key": MARK,
        "etc/onprem-llm/docker-proxy.env": f"HTTPS_PROXY=http://a:{MARK}@b",
        "etc/nginx/onprem-llm-gateway.json": MARK,
        "etc/nginx/conf.d/onprem-llm-gateway.conf": f"# {MARK}",
        "var/log/nginx/onprem-llm-gateway.log": MARK,
        "var/log/ollama/health_check.log": f'{{"prompt": "{MARK}"}}',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    found = bundle.collect(Host(str(tmp_path)), Wanted(gateway_key=MARK))
    assert "files/etc_onprem-llm_plan.json" in found
    assert "files/var_log_ollama_health_check.log" in found
    assert not [name for name, text in found.items() if MARK in text]
    assert not [name for name in found if "pki" in name or "gateway.json" in name or name.endswith("gateway.log")]
