# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host, up the ladder."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_engine as engine
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_gateway as gateway
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_gpu as gpu
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_host as every
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_host
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import Unreadable
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import Host


def diagnose(host: Host, wanted: every.Wanted, functions: t.Collection[str]) -> list[ladder.Finding]:
    """One finding for each rung of a host that has these functions (:data:`_diagnosis.FUNCTIONS`)."""

    # Asked for when the first rung wants it: a host without GPUs runs no nvidia-smi.
    def info() -> t.Mapping[str, t.Any]:
        return t.cast(
            "t.Mapping[str, t.Any]",
            host.once("gpu_info", lambda: _gpu_host.collect("nvidia-smi", host.timeout, root=host.root)),
        )

    # One that cannot be read is the models' rung to tell of.
    def known() -> engine.Plan | None:
        try:
            return engine.plan_of(host)
        except Unreadable:
            return None

    def plan() -> engine.Plan | None:
        return t.cast("engine.Plan | None", host.once("plan", known))

    checks: dict[str, t.Callable[[], ladder.Finding]] = {
        "hardware": lambda: gpu.hardware(info(), plan(), wanted),
        "firmware": lambda: gpu.firmware(info(), wanted),
        "module": lambda: gpu.module(info(), wanted),
        "xid": lambda: gpu.xid(info(), wanted),
        "device_nodes": lambda: gpu.device_nodes(host, info(), wanted),
        "nvidia_smi": lambda: gpu.nvidia_smi(info(), plan(), wanted),
        "gpu_health": lambda: gpu.gpu_health(info(), wanted),
        "toolkit": lambda: gpu.toolkit(info(), wanted),
        "cdi": lambda: gpu.cdi(info(), plan(), wanted),
        "container": lambda: engine.container(host, wanted),
    }
    for check in (
        every.clock,
        every.disk,
        every.memory_kills,
        every.dns,
        every.certificate,
        every.firewall,
        every.logs,
    ):
        checks[check.__name__] = partial(check, host, wanted)
    for check in (gateway.endpoint, gateway.balancer, gateway.gateway, gateway.registry, gateway.mirror):
        checks[check.__name__] = partial(check, host, wanted)
    for asked in (
        engine.docker,
        engine.container_gpu,
        engine.models,
        engine.engine,
        engine.warm,
        engine.offload,
        engine.memory,
        engine.answers,
        engine.speed,
    ):
        checks[asked.__name__] = lambda asked=asked: asked(host, plan(), wanted)  # type: ignore[misc]
    return ladder.Climb(frozenset(functions)).ask(checks)
