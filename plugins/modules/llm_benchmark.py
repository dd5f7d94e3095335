#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_benchmark
short_description: Measure first token and tokens a second under growing load
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Asks for streamed chat completions over the OpenAI API, with more and more streams at once, and measures the time to
    the first token, the gaps between pieces of text and the tokens a second.
  - Tokens are those that the server tells in its usage. The first token is the first piece with text.
  - Refusals and streams that were cut are counted apart, by what they were.
  - B(It puts load on what it asks.) Users who are served meanwhile wait longer.
  - It ends at the latest O(timeout) seconds after O(total_seconds).
extends_documentation_fragment:
  - onprem.llm.attributes
attributes:
  check_mode:
    support: full
    details:
      - Asks nothing, and returns in RV(asks) what it would ask at most.
  diff_mode:
    support: N/A
    details:
      - Nothing is changed.
  idempotent:
    support: N/A
    details:
      - Nothing is changed, and each run measures anew.
options:
  url:
    description:
      - Scheme, address and port of a gateway or an engine, without a path.
    type: str
    required: true
  addresses:
    description:
      - The addresses of the inventory. Any other than these and the loopback is refused, so that a slip of the pen
        loads no one else's server.
    type: list
    elements: str
    required: true
  model:
    description:
      - Name of the model.
    type: str
    required: true
  path:
    description:
      - What O(url) is, for the report.
    type: str
    choices: [engine, gateway]
    default: engine
  api_key:
    description:
      - Key of a user, where the address wants one.
    type: str
    default: ""
  ca_path:
    description:
      - File with the authorities of the address, in place of the system's.
    type: path
  server_name:
    description:
      - Name for TLS and C(Host), where it is another than the address.
    type: str
    default: ""
  concurrency:
    description:
      - Streams at once, a step each.
    type: list
    elements: int
    default: [1, 2, 4, 8, 16, 32, 64]
  prompt_tokens:
    description:
      - Lengths of prompts in tokens. They are met within some per cent, by what the server counts of other prompts.
    type: list
    elements: int
    default: [256]
  answer_tokens:
    description:
      - Lengths of answers in tokens, at most. A model may end by itself.
    type: list
    elements: int
    default: [128]
  prefix_cache:
    description:
      - V(cold) prompts begin as none before. V(warm) ones differ in their last words alone, and were asked once before
        the step.
    type: list
    elements: str
    choices: [cold, warm]
    default: [cold, warm]
  requests_per_stream:
    description:
      - Requests of a step by its streams. The more, the truer are the high percentiles.
    type: int
    default: 4
  step_seconds:
    description:
      - Seconds after which a step sends nothing more.
    type: float
    default: 120
  total_seconds:
    description:
      - Seconds after which nothing more is sent at all.
    type: float
    default: 1200
  total_tokens:
    description:
      - Tokens of prompts and answers together that may be used.
    type: int
    default: 1000000
  timeout:
    description:
      - Seconds that one answer may take. The first one may have to wait for the model to be loaded.
    type: float
    default: 300
  first_token_goal:
    description:
      - Seconds within which 95 of 100 users are to have their first token, for RV(capacity).
    type: float
    default: 2
  think_seconds:
    description:
      - Seconds that a user takes between an answer and the next question.
    type: float
    default: 30
  slots:
    description:
      - Requests that are computed at once, by the plan, for RV(capacity[].advice).
    type: int
  tokens_per_second_bound:
    description:
      - Tokens a second that the memory's bandwidth allows one stream, by the plan.
    type: float
  on_gpu:
    description:
      - Whether the model is on GPUs alone.
    type: bool
    default: true
  seed:
    description:
      - What the prompts are drawn by. Without it each run draws others, so that no cache knows them.
    type: int
seealso:
  - module: onprem.llm.benchmark_report
    description: Tells the results of all hosts together.
"""

EXAMPLES = r"""
- name: Measure the engine of the node
  onprem.llm.llm_benchmark:
    url: http://172.30.250.2:11434
    addresses: [172.30.250.2]
    model: qwen3:8b
    slots: 4
  register: benchmark

- name: Tell how many users it bears
  ansible.builtin.debug:
    msg: "{{ benchmark.capacity | map(attribute='users') }}"
"""

RETURN = r"""
asks:
  description: What the wishes come to at most, before the bounds of tokens and of time cut them short.
  returned: success
  type: dict
  sample: {steps: 14, requests: 1016, tokens: 422608, seconds: 1200}
asked:
  description: Whether anything was asked, which it is not in check mode.
  returned: success
  type: bool
  sample: true
path:
  description: As given.
  returned: success
  type: str
  sample: engine
model:
  description: As given.
  returned: success
  type: str
  sample: qwen3:8b
steps:
  description: The figures, a step each, in the order in which they were measured. Empty in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    concurrency:
      description: Streams at once.
      type: int
      sample: 4
    prompt_tokens:
      description: Length of the prompts that was wanted.
      type: int
      sample: 256
    answer_tokens:
      description: Length of the answers that was wanted.
      type: int
      sample: 128
    prefix_cache:
      description: V(cold) or V(warm).
      type: str
      sample: cold
    requests:
      description: Requests that were sent.
      type: int
      sample: 16
    completed:
      description: Those with a whole answer.
      type: int
      sample: 16
    empty:
      description: Whole answers without any text.
      type: int
      sample: 0
    errors:
      description:
        - Failed requests by what they were, V(429), V(4xx), V(5xx), V(error) for one inside a stream, V(cut),
          V(timeout), V(unreached), V(invalid).
      type: dict
      sample: {"429": 2}
    reasons:
      description: Their words, five at most.
      type: list
      elements: str
      sample: []
    seconds:
      description: From the first request to the end of the last answer.
      type: float
      sample: 12.4
    window_seconds:
      description: Seconds during which every stream was busy, over which throughput is counted.
      type: float
      sample: 11.9
    prompt_tokens_mean:
      description: Tokens of a prompt, by the server's usage.
      type: float
      sample: 255.0
    answer_tokens_mean:
      description: Tokens of an answer, by the server's usage.
      type: float
      sample: 128.0
    tokens_per_second:
      description: Tokens of answers a second, of all streams together.
      type: float
      sample: 168.5
    requests_per_second:
      description: Answers a second.
      type: float
      sample: 1.32
    first_token_seconds:
      description: Seconds from a request to its first text. Null where no answer came.
      type: dict
      sample: {p50: 0.21, p95: 0.4, p99: 0.42, max: 0.43}
    gap_seconds:
      description: Seconds between one piece of text and the next.
      type: dict
      sample: {p50: 0.021, p95: 0.03, p99: 0.05, max: 0.09}
    answer_seconds:
      description: Seconds of whole answers.
      type: dict
      sample: {p50: 3.1, p95: 3.4, p99: 3.4, max: 3.4}
    stream_tokens_per_second:
      description:
        - Tokens a second of one stream after its first. The slow end, so V(p5) is what 95 of 100 exceed.
        - Null where tokens came in lumps.
      type: dict
      sample: {p50: 45.1, p5: 41.0, p1: 40.2}
capacity:
  description: Users by curve, and what would raise the throughput.
  returned: success
  type: list
  elements: dict
  contains:
    users:
      description: Users who get the goal, 0 where none does.
      type: int
      sample: 57
    concurrency:
      description: Requests at once that they amount to.
      type: int
      sample: 8
    missed_at:
      description: The lowest concurrency that missed the goal, or null.
      type: int
      sample: 16
    advice:
      description:
        - C(verdict), C(because), C(knee) and C(bandwidth_share). The verdict is V(growing), V(more_slots), V(hardware),
          V(another_engine), V(engine_or_hardware) or V(unknown).
      type: dict
      sample: {verdict: growing, because: throughput still grows at 64 requests at once; nothing to change, knee: null,
               bandwidth_share: null}
tokens:
  description: Tokens that were used, by the server's usage.
  returned: success
  type: int
  sample: 402115
seconds:
  description: Seconds that it took.
  returned: when something was asked
  type: float
  sample: 412.7
stopped:
  description: Which bound cut the run short, or nothing.
  returned: success
  type: str
  sample: ""
"""

import os
import time
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _load_figures as figures
from ansible_collections.onprem.llm.plugins.module_utils import _load_run as load
from ansible_collections.onprem.llm.plugins.module_utils._load_stream import Target

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def wrong(given: dict, target: Target, steps: list, bounds: load.Bounds) -> list:
    """All that is wrong with the wishes."""
    found = [target.fault()] if target.fault() else []
    host = "" if found else urlsplit(target.url).hostname
    if host and host not in LOOPBACK and host not in given["addresses"]:
        found.append(
            "url: {} is no address of the inventory ({})".format(host, ", ".join(given["addresses"]) or "none is given")
        )
    if given["first_token_goal"] <= 0:
        found.append("first_token_goal: {:g} must be above 0".format(given["first_token_goal"]))
    if given["think_seconds"] < 0:
        found.append("think_seconds: {:g} must be 0 or more".format(given["think_seconds"]))
    return found + load.faults(steps, bounds)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "addresses": {"type": "list", "elements": "str", "required": True},
            "model": {"type": "str", "required": True},
            "path": {"type": "str", "choices": ["engine", "gateway"], "default": "engine"},
            "api_key": {"type": "str", "default": "", "no_log": True},
            "ca_path": {"type": "path"},
            "server_name": {"type": "str", "default": ""},
            "concurrency": {"type": "list", "elements": "int", "default": [1, 2, 4, 8, 16, 32, 64]},
            "prompt_tokens": {"type": "list", "elements": "int", "default": [256], "no_log": False},
            "answer_tokens": {"type": "list", "elements": "int", "default": [128], "no_log": False},
            "prefix_cache": {
                "type": "list",
                "elements": "str",
                "choices": list(load.PREFIX_CACHE),
                "default": list(load.PREFIX_CACHE),
            },
            "requests_per_stream": {"type": "int", "default": 4},
            "step_seconds": {"type": "float", "default": 120},
            "total_seconds": {"type": "float", "default": 1200},
            "total_tokens": {"type": "int", "default": 1000000, "no_log": False},
            "timeout": {"type": "float", "default": 300},
            "first_token_goal": {"type": "float", "default": 2, "no_log": False},
            "think_seconds": {"type": "float", "default": 30},
            "slots": {"type": "int"},
            "tokens_per_second_bound": {"type": "float", "no_log": False},
            "on_gpu": {"type": "bool", "default": True},
            "seed": {"type": "int"},
        },
        supports_check_mode=True,
    )
    given = module.params
    target = Target(given["url"], given["api_key"], given["ca_path"], given["server_name"])
    names = ("requests_per_stream", "step_seconds", "total_seconds", "total_tokens", "timeout")
    bounds = load.Bounds(**{name: given[name] for name in names})
    steps = load.steps_of(*(given[name] for name in ("concurrency", "prompt_tokens", "answer_tokens", "prefix_cache")))
    found = wrong(given, target, steps, bounds)
    if found:
        module.fail_json(msg="; ".join(found))
    result = {
        "changed": False,
        "path": given["path"],
        "model": given["model"],
        "asks": {
            "steps": len(steps),
            "requests": sum(step.concurrency for step in steps) * bounds.requests_per_stream,
            "tokens": min(load.most_tokens(steps, bounds), bounds.total_tokens),
            "seconds": bounds.total_seconds,
        },
        "asked": not module.check_mode,
        "steps": [],
        "capacity": [],
        "tokens": 0,
        "stopped": "",
    }
    if module.check_mode:
        module.exit_json(**result)
    # Else a second run would find its prompts in the cache.
    seed = given["seed"] if given["seed"] is not None else int.from_bytes(os.urandom(6), "big")
    run = load.Load(target, given["model"], bounds, seed)
    begun = time.monotonic()
    try:
        rows = run.run(steps)
    except (load.LoadError, OSError) as error:
        module.fail_json(msg=str(error))
    result["steps"], result["tokens"], result["stopped"] = rows, run.budget.used, run.budget.stopped
    for (cache, prompt, answer), curve in figures.series(rows).items():
        result["capacity"].append(
            {
                "prefix_cache": cache,
                "prompt_tokens": prompt,
                "answer_tokens": answer,
                **figures.capacity(curve, given["first_token_goal"], given["think_seconds"]),
                "advice": figures.advice(curve, given["slots"], given["tokens_per_second_bound"], given["on_gpu"]),
            }
        )
    module.exit_json(seconds=round(time.monotonic() - begun, 1), **result)


if __name__ == "__main__":
    main()
